"""The settings an object was built with, as plain JSON: for label records and for the config of a run."""

from __future__ import annotations

import inspect
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, Self

from lightning_pbrl.settings import Checked, arguments


class Described(Checked):
    """Base class of objects that remember the arguments of their constructor, whatever attributes they store them in."""

    _given: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Record the arguments, unless the constructor will refuse the call."""
        new = super().__new__(cls, *args, **kwargs)
        with suppress(TypeError):
            bound = inspect.signature(cls).bind(*args, **kwargs)
            bound.apply_defaults()
            given = dict(bound.arguments)
            for name, parameter in bound.signature.parameters.items():
                if parameter.kind is parameter.VAR_KEYWORD:
                    given |= given.pop(name)
            new._given = given
        return new

    def describe(self) -> dict[str, Any]:
        """Return class name and settings as plain JSON types; they are stored in every record that the object contributed to."""
        return describe(self)


def describe(thing: object) -> dict[str, Any]:
    """Return class name and constructor settings of ``thing``, and the module of a class from outside this library.

    A setting is the attribute with the name of the constructor argument, or the argument itself (:class:`Described`). A setting
    that can be described (a strategy inside a strategy) is described in turn. Anything that JSON cannot represent becomes its
    repr.

    Returns:
        For instance ``{"class": "SkipTeacher", "eps": 0.5, "eps_mistake": 0.0}``.
    """
    cls = type(thing)
    module = {} if cls.__module__.partition(".")[0] == "lightning_pbrl" else {"module": cls.__module__}
    given = getattr(thing, "_given", {})
    names = dict.fromkeys([*inspect.signature(cls).parameters, *given])
    settings = {name: getattr(thing, name, given.get(name)) for name in names if hasattr(thing, name) or name in given}
    return {"class": cls.__name__, **module, **{name: _plain(value) for name, value in settings.items()}}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return value.describe() if hasattr(value, "describe") else repr(value)


def settings_of(thing: object) -> dict[str, Any]:
    """Return class path and constructor arguments of ``thing``, defaults included, as a config names them.

    Returns:
        For instance ``{"class_path": "lightning_pbrl.methods.bc.BC", "init_args": {"updates": 20_000, ...}}``.
    """
    cls = type(thing)
    given = {**arguments(thing), **getattr(thing, "hparams", {})}
    return {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": {key: _named(given[key]) for key in given}}


def _named(value: Any) -> Any:
    """Return a value of a config: plain types unchanged, our objects by :func:`settings_of`, others by their class's name."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return [_named(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _named(item) for key, item in value.items() if not str(key).startswith("_")}
    if is_dataclass(value) and not isinstance(value, type):
        return _named(asdict(value))
    return settings_of(value) if isinstance(value, Checked) else f"{type(value).__module__}.{type(value).__qualname__}"
