"""The online data module in a Trainer: sizes, exact counts, evaluation apart, and bit-exact resuming."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from online_toys import WalkSimulator, _Actor
from toys import assert_same, make_trainer, read_csv

from lightning_pbrl.callbacks.ask_teacher import AskTeacher
from lightning_pbrl.configs import names, packaged_config, read_config
from lightning_pbrl.datamodules.online import OnlineDataModule
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.bc import BC
from lightning_pbrl.teachers.simulated import SimulatedTeacher

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")


def data(**settings: Any) -> OnlineDataModule:
    return OnlineDataModule(WalkSimulator(), **{"segment_length": 3, "eval_episodes": 2, "num_envs": 2, **settings})


def ask() -> AskTeacher:
    return AskTeacher(SimulatedTeacher(eps_mistake=0.2), budget=10, per_round=5, first_round=1)


def fit(folder: Path, module: OnlineDataModule, ckpt_path: Path | None = None, **trainer: Any) -> _Actor:
    method = _Actor(module.spec, seed=3)
    make_trainer(folder, [ask()], **trainer).fit(method, module, ckpt_path=ckpt_path)
    return method


def test_the_replay_holds_all_env_steps_of_the_method(tmp_path: Path) -> None:
    module = data()
    assert module.spec == {"obs_dim": 2, "action_dim": 1, "horizon": 6}
    method = fit(tmp_path, module)
    assert method.env_steps == module.collector.env_steps == module.source.size == 60
    assert module.source.ring == 60 and module.source.lane == 30 and method.source is module.source
    assert [row["env_steps"] for row in read_csv(tmp_path) if "env_steps" in row][-1] == 60.0


def test_a_smaller_capacity_forgets(tmp_path: Path) -> None:
    module = data(capacity=20)
    assert fit(tmp_path, module).env_steps == 60 and module.source.size == 20


def test_episodes_are_of_the_runs_seed() -> None:
    rows = []
    for seed in (0, 1, 0):
        module = data(capacity=30)
        module.setup("test")
        module.trainer = SimpleNamespace(lightning_module=_Actor(module.spec, seed=seed), state=SimpleNamespace(fn="test"))
        for _ in range(9):
            module.collector.step()
        rows.append(module.source.packed[module.source.stored])
    assert torch.equal(rows[0], rows[2]) and not torch.equal(rows[0], rows[1])


def test_evaluation_moves_nothing_in_training(tmp_path: Path) -> None:
    one, two = data(), data(eval_episodes=7, eval_envs=3)
    fit(tmp_path / "one", one, limit_val_batches=0)
    fit(tmp_path / "two", two)
    assert torch.equal(one.source.packed, two.source.packed)
    assert any("eval/return_mean" in row for row in read_csv(tmp_path / "two"))


@pytest.mark.parametrize("capacity", [None, 20])
def test_a_resumed_run_equals_an_uninterrupted_one(capacity: int | None, tmp_path: Path) -> None:
    """Stopped after one round and after two, in the middle of episodes, in new processes' objects each time."""
    straight, broken = data(capacity=capacity), data(capacity=capacity)
    one = fit(tmp_path / "straight", straight)
    fit(tmp_path / "broken", broken, max_epochs=1)
    assert broken.source.steps == 10 and max(broken.source.open_steps) > 0
    for epochs in (2, -1):
        resumed = data(capacity=capacity)
        two = fit(tmp_path / "broken", resumed, tmp_path / "broken/checkpoints/last.ckpt", max_epochs=epochs)
    assert torch.equal(straight.source.packed, resumed.source.packed)  # the copies, too
    assert torch.equal(straight.source.reward, resumed.source.reward)
    assert_same(straight.state_dict(), resumed.state_dict())
    assert_same(one.labels, two.labels)
    assert_same(one.state_dict(), two.state_dict())


def test_the_replay_of_a_checkpoint_fits_into_a_longer_run(tmp_path: Path) -> None:
    """A larger ring takes it over, oldest step first."""
    short, long = data(), data(capacity=100)
    fit(tmp_path, short)
    checkpoint = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    long.setup("test")
    long.trainer = SimpleNamespace(lightning_module=_Actor(long.spec, seed=3), state=SimpleNamespace(fn="fit"))
    long.load_state_dict(checkpoint["OnlineDataModule"])
    assert long.source.ring == 100 and long.collector.env_steps == 60
    assert torch.equal(long.source.packed[long.source.stored], short.source.packed[short.source.stored])


def test_a_second_fit_begins_with_nothing(tmp_path: Path) -> None:
    module = data()
    fit(tmp_path / "a", module)
    first = module.source
    method = fit(tmp_path / "b", module)
    assert module.source is not first and method.env_steps == 60


def test_testing_a_checkpoint_needs_no_replay(tmp_path: Path) -> None:
    fit(tmp_path, data())
    module = data(test_episodes=3)
    found = make_trainer(tmp_path).test(
        _Actor(module.spec, seed=3), module, ckpt_path=tmp_path / "checkpoints/last.ckpt", weights_only=True
    )
    assert "test/return_mean" in found[0] and module.source.size == 0


def test_a_method_that_does_not_act(tmp_path: Path) -> None:
    message = "BC has no env_steps, so the replay's size is unknown: choose a method that acts"
    with pytest.raises(UserError, match=message):
        make_trainer(tmp_path).fit(BC(data().spec, updates=2, hidden=(8,)), data())


def test_there_is_nothing_to_predict_for() -> None:
    with pytest.raises(UserError, match="has no logged data to predict for"):
        data().predict_dataloader()


def test_several_processes_are_refused() -> None:
    module = data(capacity=20)
    module.trainer = SimpleNamespace(world_size=2, state=SimpleNamespace(fn="fit"))
    with pytest.raises(UserError, match=r"collects in one process: set trainer\.devices to 1"):
        module.setup("fit")
    with pytest.raises(UserError, match="OnlineDataModule got num_envs=0: give a number of at least 1"):
        data(num_envs=0)


def test_every_task_of_the_papers_has_a_config() -> None:
    rows = [Path(packaged_config(name)) for name in names() if name.startswith("data/online/")]
    settings = {path.name.removesuffix(".yaml"): read_config(path)["data"] for path in rows}
    assert len(settings) == 21
    for name, data_ in settings.items():
        assert data_["class_path"] == "OnlineDataModule"
        simulator = data_["init_args"]["simulator"]
        if name.endswith("-pixels"):
            assert simulator["class_path"] == "Pixels"
            name, simulator = name.removesuffix("-pixels"), simulator["init_args"]["simulator"]
        assert name in (simulator["init_args"].get(key) for key in ("domain_task", "task", "env_id"))
        assert simulator["class_path"] in ("DMControl", "MetaWorld", "GymMuJoCo")
