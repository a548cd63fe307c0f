"""Minari's data sets (github.com/Farama-Foundation/Minari), with the extra ``minari``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_pbrl.data.actions import Bounds
from lightning_pbrl.data.minari import open_minari, read_minari
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.datamodules.base import FeedbackDataModule, check_sizes
from lightning_pbrl.envs.base import Simulator


class MinariDataModule(FeedbackDataModule):
    """Minari data set by name and, if given, the environment that evaluates policies.

    Expected: ``$MINARI_DATASETS_PATH/<dataset_id>/data/`` (by default ``~/.minari/datasets``), as ``minari download`` leaves it.

    Args:
        dataset_id: for instance ``mujoco/hopper/medium-v0``.
        simulator: simulator for evaluation: GymMuJoCo for ``mujoco/...``, GymnasiumEnv for anything with a Gymnasium id,
            with dictionaries concatenated as in the data; null for none.
        download: download the data set if it is missing (once per machine).
        cache_dir: folder for a memory-mapped copy that opens at once in later runs; null reads the data each time.
        action_bounds: low and high of the actions, each a number or one per entry; null for those of the action space.
        clip_actions: whether the recorded environment itself clips actions; otherwise those beyond their bounds are refused.
        **offline: the other arguments of :class:`FeedbackDataModule`.

    Raises:
        UserError: as :func:`lightning_pbrl.data.minari.read_minari`; also if data and simulator differ in sizes.
    """

    def __init__(
        self,
        dataset_id: str,
        simulator: Simulator | None = None,
        download: bool = False,
        cache_dir: str | None = "data",
        action_bounds: Bounds | None = None,
        clip_actions: bool = False,
        **offline: Any,
    ) -> None:
        super().__init__(simulator, **offline)
        self.dataset_id, self.download, self.cache_dir = dataset_id, download, cache_dir
        self.actions: dict[str, Any] = {"action_bounds": action_bounds, "clip_actions": clip_actions}

    def prepare_data(self) -> None:
        if self.download:
            open_minari(self.dataset_id, download=True)

    def files(self) -> list[Path]:
        folder = Path(open_minari(self.dataset_id).storage.data_path)
        return sorted(file for file in folder.rglob("*") if file.is_file())

    def load(self) -> Transitions:
        table = read_minari(self.dataset_id, cache_dir=self.cache_dir, **self.actions)
        check_sizes(table, self.simulator, self.dataset_id, "give the simulator of the environment that recorded the data")
        return table
