"""Lightning's loop as the library relies on it: these tests fail loudly when an update of Lightning changes it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.strategies import DDPStrategy, FSDPStrategy, SingleDeviceStrategy
from toys import SPEC, ToyData, make_trainer, read_csv

from lightning_pbrl.engine import Group, Program
from lightning_pbrl.envs.rollout import Rollouts
from lightning_pbrl.errors import UserError
from lightning_pbrl.fitting import lightning_glue as glue
from lightning_pbrl.methods.base import Method, Phase
from lightning_pbrl.methods.bc import BC


class _Phased(Method):
    """Two phases, an early end, start hooks, rounds of different length; one loss."""

    planned: Any = ()

    def __init__(self, spec: dict[str, Any], **engine: Any) -> None:
        super().__init__(spec, **engine)
        self.calls: list[str] = []

    def build(self) -> None:
        self.w = torch.nn.Parameter(torch.zeros(1))

    def groups(self) -> dict[str, Group]:
        return {"w": Group(0.1)}

    def programs(self) -> dict[str, Program]:
        return {"only": Program([lambda _: {"w": (self.w - 1).square().sum()}], draws={})}

    def plan(self, round_number: int) -> list[Phase]:
        return [
            Phase(name, "only" if updates else None, updates, block, lambda n=name: self.calls.append(n), done)
            for name, updates, block, done in self.planned[round_number]
        ]

    def act(self, obs: torch.Tensor, sample: bool = False) -> torch.Tensor:
        return torch.zeros(len(obs), 2)

    def is_finished(self) -> bool:
        return self.trainer.current_epoch + 1 >= len(self.planned)


class Watch(Callback):
    """The order of Lightning's events with the step they were seen at."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.events.append(("start", trainer.global_step))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.events.append(("validated", trainer.global_step))

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: Any) -> None:
        self.events.append(("saved", trainer.global_step))


def test_round_loader_has_no_length_and_ends_with_the_round() -> None:
    done = iter([False, False, True])
    loader = glue.RoundLoader(lambda: next(done))
    assert not hasattr(loader, "__len__")
    assert list(loader) == [0, 1, 2]


def test_a_round_is_an_epoch_of_phases(tmp_path: Path) -> None:
    """Rounds of 5 + 4 (cut to 2 by ``done``), 0, and 3 updates: each is validated, then saved, at its edge."""
    stops = lambda metrics: metrics["w"] < 2  # noqa: E731 - true at once
    rounds = [
        [("relabel", 0, None, None), ("first", 5, 2, None), ("second", 4, 2, stops), ("last", 0, None, None)],
        [],
        [("third", 3, None, None)],
    ]
    method, watch = _Phased(SPEC), Watch()
    method.planned = rounds
    trainer = make_trainer(tmp_path, callbacks=[watch, ModelCheckpoint(tmp_path / "c", save_top_k=-1)])
    trainer.fit(method, ToyData())
    assert method.calls == ["relabel", "first", "second", "last", "third"]
    assert trainer.global_step == method.running.updates["only"] == 10
    assert watch.events == [
        *[("start", 0), ("validated", 7), ("saved", 7)],
        *[("start", 7), ("validated", 7), ("saved", 7)],  # also where nothing was learned
        *[("start", 7), ("validated", 10), ("saved", 10)],
    ]
    trained = list(dict.fromkeys(row["step"] for row in read_csv(tmp_path) if "train/w_loss" in row))
    assert trained == [2, 4, 5, 7, 10]


def test_lightning_internals_used_here_exist() -> None:
    trainer = pl.Trainer(accelerator="cpu", devices=1, logger=False, max_epochs=1, enable_progress_bar=False)
    trainer.strategy.connect(BC(SPEC, hidden=(8,)))
    assert trainer.global_step == 0
    glue.advance_global_step(trainer, 7)
    glue.advance_global_step(trainer, 5)
    assert trainer.global_step == 12
    other = pl.Trainer(accelerator="cpu", devices=1, logger=False, max_epochs=1, enable_progress_bar=False)
    other.strategy.connect(BC(SPEC, hidden=(8,)))
    other.fit_loop.load_state_dict(trainer.fit_loop.state_dict())
    assert other.global_step == 12  # the count is part of a checkpoint
    checkpoint = ModelCheckpoint()
    assert checkpoint._every_n_train_steps == 0 and checkpoint._train_time_interval is None
    assert hasattr(checkpoint, "_save_on_train_epoch_end") and checkpoint._last_global_step_saved == 0


