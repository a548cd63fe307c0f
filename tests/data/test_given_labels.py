"""Answers that come with the data: folds, and a replay data set beside labelled clips."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from preference_files import write_pairs
from synthetic import synthetic_transitions

from lightning_pbrl.data.feedback import Labels, Status
from lightning_pbrl.data.given_labels import hold_out, with_replay
from lightning_pbrl.data.preference_npz import read_preference_npz
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
