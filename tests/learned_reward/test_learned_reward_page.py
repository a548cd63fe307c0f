"""docs/learned-reward.md runs as printed, with fewer steps."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from learned_reward_toys import built

from lightning_pbrl.learned_reward.reward import LearnedReward

PAGE = Path(__file__).resolve().parents[2] / "docs/learned-reward.md"


@pytest.mark.slow
def test_the_page_runs_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("stable_baselines3")
    LearnedReward(built("unified", {"obs_dim": 3, "action_dim": 1, "horizon": 200})).save(tmp_path / "runs/reward")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    assert len(blocks) == 3
    assert len([line for line in blocks[0].splitlines() if line.strip()]) <= 10
    assert "n_steps=256).learn(20_000)" in blocks[0]
    scope: dict[str, Any] = {}
    exec(compile(blocks[0].replace("n_steps=256).learn(20_000)", "n_steps=64).learn(512)"), str(PAGE), "exec"), scope)
    assert scope["model"].num_timesteps == 512
    assert abs(float(scope["env"].normalizer.statistics.count) - 512) < 1e-3
    exec(compile(blocks[1], str(PAGE), "exec"), scope)
    assert scope["reward"].compute_reward(scope["obs"], scope["action"]).shape == (7,)
    exec(compile(blocks[2], str(PAGE), "exec"), scope)
    assert "| licence | mit |" in Path("my-reward/README.md").read_text()