@pytest.mark.parametrize(
    "setting", [{"every_n_train_steps": 10}, {"train_time_interval": timedelta(minutes=1)}, {"save_on_exception": True}]
)
def test_checkpoint_inside_a_round_is_refused(setting: dict[str, Any], tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, callbacks=[ModelCheckpoint(tmp_path / "c", **setting)])
    with pytest.raises(UserError, match="A checkpoint inside a round cannot be resumed exactly; set every_n_epochs"):
        trainer.fit(BC(SPEC, updates=10, hidden=(8,)), ToyData())


def test_default_checkpoint_saves_at_the_end_of_a_round(tmp_path: Path) -> None:
    """Also when it monitors a validation metric, which would otherwise save before the round has ended."""
    checkpoint = ModelCheckpoint(tmp_path / "c", monitor="eval/return_mean", filename="best")
    method = BC(SPEC, updates=10, eval_interval=5, hidden=(8,))
    make_trainer(tmp_path, callbacks=[checkpoint]).fit(method, ToyData())
    saved = torch.load(tmp_path / "c" / "best.ckpt", weights_only=True)
    assert saved["lightning_pbrl"]["finished"] is False and saved["global_step"] == 5  # equal scores: the first is kept
    assert saved["loops"]["fit_loop"]["epoch_progress"]["total"]["processed"] == 1  # not inside round 0


def test_unsupported_strategies_are_refused() -> None:
    def check(strategy: Any, world_size: int = 1, replicas: int = 1, precision: str = "32-true") -> None:
        trainer: Any = SimpleNamespace(precision=precision, strategy=strategy, world_size=world_size)
        glue.check_strategy(trainer, replicas)

    with pytest.raises(UserError, match=r"Strategy FSDPStrategy is not supported, .*use trainer\.strategy=ddp, or one device"):
        check(FSDPStrategy())
    with pytest.raises(UserError, match="3 replicas on 2 devices"):
        check(DDPStrategy(), world_size=2, replicas=3)
    with pytest.raises(UserError, match=r"trainer\.precision is bf16-mixed, .*leave it at 32-true"):
        check(SingleDeviceStrategy(), precision="bf16-mixed")
    check(DDPStrategy(), world_size=2)
    check(SingleDeviceStrategy(), replicas=3)


