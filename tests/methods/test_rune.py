"""RUNE: what is added to the reward of a minibatch, when, and that nothing is stored."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pebble_toys import build, fit

from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.rune import RUNE


def test_the_bonus_of_a_minibatch(tmp_path: Path) -> None:
    """beta_0 (1 - rho)^160 times the population deviation of three members, on top of the stored mean."""
    method = fit(RUNE, tmp_path, bonus=2.0, bonus_decay=0.01)
    stored = method.source.stored_column("learned_reward").clone()
    u = torch.rand(8, dtype=torch.float64)
    rows = method.running.programs["policy"].gather({"place": u})["rows"]
    ids = method.source.uniform_rows(u)
    with torch.no_grad():
        members = method.reward(method.source.features()[ids])
    assert members.shape[0] == 3
    mean = members.sum(0) / 3
    deviation = ((members - mean).square().sum(0) / 3).sqrt()
    found = rows[:, method.source.layout["learned_reward"][0]]
    torch.testing.assert_close(found, stored[ids] + 2.0 * 0.99**160 * deviation, rtol=1e-5, atol=1e-6)
    assert float(deviation.min()) > 1e-4
    assert torch.equal(method.source.stored_column("learned_reward"), stored)


def test_pre_training_has_no_bonus(tmp_path: Path) -> None:
    class Counting(RUNE):
        def exploration_bonus(self, rows: torch.Tensor) -> torch.Tensor:
            self.__dict__.setdefault("phases", []).append(self.rounds.name)
            return super().exploration_bonus(rows)

    method = fit(Counting, tmp_path)
    assert len(method.phases) == 9 + 120 and set(method.phases) == {"reset", "policy"}


def test_one_member_cannot_disagree() -> None:
    with pytest.raises(UserError, match=r"set reward_model.ensemble_size to at least 2"):
        build(RUNE, {"ensemble_size": 1})
