"""What a plain object was built with, as plain JSON: it goes into every label record."""

from __future__ import annotations

import inspect
from typing import Any


def describe(thing: object) -> dict[str, Any]:
    """Class name and constructor settings of ``thing``.

    A setting is found when it is kept in an attribute of the constructor argument's name; a setting that is itself
    describable (a strategy inside a strategy) is described in turn, anything that JSON does not know becomes its repr.

    Returns:
        For instance ``{"class": "SkipTeacher", "eps": 0.5, "eps_mistake": 0.0}``.
    """
    names = [name for name in inspect.signature(type(thing)).parameters if hasattr(thing, name)]
    return {"class": type(thing).__name__, **{name: _plain(getattr(thing, name)) for name in names}}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return value.describe() if hasattr(value, "describe") else repr(value)
