"""Meta-World data collected on first use."""

from __future__ import annotations

from typing import Any

from lightning_pbrl.datamodules.collected import CollectedDataModule
from lightning_pbrl.envs.metaworld import MetaWorld


class MetaWorldDataModule(CollectedDataModule):
    """Scripted behaviour in a Meta-World v3 task, collected into ``cache_dir`` on first use.

    Args:
        task: one of the 50 tasks, such as drawer-open (v2 and v3 names are accepted).
        horizon: steps per episode, at most 500.
        goal_observable: whether learners see the goal; the experts always do.
        entries: the ones of the 39 observation entries that learners see, in this order; None for all.
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
