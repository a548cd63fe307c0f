"""Rounds of a fit: each is a list of phases, run block by block, one block per ``training_step``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_pbrl import memory
from lightning_pbrl.engine.phase import Metrics as Metrics
from lightning_pbrl.engine.phase import Phase as Phase
from lightning_pbrl.fitting import acting, diverged
from lightning_pbrl.fitting import author_checks as checks
from lightning_pbrl.fitting import lightning_glue as glue
from lightning_pbrl.rng import derive

Metered = Mapping[str, Tensor]
"""Means over a block by loss or metric, one per replica."""


class Rounds:
    """Run the phases of a method's rounds.

    Args:
        method: the :class:`~lightning_pbrl.methods.base.Method`.

    Attributes:
        phases: phases left of the present round.
    """

    def __init__(self, method: Any) -> None:
        self.method = method
        self.phases: list[Phase] = []
        self.done = self.began = self.number = 0
        """Of the present phase: updates or env steps done, env steps before it, its number in the round."""

    def begin(self, phases: Sequence[Phase]) -> None:
        """Start a round."""
        self.phases, self.done, self.number = list(phases), 0, 0

    @property
    def name(self) -> str:
        """Name of the present phase; empty when the round is over."""
        return self.phases[0].name if self.phases else ""

    @property
    def collecting(self) -> tuple[int, int] | None:
        """Env steps done and planned of a phase without updates; None in any other."""
        phase = next(iter(self.phases), None)
        return None if phase is None or phase.updates or not phase.env_steps else (self.done, phase.size)

    @property
    def updates_left(self) -> int:
        """Number of updates planned for the rest of this round, without those that a phase left undone by ending early."""
        trainer = self.method.trainer
        done = self.done if self.phases and self.phases[0].updates else 0
        left = sum(phase.updates for phase in self.phases) - done
        return min(left, trainer.max_steps - trainer.global_step) if trainer.max_steps > 0 else left

    def step(self) -> None:
        """Run the next block, or the empty one that closes the round."""
        method = self.method
        while self.phases and self.phases[0].size == 0:
            phase = self._next()
            if phase.start:
                phase.start()
        if not self.phases:
            diverged.check_finite_weights(method)
            return
        phase = self.phases[0]
        checks.check_phase(method, phase)
        if self.done == 0:
            self._start(phase)
        block = min(phase.block or method.block, phase.size - self.done)
        meters = self._update(phase, block) if phase.updates else self._collect(phase, block)
        self._log(phase.program, meters)
        if self.done >= phase.size or (phase.done is not None and phase.done(self._reduced(meters))):
            self._next()
            self.done = 0
            memory.give_back(method.device)

    def _next(self) -> Phase:
        """Leave the present phase behind, and return it."""
        self.number += 1
        return self.phases.pop(0)

    def _start(self, phase: Phase) -> None:
        method = self.method
        self.began = method.env_steps
        if phase.start:
            phase.start()
        if phase.program:  # streams of its own: a resumed rank draws the same numbers
            place = "draws", method.trainer.global_rank, method.trainer.current_epoch, self.number
            method.running.begin([derive(method.seed + k, *place) for k in range(method.replicas)])

    def _update(self, phase: Phase, updates: int) -> Metered:
        """Make updates of a phase, with the env steps before each of them."""
        method, trainer, program = self.method, self.method.trainer, str(phase.program)
        if trainer.max_steps > 0:
            updates = min(updates, trainer.max_steps - trainer.global_step)
        if phase.block is None:
            checks.check_block_draws(method, program)
        buffers = checks.buffer_versions(method)
        act = acting.before_updates(method, self.began, self.done, phase.env_steps, phase.random) if phase.env_steps else None
        meters = method.running.run(program, updates, before=act)
        if method.replicas > 1 and buffers != checks.buffer_versions(method):
            raise checks.no_replicas(method, "its updates change a buffer")
        diverged.check_losses(method, program, meters, updates)
        self.done += updates
        glue.advance_global_step(trainer, updates)
        return meters

    def _collect(self, phase: Phase, steps: int) -> Metered:
        """Make env steps of a phase without updates."""
        acting.collect(self.method, self.began + self.done + steps, phase.random)
        self.done = self.method.env_steps - self.began
        return {}

    def _log(self, program: str | None, meters: Metered) -> None:
        method = self.method
        groups = () if program is None else method.running.moved(program)
        values = {f"train/{key}_loss" if key in groups else f"train/{key}": value for key, value in meters.items()}
        row = {key: value.mean() for key, value in values.items()}
        if method.replicas > 1:
            row.update({f"{key}/replica_{k}": value[k] for key, value in values.items() for k in range(method.replicas)})
        row |= {"labels": torch.tensor(float(method.asked.total)), **acting.logged(method)}
        method.log_dict({**row, "step": float(method.trainer.global_step)}, batch_size=1)

    def _reduced(self, meters: Metered) -> dict[str, float]:
        """Return block means as numbers, averaged over ranks."""
        strategy = self.method.trainer.strategy
        return {key: float(strategy.reduce(value.mean(), reduce_op="mean")) for key, value in meters.items()}
