"""Minari's data sets (github.com/Farama-Foundation/Minari), with the extra ``minari``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_pbrl.data.minari import open_minari, read_minari
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.datamodules.recorded import RecordedDataModule
from lightning_pbrl.envs.base import Simulator


class MinariDataModule(RecordedDataModule):
    """Minari data set by name and, if given, the environment that evaluates policies.

    Expected: ``$MINARI_DATASETS_PATH/<dataset_id>/data/`` (by default ``~/.minari/datasets``), as ``minari download`` leaves it.

    Args:
        dataset_id: for instance ``mujoco/hopper/medium-v0``.
        simulator: simulator for evaluation: GymMuJoCo for ``mujoco/...``, GymnasiumEnv for anything with a Gymnasium id,
            with dictionaries concatenated as in the data; null for none.
        download: download the data set if it is missing (once per machine).
        **recorded: the other arguments of :class:`RecordedDataModule`.

    Raises:
        UserError: as :func:`lightning_pbrl.data.minari.read_minari`; also if data and simulator differ in sizes.
    """

    def __init__(
        self,
        dataset_id: str,
        simulator: Simulator | None = None,
        download: bool = False,
        **recorded: Any,
    ) -> None:
        super().__init__(dataset_id, simulator, **recorded)
        self.dataset_id, self.download = dataset_id, download

    def prepare_data(self) -> None:
        if self.download:
            open_minari(self.dataset_id, download=True)

    def files(self) -> list[Path]:
        folder = Path(open_minari(self.dataset_id).storage.data_path)
        return sorted(file for file in folder.rglob("*") if file.is_file())

    def read(self) -> Transitions:
        return read_minari(self.dataset_id, **self.reading)
