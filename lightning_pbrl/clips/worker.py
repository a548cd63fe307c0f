"""Process that draws and encodes clips for a :class:`~lightning_pbrl.clips.cache.ClipCache`.

It reads, from its standard input, a pickled pair of the function that makes the renderer and a tuple (folder, frames per second),
then one line of JSON per clip, ``[start, length]``. It answers each with a line: ``{}`` when the files are there, or
``{"problem": sentence}``. It ends with its input.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
import traceback
from pathlib import Path
from typing import Any

from filelock import FileLock

from lightning_pbrl.clips.base import ClipRenderer
from lightning_pbrl.clips.encode import CODECS, write_clip
from lightning_pbrl.errors import mistake_behind


def stem(start: int, length: int) -> str:
    """Return a clip's file name without its suffix."""
    return f"{start}-{length}"


def complete(folder: Path, start: int, length: int) -> bool:
    """Return True if the files of a clip are there."""
    return all((folder / f"{stem(start, length)}.{codec}").exists() for codec in CODECS)


def make_clip(renderer: ClipRenderer, folder: Path, fps: int, start: int, length: int) -> str | None:
    """Draw and encode one clip unless it is there; return the reason if it cannot be drawn.

    One process at a time draws into a folder, so that two never make the same clip.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "drawing.lock"):
            if not complete(folder, start, length):
                write_clip(folder / stem(start, length), renderer.frames(start, length), fps)
    except Exception as error:  # noqa: BLE001 - it is told, and must not cost the other clips
        return sentence(error)
    return None


def sentence(error: BaseException) -> str:
    """Return an error as one sentence; the traceback of one that no user can mend goes to the log."""
    known = mistake_behind(error)
    if known is None:
        traceback.print_exception(error)
    return str(known) if known is not None else f"{type(error).__name__}: {' '.join(str(error).split())}"


def main() -> None:
    """Answer requests until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints goes to the log
    os.nice(5)  # training goes first

    def tell(problem: str | None) -> None:
        answers.write(json.dumps({} if problem is None else {"problem": problem}) + "\n")
        answers.flush()

    problem: str | None = None
    renderer: Any = None
    try:
        make, (folder, fps) = pickle.load(sys.stdin.buffer)  # noqa: S301 - from the process that started this one
        renderer = make()
    except EOFError:
        return
    except Exception as error:  # noqa: BLE001 - told for every clip
        problem = f"No clip can be drawn: {sentence(error)}"
    for line in sys.stdin.buffer:
        start, length = json.loads(line)
        tell(problem if renderer is None else make_clip(renderer, Path(folder), fps, start, length))
    if renderer is not None:
        renderer.close()


if __name__ == "__main__":
    main()
