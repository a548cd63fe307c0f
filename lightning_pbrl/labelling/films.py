"""Films of questions for the page, drawn by a worker from the data of a run, or from the recordings of an acting method."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from lightning_pbrl.clips.base import ClipRenderer
from lightning_pbrl.clips.cache import ClipCache
from lightning_pbrl.clips.choose import renderer_of
from lightning_pbrl.clips.online import RecordingFolder, recording
from lightning_pbrl.data.feedback import Query
from lightning_pbrl.errors import UserError
from lightning_pbrl.labelling.desk import Desk
from lightning_pbrl.labelling.interface import Codec, Key

RECORDINGS = "recordings"
"""Folder of a run with what the films of its questions are drawn from, where the data forget."""
AHEAD = 8
"""Open questions whose films are made before anybody asks for them."""
LoadData = Callable[[], Any]


class QuestionFilms:
    """Films of the segments of a run's questions; the next open questions' are made ahead.

    Args:
        desk: the questions.
        cache: makes and keeps the films; None where nothing can be drawn.
        why: sentence for people if ``cache`` is None.
        recorded: films are of recordings, two numbers per question, in place of rows of the data.
    """

    def __init__(self, desk: Desk, cache: ClipCache | None, why: str = "", recorded: bool = False) -> None:
        self.desk, self.cache, self.why, self.recorded = desk, cache, why, recorded
        self._asked: list[tuple[int, int]] = []

    def path(self, key: Key, which: int, codec: Codec) -> Path | None:
        """Return the file of segment ``which`` of a question, in the stored order; None while it is being made.

        Raises:
            UserError: if it cannot be drawn.
        """
        if self.cache is None:
            raise UserError(self.why)
        question = self.desk.question(key, "")
        if question is None or which >= len(question.start):
            raise UserError(f"There is no segment {which} of question {key}.")
        segment = self._segment(question.key, which, question.start, question.length)
        if problem := self.cache.problem(*segment):
            raise UserError(problem)
        found = self.cache.path(*segment, codec)
        if found is None and segment not in self._asked:
            self._asked = [*self._asked[-4 * AHEAD :], segment]
            self.draw_ahead()
        return found

    def draw_ahead(self) -> None:
        """Let the worker make what was asked for, and then the films of the next open questions."""
        if self.cache is not None:
            ahead = [
                self._segment(each.key, place, each.start, each.length)
                for each in self.desk.waiting(AHEAD)
                for place in range(len(each.start))
            ]
            self.cache.want([*reversed(self._asked), *ahead])

    def _segment(self, key: Key, which: int, start: tuple[int, ...], length: int) -> tuple[int, int]:
        """Return the name of a segment in the cache: its first row or its recording, and its length."""
        return (2 * key.number + which if self.recorded else start[which]), length


def films_of(desk: Desk, run: Path | None, load: LoadData | None, fingerprint: str) -> QuestionFilms:
    """Return the films of a run's questions.

    Args:
        desk: the questions.
        run: run folder; films are kept in its folder ``clips``.
        load: makes the run's data module, in the worker; picklable.
        fingerprint: of the data.
    """
    if run is None or load is None:
        return QuestionFilms(desk, None, "No film can be drawn without the run folder: name it in place of the store alone.")
    recorded = (run / RECORDINGS).is_dir()
    draw: Callable[[], ClipRenderer] = partial(_recorded, run / RECORDINGS, load) if recorded else partial(_drawn, load)
    return QuestionFilms(desk, ClipCache(run / "clips", draw, fingerprint), recorded=recorded)


def _drawn(load: LoadData) -> ClipRenderer:
    return renderer_of(load(), plots=True)


def _recorded(folder: Path, load: LoadData) -> ClipRenderer:
    return RecordingFolder(folder, load().simulator)


def recorder(folder: str | Path, data: Any) -> Callable[[int, Query], None] | None:
    """Return what keeps the recordings of questions about a replay: the number of the first one, and the questions.

    Returns:
        None for data that do not forget.
    """
    if getattr(data, "collector", None) is None:
        return None
    kept = RecordingFolder(Path(folder) / RECORDINGS, data.simulator)

    def keep(first: int, query: Query) -> None:
        for number, starts in enumerate(query.start.tolist(), first):
            for which, start in enumerate(starts):
                kept.put(2 * number + which, recording(data.collector, start, query.length))

    return keep
