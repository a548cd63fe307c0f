"""UserError, the one exception that is written for users, and help with misspelt names."""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Iterable, Iterator


class UserError(Exception):
    """User's mistake, described in one sentence that says what is wrong, where, and the cure.

    The command line prints the sentence alone and exits with 2 (``--debug`` shows the traceback). It is not a ``ValueError``,
    because config parsers catch those and wrap them in their own sentences. Control characters, which may stand in the names of
    files and keys, are written as escapes.
    """

    def __init__(self, sentence: str = "") -> None:
        super().__init__("".join(each if each.isprintable() or each == "\n" else ascii(each)[1:-1] for each in str(sentence)))


FILES = ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM", "EIO", "ENAMETOOLONG", "EMFILE", "ENFILE")
"""Refusals of a file system that the user can resolve, by the names of ``errno``."""


def mistake_behind(error: BaseException | None) -> UserError | None:
    """Return the user's mistake behind ``error``, if there is one.

    Parsers wrap the exceptions of constructors, and a disk may be full wherever something is written.
    """
    for cause in _causes(error):
        if isinstance(cause, UserError):
            return cause
    for cause in _causes(error):
        if (reason := _refused(cause)) is not None:
            where = getattr(cause, "filename", None) or "A file"
            return UserError(
                f"{where} cannot be used ({reason}): make room on its disk, or choose a folder that may be written to; what was "
                "finished before is kept, and --resume goes on from there."
            )
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _refused(error: BaseException) -> str | None:
    """Return the reason of a refusal by the file system; None for any other error."""
    known = {getattr(errno, name) for name in FILES if hasattr(errno, name)}
    if isinstance(error, OSError) and error.errno is not None and error.errno in known:
        return error.strerror or os.strerror(error.errno)
    full = os.strerror(errno.ENOSPC)  # libraries in other languages keep only the text
    return full if full in str(error) else None


MANY = 50
"""Largest number of names in one sentence: all tasks of Meta-World, but not all files of conf/."""


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """Return the known names closest to a misspelt one, as the tail of a sentence.

    Returns:
        For instance ``"did you mean drawer-open-v3 or drawer-close-v3?"``; all names if none is close, or the first of many.
    """
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=count, cutoff=0.4)
    if close:
        return f"did you mean {' or '.join(close)}?"
    shown = known if len(known) <= MANY else known[: MANY // 5]
    more = f" and {len(known) - len(shown)} more" if len(known) > len(shown) else ""
    return f"known: {', '.join(shown)}{more}."
