"""Preferences in IPL's npz format as a data module: which file, which folds, which simulator, and a fit on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from preference_files import pair_arrays, write_pairs
from toys import SeedSimulator, make_trainer, read_csv

from lightning_pbrl.callbacks.ask_teacher import AskTeacher
from lightning_pbrl.data.feedback import Query
from lightning_pbrl.datamodules.preference_npz import PreferenceNPZDataModule
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.bc import BC
from lightning_pbrl.methods.learn_reward import RewardEnsemble

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "preferences"


def loaded(path: Path, **settings: Any) -> PreferenceNPZDataModule:
    data = PreferenceNPZDataModule(str(path), **settings)
    data.setup("fit")
    return data


def test_a_file_by_name(tmp_path: Path) -> None:
    data = PreferenceNPZDataModule(str(write_pairs(tmp_path / "mine.npz", pairs=8, steps=6, obs_dim=3, action_dim=2)))
    assert data.spec == {"obs_dim": 3, "action_dim": 2, "horizon": 0}  # read from the file, as there is no simulator
    assert data.labels is not None and len(data.labels) == 8 and data.held_out_labels is None
    assert data.segment_length == data.labels.length == 6


def test_a_folder_and_who_answered(tmp_path: Path) -> None:
    write_pairs(tmp_path / "num8_human_train.npz", pairs=8)
    write_pairs(tmp_path / "num8_script_train.npz", pairs=9)
    write_pairs(tmp_path / "num8_human_eval.npz", pairs=2)  # the last tenth once more: never read
    assert len(loaded(tmp_path).source.episodes) == 16
    assert len(loaded(tmp_path, answered_by="script").source.episodes) == 18
    write_pairs(tmp_path / "num500_human_train.npz", pairs=5)
    message = r"one file num\*_human_train\.npz and has num500_human_train\.npz, num8_human_train\.npz: give the file itself"
    with pytest.raises(UserError, match=message):
        loaded(tmp_path)
    with pytest.raises(UserError, match=r"There is no file .*absent"):
        loaded(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="and has none: give the file itself"):
        loaded(tmp_path / "empty")


def test_the_reader_is_told_what_was_asked_for(tmp_path: Path) -> None:
    arrays = pair_arrays(pairs=8)
    for clip in (1, 2):
        whole = arrays.pop(f"obs_{clip}")
        arrays |= {f"obs_{clip}.a": whole[..., :1], f"obs_{clip}.b": whole[..., 1:]}
    data = loaded(write_pairs(tmp_path / "p.npz", arrays), capacity=6, undecided="drop", obs_keys=["b"])
    assert data.labels is not None and len(data.labels) == 4 and data.source.obs_dim == 2  # 0 and 4 of six are undecided


def test_folds_cover_all_answers(tmp_path: Path) -> None:
    path = write_pairs(tmp_path / "p.npz", pairs=23)
    every = loaded(path).labels
    assert every is not None
    held: list[int] = []
    for fold in range(5):
        data = loaded(path, fold=fold)
        assert data.labels is not None and data.held_out_labels is not None
        assert len(data.labels) + len(data.held_out_labels) == 23
        assert len(data.source.episodes) == 46  # held-out clips are data, their answers are not
        held += data.held_out_labels.start[:, 0].tolist()
    assert sorted(held) == every.start[:, 0].tolist()
    halves = loaded(path, fold=1, folds=2).held_out_labels
    assert halves is not None and len(halves) == 11
    first, second = (loaded(path, fold=0, evaluation_seed=seed).held_out_labels for seed in (0, 1))
    assert first is not None and second is not None and not torch.equal(first.start, second.start)
    with pytest.raises(UserError, match="Fold 5 of 5 cannot be held out of 23 labels"):
        loaded(path, fold=5)


def test_a_simulator_of_another_task(tmp_path: Path) -> None:
    fits = write_pairs(tmp_path / "fits.npz", obs_dim=5, action_dim=2)
    assert loaded(fits, simulator=SeedSimulator()).spec["horizon"] == 3
    other = write_pairs(tmp_path / "other.npz", obs_dim=5, action_dim=3)
    message = r"other\.npz has 5 observation and 3 action entries and seed-v0 has 5 and 2: set data\.simulator"
    with pytest.raises(UserError, match=message):
        loaded(other, simulator=SeedSimulator())


def test_a_reward_model_from_given_answers(tmp_path: Path) -> None:
    """No teacher, no store, no reward in the data: the held-out fold says whether anything was learned."""
    path = write_pairs(tmp_path / "p.npz", pairs=80)
    data = PreferenceNPZDataModule(str(path), fold=2, undecided="skip")
    method = RewardEnsemble(data.spec, hidden=(16,), epochs=40, lr=1e-2, batch_size=16, stop_accuracy=1.0)
    make_trainer(tmp_path, [AskTeacher()]).fit(method, data)
    assert len(method.labels) == 64 and not (tmp_path / "labels.sqlite").exists()
    assert method.finished and method.trainer.current_epoch == 1
    row = next(row for row in reversed(read_csv(tmp_path)) if "pref/accuracy" in row)
    held = data.held_out_labels
    assert held is not None
    decided = held.preferences()  # skipped ones are not judged
    right = (method.returns(Query("pair", decided.start, 6)).diff(dim=-1)[..., 0] > 0).float().mean(0) > 0.5
    assert row["pref/accuracy"] == pytest.approx((right == (decided.value == 1)).float().mean().item(), abs=0.08)
    assert row["pref/accuracy"] > 0.8 and "pref/return_pearson" not in row


def test_a_policy_from_the_clips_alone(tmp_path: Path) -> None:
    """Cloning reads observed transitions: 5 of each clip's 6 rows."""
    data = PreferenceNPZDataModule(str(write_pairs(tmp_path / "p.npz", obs_dim=5)), simulator=SeedSimulator(), eval_episodes=2)
    method = BC(data.spec, hidden=(8,), updates=20, eval_interval=20, batch_size=8)
    make_trainer(tmp_path, [AskTeacher()]).fit(method, data)
    assert data.source.drawable_count == 12 * 2 * 5
    assert any("eval/return_mean" in row for row in read_csv(tmp_path))


