"""Answers that come with the data: folds, and a replay data set beside labelled clips."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from preference_files import write_pairs
from synthetic import synthetic_transitions

from lightning_pbrl.data.feedback import Labels, Status
from lightning_pbrl.data.given_labels import check_labels, hold_out, with_replay
from lightning_pbrl.data.preference_npz import read_preference_npz
from lightning_pbrl.datamodules.base import FeedbackDataModule
from lightning_pbrl.errors import UserError
from lightning_pbrl.rng import stream


def numbered(count: int) -> Labels:
    """Labels that can be told apart by their first row."""
    start = torch.stack([torch.arange(count), torch.arange(count) + 100], 1)
    return Labels(start, 5, (torch.arange(count) % 2).float(), torch.full((count,), int(Status.ANSWERED)))


def test_every_label_is_held_out_once() -> None:
    labels, seen = numbered(13), []
    for fold in range(5):
        train, held = hold_out(labels, fold, 5, stream(0, "folds"))
        assert len(held) in (2, 3) and len(train) == 13 - len(held)
        for part in (train, held):
            rows = part.start[:, 0].tolist()
            assert rows == sorted(rows) and torch.equal(part.value, labels.value[rows]) and part.length == 5
        assert sorted(train.start[:, 0].tolist() + held.start[:, 0].tolist()) == list(range(13))
        seen += held.start[:, 0].tolist()
    assert sorted(seen) == list(range(13)) and seen != sorted(seen)  # all of them, not in the order of the file
    other = hold_out(labels, 0, 5, stream(1, "folds"))[1]
    assert other.start.tolist() != hold_out(labels, 0, 5, stream(0, "folds"))[1].start.tolist()


@pytest.mark.parametrize(("fold", "folds"), [(5, 5), (-1, 5), (0, 1), (0, 14)])
def test_folds_that_do_not_exist(fold: int, folds: int) -> None:
    with pytest.raises(UserError, match=f"Fold {fold} of {folds} cannot be held out of 13 labels: choose folds from 2"):
        hold_out(numbered(13), fold, folds, stream(0, "folds"))


def test_clips_beside_a_replay(tmp_path: Path) -> None:
    segments, labels = read_preference_npz(write_pairs(tmp_path / "p.npz", pairs=4, steps=6, obs_dim=5, action_dim=2))
    replay = synthetic_transitions(episodes=3, length=10)
    table, same = with_replay(segments, labels, replay)
    assert len(table) == 4 * 2 * 6 + 30 and table.drawable_count == 30
    assert table.drawable is not None and table.drawable.tolist() == list(range(48, 78))
    assert table.episodes.lengths.tolist() == [6] * 8 + [10] * 3
    assert torch.equal(table.segments(same.start, 6), segments.segments(labels.start, 6))
    assert torch.equal(table.column("next_obs")[48:], replay.column("next_obs"))
    assert table.reward[:48].isnan().all() and torch.equal(table.reward[48:], replay.reward)
    assert table.success is None  # unknown for the clips
    assert table.about == {"segments": segments.about, "replay": replay.about}


def test_a_replay_that_is_not_wholly_drawable_stays_so() -> None:
    segments, replay = synthetic_transitions(episodes=2, length=4), synthetic_transitions(episodes=2, length=3, seed=1)
    replay.drawable = torch.tensor([0, 1, 3, 4])
    table, _ = with_replay(segments, numbered(1), replay)
    assert table.drawable is not None and table.drawable.tolist() == [8, 9, 11, 12]
    assert table.success is not None and len(table.success) == 14  # both know it


def test_data_of_another_task() -> None:
    one, other = synthetic_transitions(obs_dim=5), synthetic_transitions(obs_dim=4)
    message = "observations of size 5 and actions of size 2, the replay data 4 and 2: choose data of one task"
    with pytest.raises(UserError, match=message):
        with_replay(one, numbered(1), other)


def answers(start: list[list[int]], value: list[float], status: Status = Status.ANSWERED, length: int = 10) -> Labels:
    return Labels(torch.tensor(start), length, torch.tensor(value), torch.full((len(value),), int(status)))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (answers([[0, 30], [21, 60]], [0.0, 1.0]), r"The segment of 10 steps from row 21 does .*\(600 rows\), as answer 1 of it"),
        (answers([[0, 591]], [0.0]), "from row 591 does not lie within one episode"),
        (answers([[0, 5_000]], [0.0]), "from row 5000 does not"),
        (answers([[-1, 30]], [0.0]), "from row -1 does not"),
        (answers([[0, 2**62]], [0.0], length=2**62), "does not lie within one episode"),
        (answers([[0], [25]], [3.0, 1.0]), "from row 25 does not .* as answer 1 of it"),
        (answers([[0, 30], [60, 60]], [0.0, 0.0]), "Answer 1 of it compares the segment from row 60 with itself: leave it out"),
        (answers([[0, 30]], [0.3]), "Answer 0 of it is answered and has value 0.3: a pair is 0 or 1 when answered and 0.5 w"),
        (answers([[0, 30]], [float("nan")]), "Answer 0 of it is answered and has value nan"),
        (answers([[0, 30]], [1.0], Status.EQUAL), "Answer 0 of it is equal and has value 1"),
        (answers([[0, 30], [60, 90]], [1.0]), "it has 2 questions, 1 values and 1 statuses: give one of each"),
    ],
)
def test_answers_that_are_not_about_the_data(labels: Labels, message: str) -> None:
    """Twenty episodes of thirty rows."""
    with pytest.raises(UserError, match=message):
        check_labels(labels, synthetic_transitions(), "it")


def test_answers_that_are() -> None:
    source, nan = synthetic_transitions(), float("nan")
    check_labels(answers([[0, 20], [590, 30]], [0.0, 1.0]), source, "it")  # the first and the last that fit
    check_labels(answers([[0], [590]], [-3.5, 8.0]), source, "it")
    check_labels(answers([[0, 20]], [0.5], Status.EQUAL), source, "it")
    check_labels(answers([[0, 20]], [nan], Status.SKIPPED), source, "it")
    check_labels(Labels.empty(50), source, "it")


def test_a_module_checks_what_it_brings() -> None:
    class Module(FeedbackDataModule):
        def load(self):
            self.labels = bad
            return table

    bad, table = answers([[0, 25]], [1.0]), synthetic_transitions()
    with pytest.raises(UserError, match=r"from row 25 does not lie within one episode .* as answer 0 of Module\.labels says"):
        Module().setup("fit")
    bad = None
    for name, value, words in (
        ("action", 1.5, r"action beyond \[-1, 1\] or not finite"),
        ("action", float("nan"), r"action beyond \[-1, 1\] or not finite"),
        ("next_obs", float("inf"), "next_obs NaN or infinite"),
        ("truncated", 0.5, "truncated neither 0 nor 1"),
        ("terminated", -1.0, "terminated neither 0 nor 1"),
    ):
        table = synthetic_transitions()
        table.column(name)[7] = value
        with pytest.raises(UserError, match=f"The data of Module have {words} in 1 row.s., the first is row 7: correct what"):
            Module().setup("fit")
