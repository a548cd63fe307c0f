"""Films of questions for the page, drawn by a worker from the data of a run, or from the recordings of an acting method."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_pbrl.clips.base import ClipRenderer
from lightning_pbrl.clips.cache import ClipCache
from lightning_pbrl.clips.choose import renderer_of
from lightning_pbrl.clips.online import RecordingFolder, recording, recording_of
from lightning_pbrl.data.feedback import Query
from lightning_pbrl.errors import UserError
from lightning_pbrl.labelling.contents import Contents, KeptSegments
from lightning_pbrl.labelling.desk import Desk
from lightning_pbrl.labelling.interface import Codec, OpenQuestion
from lightning_pbrl.teachers.base import Teacher

RECORDINGS = "recordings"
"""Folder of a run with what the films of its questions are drawn from, where the data forget."""
AHEAD = 8
"""Open questions whose films are made before anybody asks for them."""
NO_DATA = "No film can be drawn without the data: name the run folder, or give the config of the data with -c DATA.yaml."
LoadData = Callable[[], Any]


class QuestionFilms:
    """Films of the segments of a run's questions; the next open questions' are made ahead.

    Args:
        desk: the questions.
        cache: makes and keeps the films; None where nothing can be drawn.
        why: sentence for people if ``cache`` is None.
        recorded: films are of recordings (:func:`recording_of`) in place of rows of the data.
    """

    def __init__(self, desk: Desk, cache: ClipCache | None, why: str = "", recorded: bool = False) -> None:
        self.desk, self.cache, self.why, self.recorded = desk, cache, why, recorded
        self._asked: list[tuple[int, int]] = []

    def made(self, question: OpenQuestion, which: int, codec: Codec) -> Path | None:
        """Return the file of segment ``which`` of a question, in the stored order, if it is made."""
        return None if self.cache is None else self.cache.path(*self._segment(question, which), codec)

    def path(self, question: OpenQuestion, which: int, codec: Codec) -> Path | None:
        """Return the file of segment ``which`` of a question, in the stored order; None while it is being made.

        Raises:
            UserError: if it cannot be drawn.
        """
        if self.cache is None:
            raise UserError(self.why)
        if which >= len(question.start):
            raise UserError(f"There is no segment {which} of question {question.key}.")
        segment = self._segment(question, which)
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
            ahead = [self._segment(each, place) for each in self.desk.waiting(AHEAD) for place in range(len(each.start))]
            self.cache.want([*reversed(self._asked), *ahead])

    def _segment(self, question: OpenQuestion, which: int) -> tuple[int, int]:
        """Return the name of a segment in the cache: its first row or its recording, and its length."""
        return (recording_of(question.key.number, which) if self.recorded else question.start[which]), question.length


def films_of(desk: Desk, run: Path | None, load: LoadData | None, fingerprint: str) -> QuestionFilms:
    """Return the films of a run's questions.

    Args:
        desk: the questions.
        run: run folder; films are kept in its folder ``clips``.
        load: makes the run's data module, in the worker; picklable.
        fingerprint: of the data.
    """
    if run is None or load is None:
        return QuestionFilms(desk, None, NO_DATA)
    draw, recorded = drawn_by(run, load, desk.name)
    return QuestionFilms(desk, ClipCache(run / "clips", draw, fingerprint), recorded=recorded)


def drawn_by(run: Path, load: LoadData, store: str) -> tuple[Callable[[], ClipRenderer], bool]:
    """Return what makes the renderer of a run's questions, picklable, and True if numbers of recordings name segments, not rows.

    Args:
        run: run folder.
        load: makes the run's data module; picklable.
        store: file or URL of the label store.
    """
    recorded = (run / RECORDINGS).is_dir() or bool(Contents(store))
    return (partial(_recorded, run / RECORDINGS, load, store) if recorded else partial(_drawn, load)), recorded


def _drawn(load: LoadData) -> ClipRenderer:
    return renderer_of(load(), plots=True)


def _recorded(folder: Path, load: LoadData, store: str) -> ClipRenderer:
    return KeptSegments(folder, load().simulator, store)


Keep = Callable[[int, Query], None]
Draw = Callable[[Query], Tensor]


def pictures(teacher: Teacher, folder: str | Path, data: Any) -> tuple[Keep | None, Draw | None]:
    """Return what keeps the recordings of new questions, and what draws questions for a teacher that looks at frames.

    Args:
        teacher: who answers; a simulated one that looks at no frames needs neither.
        folder: run folder.
        data: data module, set up.

    Returns:
        For data that forget, a function of the number of the first question and the questions, else None; for a teacher that
        looks, a function of questions that returns their frames, (B, C, T, H, W, 3), uint8, else None.

    Raises:
        UserError: if the teacher looks at frames and nothing can be drawn.
    """
    if teacher.simulated and not teacher.wants_frames:
        return None, None
    return recorder(folder, data), frames_of(folder, data) if teacher.wants_frames else None


def recorder(folder: str | Path, data: Any) -> Keep | None:
    """Return what keeps the recordings of questions about a replay: the number of the first one, and the questions.

    Returns:
        None for data that do not forget.
    """
    if getattr(data, "collector", None) is None:
        return None
    kept = RecordingFolder(Path(folder) / RECORDINGS, data.simulator)
    kept.folder.mkdir(parents=True, exist_ok=True)  # a page that is opened before the first question knows them by it

    def keep(first: int, query: Query) -> None:
        for number, starts in enumerate(query.start.tolist(), first):
            for which, start in enumerate(starts):
                kept.put(recording_of(number, which), recording(data.collector, start, query.length))

    return keep


def frames_of(folder: str | Path, data: Any) -> Draw:
    """Return what draws questions: from the data, or from the recordings of a replay that has forgotten them.

    Raises:
        UserError: if nothing can be drawn.
    """
    acting = getattr(data, "collector", None) is not None
    renderer = RecordingFolder(Path(folder) / RECORDINGS, data.simulator) if acting else renderer_of(data)

    def draw(query: Query) -> Tensor:
        names = query.start.flatten().tolist()
        if acting:  # questions name the copies in a replay
            names = list(map(recording_of, *(each.flatten().tolist() for each in data.source.copies.named(query.start))))
        frames = [torch.from_numpy(renderer.frames(name, query.length)) for name in names]
        return torch.stack(frames).unflatten(0, tuple(query.start.shape))

    return draw
