"""imitation's trajectories (arXiv 2211.11972), with the extra ``arrow``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_pbrl.data.actions import Bounds
from lightning_pbrl.data.imitation import Complete, data_files, read_imitation
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.datamodules.base import FeedbackDataModule, check_sizes
from lightning_pbrl.envs.base import Simulator


class ImitationDataModule(FeedbackDataModule):
    """Trajectories that imitation saved (Gleave et al. 2022) and, if given, the environment that evaluates policies.

    imitation itself is not needed. Its preference sets are converted first: see "imitation" in ``docs/data-sets.md``.

    Args:
        path: folder that ``imitation.data.serialize.save`` wrote.
        simulator: simulator for evaluation; null for none.
        complete: meaning of the last step of a complete episode: ``truncated`` by a time limit, or ``terminated``.
        cache_dir: folder for a memory-mapped copy that opens at once in later runs; null reads the folder each time.
        action_bounds: low and high of the actions, each a number or one per entry; null if they are in [-1, 1].
        clip_actions: whether the recorded environment itself clips actions; otherwise those beyond [-1, 1] are refused.
        **offline: the other arguments of :class:`FeedbackDataModule`.

    Raises:
        UserError: as :func:`lightning_pbrl.data.imitation.read_imitation`; also if data and simulator differ in sizes.
    """

    def __init__(
        self,
        path: str,
        simulator: Simulator | None = None,
        complete: Complete = "truncated",
        cache_dir: str | None = "data",
        action_bounds: Bounds | None = None,
        clip_actions: bool = False,
        **offline: Any,
    ) -> None:
        super().__init__(simulator, **offline)
        self.path, self.complete, self.cache_dir = Path(path), complete, cache_dir
        self.action_bounds, self.clip_actions = action_bounds, clip_actions

    def files(self) -> list[Path]:
        return [self.path / "state.json", *data_files(self.path)]

    def load(self) -> Transitions:
        table = read_imitation(self.path, self.complete, self.cache_dir, self.action_bounds, self.clip_actions)
        check_sizes(table, self.simulator, self.path, "give the simulator of the environment that recorded the data")
        return table
