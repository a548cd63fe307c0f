"""Shutdown of a process on SIGTERM (kill, scancel, preemption), SIGHUP (a closed terminal) or Ctrl-C.

Lightning alone would finish the batch, tear down and exit with 0, as if the run were complete.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

TOLD = (signal.SIGTERM, signal.SIGHUP)
"""Signals that end a run like Ctrl-C."""

PATIENCE_S = 25.0
"""Longest time for a command to shut down, seconds: an interrupted operation may hold a lock. SLURM kills after 30 s."""

ENDS_WITH = "LIGHTNING_PBRL_ENDS_WITH"
"""Environment variable with the process id of a parent that a process may not outlive."""


class Told(KeyboardInterrupt):
    """Exception raised when the process receives a signal to end.

    Args:
        number: number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def _raise(number: int, _: FrameType | None) -> None:
    raise Told(number)


def _raise_or_exit(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGALRM, lambda *_: os._exit(128 + number))
    signal.setitimer(signal.ITIMER_REAL, PATIENCE_S)
    _raise(number, frame)


def listen() -> list[signal.Signals]:
    """Raise :class:`Told` from now on if a signal's default would end the process; other handlers are left in place.

    Returns:
        The signals that this call handles from now on.
    """
    if threading.current_thread() is not threading.main_thread():
        return []
    taken = [number for number in TOLD if signal.getsignal(number) == signal.SIG_DFL]
    for number in taken:
        signal.signal(number, _raise)
    return taken


@contextmanager
def listening() -> Iterator[None]:
    """Apply :func:`listen` within a block, to Ctrl-C too; end the process if it has not shut down after :data:`PATIENCE_S`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    defaults = (signal.SIG_DFL, signal.default_int_handler)
    before = {number: signal.getsignal(number) for number in (*TOLD, signal.SIGINT, signal.SIGALRM)}
    for number in (*TOLD, signal.SIGINT):
        if before[number] in defaults:
            signal.signal(number, _raise_or_exit)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            if handler is not None:  # one that C code has installed
                signal.signal(number, handler)


def end_with_parent() -> None:
    """End this process and its group when the parent is gone, if the parent has asked for it by :data:`ENDS_WITH`."""
    parent = os.environ.pop(ENDS_WITH, None)  # not for the processes that this one starts
    if parent is None or os.getpgrp() != os.getpid():
        return

    def watch() -> None:
        while os.getppid() == int(parent):
            time.sleep(1.0)
        os.killpg(0, signal.SIGTERM)
        time.sleep(PATIENCE_S)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, name="end with parent", daemon=True).start()


@contextmanager
def ending() -> Iterator[None]:
    """End a block that Lightning leaves by ``exit(1)`` because it was interrupted as a script or a notebook expects it.

    Raises:
        KeyboardInterrupt: after Ctrl-C.
        SystemExit: after another signal, with 128 + its number.
    """
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as stop:
        if (number := told(stop)) is None:
            raise
        if threading.current_thread() is threading.main_thread() and before is not None:
            signal.signal(signal.SIGINT, before)  # Lightning has turned it off
        raise (KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)) from stop


def told(error: BaseException | None) -> signal.Signals | None:
    """Return the signal behind an exception, even behind later errors of the shutdown (exits, errors); None if there is none."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return signal.Signals(getattr(error, "number", signal.SIGINT))
        error = error.__context__
    return None


def reason(code: int) -> str:
    """Return the reason for an exit code other than 0: "killed by SIGKILL", "ended by SIGTERM", "exit code 2"."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    with_signal = {128 + number: number.name for number in (*TOLD, signal.SIGINT)}
    return f"ended by {with_signal[code]}" if code in with_signal else f"exit code {code}"


def cut_off(reason: str) -> bool:
    """Return True for a reason that names a signal: the process did not end by itself, and may go on."""
    return reason.startswith(("killed by ", "ended by "))


def leave(run: Callable[[], None]) -> NoReturn:
    """Run a program and end the process as an interpreter does, but do not clear the modules away.

    That takes longer than many a command, and in a forked process writes to all the memory that it shares.
    """
    code: Any = 0
    try:
        run()
    except SystemExit as end:
        code = end.code
    except BaseException as error:  # noqa: BLE001 - told, as by an interpreter
        sys.excepthook(type(error), error, error.__traceback__)
        code = 128 + signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as when multiprocessing ends a child
    atexit._run_exitfuncs()
    if isinstance(code, str):
        print(code, file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))
