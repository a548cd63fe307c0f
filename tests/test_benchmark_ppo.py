"""One update of our PPO is one of stable-baselines3's, weight by weight; its benchmark runs. Skipped without that package."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest

pytest.importorskip("stable_baselines3", reason="pip install stable-baselines3: nothing else here needs it")

from benchmarks import ppo
from benchmarks.sb3_ppo import parity
from lightning_pbrl.envs.gym_mujoco import GymMuJoCo


@pytest.mark.parametrize("num_envs", [1, 2])
def test_one_update_equals_stable_baselines3s(num_envs: int) -> None:
    """Ten passes in the same order from equal weights, over a rollout with falls and time limits."""
    found = parity(GymMuJoCo("Hopper-v5", horizon=20), num_envs, steps=128 // num_envs, epochs=10, batch_size=32)
    assert found["falls"] > 0 and found["time limits"] > 0
    assert found["weights moved by"] > 5e-3 and found["weights"] < 1e-6
    for name in ("advantage", "target", "log_prob", "surrogate", "value_error", "clip_fraction", "explained_variance"):
        assert found[name] < 1e-5, name


def test_quick_run_measures_every_claim(tmp_path: Path) -> None:
    assert ppo.command_line(["--quick", "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "ppo.json").read_text())
    assert [row["claim"] for row in result["claims"]] == [claim.text for claim in ppo.CLAIMS]
    assert all(row["rounds"] == 2 and 0 < row["min"] <= row["ratio"] <= row["max"] for row in result["claims"])
    assert result["one_update_from_equal_weights"]["weights"] < 1e-6


def test_curves_are_judged_at_the_same_steps_and_are_not_made_twice(tmp_path: Path) -> None:
    def run(*seeds: str) -> list[dict[str, str]]:
        assert ppo.command_line(["--quick", "--curves", "--out", str(tmp_path), "--seeds", *seeds]) == 0
        return list(csv.DictReader((tmp_path / "ppo-curves.csv").read_text().splitlines()))

    first, rows = run("3"), run("3", "4")
    expected = [(seed, who, steps) for seed in "34" for who in ("ours", "sb3") for steps in ("256", "512")]
    assert [(row["seed"], row["who"], row["env_steps"]) for row in rows] == expected
    assert rows[:4] == first  # CPU seconds and all
    assert all(float(row["return_mean"]) >= 1 for row in rows)  # InvertedPendulum pays 1 per step
    assert "over 2 seeds" in ppo.final(tmp_path / "ppo-curves.csv")["ours"]
    assert (tmp_path / "ppo-curves.png").stat().st_size > 5_000


def test_intervals_by_hand(tmp_path: Path) -> None:
    """Three seeds with 1, 2 and 3: mean 2, s.d. 1, t of two degrees of freedom 4.303."""
    lines = [",".join(ppo.FIELDS), *(f"ours,toy,{seed},100,{seed + 1},0.0" for seed in range(3)), "sb3,toy,0,100,5,0.0"]
    (tmp_path / "curves.csv").write_text("\n".join(lines) + "\n")
    found = ppo.intervals(tmp_path / "curves.csv")
    assert found["ours"][100].mean == 2 and found["ours"][100].half == pytest.approx(4.3027 / 3**0.5, rel=1e-4)
    assert found["sb3"][100].mean == 5 and math.isnan(found["sb3"][100].half)
