"""A method outside a Trainer: arrays in, arrays out; to a file and back; files of other versions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from synthetic import synthetic_transitions
from toys import SPEC, ToyData, make_trainer

import lightning_pbrl
from lightning_pbrl import BC, IQL, NMR, PEBBLE, AskTeacher, RelabelRewards, RewardEnsemble, SimulatedTeacher, Trainer
from lightning_pbrl.errors import UserError
from lightning_pbrl.fitting.checkpoints import SCHEMA

SMALL: dict[str, Any] = {"hidden": (8, 8)}
OBS = np.random.default_rng(0).normal(size=(7, 3, 5))
ACTION = np.random.default_rng(1).uniform(-1, 1, size=(7, 3, 2))


def refused(call: Any, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(UserError) as error:
        call(*args, **kwargs)
    return str(error.value)


# Arrays ------------------------------------------------------------------------------------------------------------------


def test_a_policy_predicts_actions() -> None:
    policy = BC(SPEC, **SMALL)
    found = policy.predict(OBS)
    assert (type(found), found.shape, found.dtype) == (np.ndarray, (7, 3, 2), np.float32)
    expected = policy.eval().act(torch.from_numpy(OBS).float().reshape(21, 5)).detach().reshape(7, 3, 2)
    assert np.array_equal(found, expected.numpy())
    assert np.allclose(policy.predict(OBS[0, 0]), found[0, 0], atol=1e-6)  # a single observation
    assert np.allclose(policy.predict(OBS[0].tolist()), found[0], atol=1e-6)
    assert policy.predict(OBS[:0]).shape == (0, 3, 2)
    assert refused(policy.predict, np.where(np.arange(5) < 4, OBS[0], np.nan)) == (
        "obs is NaN or infinite in 3 of 3 rows, the first is row 0: look at what it comes from."
    )


def test_a_reward_model_predicts_rewards() -> None:
    reward = RewardEnsemble(SPEC, **SMALL)
    found = reward.predict(OBS, ACTION)
    assert (found.shape, found.dtype) == ((7, 3), np.float32)
    features = torch.from_numpy(np.concatenate([OBS, ACTION], -1)).float().reshape(21, 7)
    with torch.no_grad():
        members = reward.reward(features)  # (E, 21)
    assert np.allclose(found, members.mean(0).reshape(7, 3).numpy(), atol=1e-6)
    assert np.allclose(reward.predict(OBS[0, 0], ACTION[0, 0]), found[0, 0], atol=1e-6)


def test_a_model_that_looks_back_reads_episodes() -> None:
    """The reward of step t is that of the window which ends there: other steps before it, another reward."""
    model = NMR(SPEC, window=3)
    found = model.predict(OBS, ACTION)  # seven episodes of three steps
    data = synthetic_transitions(episodes=1)
    assert found.shape == (7, 3)
    assert np.allclose(found[2], model.predict(OBS[2], ACTION[2]), atol=1e-6)  # one episode
    single = np.array([[model.predict(OBS[i, t : t + 1], ACTION[i, t : t + 1])[0] for t in range(3)] for i in range(7)])
    assert np.allclose(found[:, 0], single[:, 0], atol=1e-6)
    assert not np.allclose(found[:, 2], single[:, 2], atol=1e-3)
    with torch.no_grad():
        relabelled = model.relabel(data)
    obs, action = data.column("obs").numpy(), data.column("action").numpy()
    assert np.allclose(model.predict(obs, action), relabelled.numpy(), atol=1e-6)


def test_what_acts_and_rewards_does_both() -> None:
    method = PEBBLE(SPEC, **SMALL)
    assert method.predict(OBS).shape == (7, 3, 2)
    assert method.predict(OBS, ACTION).shape == (7, 3)


def test_predicting_leaves_the_mode_and_the_random_numbers_alone() -> None:
    model = NMR(SPEC, window=3)
    model.configure_model()
    model.train()
    before = torch.get_rng_state()
    assert np.array_equal(model.predict(OBS, ACTION), model.predict(OBS, ACTION))
    assert model.training
    assert torch.equal(before, torch.get_rng_state())


def test_wrong_arrays() -> None:
    policy, reward = BC(SPEC, **SMALL), RewardEnsemble(SPEC, **SMALL)
    assert refused(policy.predict, np.zeros((4, 6))) == "obs is (4, 6) and BC was built for obs_dim 5: give (..., 5)."
    assert refused(policy.predict, 3.0) == "obs is () and BC was built for obs_dim 5: give (..., 5)."
    sentence = "obs is (4, 5) and action (3, 2): give one action per observation."
    assert refused(reward.predict, np.zeros((4, 5)), np.zeros((3, 2))) == sentence
    assert refused(policy.predict, OBS, ACTION) == "BC learns a policy, not a reward: give the checkpoint of a reward model."
    assert "learns a reward, not a policy" in refused(reward.predict, OBS)


# Files ---------------------------------------------------------------------------------------------------------------------


def test_a_method_is_saved_and_loaded(tmp_path: Path) -> None:
    method = BC(SPEC, updates=20, eval_interval=10, **SMALL)
    Trainer(tmp_path / "run", accelerator="cpu", logger=False).fit(method, ToyData())
    method.save(tmp_path / "mine.ckpt")
    for found in (BC.load(tmp_path / "mine.ckpt"), lightning_pbrl.load(tmp_path / "mine.ckpt")):
        assert np.array_equal(found.predict(OBS), method.predict(OBS))
        assert (found.updates_loaded, found.run_dir) == (20, None)
    last = lightning_pbrl.load(tmp_path / "run/checkpoints/last.ckpt")
    assert np.array_equal(last.predict(OBS), method.predict(OBS))
    assert last.run_dir == tmp_path / "run"
    last.save(tmp_path / "again.ckpt")  # without a Trainer
    assert np.array_equal(BC.load(tmp_path / "again.ckpt").predict(OBS), method.predict(OBS))
    assert (tmp_path / "mine.ckpt").stat().st_size < (tmp_path / "run/checkpoints/last.ckpt").stat().st_size / 2  # no moments
    assert refused(IQL.load, tmp_path / "mine.ckpt") == (
        f"The checkpoint {tmp_path}/mine.ckpt holds a BC, not a IQL: load it with BC.load, or lightning_pbrl.load."
    )


def test_a_saved_file_holds_no_run_to_go_on_with(tmp_path: Path) -> None:
    BC(SPEC, **SMALL).save(tmp_path / "mine.ckpt")
    path = tmp_path / "mine.ckpt"
    sentence = refused(Trainer(tmp_path / "run", accelerator="cpu").fit, BC(SPEC, **SMALL), ToyData(), ckpt_path=path)
    assert sentence == (
        "The checkpoint was written by save() and holds no optimiser: a run goes on from checkpoints/last.ckpt of its folder."
    )
    trainer = Trainer(tmp_path / "test", accelerator="cpu", logger=False)
    trainer.test(BC(SPEC, **SMALL), ToyData(), ckpt_path=path, verbose=False)


def test_a_replica_is_saved_alone(tmp_path: Path) -> None:
    method = BC(SPEC, updates=10, eval_interval=10, replicas=2, seed=5, **SMALL)
    make_trainer(tmp_path).fit(method, ToyData())
    for replica in (0, 1):
        method.save(tmp_path / f"{replica}.ckpt", replica)
    alone = BC(SPEC, updates=10, eval_interval=10, seed=6, **SMALL)
    make_trainer(tmp_path / "alone").fit(alone, ToyData())
    first, second = (BC.load(tmp_path / f"{replica}.ckpt") for replica in (0, 1))
    assert (second.replicas, second.seed) == (1, 6)
    assert np.array_equal(second.predict(OBS), alone.predict(OBS))
    assert not np.array_equal(first.predict(OBS), second.predict(OBS))
    assert refused(method.save, tmp_path / "2.ckpt", 2) == "BC has 2 replica(s), numbered from 0; there is no replica 2."


def test_a_saved_reward_relabels(tmp_path: Path) -> None:
    reward = RewardEnsemble(SPEC, epochs=2, **SMALL)
    ask = AskTeacher(SimulatedTeacher(), budget=20, per_round=10)
    Trainer(tmp_path / "reward", accelerator="cpu", callbacks=ask).fit(reward, ToyData())
    reward.save(tmp_path / "reward.ckpt")
    columns = []
    for number, given in enumerate((reward, str(tmp_path / "reward.ckpt"))):
        data = ToyData()
        trainer = Trainer(tmp_path / f"iql{number}", accelerator="cpu", callbacks=RelabelRewards(given))
        trainer.fit(IQL(SPEC, updates=2, eval_interval=2, **SMALL), data)
        columns.append(data.source.column("learned_reward"))
    assert torch.equal(*columns)


def test_schema_numbers(tmp_path: Path) -> None:
    """Files without one are of version 1; those of later versions are refused, wherever they are read."""
    method, path = BC(SPEC, updates=20, eval_interval=10, **SMALL), tmp_path / "checkpoints/last.ckpt"
    Trainer(tmp_path, accelerator="cpu", max_epochs=1).fit(method, ToyData())
    whole = torch.load(path, weights_only=True)
    assert whole["lightning_pbrl"].pop("schema") == SCHEMA == 3
    torch.save(whole, path)
    assert np.array_equal(lightning_pbrl.load(path).predict(OBS), method.predict(OBS))
    Trainer(tmp_path, resume=True, accelerator="cpu").fit(BC(SPEC, updates=20, eval_interval=10, **SMALL), ToyData())
    whole["lightning_pbrl"]["schema"] = 4
    torch.save(whole, path)
    tail = " has schema 4 and this version of lightning-pbrl reads up to 3: install the version that wrote it, or a later one."
    assert refused(lightning_pbrl.load, path) == f"The checkpoint {path}{tail}"
    other = BC(SPEC, updates=20, eval_interval=10, **SMALL)
    assert refused(Trainer(tmp_path, resume=True, accelerator="cpu").fit, other, ToyData()) == f"The checkpoint {path}{tail}"
    assert refused(make_trainer(tmp_path / "plain").fit, other, ToyData(), ckpt_path=path) == f"The checkpoint{tail}"
