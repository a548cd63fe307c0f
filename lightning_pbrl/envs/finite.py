"""Checks for NaN and infinity from a simulator, at the step that produces them, before they are averaged or learned from."""

from __future__ import annotations

import numpy as np

from lightning_pbrl.envs.base import Array
from lightning_pbrl.errors import UserError

LARGEST = float(np.finfo(np.float32).max)
"""Largest reward: rewards are stored in float32."""


def check_step(name: str, seed: int, step: int, obs: Array, reward: float = 0.0) -> None:
    """Refuse an observation or a reward that is not finite.

    Args:
        name: name of the simulator.
        seed: reset seed of the episode.
        step: step of the episode, from 1; 0 for the observation of a reset.
        obs: observation, (O,).
        reward: reward, environment units.

    Raises:
        UserError: naming episode and step; the environment is at fault, whatever the actions.
    """
    if abs(reward) <= LARGEST and np.isfinite(obs).all():  # false for NaN
        return
    bad = np.flatnonzero(~np.isfinite(obs))
    what = f"the observation {obs[bad[0]]} in entry {bad[0]}" if len(bad) else f"the reward {reward}"
    raise UserError(
        f"{name} gave {what} at step {step} of the episode with reset seed {seed}: the environment is at fault and not the "
        "learner, so repair it, or let it end the episode (terminated) before it diverges."
    )
