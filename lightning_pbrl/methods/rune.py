"""RUNE: PEBBLE that explores where its reward ensemble disagrees.

Source: X. Liang, K. Shu, K. Lee, P. Abbeel, "Reward Uncertainty for Exploration in Preference-based Reinforcement Learning",
ICLR 2022 (arXiv 2205.12401), Algorithm 1, and its released code.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_pbrl.engine import Program
from lightning_pbrl.errors import UserError
from lightning_pbrl.losses.exploration import bonus_weight, uncertainty
from lightning_pbrl.methods.base import Spec
from lightning_pbrl.methods.pebble import PEBBLE
from lightning_pbrl.ranges import WEIGHT


class RUNE(PEBBLE, ranges={"bonus": WEIGHT}):
    r"""Reward uncertainty for exploration: PEBBLE with a vanishing bonus for the ensemble's disagreement (Liang et al. 2022).

    .. math::
        r_t = \operatorname{mean}_e \hat r_e(s_t, a_t) + \beta_t \operatorname{std}_e \hat r_e(s_t, a_t), \quad
        \beta_t = \beta_0 (1 - \rho)^t

    Args:
        spec: sizes, linked from the data module.
        bonus: beta_0, weight of the standard deviation at env step 0.
        bonus_decay: rho, decay of the weight per env step.
        **pebble: arguments of :class:`~lightning_pbrl.methods.pebble.PEBBLE`; the reward model needs two members at least.

    Differences: the standard deviation is computed with each minibatch, by the present ensemble, instead of being stored and
    relabelled; these are the same numbers.
    """

    rewards_single_steps = True
    pictures = False

    def __init__(self, spec: Spec, bonus: float = 0.05, bonus_decay: float = 1e-5, **pebble: Any) -> None:
        super().__init__(spec, **pebble)
        if bonus and getattr(self.reward_model.hparams, "ensemble_size", 1) < 2:
            raise UserError("RUNE's bonus is what the members disagree on: set reward_model.ensemble_size to at least 2.")

    def programs(self) -> dict[str, Program]:
        return {**super().programs(), "policy": self.program(self.curious)}

    def curious(self, drawn: dict[str, Tensor]) -> dict[str, Tensor]:
        """Gather rows of the replay, (B, W), with the bonus added to their reward."""
        batch = self.replayed(drawn)
        batch["rows"][:, self.source.layout["learned_reward"][0]] += self.exploration_bonus(batch["rows"])
        return batch

    @torch.no_grad()
    def exploration_bonus(self, rows: Tensor) -> Tensor:
        """Return beta_t times the members' standard deviation, of packed rows, (B, W) -> (B,)."""
        beta = bonus_weight(self.env_steps, self.hparams.bonus, self.hparams.bonus_decay)
        return beta * uncertainty(self.reward_model.reward(rows[:, : self.source.obs_dim + self.source.action_dim]))
