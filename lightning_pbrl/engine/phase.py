"""Phases of a round: what runs, for how long, what comes before it and what ends it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

Metrics = Mapping[str, float]


class Phase(NamedTuple):
    """One part of a round.

    Attributes:
        name: name in the progress bar.
        program: name of the program that runs; None for a phase that only collects or calls ``start``.
        updates: gradient updates.
        block: updates (or env steps, without any) per ``training_step``; None for the method's own.
        start: called once when the phase begins (relabel, reset ...).
        done: called after each block with its mean metrics (equal on all ranks); True ends the phase early.
        env_steps: env steps (of all environments together) before each update, such as 1 for SAC, 1/4 for four updates per env
            step; with ``updates`` 0, those of the whole phase.
        random: act uniformly instead of by the policy.
    """

    name: str
    program: str | None = None
    updates: int = 0
    block: int | None = None
    start: Callable[[], None] | None = None
    done: Callable[[Metrics], bool] | None = None
    env_steps: float = 0
    random: bool = False

    @property
    def size(self) -> int:
        """Length of the phase: its updates, or its env steps if there are none."""
        return self.updates or int(self.env_steps)
