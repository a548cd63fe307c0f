"""d3rlpy's replay buffers, evaluated in any simulator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_pbrl.data.actions import Bounds
from lightning_pbrl.data.d3rlpy import read_d3rlpy
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.datamodules.base import FeedbackDataModule, check_sizes
from lightning_pbrl.envs.base import Simulator


class D3RLPyDataModule(FeedbackDataModule):
    """Replay buffer that d3rlpy 2 dumped (Seno and Imai 2022) and, if given, the environment that evaluates policies.

    Args:
        path: the .h5 file of ``ReplayBuffer.dump``.
        simulator: simulator for evaluation; null for none.
        cache_dir: folder for a memory-mapped copy that opens at once in later runs; null reads the file each time.
        action_bounds: low and high of the file's actions, each a number or one per entry; null if they are in [-1, 1].
        clip_actions: whether the recorded environment itself clips actions; otherwise those beyond [-1, 1] are refused.
        **offline: the other arguments of :class:`FeedbackDataModule`.

    Raises:
        UserError: as :func:`lightning_pbrl.data.d3rlpy.read_d3rlpy`; also if file and simulator differ in sizes.
    """

    def __init__(
        self,
        path: str,
        simulator: Simulator | None = None,
        cache_dir: str | None = "data",
        action_bounds: Bounds | None = None,
        clip_actions: bool = False,
        **offline: Any,
    ) -> None:
        super().__init__(simulator, **offline)
        self.path, self.cache_dir = Path(path), cache_dir
        self.action_bounds, self.clip_actions = action_bounds, clip_actions

    def load(self) -> Transitions:
        table = read_d3rlpy(self.path, self.cache_dir, self.action_bounds, self.clip_actions)
        check_sizes(table, self.simulator, self.path, "give the simulator of the environment that recorded the data")
        return table
