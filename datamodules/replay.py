"""Replay that an earlier run of this library collected, as logged data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_pbrl.data.replayed import logged_episodes
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.datamodules.base import FeedbackDataModule, check_sizes
from lightning_pbrl.envs.base import Simulator
from lightning_pbrl.errors import UserError
from lightning_pbrl.fitting.saving import read_checkpoint
from lightning_pbrl.ranges import COUNT


class ReplayDataModule(FeedbackDataModule, ranges={"steps": COUNT}):
    """Replay of an earlier run that acted (SAC, PEBBLE ...), from its checkpoint, as data for methods that do not act.

    SAC on the true reward makes data of every quality, as LiRE's (arXiv 2408.04190) and D4RL's medium-replay are. Only finished
    episodes are read, and of a ring that has forgotten steps those that are whole.

    Args:
        path: checkpoint of the run, for instance ``runs/sac/checkpoints/last.ckpt``.
        simulator: simulator for evaluation; null for none.
        steps: env steps to read, from the first; null for all.
        **feedback: arguments of :class:`FeedbackDataModule`.

    Raises:
        UserError: for a checkpoint without a replay of states, and if it and the simulator differ in sizes.
    """

    def __init__(self, path: str, simulator: Simulator | None = None, steps: int | None = None, **feedback: Any) -> None:
        super().__init__(simulator, **feedback)
        self.path, self.steps = Path(path), steps

    def read(self) -> Transitions:
        """Read the replay, whatever the simulator."""
        checkpoint = read_checkpoint(self.path)
        if "OnlineDataModule" not in checkpoint:
            raise UserError(f"{self.path} has no replay: give the checkpoint of a run that acted, such as SAC's.")
        spec, method = checkpoint["hyper_parameters"]["spec"], checkpoint["lightning_pbrl"]["method"]
        about = {"replay of": method, "seed": checkpoint["hyper_parameters"]["seed"]}
        sizes = spec["obs_dim"], spec["action_dim"]
        return logged_episodes(checkpoint["OnlineDataModule"]["replay"], *sizes, self.steps, about)

    def load(self) -> Transitions:
        table = self.read()
        check_sizes(table, self.simulator, self.path, "give the simulator in which the run has acted")
        return table