def test_logged_values_are_moved_only_from_another_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning would walk through the state of every value that is logged, at every block."""
    trainer = make_trainer(tmp_path, logger=False)
    glue.run_in_rounds(trainer, replicas=1)
    results = trainer.fit_loop.epoch_loop._results
    results.log("training_step", "train/loss", torch.tensor(1.0), on_step=True, on_epoch=True, batch_size=1)
    with monkeypatch.context() as patch:
        patch.setattr(glue._ResultMetric, "to", None)
        results.log("training_step", "train/loss", torch.tensor(3.0), on_step=True, on_epoch=True, batch_size=1)
    found = {key: float(value) for on_step in (True, False) for key, value in results.metrics(on_step)["log"].items()}
    assert found == {"train/loss_step": 3.0, "train/loss_epoch": 2.0}
    (metric,) = results.values()
    assert metric.to(torch.device("meta")).value.device.type == "meta"


def test_one_device_needs_no_reducer() -> None:
    assert glue.gradient_reducer(SimpleNamespace(world_size=1)) is None  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
def test_training_without_a_data_module_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"BC needs data: give fit\(\) a data module of lightning_pbrl\.datamodules"):
        make_trainer(tmp_path).fit(BC(SPEC, updates=10, hidden=(8,)), [1, 2, 3])


def test_data_of_another_size_are_refused(tmp_path: Path) -> None:
    method = BC({**SPEC, "obs_dim": 9}, updates=10, hidden=(8,))
    with pytest.raises(
        UserError, match=r"built for observations of size 9, the data have 5; build it with spec=datamodule\.spec"
    ):
        make_trainer(tmp_path).fit(method, ToyData())


@pytest.mark.parametrize("setting", [{"block": 0}, {"replicas": 0}])
def test_block_and_replicas_count_from_one(setting: dict[str, int]) -> None:
    with pytest.raises(UserError, match=r"BC got (block|replicas)=0: give a number of at least 1\."):
        BC(SPEC, **setting)


def test_evaluation_is_the_mean_over_episodes(tmp_path: Path) -> None:
    """The toy pays 3 (seed mod 97) an episode and succeeds on odd seeds; the seeds of validation and test differ."""
    data = ToyData(eval_episodes=5, test_episodes=7)
    method = BC(SPEC, updates=4, eval_interval=4, hidden=(8,))
    trainer = make_trainer(tmp_path)
    trainer.fit(method, data)
    row = next(row for row in read_csv(tmp_path) if "eval/return_mean" in row)
    (tested,) = trainer.test(method, data, verbose=False)
    for found, prefix, purpose, count in ((row, "eval", "validation", 5), (tested, "test", "test", 7)):
        seeds = data.episode_seeds(purpose, count)
        returns = torch.tensor([3.0 * (seed % 97) for seed in seeds])
        assert found[f"{prefix}/return_mean"] == pytest.approx(returns.mean().item(), rel=1e-6)
        assert found[f"{prefix}/return_std"] == pytest.approx(returns.std(correction=0).item(), rel=1e-6)
        assert found[f"{prefix}/success_rate"] == pytest.approx(sum(seed % 2 for seed in seeds) / count)
    assert not set(data.episode_seeds("validation", 5)) & set(data.episode_seeds("test", 7))


@pytest.mark.parametrize("solved", [3, 0])
def test_success_that_only_some_batches_tell_of_is_a_share_of_all_episodes(solved: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven episodes in batches of two, of two replicas: the first ``solved`` of replica 0 told of success, no other did."""
    method = BC(SPEC, updates=4, hidden=(8,), replicas=2)
    told: list[dict[str, Any]] = []
    batches = [torch.full((2,), float("nan")) for _ in range(3)] + [torch.full((1,), float("nan"))]
    for i in range(solved):
        batches[i // 2][i % 2] = 1.0
    module = SimpleNamespace(simulator=None)
    monkeypatch.setattr(BC, "trainer", SimpleNamespace(datamodule=module, global_step=0))
    monkeypatch.setattr(method, "log_dict", lambda row, **_: told.append(row))
    monkeypatch.setattr(method, "use_replica", lambda replica: None)
    for success in batches:
        outcomes = iter([success, torch.full_like(success, float("nan"))])
        module.rollout = lambda act, seeds, outcomes=outcomes: Rollouts(
            torch.tensor(seeds), torch.ones(len(seeds)), next(outcomes), torch.ones(len(seeds))
        )
        method.evaluation.step(range(len(success)))
    method.evaluation.finish("eval")
    found = {key: float(value) for key, value in told[0].items() if "success" in key}
    share = {"": 3 / 14, "/replica_0": 3 / 7, "/replica_1": 0.0}
    assert found == pytest.approx({f"eval/success_rate{of}": value for of, value in share.items()} if solved else {})


SLURM = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "mine", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
"""What a task of a SLURM job is told."""


@pytest.mark.parametrize(
    ("name", "tasks", "devices", "fits"),
    [("mine", 1, 2, False), ("mine", 2, 2, True), ("mine", 1, 1, True), ("bash", 1, 2, True), ("interactive", 1, 2, True)],
)
@pytest.mark.filterwarnings("ignore:The `srun` command is available")
def test_a_task_of_a_cluster_drives_one_device(
    name: str, tasks: int, devices: int, fits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning alone trains on half of the data in one process where the job has one task and two devices are asked for."""
    for key, value in {**SLURM, "SLURM_NTASKS": str(tasks), "SLURM_JOB_NAME": name}.items():
        monkeypatch.setenv(key, value)
    if tasks > 1:
        monkeypatch.setenv("SLURM_NTASKS_PER_NODE", str(tasks))
    strategy = {"strategy": DDPStrategy(process_group_backend="gloo")} if devices > 1 else {}
    trainer = make_trainer(tmp_path, devices=devices, logger=False, **strategy)
    if fits:
        glue.check_tasks(trainer)
        assert trainer.world_size == devices
        return
    with pytest.raises(UserError) as error:
        trainer.fit(BC(SPEC, updates=2), ToyData())
    assert str(error.value) == (
        "The Trainer asks for 2 devices on 1 node(s), and this job has 1 task(s), each of which drives one: submit it with "
        "--ntasks-per-node=2 and start it with srun, or set trainer.devices=1."
    )
