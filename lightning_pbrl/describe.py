"""Description of a plain object by its constructor arguments, as plain JSON, for the label records."""

from __future__ import annotations

import inspect
from contextlib import suppress
from typing import Any, Self

from lightning_pbrl.settings import Checked


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
