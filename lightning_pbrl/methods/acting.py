"""The part of a method that acts while it learns: env steps before updates, counted exactly.

An *env step* is one step of one environment; n environments that step together make n of them. Methods that learn from logged
data have no collector, and nothing here does anything for them.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_pbrl.data.replay import RECENT_EPISODES
from lightning_pbrl.rng import stream


class Acting(pl.LightningModule):
    """What every method knows about acting; :class:`~lightning_pbrl.methods.base.Method` is one of these."""

    seed: int
    source: Any
    _phases: list[Any]
    _in_phase: int
    acting_rng: torch.Generator
    """Noise of the acting policy, on the method's device; a stream of its own per round."""
    context: int = 0
    """Steps that must lie on both sides of a segment, for methods that crop beyond it."""

    @abstractmethod
    def act(self, obs: Tensor, sample: bool = False) -> Tensor:
        """Actions in [-1, 1] for raw observations: (B, O) -> (B, A)."""

    @abstractmethod
    def finite_actions(self, act: Callable[[Tensor], Tensor], when: Callable[[], str]) -> Callable[[Tensor], Tensor]:
        """``act`` that stops where it gives an action that is not finite."""

    @property
    def collector(self) -> Any:
        """What steps the environments and fills the replay (:class:`~lightning_pbrl.envs.collector.Collector`), or None."""
        return getattr(getattr(self._trainer, "datamodule", None), "collector", None)

    @property
    def env_steps(self) -> int:
        """Steps of all environments so far."""
        collector = self.collector
        return 0 if collector is None else int(collector.env_steps)

    @property
    def collecting(self) -> tuple[int, int] | None:
        """Env steps done and planned of a phase without updates; None in any other."""
        phase = next(iter(self._phases), None)
        return None if phase is None or phase.updates or not phase.env_steps else (self._in_phase, phase.size)

    def round_starts(self) -> Sequence[int] | None:
        """Env steps done when each round of a whole fit begins; None where the settings do not say how many rounds there are."""
        return None

    @property
    def planned_env_steps(self) -> int | None:
        """Env steps of the whole run, the setting ``env_steps``; None for a method that does not act."""
        return self.hparams.get("env_steps")

    @property
    def planned_round_steps(self) -> int | None:
        """Env steps of a round, the setting ``round_steps``; None where the settings do not say."""
        return self.hparams.get("round_steps")

    def behave(self, obs: Tensor) -> Tensor:
        """Actions that collect experience, (n, O) -> (n, A) in [-1, 1]: a sample of the policy."""
        return self.act(obs, sample=True)

    def on_env_step(self) -> None:
        """Called when every environment has made a step and the new rows are in the replay."""

    @torch.no_grad()
    def collect(self, until: int, random: bool) -> None:
        """Step all environments, by uniform actions or by :meth:`behave`, until ``env_steps`` is at least ``until``."""
        collector = self.collector
        behave = self.finite_actions(self.behave, lambda: f"at env step {self.env_steps + 1}")
        while collector.env_steps < until:
            collector.step(None if random else behave)
            self.on_env_step()

    def acting(self, began: int, done: int, per_update: float, random: bool) -> Callable[[int], None]:
        """What the engine calls before update i of a block: collect what is due by then.

        Args:
            began: ``env_steps`` when the phase began.
            done: updates of the phase before this block.
            per_update: env steps that come before each update; below 1 for several updates per env step.
            random: act uniformly.
        """

        def before(update: int) -> None:
            self.collect(began + math.ceil((done + update + 1) * per_update - 1e-6), random)

        return before

    def start_acting(self, round_number: int) -> None:
        """A round draws from a stream of its own, so that a resumed run draws what it would have."""
        self.__dict__["acting_rng"] = stream(self.seed, "acting", round_number, device=self.device)

    def acting_row(self) -> dict[str, Tensor]:
        """What every logged row says about acting: env steps, and the mean true return of the newest finished episodes."""
        if self.collector is None:
            return {}
        row = {"env_steps": torch.tensor(float(self.env_steps))}
        if self.source.finished:
            row["train/return_mean"] = self.source.recent_returns(RECENT_EPISODES).float().mean()
        return row
