"""D4RL's data sets (arXiv 2004.07219), evaluated in today's Gymnasium or Gymnasium-Robotics."""

from __future__ import annotations

from typing import Any

from lightning_pbrl.data.d4rl import Terminals, read_d4rl
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.datamodules.recorded import RecordedDataModule
from lightning_pbrl.envs.base import Simulator


class D4RLDataModule(RecordedDataModule):
    """D4RL data set in one HDF5 file (Fu et al. 2020) and, if given, the environment that evaluates policies.

    For a simulator that knows D4RL's name of its task (``GymMuJoCo``, ``GymnasiumRobotics``), ``eval/normalized_score`` is logged
    beside the return.

    Args:
        path: the file, for instance ``hopper_medium_expert-v2.hdf5``.
        simulator: simulator for evaluation, for instance GymMuJoCo(Hopper-v5); null for none.
        terminals: meaning of the file's ``terminals``: ``end`` of an episode, or ``goal`` (AntMaze): the goal is reached, and
            the episode continues to its time limit.
        max_episode_steps: length of an episode that nothing else ends, for files without ``timeouts``; null for the
            simulator's horizon.
        obs_dim: read only this many of the first entries of an observation; null reads all. Ant: 27, see :func:`read_d4rl`.
        **recorded: the other arguments of :class:`RecordedDataModule`.

    Raises:
        UserError: as :func:`lightning_pbrl.data.d4rl.read_d4rl`; also if file and simulator differ in sizes.
    """

    cure = "give the simulator of this file's task, or set obs_dim"

    def __init__(
        self,
        path: str,
        simulator: Simulator | None = None,
        terminals: Terminals = "end",
        max_episode_steps: int | None = None,
        obs_dim: int | None = None,
        **recorded: Any,
    ) -> None:
        super().__init__(path, simulator, **recorded)
        self.terminals, self.max_episode_steps, self.obs_dim = terminals, max_episode_steps, obs_dim

    def read(self) -> Transitions:
        steps = self.max_episode_steps or (self.simulator.horizon if self.simulator is not None else None)
        return read_d4rl(self.path, self.terminals, steps, self.obs_dim, **self.reading)
