"""OGBench's data sets (arXiv 2410.20092), evaluated in its own environments."""

from __future__ import annotations

from typing import Any

from lightning_pbrl.data.ogbench import read_ogbench
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.datamodules.recorded import RecordedDataModule
from lightning_pbrl.envs.base import Simulator


class OGBenchDataModule(RecordedDataModule):
    """OGBench data set in one .npz file (Park et al. 2025) and, if given, the environment that evaluates policies.

    The environments come with the extra ``ogbench``; GymnasiumEnv(ogbench:antmaze-large-singletask-task2-v0) is one.

    Args:
        path: the file, for instance ``antmaze-large-navigate-v0.npz``.
        task: single task whose rewards are computed, such as ``antmaze-large-navigate-singletask-task2-v0``; null for data
            without rewards, to be learned from answers.
        simulator: simulator for evaluation; null for none.
        **recorded: the other arguments of :class:`RecordedDataModule`.

    Raises:
        UserError: as :func:`lightning_pbrl.data.ogbench.read_ogbench`; also if file and simulator differ in sizes.
    """

    cure = "give the simulator of this file's environment"

    def __init__(
        self,
        path: str,
        task: str | None = None,
        simulator: Simulator | None = None,
        **recorded: Any,
    ) -> None:
        super().__init__(path, simulator, **recorded)
        self.task = task

    def read(self) -> Transitions:
        return read_ogbench(self.path, self.task, **self.reading)
