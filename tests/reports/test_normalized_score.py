"""D4RL's normalised score from the episodes to the table."""

from __future__ import annotations

import io
import json

import pytest
import pytorch_lightning as pl
import torch
from rich.console import Console
from run_folders import write_version

from lightning_pbrl.callbacks.write_results import WriteResults
from lightning_pbrl.datamodules.base import Share
from lightning_pbrl.envs.gym_mujoco import GymMuJoCo
from lightning_pbrl.envs.rollout import Rollouts
from lightning_pbrl.methods.bc import BC
from lightning_pbrl.reports.plot import AXIS
from lightning_pbrl.reports.tables import DEFAULT_METRICS, print_comparison, summary_table


class Played(pl.LightningDataModule):
    """Two batches of two episodes each, with known returns, in place of a simulator."""

    def __init__(self, simulator) -> None:
        super().__init__()
        self.simulator = simulator

    def test_dataloader(self):
        return Share([0, 1, 2, 3], None, 2)

    def rollout(self, act, seeds):
        returns = torch.tensor(seeds, dtype=torch.float64) * 1000.0
        return Rollouts(torch.tensor(seeds), returns, torch.full_like(returns, float("nan")), torch.ones(len(seeds)).long())


@pytest.mark.parametrize(("horizon", "score"), [(1000, 100 * (1500 + 20.272305) / (3234.3 + 20.272305)), (500, None)])
def test_the_mean_return_is_logged_as_score_where_the_simulator_has_one(tmp_path, horizon, score):
    method = BC(spec={"obs_dim": 11, "action_dim": 3, "horizon": horizon})
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, default_root_dir=tmp_path
    )
    (metrics,) = trainer.test(method, datamodule=Played(GymMuJoCo("Hopper-v5", horizon)), verbose=False)
    assert metrics["test/return_mean"] == 1500.0
    if score is None:  # half an episode has no reference
        assert "test/normalized_score" not in metrics
    else:
        assert metrics["test/normalized_score"] == pytest.approx(score, abs=1e-3)


def test_scores_are_drawn_and_tabled(tmp_path):
    for seed, tested in enumerate((40.0, 60.0)):
        run = tmp_path / "ipl" / "policy" / f"seed{seed}"
        write_version(run, 0, [{"step": 1, "train/q_loss": 1.0}])
        metrics = {"test/return_mean": 1000.0 + seed, "test/normalized_score": tested}
        (run / "results.json").write_text(json.dumps({"metrics": metrics, "d4rl_physics": True}))
    console = Console(file=io.StringIO(), width=120)
    print_comparison(tmp_path / "ipl", console=console)
    head, line = [line for line in console.file.getvalue().splitlines() if line[:1] in "┃│"]
    assert [cell.strip() for cell in head.strip("┃").split("┃")] == ["policy", "seeds", "D4RL score", "95 % interval", "return"]
    cells = [cell.strip() for cell in line.strip("│").split("│")]
    assert cells == ["policy", "2", "50.0 ± 10.0", "[40.0, 60.0]", "1,000 ± 0.500"]
    assert "D4RL score in D4RL's physics" in " ".join(console.file.getvalue().split())
    assert "tested runs" not in console.file.getvalue()
    assert "normalized_score" in DEFAULT_METRICS
    assert "eval/normalized_score" in AXIS


def test_a_table_says_which_scores_are_not_in_d4rls_physics(tmp_path):
    for name, recorded in (("today", {"d4rl_physics": False}), ("before it was recorded", {}), ("d4rl", {"d4rl_physics": True})):
        run = tmp_path / name / "seed0"
        write_version(run, 0, [{"step": 1, "train/loss": 1.0, "eval/normalized_score": 1.0}])
        (run / "results.json").write_text(json.dumps({"metrics": {"test/normalized_score": 1.0}, **recorded}))
    caption = " ".join(str(summary_table(tmp_path).caption).split())
    assert caption.endswith("; D4RL score in D4RL's physics: 1 of 3 tested runs (docs/d4rl.md)")
    for results in tmp_path.glob("*/seed0/results.json"):
        results.unlink()
    assert str(summary_table(tmp_path).caption).endswith("; physics of the D4RL score: in each run's config.yaml")
    write_version(tmp_path / "other" / "success" / "seed0", 0, [{"step": 1, "train/loss": 1.0, "eval/success_rate": 1.0}])
    assert "physics" not in str(summary_table(tmp_path / "other").caption)


def test_results_name_the_simulator_and_its_physics(tmp_path):
    """Beside a score, whether it is on D4RL's bodies; beside none, only the simulator."""
    for horizon, physics, recorded in ((1000, "d4rl", True), (1000, "gymnasium", False), (500, "d4rl", None)):
        simulator = GymMuJoCo("Hopper-v5", horizon, physics=physics)
        method = BC(spec={"obs_dim": 11, "action_dim": 3, "horizon": horizon})
        trainer = pl.Trainer(
            accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, default_root_dir=tmp_path,
            callbacks=[WriteResults()],
        )  # fmt: skip
        trainer.test(method, datamodule=Played(simulator), verbose=False)
        results = json.loads((tmp_path / "results.json").read_text())
        assert results["simulator"] == simulator.describe()
        assert results.get("d4rl_physics") is recorded
        assert simulator.describe().get("physics") == (None if physics == "gymnasium" else "d4rl")
