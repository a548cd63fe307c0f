"""Clips as files, made by a worker process before they are needed."""

from __future__ import annotations

import json
import logging
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lightning_pbrl.clips.base import ClipRenderer
from lightning_pbrl.clips.encode import Codec
from lightning_pbrl.clips.worker import complete, sentence, stem

SECONDS = 180.0
"""Longest time that one clip may take, seconds; a worker that needs more is ended and counts as crashed."""
TRIES = 2
"""Crashes that one clip may cause before it is given up."""

log = logging.getLogger(__name__)

Segment = tuple[int, int]
"""First row and number of steps."""


class ClipCache:
    """Cache of clips in a folder, by data, segment, camera, size and rate.

    A worker process draws what is wanted, in order. A file appears only when it is complete. Several processes may share a
    folder; they take turns. A worker that crashes is started again; the clip that it drew is tried once more, then given up. Only
    the list of wanted segments is held in memory.

    Args:
        folder: folder of all clips; made when the first is drawn.
        renderer: function without arguments that makes the renderer, in the worker; it is pickled, so give a function of a
            module, for instance ``functools.partial(renderer_of, data)``.
        fingerprint: fingerprint of the data.
        fps: frames per second of the clips.
        size: height and width of the frames that the renderer draws, pixels; a part of the folder's name.
        camera: camera that the renderer draws with; a part of the folder's name.
        seconds: longest time that one clip may take, seconds.
    """

    def __init__(
        self,
        folder: str | Path,
        renderer: Callable[[], ClipRenderer],
        fingerprint: str,
        fps: int = 30,
        *,
        size: int = 256,
        camera: str | None = None,
        seconds: float = SECONDS,
    ) -> None:
        view = "default" if camera is None else f"camera-{quote(camera, safe='')}"
        self.folder = Path(folder) / f"{quote(fingerprint, safe='')}-{view}-{size}-{fps}"
        self._renderer, self._fps, self._seconds = renderer, fps, seconds
        self._wanted: list[Segment] = []
        self._crashes: dict[Segment, int] = {}
        self._problems: dict[Segment, str] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._worker: _Worker | None = None
        self._closed = False

    def path(self, start: int, length: int, codec: Codec) -> Path | None:
        """Return the file of a clip; None while it is being made, or if it was not wanted."""
        found = self.folder / f"{stem(start, length)}.{codec}"
        return found if found.exists() else None

    def problem(self, start: int, length: int) -> str | None:
        """Return the sentence that tells why a wanted clip cannot be drawn; None if there is no such reason."""
        with self._changed:
            return self._problems.get((start, length))

    def want(self, wanted: Sequence[Segment]) -> None:
        """Replace the list of clips to make; they are made in this order, and the call returns at once.

        A clip that could not be drawn is not tried again as long as it stays in the list.

        Args:
            wanted: first row and number of steps of each segment.
        """
        segments = list(dict.fromkeys((int(start), int(length)) for start, length in wanted))
        with self._changed:
            kept = set(segments) & set(self._wanted)
            self._problems = {each: problem for each, problem in self._problems.items() if each in kept}
            self._crashes = {each: count for each, count in self._crashes.items() if each in kept}
            self._wanted = segments
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._work, name="clips", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until every wanted clip is made or given up, at most ``seconds``; return whether that is so."""
        end = None if seconds is None else time.monotonic() + seconds
        with self._changed:
            while self._next() is not None:
                left = None if end is None else end - time.monotonic()
                if self._closed or (left is not None and left <= 0):
                    return False
                self._changed.wait(left)
        return True

    def close(self) -> None:
        """End the worker; clips that are not complete are not made."""
        with self._changed:
            self._closed = True
            worker, thread = self._worker, self._thread
            self._changed.notify_all()
        if worker is not None:
            worker.kill()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def __enter__(self) -> ClipCache:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def _next(self) -> Segment | None:
        """Return the first wanted segment without files; None if there is none. Called with the lock held."""
        while self._wanted and complete(self.folder, *self._wanted[0]):
            self._wanted.pop(0)
        for segment in self._wanted:
            if segment not in self._problems and not complete(self.folder, *segment):
                return segment
        return None

    def _work(self) -> None:
        """Make clips until the cache is closed; the body of the thread."""
        while True:
            with self._changed:
                segment = self._next()
                while segment is None and not self._closed:
                    self._changed.wait()
                    segment = self._next()
                if segment is None or self._closed:
                    break
            problem = self._make(segment)
            with self._changed:
                if problem is not None:
                    self._problems[segment] = problem
                self._changed.notify_all()
        if self._worker is not None:
            self._worker.stop()

    def _make(self, segment: Segment) -> str | None:
        """Let the worker make a clip; return the problem if it is given up."""
        try:
            if self._worker is None:
                self._worker = _Worker(self._renderer, str(self.folder), self._fps)
            return self._worker.make(segment, self._seconds)
        except _EndedError as ended:
            self._worker = None
            if self._closed:
                return None
            self._crashes[segment] = count = self._crashes.get(segment, 0) + 1
            told = f"The worker that draws clips {ended} at the segment of {segment[1]} steps from row {segment[0]} on"
            log.warning("%s; %s.", told, "it is started again" if count < TRIES else "that clip is given up")
            return None if count < TRIES else f"{told}, {count} times: show other data or another camera."
        except Exception as error:  # noqa: BLE001 - told on the page
            return f"No clip can be drawn: the worker does not start ({sentence(error)}); give a function that can be pickled."


class _EndedError(Exception):
    """End of the worker process, described as the middle of a sentence."""


class _Worker:
    """The worker process.

    Args:
        renderer: function that makes the renderer.
        folder: folder of the clips.
        fps: frames per second of the clips.
    """

    def __init__(self, renderer: Callable[[], ClipRenderer], folder: str, fps: int) -> None:
        content = pickle.dumps((renderer, (folder, fps)))
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        one = {"LP_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # threads of the software renderer, and of torch
        environment = {"MUJOCO_GL": "egl", **one, **os.environ, "PYTHONPATH": paths}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "lightning_pbrl.clips.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        self._send(content)

    def make(self, segment: Segment, seconds: float) -> str | None:
        """Make a clip and return the reason if it cannot be drawn.

        Raises:
            _EndedError: if the process has ended, or needs longer than ``seconds``.
        """
        self._send(json.dumps(segment).encode() + b"\n")
        pipe: Any = self._process.stdout
        if not select.select([pipe], [], [], seconds)[0]:
            self.stop()
            raise _EndedError(f"has taken more than {seconds:g} s")
        line = pipe.readline()
        if not line.endswith(b"\n"):
            raise self._ended()
        problem: str | None = json.loads(line).get("problem")
        return problem

    def kill(self) -> None:
        """End the process; a :meth:`make` in another thread then raises."""
        self._process.kill()

    def stop(self) -> None:
        """End the process and close its pipes."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError, ValueError):
                pipe.close()  # type: ignore[union-attr]

    def _send(self, content: bytes) -> None:
        try:
            self._process.stdin.write(content)  # type: ignore[union-attr]
            self._process.stdin.flush()  # type: ignore[union-attr]
        except (OSError, ValueError) as error:  # closed by the process, or by stop()
            raise self._ended() from error

    def _ended(self) -> _EndedError:
        """Return how the process has ended."""
        with suppress(subprocess.TimeoutExpired):  # its output is closed, so it is ending
            self._process.wait(5.0)
        code = self._process.poll()
        self.stop()
        if code is None:
            return _EndedError("does not answer")
        return _EndedError(f"was ended by {signal.Signals(-code).name}" if code < 0 else f"has ended with exit code {code}")
