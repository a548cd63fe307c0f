"""d3rlpy's replay buffers, evaluated in any simulator."""

from __future__ import annotations

from lightning_pbrl.data.d3rlpy import read_d3rlpy
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.datamodules.recorded import RecordedDataModule


class D3RLPyDataModule(RecordedDataModule):
    """Replay buffer that d3rlpy 2 dumped (Seno and Imai 2022) and, if given, the environment that evaluates policies.

    Args:
        path: the .h5 file of ``ReplayBuffer.dump``.
        **recorded: the other arguments of :class:`RecordedDataModule`.

    Raises:
        UserError: as :func:`lightning_pbrl.data.d3rlpy.read_d3rlpy`; also if file and simulator differ in sizes.
    """

    def read(self) -> Transitions:
        return read_d3rlpy(self.path, **self.reading)
