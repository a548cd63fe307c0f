"""Twin environment that takes the same actions and that a blinded expert observes.

Source: the data of IPL (Hejna and Sadigh 2023, arXiv 2305.15363). Its scripted policies observe another instance of the task, or
another task, than the recorded one.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from lightning_pbrl.envs.base import Array
from lightning_pbrl.envs.metaworld import TASKS, MetaWorld


@lru_cache(maxsize=8)
def _environment(task: str, horizon: int) -> Any:
    """Build one environment per task and process, because building one takes as long as an episode."""
    return MetaWorld(task, horizon).make()


class Twin:
    """Episode of another instance of the task, or of another task.

    Args:
        simulator: the recorded simulator.
        other_task: choose another task at random; else the same task with another object and goal.
        rng: generator that draws task and reset seed.
    """

    def __init__(self, simulator: MetaWorld, other_task: bool, rng: np.random.Generator) -> None:
        others = [task for task in TASKS if task != simulator.task]
        self.task = str(rng.choice(others)) if other_task else simulator.task
        self._env = _environment(self.task, simulator.horizon)
        self._info: dict[str, Any] = self._env.reset(seed=int(rng.integers(1 << 32)))[1]

    @property
    def full_obs(self) -> Array:
        """Observation of the twin's expert, (39,)."""
        return np.asarray(self._info["full_obs"])

    def step(self, action: Array) -> None:
        """Take the action that the recorded environment takes."""
        self._info = self._env.step(action)[-1]
