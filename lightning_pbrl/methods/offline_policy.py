"""What learners of a policy from logged transitions share: one program, rounds between evaluations, standardised observations."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

from lightning_pbrl.engine import Program
from lightning_pbrl.methods.base import Method, Phase, Spec
from lightning_pbrl.nn import Normalizer


class OfflinePolicy(Method, ABC):
    """A method with one program called "policy", run for ``updates`` updates in rounds of ``eval_interval``.

    Args:
        spec: sizes, linked from the data module.
        updates: gradient updates in total.
        eval_interval: gradient updates per round, that is between evaluations.
        normalize_obs: standardise observations with the data's mean and standard deviation (+ 1e-3).
        **engine: the arguments of :class:`Method`.
    """

    population = True

    def __init__(
        self,
        spec: Spec,
        updates: int = 210_000,
        eval_interval: int = 5_000,
        normalize_obs: bool = True,
        **engine: Any,
    ) -> None:
        super().__init__(spec, **engine)
        self.updates, self.eval_interval, self.normalize_obs = updates, eval_interval, normalize_obs
        self.normalizer = Normalizer(spec["obs_dim"])

    def on_data(self) -> None:
        if self.normalize_obs:
            self.normalizer.fit(self.source.column("obs"))

    @abstractmethod
    def programs(self) -> dict[str, Program]:
        """The one program, "policy"."""

    def plan(self, round_number: int) -> list[Phase]:
        return [Phase("policy", "policy", min(self.eval_interval, self.updates - self.engines["policy"].updates))]

    def round_starts(self) -> list[int]:
        return [0] * math.ceil(self.updates / self.eval_interval)

    def is_finished(self) -> bool:
        return self.engines["policy"].updates >= self.updates
