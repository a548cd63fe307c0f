"""OGBench's data sets (arXiv 2410.20092), evaluated in its own environments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_pbrl.data.actions import Bounds
from lightning_pbrl.data.ogbench import read_ogbench
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.datamodules.base import FeedbackDataModule, check_sizes
from lightning_pbrl.envs.base import Simulator


class OGBenchDataModule(FeedbackDataModule):
    """OGBench data set in one .npz file (Park et al. 2025) and, if given, the environment that evaluates policies.

    The environments come with the extra ``ogbench``; GymnasiumEnv(ogbench:antmaze-large-singletask-task2-v0) is one.

    Args:
        path: the file, for instance ``antmaze-large-navigate-v0.npz``.
        task: single task whose rewards are computed, such as ``antmaze-large-navigate-singletask-task2-v0``; null for data
            without rewards, to be learned from answers. Tasks of cubes, scenes and puzzles need the extra ``ogbench``.
        simulator: simulator for evaluation; null for none.
        cache_dir: folder for a memory-mapped copy that opens at once in later runs; null reads the file each time.
        action_bounds: low and high of the file's actions, each a number or one per entry; null if they are in [-1, 1].
        clip_actions: whether the recorded environment itself clips actions; otherwise those beyond [-1, 1] are refused.
        **offline: the other arguments of :class:`FeedbackDataModule`.

    Raises:
        UserError: as :func:`lightning_pbrl.data.ogbench.read_ogbench`; also if file and simulator differ in sizes.
    """

    def __init__(
        self,
        path: str,
        task: str | None = None,
        simulator: Simulator | None = None,
        cache_dir: str | None = "data",
        action_bounds: Bounds | None = None,
        clip_actions: bool = False,
        **offline: Any,
    ) -> None:
        super().__init__(simulator, **offline)
        self.path, self.task, self.cache_dir = Path(path), task, cache_dir
        self.action_bounds, self.clip_actions = action_bounds, clip_actions

    def load(self) -> Transitions:
        table = read_ogbench(self.path, self.task, self.cache_dir, self.action_bounds, self.clip_actions)
        check_sizes(table, self.simulator, self.path, "give the simulator of this file's environment")
        return table
