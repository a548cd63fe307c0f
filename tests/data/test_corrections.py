"""Corrections as preferences: from a file, from takeovers, and by a simulated teacher."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from synthetic import synthetic_transitions

from lightning_pbrl.data.corrections import Corrections, at_takeovers, keep, read
from lightning_pbrl.data.feedback import Clips, Labels, Query, Status
from lightning_pbrl.data.segments import Episodes, SegmentPool
from lightning_pbrl.data.store import LabelStore
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.errors import UserError
from lightning_pbrl.queries.corrections import CorrectionQuery
from lightning_pbrl.rng import question_keys
from lightning_pbrl.teachers.correcting import CorrectingTeacher
from lightning_pbrl.testing import check_query, check_teacher


def line(*lengths: int) -> Transitions:
    """Episodes of these lengths, in which nothing happens."""
    n = sum(lengths)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    return Transitions.from_columns(torch.zeros(n, 1), torch.zeros(n, 1), torch.zeros(n, 1), offsets, torch.zeros(n))


def test_a_file_becomes_labels_of_a_store(tmp_path: Path) -> None:
    source, path = synthetic_transitions(), tmp_path / "corrections.csv"
    path.write_text("original,corrected\n0,12\n3,40\n")
    found = read(path, source, 5)
    labels = found.labels()
    assert labels.start.tolist() == [[0, 12], [3, 40]] and labels.value.tolist() == [1.0, 1.0]
    store = LabelStore(tmp_path / "labels.sqlite", source.fingerprint)
    assert keep(store, found, "Ada") == 2 and keep(store, Corrections(torch.tensor([50]), torch.tensor([60]), 5), "Ben") == 3
    stored = store.labels("pair")
    assert stored.start.tolist() == [[0, 12], [3, 40], [50, 60]] and len(stored.preferences()) == 3
    assert [row["answered_by"] for row in store.records()] == ["Ada", "Ada", "Ben"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("first,second\n0,12\n", "is no list of corrections: give the header original,corrected"),
        ("original,corrected\n", "is no list of corrections"),
        ("original,corrected\n0,12\n3,-4\n", "line 3 is '3,-4': give two row ids, such as 120,4310"),
        ("original,corrected\n0,1,2\n", "line 2 is '0,1,2'"),
        ("original,corrected\n0,99999\n", "does not lie within one episode of the data"),
        ("original,corrected\n7,7\n", "compares the segment from row 7 with itself"),
    ],
)
def test_wrong_files(text: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text(text)
    with pytest.raises(UserError, match=problem):
        read(tmp_path / "c.csv", synthetic_transitions(), 5)


def test_takeovers_by_hand() -> None:
    """Two episodes of 10 steps, segments of 3: takeovers at 4 (held for 3), 8 (too late), 11 (too early), 15 (held for 2)."""
    source, acted = line(10, 10), torch.zeros(20, dtype=torch.bool)
    for first, steps in ((4, 3), (8, 2), (11, 3), (15, 2)):
        acted[first : first + steps] = True
    found = at_takeovers(source, acted, 3)
    assert found.original.tolist() == [1] and found.corrected.tolist() == [4] and found.length == 3
    shorter = at_takeovers(source, acted, 1)
    assert shorter.corrected.tolist() == [4, 8, 11, 15] and shorter.original.tolist() == [3, 7, 10, 14]
    with pytest.raises(UserError, match="by_person has 3 rows and the data 20: tell who acted in every row"):
        at_takeovers(source, acted[:3], 3)


def test_the_nearest_beginning_is_asked() -> None:
    """First observations are the row ids: of all others as candidates, a neighbour is the nearest."""
    pool = SegmentPool(Episodes(torch.tensor([0, 12])), 3)
    model = SimpleNamespace(observations=lambda query: query.start.double()[..., None, None])
    asked = CorrectionQuery(50).propose(pool, 6, model, Labels.empty(3), torch.Generator().manual_seed(0))
    assert asked.kind == "pair" and bool(((asked.start[:, 0] - asked.start[:, 1]).abs() == 1).all())
    check_query(CorrectionQuery())


def test_only_what_is_better_is_a_correction() -> None:
    teacher = CorrectingTeacher(gain=1.0, unit="reward")
    reward = torch.tensor([[[0.0], [2.0]], [[0.0], [1.0]], [[3.0], [0.0]]])
    shown = Clips(torch.zeros(3, 2, 1, 1), torch.zeros(3, 2, 1, 1), reward)
    found = teacher.answer(Query("pair", torch.arange(6).view(3, 2), 1), shown, question_keys(0, 0, 3))
    assert found.status.tolist() == [Status.ANSWERED, Status.SKIPPED, Status.SKIPPED]
    assert found.value[0] == 1.0 and bool(found.value[1:].isnan().all())
    check_teacher(CorrectingTeacher())
