"""robomimic's demonstrations of Lift, Can and Square (arXiv 2108.03298), evaluated in robosuite."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from lightning_pbrl.data.actions import Bounds
from lightning_pbrl.data.robomimic import read_robomimic
from lightning_pbrl.data.robomimic_control import difference
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.datamodules.base import FeedbackDataModule
from lightning_pbrl.envs.base import Simulator
from lightning_pbrl.envs.robosuite import Robosuite
from lightning_pbrl.errors import UserError


class RobomimicDataModule(FeedbackDataModule):
    """robomimic demonstrations from an HDF5 file (Mandlekar et al. 2021) and, if given, the robosuite task for evaluation.

    robosuite needs its own Python environment (``requirements/robomimic.txt``). Training works without it if no episodes are
    played, ``eval_episodes: 0``. ``lightning-pbrl test`` then evaluates the policy in that environment.

    Args:
        path: the file, for instance ``lift/ph/low_dim.hdf5``.
        filter_key: subset of demonstrations, by the file's own masks (train, valid, better ...); null reads all.
        obs_keys: keys that are concatenated to an observation; null for robomimic's nine, object first (or the file's one
            flat array). The simulator must have the same.
        simulator: simulator for evaluation, for instance Robosuite(Lift); null for none.
        last: treatment of the last step of a demonstration: ``terminated`` (robomimic, IPL), or left out: ``drop``
            (Preference Transformer).
        cache_dir: folder for a memory-mapped copy that opens at once in later runs; null reads the file each time.
        action_bounds: low and high of the file's actions, each a number or one per entry; null if they are in [-1, 1].
            Absolute poses need them.
        clip_actions: whether the recorded environment itself clips actions; otherwise those beyond [-1, 1] are refused.
        **offline: the other arguments of :class:`FeedbackDataModule`.

    Raises:
        UserError: as :func:`lightning_pbrl.data.robomimic.read_robomimic`; also if task, controller or observation of the file
            differ from the simulator's.
    """

    def __init__(
        self,
        path: str,
        filter_key: str | None = None,
        obs_keys: list[str] | None = None,
        simulator: Simulator | None = None,
        last: Literal["terminated", "drop"] = "terminated",
        cache_dir: str | None = "data",
        action_bounds: Bounds | None = None,
        clip_actions: bool = False,
        **offline: Any,
    ) -> None:
        super().__init__(simulator, **offline)
        self.path, self.filter_key, self.obs_keys, self.last = Path(path), filter_key, obs_keys, last
        self.cache_dir, self.action_bounds, self.clip_actions = cache_dir, action_bounds, clip_actions

    def load(self) -> Transitions:
        actions = (self.action_bounds, self.clip_actions)
        table = read_robomimic(self.path, self.filter_key, self.obs_keys, self.last, self.cache_dir, *actions)
        self._check(table)
        return table

    def _check(self, table: Transitions) -> None:
        """Check that the file and the simulator agree."""
        simulator = self.simulator
        if simulator is None:
            return
        if (table.obs_dim, table.action_dim) != (simulator.obs_dim, simulator.action_dim):
            raise UserError(
                f"{self.path} has {table.obs_dim} observation and {table.action_dim} action entries and "
                f"{simulator.name} has {simulator.obs_dim} and {simulator.action_dim}: give both the same obs_keys and task."
            )
        if not isinstance(simulator, Robosuite):
            return
        recorded = (table.about["env_args"] or {}).get("env_name", simulator.env_name)
        if recorded != simulator.env_name:
            raise UserError(f"{self.path} was recorded in {recorded}, not in {simulator.env_name}: set the simulator's task.")
        if (other := difference(table.about["env_args"])) is not None or self.action_bounds is not None:
            raise UserError(
                f"{self.path} was recorded with {other or f'action_bounds {self.action_bounds}'}, and {simulator.name} plays "
                "robosuite's default controller (displacements, OSC_POSE at 20 Hz, a Panda): set data.simulator to null and "
                "evaluate the policy elsewhere."
            )
        if (table.about["obs_keys"] or simulator.obs_keys) != simulator.obs_keys:
            raise UserError(f"{self.path} is read with other obs_keys than {simulator.name} has: give both the same list.")
