"""imitation's trajectories (arXiv 2211.11972), with the extra ``arrow``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_pbrl.data.imitation import Complete, data_files, read_imitation
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.datamodules.recorded import RecordedDataModule
from lightning_pbrl.envs.base import Simulator


class ImitationDataModule(RecordedDataModule):
    """Trajectories that imitation saved (Gleave et al. 2022) and, if given, the environment that evaluates policies.

    imitation itself is not needed. :class:`PreferenceNPZDataModule` reads its preference sets.

    Args:
        path: folder that ``imitation.data.serialize.save`` wrote.
        simulator: simulator for evaluation; null for none.
        complete: meaning of the last step of a complete episode: ``truncated`` by a time limit, or ``terminated``.
        **recorded: the other arguments of :class:`RecordedDataModule`.

    Raises:
        UserError: as :func:`lightning_pbrl.data.imitation.read_imitation`; also if data and simulator differ in sizes.
    """

    def __init__(
        self,
        path: str,
        simulator: Simulator | None = None,
        complete: Complete = "truncated",
        **recorded: Any,
    ) -> None:
        super().__init__(path, simulator, **recorded)
        self.complete = complete

    def files(self) -> list[Path]:
        return [self.path / "state.json", *data_files(self.path)]

    def read(self) -> Transitions:
        return read_imitation(self.path, self.complete, **self.reading)
