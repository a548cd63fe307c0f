"""Meta-World data made on first use."""

from __future__ import annotations

from typing import Any

from lightning_pbrl.datamodules.collected import CollectedDataModule
from lightning_pbrl.envs.metaworld import MetaWorld


class MetaWorldDataModule(CollectedDataModule):
    """A Meta-World v3 task and a data set of scripted behaviour, collected into ``cache_dir`` when it is not there.

    Args:
        task: one of the 50 tasks, such as drawer-open (v2 and v3 names are understood).
        horizon: steps per episode, at most 500.
        goal_observable: whether learners see the goal; the experts always do.
        entries: which of the 39 observation entries learners see, in this order; None for all.
        **collected: the other arguments of :class:`CollectedDataModule`.
    """

    def __init__(
        self,
        task: str,
        horizon: int = 500,
        goal_observable: bool = True,
        entries: list[int] | None = None,
        **collected: Any,
    ) -> None:
        super().__init__(MetaWorld(task, horizon, goal_observable, entries), **collected)
