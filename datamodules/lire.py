"""LiRE's offline data: SAC replay buffers of Meta-World and DeepMind Control tasks (arXiv 2408.04190, also CLARIFY's)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_pbrl.data.actions import Bounds
from lightning_pbrl.data.lire import read_lire
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.datamodules.base import FeedbackDataModule, check_sizes
from lightning_pbrl.envs.base import Simulator
from lightning_pbrl.ranges import POSITIVE


class LiREDataModule(FeedbackDataModule, ranges={"data_quality": POSITIVE}):
    """LiRE's SAC replay buffers of one task (Choi et al. 2024), and the simulator that evaluates policies.

    Expected files: ``<root>/saved_replay_buffer_*_seed{0,1,2}.pkl`` (read by an unpickler that can only build arrays) or the
    same names with ``.npz``.

    Args:
        root: the task's folder.
        simulator: simulator for evaluation, for instance MetaWorld(task) or DMControl(walker-walk).
        data_quality: rows per seed file in units of 100,000; more rows means later, better policies. None reads all.
        seeds: seeds of the replay buffers to concatenate, in this order.
        max_episode_steps: largest number of steps per episode; longer stretches are cut there. null for the simulator's
            horizon. Dones, and resets without a done, end episodes earlier. The folder's name is not used.
        action_bounds: low and high of the files' actions, each a number or one per entry; null if they are in [-1, 1].
        clip_actions: whether the recorded environment itself clips actions; otherwise those beyond [-1, 1] are refused.
        **offline: the other arguments of :class:`FeedbackDataModule` (CLARIFY: segments of 50 steps, 20 evaluation
            episodes; LiRE: 25 and 50).
    """

    def __init__(
        self,
        root: str,
        simulator: Simulator,
        data_quality: float | None = None,
        seeds: list[int] | None = None,
        max_episode_steps: int | None = None,
        action_bounds: Bounds | None = None,
        clip_actions: bool = False,
        **offline: Any,
    ) -> None:
        super().__init__(simulator, **offline)
        self.root, self.data_quality = Path(root), data_quality
        self.seeds = [0, 1, 2] if seeds is None else seeds
        self.max_episode_steps = max_episode_steps
        self.action_bounds, self.clip_actions = action_bounds, clip_actions

    def files(self) -> list[Path]:
        return sorted(self.root.glob("saved_replay_buffer_*"))

    def load(self) -> Transitions:
        simulator = self.simulator
        task = simulator.name if simulator is not None else None
        steps = self.max_episode_steps or (simulator.horizon if simulator is not None else None)
        actions: dict[str, Any] = {"action_bounds": self.action_bounds, "clip_actions": self.clip_actions}
        table = read_lire(self.root, task, self.data_quality, steps, self.seeds, **actions)
        check_sizes(table, simulator, self.root, "give the simulator of the task that was recorded")
        return table
