"""LiRE's offline data: SAC replay buffers of Meta-World and DeepMind Control tasks (arXiv 2408.04190, also CLARIFY's)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_pbrl.data.lire import read_lire
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.datamodules.base import OfflineDataModule
from lightning_pbrl.envs.base import Simulator


class LiREDataModule(OfflineDataModule):
    """Replay buffers of one task in LiRE's layout, and the simulator that judges policies.

    Expected files: ``<root>/saved_replay_buffer_*_seed{0,1,2}.pkl`` (read by an unpickler that builds arrays and nothing
    else) or the same names with ``.npz``.

    Args:
        root: the task's folder.
        simulator: where policies are rolled out, for instance MetaWorld(task) or DMControl(walker-walk).
        data_quality: rows per seed file in units of 100,000; more rows means later, better policies. None reads all.
        seeds: which replay buffers to concatenate, in this order.
        **offline: the other arguments of :class:`OfflineDataModule` (CLARIFY: segments of 50 steps, 20 evaluation
            episodes; LiRE: 25 and 50).
    """

    def __init__(
        self,
        root: str,
        simulator: Simulator,
        data_quality: float | None = None,
        seeds: list[int] | None = None,
        **offline: Any,
    ) -> None:
        super().__init__(simulator, **offline)
        self.root, self.data_quality = Path(root), data_quality
        self.seeds = [0, 1, 2] if seeds is None else seeds

    def load(self) -> Transitions:
        return read_lire(self.root, self.root.name, self.data_quality, seeds=self.seeds)
