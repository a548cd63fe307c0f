"""Whether a method's arguments are of the kinds that its constructors name.

The command line has checked this already; Python, notebooks and nested settings (``reward_model``) have not, and a misspelt
choice would quietly take the last branch of an ``if``.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from lightning_pbrl.errors import UserError, nearest


def check_settings(method: type, settings: Mapping[str, Any]) -> None:
    """Refuse a word that is none of the choices, a word for a number, a fraction for a count, one value for a list.

    Args:
        method: class whose constructors, and those of its bases, take the settings.
        settings: arguments by name; names that no constructor has are passed over.

    Raises:
        UserError: for the first such argument.
    """
    for name, kinds in _kinds(method).items():
        if name in settings and (wrong := _wrong(settings[name], kinds)):
            raise UserError(f"{method.__name__} got {name}={settings[name]!r}: {wrong}")


def _wrong(value: Any, kinds: tuple[Any, ...]) -> str | None:
    """What to give instead of ``value``; None where it is of one of the kinds, or nothing can be said."""
    choices = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    plain = {get_origin(kind) or kind for kind in kinds}
    if isinstance(value, str):
        if choices:
            return None if value in choices or str in plain else f"give one of its choices; {nearest(value, map(str, choices))}"
        return "give a number." if plain <= {int, float, type(None)} else None
    if isinstance(value, (int, float)):
        if plain <= {Sequence, type(None)}:
            return "give a list."
        if plain <= {int, type(None)} and value != int(value):
            return "give a whole number."
    return None


@functools.cache
def _kinds(method: type) -> dict[str, tuple[Any, ...]]:
    """The annotated kinds of every constructor argument, those of a union apart; a subclass's before its bases'."""
    found: dict[str, tuple[Any, ...]] = {}
    for base in method.__mro__:
        if "__init__" in vars(base):
            try:
                hints = get_type_hints(base.__init__)  # type: ignore[misc]
            except NameError:  # a name that is there for type checkers alone
                continue
            for name, hint in hints.items():
                union = get_origin(hint) in (Union, type(int | str))
                found.setdefault(name, get_args(hint) if union else (hint,))
    return found
