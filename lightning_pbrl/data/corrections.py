"""Corrections: a segment that somebody has shown as better than another, read as preferences.

A correction is a pair whose second segment is preferred, so that learners of pairs need nothing else. Interventions are
corrections, too: what a person does from a takeover on is preferred to what was interrupted (OHP-RL, arXiv 2605.15971).
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_pbrl.data.feedback import Answer, AskKey, Labels, Query, Status
from lightning_pbrl.data.given_labels import check_labels
from lightning_pbrl.data.guard import reading
from lightning_pbrl.data.store import LabelStore
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.errors import UserError

COLUMNS = ["original", "corrected"]
"""Header of a file of corrections: row ids of the first step of each segment."""


class Corrections(NamedTuple):
    """N corrections of segments of one length.

    Attributes:
        original: row id of the first step of what was corrected, (N,), int64.
        corrected: the same of what was shown instead, (N,), int64.
        length: steps per segment.
    """

    original: Tensor
    corrected: Tensor
    length: int

    def labels(self) -> Labels:
        """Return them as preferences of the second segment."""
        start = torch.stack([self.original, self.corrected], 1)
        return Labels(start, self.length, torch.ones(len(start)), torch.full((len(start),), int(Status.ANSWERED)))


def read(path: str | Path, source: Transitions, length: int) -> Corrections:
    """Read a CSV file with the columns ``original`` and ``corrected``, row ids of the data.

    Raises:
        UserError: for another header, a cell that is no row id, and a segment that does not lie within an episode.
    """
    with reading(path, "cannot be read", "give a CSV file with the columns original and corrected"):
        rows = [row for row in csv.reader(io.StringIO(Path(path).read_text(encoding="utf-8-sig"))) if row]
    if not rows or rows[0] != COLUMNS or len(rows) == 1:
        raise UserError(f"{path} is no list of corrections: give the header original,corrected and one correction per line.")
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != 2 or not all(cell.strip().isascii() and cell.strip().isdecimal() and len(cell) < 19 for cell in row):
            raise UserError(f"{path} line {number} is {','.join(row)!r:.100}: give two row ids, such as 120,4310.")
    start = torch.tensor([[int(cell) for cell in row] for row in rows[1:]], dtype=torch.int64)
    found = Corrections(start[:, 0], start[:, 1], length)
    check_labels(found.labels(), source, str(path))
    return found


def at_takeovers(source: Transitions, by_person: Tensor, length: int) -> Corrections:
    """Return a correction for each takeover: the steps before it are the original, those from it on the correction.

    Args:
        source: the data.
        by_person: rows in which a person or script has acted, (N,), bool.
        length: steps per segment; takeovers with fewer before or after them in the episode, or in the hand of one, are left out.

    Raises:
        UserError: for another number of rows than the data have.
    """
    if by_person.shape != (len(source),):
        raise UserError(f"by_person has {len(by_person)} rows and the data {len(source)}: tell who acted in every row.")
    acted = by_person.cpu().long()
    taken = torch.cat([torch.zeros(1, dtype=torch.int64), acted.cumsum(0)])  # steps by a person before each row
    offsets = source.episodes.offsets
    rows = torch.arange(len(source))
    episode = source.episodes.of(rows)
    fits = (rows - length >= offsets[episode]) & (rows + length <= offsets[episode + 1])
    before, after = (rows - length).clamp(min=0), (rows + length).clamp(max=len(source))
    whole = fits & (taken[rows] - taken[before] == 0) & (taken[after] - taken[rows] == length)
    at = rows[whole]
    return Corrections(at - length, at, length)


def keep(store: LabelStore, corrections: Corrections, answered_by: str, run: str = "corrections") -> int:
    """Store corrections as answered pairs of a run of their own, after those that it has; return how many there are now.

    Name the store with ``ask.store`` and leave ``ask.budget`` at 0 to learn from them.
    """
    labels, first = corrections.labels(), store.spent(run)
    about = {"strategy": {"class": "Corrections"}, "teacher": {"class": "Corrections"}, "seed": 0}
    query, answer = Query("pair", labels.start, labels.length), Answer(labels.value, labels.status)
    store.put(AskKey(run, 0, first), query, answer, answered_by=answered_by, **about)  # type: ignore[arg-type]
    return store.spent(run)
