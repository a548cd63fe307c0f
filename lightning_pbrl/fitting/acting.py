"""Acting while learning: env steps before updates, counted exactly.

An *env step* is one step of one environment: n environments that step together make n of them. Methods that learn from logged
data have no collector and do not act.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightning_pbrl.data.replay import RECENT_EPISODES
from lightning_pbrl.fitting.diverged import finite_actions


@torch.no_grad()
def collect(method: Any, until: int, random: bool) -> None:
    """Step all environments, by uniform actions or by ``behave``, until ``env_steps`` is at least ``until``."""
    collector = method.collector
    behave = finite_actions(method, method.behave, lambda: f"at env step {method.env_steps + 1}")
    while collector.env_steps < until:
        collector.step(None if random else behave)
        method.on_env_step()


def before_updates(method: Any, began: int, done: int, per_update: float, random: bool) -> Callable[[int], None]:
    """Return the function that the engine calls before update i of a block: it collects the env steps that come first.

    Args:
        method: method that acts.
        began: ``env_steps`` when the phase began.
        done: updates of the phase before this block.
        per_update: env steps that come before each update; below 1 for several updates per env step.
        random: act uniformly.
    """

    def before(update: int) -> None:
        collect(method, began + math.ceil((done + update + 1) * per_update - 1e-6), random)

    return before


def logged(method: Any) -> dict[str, Tensor]:
    """Return what a logged row says about acting: env steps, and the mean true return of the newest finished episodes."""
    if method.collector is None:
        return {}
    row = {"env_steps": torch.tensor(float(method.env_steps))}
    if method.source.finished:
        row["train/return_mean"] = method.source.recent_returns(RECENT_EPISODES).float().mean()
    return row