@pytest.mark.skipif(not REAL.is_dir(), reason="the published preference files are not on this machine")
def test_a_fold_of_the_published_answers() -> None:
    human = loaded(REAL / "hopper-medium-expert-v2", fold=0)
    script = loaded(REAL / "hopper-medium-expert-v2", fold=0, answered_by="script")
    assert human.held_out_labels is not None and script.held_out_labels is not None
    assert len(human.held_out_labels) == 20 and human.segment_length == 100
    assert torch.equal(human.held_out_labels.start, script.held_out_labels.start)  # the same pairs, other answers
    assert not torch.equal(human.held_out_labels.value, script.held_out_labels.value)


def test_a_replay_beside_the_clips(tmp_path: Path) -> None:
    """Single transitions come from the replay alone; the answers still point at the clips."""
    path = write_pairs(tmp_path / "p.npz", pairs=8, steps=6, obs_dim=3, action_dim=2)
    alone = loaded(path)
    replay = PreferenceNPZDataModule(str(write_pairs(tmp_path / "q.npz", pairs=5, steps=4, obs_dim=3, action_dim=2)))
    both = loaded(path, replay=replay, fold=0, folds=4)
    assert len(both.source) == 2 * 8 * 6 + 2 * 5 * 4 and both.segment_length == 6
    rows = both.source.drawable_rows(torch.arange(both.source.drawable_count))
    assert torch.equal(rows, 96 + replay.source.drawable_rows(torch.arange(30)))  # not the last step of the ten clips
    assert alone.labels is not None and both.labels is not None and both.held_out_labels is not None
    assert sorted([*both.labels.start.tolist(), *both.held_out_labels.start.tolist()]) == sorted(alone.labels.start.tolist())


def test_a_replay_of_another_task_is_refused(tmp_path: Path) -> None:
    replay = PreferenceNPZDataModule(str(write_pairs(tmp_path / "q.npz", obs_dim=5, action_dim=2)))
    with pytest.raises(UserError, match="the replay data 5 and 2: choose data of one task"):
        loaded(write_pairs(tmp_path / "p.npz", obs_dim=3, action_dim=2), replay=replay)
