"""What every method of the library must do, whatever it learns: one set of tests over the registry."""

from __future__ import annotations

import copy
import math
import shutil
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from every_method import METHODS, each, fit, small_settings
from toys import assert_same, read_csv

from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.base import Method
from lightning_pbrl.methods.loading import load_method
from lightning_pbrl.testing import method as testing

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),  # a resumed run
    pytest.mark.filterwarnings("ignore:The dirpath has changed from"),  # ... in a copy of its folder
]
FALLING = {"LAEO": ["critic"], "SQIL": ["critic"]}
"""Groups whose loss falls, where that is not all: a policy's loss follows the level of its critic's values."""
COUNTED = {"SFT": ["policy"], "CPL": ["policy"], "MRIQL": ["first"]}
"""Programs whose losses are looked at, where one of the others has too few updates in such a fit."""
CHASING = {"RCE"}
"""Methods whose losses need not fall, because targets rise with the values: these have tests of their own."""


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Each method's plain small fit, done once: (method, folder)."""
    done: dict[str, tuple[Method, Path]] = {}

    def get(name: str) -> tuple[Method, Path]:
        if name not in done:
            folder = tmp_path_factory.mktemp(name)
            done[name] = (fit(name, folder), folder)
        return done[name]

    return get


class Resumed(NamedTuple):
    """A method whose fit stopped after two of three rounds and was continued by a new Trainer, and what it was at its end."""

    method: Method
    folder: Path
    state: dict[str, Any]
    engine: dict[str, Any]


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Each method's small fit in two parts, done once."""
    done: dict[str, Resumed] = {}

    def get(name: str) -> Resumed:
        if name not in done:
            folder = tmp_path_factory.mktemp(name)
            fit(name, folder, max_epochs=2)
            method = fit(name, folder, ckpt_path=folder / "checkpoints" / "last.ckpt")
            done[name] = Resumed(method, folder, *copy.deepcopy((method.state_dict(), method.running.state_dict())))
        return done[name]

    return get


@pytest.fixture(scope="module")
def spent(resumed: Any) -> Any:
    """Each method after a fit in which all of it has moved, whose engine may be run further."""

    def get(name: str) -> Method:
        method: Method = resumed(name).method
        for counts in (method.running.updates, method.running.state.updates):  # ended schedules would hold their groups still
            counts.update(dict.fromkeys(counts, 10))
        return method

    return get


def updates_of(method: Method) -> int:
    return sum(method.running.updates.values())


@each
def test_losses_are_finite_and_fall(name: str, fitted: Any) -> None:
    method, folder = fitted(name)
    rows = read_csv(folder)
    for program in COUNTED.get(name, method.running.programs):
        keys = [f"train/{group}_loss" for group in FALLING.get(name, method.running.moved(program))]
        totals = [sum(row[key] for key in keys if key in row) for row in rows if any(key in row for key in keys)]
        assert len(totals) >= 9 and all(math.isfinite(total) for total in totals)
        if "env" not in method.needs and name not in CHASING:  # acting changes the data, too
            assert sum(totals[-3:]) / 3 < 0.9 * totals[0]


@each
def test_actions_or_rewards_have_shape_and_range(name: str, fitted: Any) -> None:
    method, _ = fitted(name)
    obs = 100 * torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    if method.acts:
        for sample in (False, True):
            action = method.act(obs, sample=sample)
            assert action.shape == (8, 2) and action.abs().max() <= 1 and torch.isfinite(action).all()
    else:
        reward = method.reward(torch.cat([obs, torch.zeros(8, 2)], 1))
        assert reward.dim() == 2 and reward.shape[1] == 8 and torch.isfinite(reward).all()
        with pytest.raises(UserError, match=f"{name} learns a reward, not a policy"):
            method.act(obs)
    if not method.rewards:
        with pytest.raises(UserError, match=f"{name} learns a policy, not a reward"):
            method.reward(obs)


@each
def test_loaded_method_gives_identical_outputs(name: str, fitted: Any) -> None:
    method, folder = fitted(name)
    loaded = load_method(folder / "checkpoints" / "last.ckpt")
    assert type(loaded) is type(method) and not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    obs = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    if method.acts:
        assert torch.equal(loaded.act(obs), method.act(obs))
    if method.rewards:
        features = torch.randn(8, 7, generator=torch.Generator().manual_seed(1))
        assert torch.equal(loaded.reward(features), method.reward(features))


@each
def test_steps_rounds_and_validation(name: str, fitted: Any) -> None:
    """Steps are gradient updates on every axis; every round, of whatever length, is validated at its end."""
    method, folder = fitted(name)
    trainer = method.trainer
    assert trainer.global_step == updates_of(method) > 0
    rows = read_csv(folder)
    trained = [row["step"] for row in rows if any(key.startswith("train/") for key in row)]
    trained = list(dict.fromkeys(trained))  # the empty block that closes a round repeats its last row
    assert trained == sorted(trained) and trained[-1] == trainer.global_step
    validated = [row["step"] for row in rows if any(key.startswith(("eval/", "pref/")) for key in row)]
    assert len(validated) == trainer.current_epoch == 3
    assert validated[-1] == trainer.global_step
    if "updates" in method.hparams:  # 60 updates in rounds of 24, blocks of 7
        assert validated == [24, 48, 60]
        assert trained == [7, 14, 21, 24, 31, 38, 45, 48, 55, 60]


