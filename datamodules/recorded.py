"""Base class of the data modules that read what another tool recorded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from lightning_pbrl.data.actions import Bounds
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.datamodules.base import FeedbackDataModule, check_sizes
from lightning_pbrl.envs.base import Simulator


class RecordedDataModule(FeedbackDataModule, ABC):
    """Base class of data that another tool recorded and, if given, the environment that evaluates policies.

    A subclass reads the data (:meth:`read`), with ``reading``: cache and actions as every reader takes them.

    Args:
        path: file or folder of the data.
        simulator: simulator for evaluation; null for none.
        cache_dir: folder for a memory-mapped copy that opens at once in later runs; null reads the data each time.
        action_bounds: low and high of the recorded actions, each a number or one per entry; null if they are in [-1, 1] (Minari:
            in the data's action space).
        clip_actions: whether the recorded environment itself clips actions; otherwise those beyond their bounds are refused.
        **feedback: the other arguments of :class:`FeedbackDataModule`.

    Raises:
        UserError: as the reader; also if data and simulator differ in sizes.
    """

    cure: ClassVar[str] = "give the simulator of the environment that recorded the data"
    """Cure for sizes that differ, for the message."""

    def __init__(
        self,
        path: str,
        simulator: Simulator | None = None,
        cache_dir: str | None = "data",
        action_bounds: Bounds | None = None,
        clip_actions: bool = False,
        **feedback: Any,
    ) -> None:
        super().__init__(simulator, **feedback)
        self.path, self.cache_dir = Path(path), cache_dir
        actions = {"action_bounds": action_bounds, "clip_actions": clip_actions}
        self.reading: dict[str, Any] = {"cache_dir": cache_dir, **actions}

    @abstractmethod
    def read(self) -> Transitions:
        """Read the data, whatever the simulator."""

    def check(self, table: Transitions) -> None:
        """Check that the data and the simulator agree."""
        check_sizes(table, self.simulator, self.path, self.cure)

    def load(self) -> Transitions:
        table = self.read()
        self.check(table)
        return table
