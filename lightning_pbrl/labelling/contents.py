"""Content of questions about data that forget, as a label store keeps it: in and out of records."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import sqlalchemy as sa

from lightning_pbrl.data.clip_bytes import STORED, pack, unpack
from lightning_pbrl.data.database import Database
from lightning_pbrl.data.feedback import Clips
from lightning_pbrl.data.guard import reading
from lightning_pbrl.data.tables import CLIPS, RESTORE
from lightning_pbrl.labelling.formats.content import Content
from lightning_pbrl.labelling.formats.records import Key, Record, key_of


class Contents(Database):
    """A label store of which only the content of questions is read."""

    def of(self, records: Iterable[Record]) -> dict[Key, Content]:
        """Return the segments of these questions, without the steps kept around them, where the store holds them.

        Raises:
            UserError: if they are damaged.
        """
        lengths = {key_of(row): row["length"] for row in records}
        with self._reading() as db:
            rows = db.execute(sa.select(CLIPS).where(CLIPS.c.run.in_({key[0] for key in lengths}))).all()
        found: dict[Key, Content] = {}
        for row in rows:
            if (length := lengths.get((row.run, row.round, row.number))) is not None:
                with reading(f"The label store {self.name}", "holds damaged segment content", RESTORE):
                    parts = unpack(row.content)
                    context = (parts["reward"].shape[1] - length) // 2
                    found[row.run, row.round, row.number] = {name: parts[name][:, context : context + length] for name in STORED}
        return found


def with_content(store: str | Path, records: Iterable[Record]) -> list[Record]:
    """Return records with their content, where the store holds it."""
    every = list(records)
    found = Contents(store).of(every)
    return [{**row, "content": found[key_of(row)]} if key_of(row) in found else row for row in every]


def packed(content: Content | None) -> bytes | None:
    """Return content as a store keeps it."""
    return None if content is None else pack(Clips(*(content[name][None] for name in STORED)), 0)
