"""QPA: PEBBLE that asks about, and replays more of, the policy's newest trajectories.

Source: X. Hu, J. Li, X. Zhan, Q.-S. Jia, Y.-Q. Zhang, "Query-Policy Misalignment in Preference-Based Reinforcement Learning",
ICLR 2024 (arXiv 2305.17400), Algorithm 1, and its released code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from lightning_pbrl.data.hybrid import hybrid_rows
from lightning_pbrl.engine import Phase, Program
from lightning_pbrl.methods.base import Spec
from lightning_pbrl.methods.pebble import PEBBLE


class QPA(PEBBLE):
    """Query-policy alignment: PEBBLE that asks about and replays the policy's newest trajectories (Hu et al. 2024).

    1. Questions are about the newest trajectories alone: ask with
       :class:`~lightning_pbrl.queries.policy_aligned.PolicyAlignedQuery`.
    2. While there is budget left, a fraction ``omega`` of every minibatch comes from these trajectories (hybrid replay).
    3. The reward (a single member) is fitted to ``crop_copies`` random crops of every labelled pair.

    Args:
        spec: sizes, linked from the data module.
        omega: fraction of recent rows in a minibatch, in [0, 1]; 0 is PEBBLE's replay.
        recent: N, newest trajectories that count as recent, each of the horizon's length: a window of N x horizon rows, the
            unfinished episode included. The query follows it unless it has a number of its own.
        hybrid_after_budget: keep hybrid replay when the budget is spent; the released code goes back to uniform replay.
        **pebble: arguments of :class:`~lightning_pbrl.methods.pebble.PEBBLE`; ``reward_model: {crop: [35, 45]}`` fits segments
            of 50 steps.
    """

    reward_defaults: ClassVar[Mapping[str, Any]] = {
        "ensemble_size": 1,
        "crop": [35, 45],
        "crop_copies": 20,
        "fit_rule": "updates",
        "epochs": 2000,
        "stop_accuracy": 0.98,
        "margin": 0.0,
    }

    def __init__(
        self,
        spec: Spec,
        omega: float = 0.5,
        recent: int = 10,
        hybrid_after_budget: bool = False,
        **pebble: Any,
    ) -> None:
        super().__init__(spec, **pebble)

    def programs(self) -> dict[str, Program]:
        return {**super().programs(), "hybrid": self.program(self.hybrid)}

    def learn(self, round_number: int) -> Phase:
        """Act and update until the round or the run ends; with hybrid replay as long as questions are left."""
        hybrid = self.asked.remaining or self.hparams.hybrid_after_budget
        return super().learn(round_number)._replace(program="hybrid" if hybrid else "policy")

    def hybrid(self, drawn: dict[str, Tensor]) -> dict[str, Tensor]:
        """Gather rows of the replay, (B, W), a fraction ``omega`` of them from the newest trajectories."""
        newest = min(self.hparams.recent, self.source.finished) * self.source.horizon
        rows = hybrid_rows(self.source, drawn["place"], self.hparams.omega, newest)
        return self.rows_and_images(drawn, rows)
