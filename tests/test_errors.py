"""What main makes of errors that no check has foreseen, and of terminals that know few signs."""

from __future__ import annotations

import errno
import io
import os
import sys

import pytest

from lightning_pbrl import cli
from lightning_pbrl.errors import MANY, UserError, mistake_behind, nearest

KEPT = "make room on its disk, or choose a folder that may be written to; what was finished before is kept, and --resume goes on"


def raised(cause: Exception, wrapped: Exception | None = None) -> Exception:
    """``cause``, or ``wrapped`` with it behind."""
    if wrapped is not None:
        wrapped.__context__ = cause
    return wrapped or cause


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "A file cannot be used (No space left on device): "),
        (
            OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "r/metrics.csv"),
            "r/metrics.csv cannot be used (Disk quota exceeded): ",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "r/config.yaml"),
            "r/config.yaml cannot be used (Permission denied): ",
        ),
        (OSError(errno.EROFS, os.strerror(errno.EROFS), "r"), "r cannot be used (Read-only file system): "),
        (ValueError("I/O error: No space left on device (os error 28)"), "A file cannot be used (No space left on device): "),
    ],
)
def test_a_file_system_that_refuses_is_no_bug(error: Exception, sentence: str) -> None:
    for found in (raised(error), raised(error, RuntimeError("while training"))):
        assert str(mistake_behind(found)) == f"{sentence}{KEPT} from there."


def test_other_errors_keep_their_traceback() -> None:
    assert mistake_behind(raised(FileNotFoundError(errno.ENOENT, "No such file", "x"))) is None
    assert mistake_behind(raised(KeyError("x"), ValueError("y"))) is None
    own = UserError("mine")
    assert mistake_behind(raised(own, OSError(errno.ENOSPC, "full"))) is own


def test_main_ends_with_the_sentence_and_2(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def full(args: list[str]) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/fit/x")

    monkeypatch.setattr(cli, "_dispatch", full)
    with pytest.raises(SystemExit) as stop:
        cli.main(["fit"])
    assert stop.value.code == 2
    assert capfd.readouterr().err == f"error: runs/fit/x cannot be used (No space left on device): {KEPT} from there.\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_the_sign_shows_another(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(screen, encoding=encoding, errors="strict", write_through=True))
    monkeypatch.setattr(cli, "_dispatch", lambda args: print("round 0 · ε \udcff ━"))
    cli.main(["fit"])
    assert screen.getvalue() == "round 0 · ε ? ━".encode(encoding, errors="replace") + b"\n"


def test_what_else_there_is_fits_in_a_sentence() -> None:
    assert nearest("drawer-opn", ["drawer-open", "push"]) == "did you mean drawer-open?"
    assert nearest("?", ["b", "a"]) == "known: a, b."
    told = nearest("?", [f"x{k:03}" for k in range(MANY + 5)])
    assert told.startswith("known: x000, x001, ") and told.endswith(f", x{MANY // 5 - 1:03} and {MANY - MANY // 5 + 5} more.")
    assert nearest("?", [f"x{k:03}" for k in range(MANY)]).endswith(f", x{MANY - 1:03}.")


def test_names_with_control_characters_are_printable():
    assert (
        str(UserError("There is no file a\x1b[31m\u202eé: check\nthe path."))
        == "There is no file a\\x1b[31m\\u202eé: check\nthe path."
    )
