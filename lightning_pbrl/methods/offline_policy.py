"""Base of policy learners from logged transitions: one program, rounds between evaluations, standardised observations."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from lightning_pbrl.engine import Program
from lightning_pbrl.methods.base import Method, Phase, Spec
from lightning_pbrl.nn import AtariTorso, Normalizer, SquashedGaussianActor


class OfflinePolicy(Method, ABC):
    """Base of methods with ``updates`` updates in rounds of ``eval_interval``, by the program "policy" unless planned otherwise.

    Args:
        spec: sizes, linked from the data module.
        updates: gradient updates in total.
        eval_interval: gradient updates per round, that is between evaluations.
        normalize_obs: standardise observations with the data's mean and standard deviation (+ 1e-3); images never are.
        **engine: arguments of :class:`Method`.
    """

    population = True
    longer: ClassVar[Mapping[str, str]] = {"updates": "eval_interval"}

    def __init__(
        self,
        spec: Spec,
        updates: int = 210_000,
        eval_interval: int = 5_000,
        normalize_obs: bool = True,
        **engine: Any,
    ) -> None:
        super().__init__(spec, **engine)
        self.updates, self.eval_interval, self.normalize_obs = updates, eval_interval, normalize_obs and not self.pixels
        self.normalizer = Normalizer(spec["obs_dim"])

    def on_data(self) -> None:
        if self.normalize_obs:
            self.normalizer.fit(self.source.column("obs"))

    def normalized(self, obs: Tensor) -> Tensor:
        """Return observations as the networks read them, (..., O)."""
        return self.normalizer(obs) if self.normalize_obs else obs

    @abstractmethod
    def programs(self) -> dict[str, Program]:
        """Return the program "policy"."""

    @property
    def updates_done(self) -> int:
        """Number of updates so far, of all programs."""
        return sum(self.running.updates.values())

    def plan(self, round_number: int) -> list[Phase]:
        return [Phase("policy", "policy", min(self.eval_interval, self.updates - self.updates_done))]

    def round_starts(self) -> list[int]:
        return [0] * math.ceil(self.updates / self.eval_interval)

    def is_finished(self) -> bool:
        return self.updates_done >= self.updates

    def torso(self, pictures: int = 1) -> AtariTorso | None:
        """Return a new encoder of ``pictures`` images side by side; None if states are seen."""
        return AtariTorso(self.pixels, pictures) if self.pixels else None

    def squashed_actor(self, hidden: Sequence[int], min_std: float, inputs: int = 1) -> SquashedGaussianActor:
        """Return the policy of contrastive control and its baselines, for ``inputs`` observations side by side."""
        size, action_dim = inputs * self.spec["obs_dim"], self.spec["action_dim"]
        return SquashedGaussianActor(size, action_dim, hidden, min_std=min_std, torso=self.torso(inputs))