@each
def test_resume_is_an_uninterrupted_run(name: str, fitted: Any, resumed: Any) -> None:
    """Stop after two of three rounds, continue with a new Trainer: weights, moments, generators and logs are equal."""
    straight, folder = fitted(name)
    parts = resumed(name)
    assert_same(straight.state_dict(), parts.state)
    assert_same(straight.running.state_dict(), parts.engine)
    assert parts.method.trainer.global_step == straight.trainer.global_step
    assert parts.method.trainer.current_epoch == straight.trainer.current_epoch
    assert read_csv(folder) == read_csv(parts.folder)


@each
def test_finished_run_resumed_does_nothing(name: str, fitted: Any, tmp_path: Path) -> None:
    straight, folder = fitted(name)
    twin = shutil.copytree(folder, tmp_path / "copy")
    again = fit(name, twin, ckpt_path=twin / "checkpoints" / "last.ckpt")
    assert again.trainer.global_step == straight.trainer.global_step
    assert_same(straight.state_dict(), again.state_dict())
    assert read_csv(twin) == read_csv(folder)


@each
def test_only_what_should_move_moves(name: str, spent: Any) -> None:
    """One more update: groups move, targets by exactly polyak times the distance, everything else stays."""
    method = spent(name)
    state = method.running.state
    for program in method.running.programs:
        before = {key: value.clone() for key, value in method.state_dict().items()}
        flat = {key: rows.clone() for key, rows in state.storage.items()}
        method.running.run(program, 1)
        moved = {group: group for group in method.running.moved(program)}
        assert moved and all(not torch.equal(state.storage[group], flat[group]) for group in moved)
        for name_, target in state.targets.items():
            if target.source in moved:
                expected = torch.lerp(flat[name_], state.storage[target.source], target.polyak)
                assert torch.equal(state.storage[name_], expected) and not torch.equal(expected, flat[name_])
                moved[name_] = name_
        moving = {parameter for part in moved for parameter in state.names[part]}
        still = {key: value for key, value in method.state_dict().items() if key not in moving}
        if program == "explore":  # sees the rewards that it makes
            still = {key: value for key, value in still.items() if not key.startswith("entropy.")}
        assert_same({key: before[key] for key in still}, still)


@each
def test_no_loss_waits_for_the_device(name: str, spent: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python number taken from a tensor stalls a GPU and cannot be part of a captured graph."""
    method = spent(name)

    def forbidden(tensor: torch.Tensor, *args: object) -> Any:
        raise AssertionError("a loss asked for the value of a tensor")

    for attribute in ("item", "tolist", "numpy", "__float__", "__int__", "__bool__"):
        monkeypatch.setattr(torch.Tensor, attribute, forbidden)
    for program in method.running.programs:
        with pytest.raises(AssertionError, match="asked for the value"):
            float(torch.ones(()))
        method.running.run(program, 2)


@each
def test_block_size_changes_nothing(name: str, fitted: Any, tmp_path: Path) -> None:
    """Blocks of 1, 7 and 64: as many steps, the same weights, after as many rounds as it takes to run every program."""
    whole, folder = fitted(name)
    rounds = 2 if "env" in METHODS[name].needs else 1
    sevens = torch.load(folder / "checkpoints" / f"epoch={rounds - 1}.ckpt", weights_only=True)
    for block in (1, 64):
        method = fit(name, tmp_path / str(block), method={"block": block}, max_epochs=rounds)
        assert method.trainer.global_step == updates_of(method) == sevens["global_step"] > 0
        assert {program for program, count in whole.running.updates.items() if count} == set(+Counter(method.running.updates))
        assert_same(sevens["state_dict"], method.state_dict())


@each
def test_max_steps_is_honoured_inside_a_block(name: str, tmp_path: Path) -> None:
    """The first block is whole, the second is cut."""
    method = fit(name, tmp_path, max_steps=11)
    assert method.trainer.global_step == updates_of(method) == 11


@each
def test_checkpoint_is_plain_and_small(name: str, fitted: Any) -> None:
    """Weights are there three times (state_dict, engine, and twice as moments); flat buffers would multiply that."""
    method, folder = fitted(name)
    path = folder / "checkpoints" / "last.ckpt"
    torch.load(path, weights_only=True)
    floats = sum(value.numel() for value in method.state_dict().values())
    others = 14_888 + 5_056  # ... of them the state of the random generator
    assert path.stat().st_size < 4 * 4 * floats + others + 1_200 * len(method.state_dict())  # a tensor's header: 300 B


@each
def test_the_checks_for_authors_pass(name: str, spent: Any, tmp_path: Path) -> None:
    """Those that need one fit; what the others check has a test of its own above."""
    check = testing.MethodCheck(METHODS[name], tmp_path, **small_settings(name))
    check._straight = spent(name)
    for one in ("is_built_from_its_seed", "learns", "moves_what_it_says", "acts_or_rewards", "does_not_wait_for_the_device"):
        getattr(check, one)()
