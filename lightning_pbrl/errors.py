"""The one exception a user is meant to read."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake its reader can mend: one sentence that says what is wrong, where, and the cure.

    The command line prints the sentence alone and exits with 2 (``--debug`` shows the traceback). It is no
    ``ValueError``, because config parsers catch those and put sentences of their own around them.
    """


def mistake_behind(error: BaseException | None) -> UserError | None:
    """The user's error behind ``error``: parsers wrap what a constructor raises."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """The known names closest to a misspelt one, as the tail of a sentence.

    Returns:
        For instance ``"did you mean drawer-open-v3 or drawer-close-v3?"``; all names if none is near.
    """
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=count, cutoff=0.4)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"known: {', '.join(known)}."
