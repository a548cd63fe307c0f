"""robomimic's demonstrations of Lift, Can and Square (arXiv 2108.03298), evaluated in robosuite."""

from __future__ import annotations

from typing import Any

from lightning_pbrl.data.robomimic import Last, read_robomimic
from lightning_pbrl.data.robomimic_control import difference
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.datamodules.recorded import RecordedDataModule
from lightning_pbrl.envs.base import Simulator
from lightning_pbrl.envs.robosuite import Robosuite
from lightning_pbrl.errors import UserError


class RobomimicDataModule(RecordedDataModule):
    """robomimic demonstrations from an HDF5 file (Mandlekar et al. 2021) and, if given, the robosuite task for evaluation.

    robosuite needs its own Python environment (``requirements/robomimic.txt``). Training works without it if no episodes are
    played, ``eval_episodes: 0``. ``lightning-pbrl test`` then evaluates the policy in that environment. Absolute
    poses need ``action_bounds``.

    Args:
        path: the file, for instance ``lift/ph/low_dim.hdf5``.
        filter_key: subset of demonstrations, by the file's own masks (train, valid, better ...); null reads all.
        obs_keys: keys that are concatenated to an observation; null for robomimic's nine, object first (or the file's one
            flat array). The simulator must have the same.
        simulator: simulator for evaluation, for instance Robosuite(Lift); null for none.
        last: treatment of the last step of a demonstration: ``terminated`` (robomimic, IPL), or left out: ``drop``
            (Preference Transformer).
        **recorded: the other arguments of :class:`RecordedDataModule`.

    Raises:
        UserError: as :func:`lightning_pbrl.data.robomimic.read_robomimic`; also if task, controller or observation of the file
            differ from the simulator's.
    """

    cure = "give both the same obs_keys and task"

    def __init__(
        self,
        path: str,
        filter_key: str | None = None,
        obs_keys: list[str] | None = None,
        simulator: Simulator | None = None,
        last: Last = "terminated",
        **recorded: Any,
    ) -> None:
        super().__init__(path, simulator, **recorded)
        self.filter_key, self.obs_keys, self.last = filter_key, obs_keys, last

    def read(self) -> Transitions:
        return read_robomimic(self.path, self.filter_key, self.obs_keys, self.last, **self.reading)

    def check(self, table: Transitions) -> None:
        super().check(table)
        simulator, bounds = self.simulator, self.reading["action_bounds"]
        if not isinstance(simulator, Robosuite):
            return
        recorded = (table.about["env_args"] or {}).get("env_name", simulator.env_name)
        if recorded != simulator.env_name:
            raise UserError(f"{self.path} was recorded in {recorded}, not in {simulator.env_name}: set the simulator's task.")
        if (other := difference(table.about["env_args"])) is not None or bounds is not None:
            raise UserError(
                f"{self.path} was recorded with {other or f'action_bounds {bounds}'}, and {simulator.name} plays "
                "robosuite's default controller (displacements, OSC_POSE at 20 Hz, a Panda): set data.simulator to null and "
                "evaluate the policy elsewhere."
            )
        if (table.about["obs_keys"] or simulator.obs_keys) != simulator.obs_keys:
            raise UserError(f"{self.path} is read with other obs_keys than {simulator.name} has: give both the same list.")
