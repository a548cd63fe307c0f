"""Checks of the arguments of configurable classes against the annotated types of their constructors and their ranges.

One check serves the command line, Python, notebooks and nested settings (``reward_model``). Without it, a misspelt choice would
silently take the last branch of an ``if``, and a discount of 1.5 would train to the end.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from numbers import Real
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, Self, Union, get_args, get_origin, get_type_hints

from lightning_pbrl.errors import UserError, nearest
from lightning_pbrl.ranges import ANY, RANGES, Range

Kinds = tuple[Any, ...]
"""Parts of an annotated union."""


class Checked:
    """Base class whose arguments are checked before its constructor sees them, including those of outside subclasses.

    A subclass gives the ranges of its own numbers, ``class Mine(Method, ranges={"rate": POSITIVE})``.
    :data:`~lightning_pbrl.ranges.RANGES` covers arguments that this library declares; those of outside constructors may have
    another meaning.
    """

    ranges: ClassVar[Mapping[str, Range]] = RANGES
    """Allowed numbers by argument; ``Range()`` allows every finite one."""
    passes_to: ClassVar[type | None] = None
    """Class that gets the further arguments of its constructor, in place of its bases."""

    def __init_subclass__(cls, ranges: Mapping[str, Range] | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.ranges = {**cls.ranges, **(ranges or {})}

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        given = _by_name(cls, args, kwargs)
        check_settings(cls, given)
        made = super().__new__(cls)
        made.__dict__["_given"] = given
        return made

    def __init__(self) -> None:  # without it, ``object`` would accept any argument because of ``__new__``
        super().__init__()


def check_settings(owner: type, settings: Mapping[str, Any]) -> None:
    """Refuse invalid arguments: an unknown choice, a word for a number, a fraction for a count, a number outside its range.

    Args:
        owner: class whose constructors, and those of its bases, take the settings.
        settings: arguments by name; names that no constructor has are ignored.

    Raises:
        UserError: for the first such argument.
    """
    ranges = getattr(owner, "ranges", RANGES)
    for name, kinds in kinds_of(owner).items():
        allowed: Range | None = ranges.get(name, ANY)
        if allowed in (ANY, RANGES.get(name)) and name not in _of_library(owner):
            allowed = None  # an outside class's own argument, whose meaning its author defines
        if name in settings and (cure := _cure(settings[name], kinds, allowed)):
            raise UserError(f"{owner.__name__} got {name}={settings[name]!r}: {cure}")


def is_number(kinds: Kinds) -> bool:
    """Return True if an argument of these kinds may be a number, or a list of numbers."""
    return bool({int, float} & {*kinds, *(part for kind in kinds if _is_list(kind) for part in get_args(kind))})


def _cure(value: Any, kinds: Kinds, allowed: Range | None) -> str | None:
    """Return the cure for a wrong ``value``; None if it is right or cannot be checked.

    ``allowed`` None admits any number but NaN.
    """
    lists, choices = [kind for kind in kinds if _is_list(kind)], [c for kind in kinds for c in _choices(kind)]
    single = [kind for kind in kinds if kind is not NoneType and kind not in lists and not _choices(kind)]
    if isinstance(value, Real):
        single = [kind for kind in single if get_origin(kind) is not dict]  # a number is no mapping
    if value is None or value in single:  # the constructor itself refuses a missing value
        return None
    if choices and str not in single and (isinstance(value, str) or not (single or lists)):
        return None if value in choices else f"give one of its choices; {nearest(str(value), map(str, choices))}"
    if isinstance(value, bool) and (bool in single or value in choices):
        return None
    if lists and isinstance(value, list | tuple):
        parts = [get_args(kind)[0] for kind in lists if get_args(kind)]
        return next((found for part in value if (found := _cure(part, tuple(parts), allowed))), None)
    if lists and not single:
        return None if not isinstance(value, Real | str) else "give a list."
    if not single or not set(single) <= {int, float, bool}:
        return None
    if isinstance(value, bool) or not isinstance(value, Real):
        return "give a number."
    number = float(value)
    if math.isnan(number) or (allowed and math.isinf(number)):
        return f"give a number{allowed}." if allowed and str(allowed) else "give a finite number."
    if float not in single and not number.is_integer():
        return "give a whole number."
    return None if allowed is None or allowed.holds(number) else f"give a number{allowed}."


def _is_list(kind: Any) -> bool:
    return (get_origin(kind) or kind) in (Sequence, list, tuple)


def _choices(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) is Literal else ()


@functools.cache
def kinds_of(owner: type) -> dict[str, Kinds]:
    """Return the annotated kinds of every constructor argument, with unions split; a subclass precedes its bases."""
    found: dict[str, Kinds] = {}
    for constructor in constructors(owner):
        try:
            hints = get_type_hints(constructor)
        except NameError:  # a name for type checkers only
            continue
        for name, hint in hints.items():
            found.setdefault(name, get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,))
    return found


@functools.cache
def _of_library(owner: type) -> frozenset[str]:
    """Return the arguments that a constructor of this library declares."""
    ours = [each for each in constructors(owner) if getattr(each, "__module__", "").partition(".")[0] == "lightning_pbrl"]
    return frozenset(name for each in ours for name in inspect.signature(each).parameters)


def constructors(owner: type) -> Iterator[Any]:
    """Go through the constructors that take a class's arguments, its own first."""
    for base in owner.__mro__:
        if "__init__" in vars(base):
            yield vars(base)["__init__"]
        if (other := vars(base).get("passes_to")) is not None:
            yield from constructors(other)
            return


def _by_name(owner: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the given arguments by name; a call that no constructor accepts is left to it."""
    first = next(constructors(owner), None)
    if first is None or not args:
        return kwargs
    names = list(inspect.signature(first).parameters)[1:]
    return dict(zip(names, args, strict=False)) | kwargs


class Arguments(dict[str, Any]):
    """Arguments by name, as attributes too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(f"there is no argument {name!r}") from error

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value


def arguments(thing: object) -> dict[str, Any]:
    """Return the constructor arguments of a :class:`Checked` object by name, defaults included."""
    found: dict[str, Any] = {}
    for constructor in constructors(type(thing)):
        parameters = list(inspect.signature(constructor).parameters.values())[1:]
        for parameter in parameters:
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                found.setdefault(parameter.name, parameter.default)
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break  # what its bases take is not the caller's to say
    found |= getattr(thing, "_given", {})
    return {name: value for name, value in found.items() if value is not inspect.Parameter.empty}
