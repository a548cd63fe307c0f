"""Content of questions about data that forget, as a label store keeps it: in and out of records, and drawn."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import sqlalchemy as sa

from lightning_pbrl.clips.base import ClipRenderer, Frames
from lightning_pbrl.clips.online import RecordingFolder, asked_of
from lightning_pbrl.clips.rebuilt import RebuiltStates, state_of
from lightning_pbrl.data.clip_bytes import STORED, pack, unpack
from lightning_pbrl.data.database import Database
from lightning_pbrl.data.feedback import Clips
from lightning_pbrl.data.guard import reading
from lightning_pbrl.data.tables import CLIPS, RESTORE
from lightning_pbrl.envs.base import Simulator
from lightning_pbrl.errors import UserError
from lightning_pbrl.labelling.formats.content import Content
from lightning_pbrl.labelling.formats.records import Key, Record, key_of


class Contents(Database):
    """A label store of which only the content of questions is read."""

    def __bool__(self) -> bool:
        """Return True if the store holds the content of any question."""
        with self._reading() as db:
            return db.execute(sa.select(CLIPS.c.number).limit(1)).first() is not None

    def numbered(self, number: int, length: int) -> Content:
        """Return the segments of the question of that number.

        Raises:
            UserError: if there is none, or several runs have one.
        """
        with self._reading() as db:
            rows = db.execute(sa.select(CLIPS).where(CLIPS.c.number == number)).all()
        if len(rows) != 1:
            runs = f"{len(rows)} runs have" if rows else "no run has"
            raise UserError(
                f"In the label store {self.name} {runs} stored segments of a question {number}: show one run's store."
            )
        return self._segments(rows[0].content, length)

    def of(self, records: Iterable[Record]) -> dict[Key, Content]:
        """Return the segments of these questions, without the steps kept around them, where the store holds them.

        Raises:
            UserError: if they are damaged.
        """
        lengths = {key_of(row): row["length"] for row in records}
        with self._reading() as db:
            rows = db.execute(sa.select(CLIPS).where(CLIPS.c.run.in_({key[0] for key in lengths}))).all()
        keys = [(row.run, row.round, row.number) for row in rows]
        return {key: self._segments(row.content, lengths[key]) for key, row in zip(keys, rows, strict=True) if key in lengths}

    def _segments(self, stored: bytes, length: int) -> Content:
        """Return the middle ``length`` steps of stored segments."""
        with reading(f"The label store {self.name}", "holds damaged segment content", RESTORE):
            parts = unpack(stored)
            context = (parts["reward"].shape[1] - length) // 2
            return {name: parts[name][:, context : context + length] for name in STORED}


class KeptSegments(ClipRenderer):
    """Renderer of questions about a replay: of their recordings, or of the observations that the label store holds.

    A number names a segment: :func:`~lightning_pbrl.clips.online.recording_of`.

    Args:
        folder: folder of the recordings.
        simulator: simulator that was acted in.
        store: file or URL of the label store.
        size: height and width of a frame, pixels.
    """

    def __init__(self, folder: Path, simulator: Simulator, store: str, size: int = 256) -> None:
        self.size, self.how, self._simulator, self._store = size, RecordingFolder.how, simulator, store
        self._recordings = RecordingFolder(folder, simulator, size)
        self._rebuilt: RebuiltStates | None = None

    def frames(self, start: int, length: int) -> Frames:
        if start in self._recordings:
            return self._recordings.frames(start, length)
        number, which = asked_of(start)
        if state_of(self._simulator) is None:
            raise UserError(
                f"Question {number} was asked without a recording, and an observation of {self._simulator.name} does not "
                "determine its state, so it cannot be drawn: recordings are kept for people and for teachers that look."
            )
        found = Contents(self._store).numbered(number, length)
        if self._rebuilt is None:
            self._rebuilt = RebuiltStates(None, self._simulator, self.size)
        return self._rebuilt.draw(found["obs"][which].numpy(), found["action"][which].numpy())

    def close(self) -> None:
        self._recordings.close()
        if self._rebuilt is not None:
            self._rebuilt.close()


def with_content(store: str | Path, records: Iterable[Record]) -> list[Record]:
    """Return records with their content, where the store holds it."""
    every = list(records)
    found = Contents(store).of(every)
    return [{**row, "content": found[key_of(row)]} if key_of(row) in found else row for row in every]


def packed(content: Content | None) -> bytes | None:
    """Return content as a store keeps it."""
    return None if content is None else pack(Clips(*(content[name][None] for name in STORED)), 0)
