"""LeRobot's data sets (LeRobotDataset v3.0 and v2.1), with the extra ``lerobot``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_pbrl.data.actions import Bounds
from lightning_pbrl.data.lerobot import End, Stats, read_lerobot
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.datamodules.recorded import RecordedDataModule
from lightning_pbrl.envs.base import Simulator


class LeRobotDataModule(RecordedDataModule):
    """LeRobotDataset in a folder: states, actions, tasks in words and, if named, the pictures of a camera.

    Args:
        path: the folder that has ``meta``, ``data`` and ``videos``.
        simulator: simulator for evaluation; null for none.
        state: keys of the observation, concatenated; null for ``observation.state`` and ``observation.environment_state``,
            as far as they are there.
        camera: key of the pictures that policies see, for instance ``observation.images.top``; null for states alone.
        size: side of the square pictures, pixels; null for the film's own.
        action: key of the actions.
        intervention: key of the flags of steps in which a person acted, for :class:`InterventionsDataModule`; null for
            ``intervention`` or ``complementary_info.is_intervention``, if one is there.
        tasks: texts of the tasks whose episodes are read; null for all.
        episodes: numbers of the episodes that are read; null for all.
        end: meaning of the end of an episode: ``success`` (terminal where it is a success), ``terminated``, ``truncated``; null
            for ``success`` where the data tell it, else ``truncated``. See :func:`lightning_pbrl.data.lerobot.read_lerobot`.
        action_bounds: low and high of the actions, each a number or one per entry; ``stats`` for the range in the data's
            ``meta/stats.json``; null if they are in [-1, 1].
        **recorded: the other arguments of :class:`RecordedDataModule`.

    Raises:
        UserError: as :func:`lightning_pbrl.data.lerobot.read_lerobot`; also if data and simulator differ in sizes.
    """

    cure = "give the simulator that recorded the data, or other state or action keys"

    def __init__(
        self,
        path: str,
        simulator: Simulator | None = None,
        state: list[str] | None = None,
        camera: str | None = None,
        size: int | None = 64,
        action: str = "action",
        intervention: str | None = None,
        tasks: list[str] | None = None,
        episodes: list[int] | None = None,
        end: End | None = None,
        action_bounds: Bounds | Stats | None = None,
        **recorded: Any,
    ) -> None:
        super().__init__(path, simulator, **recorded)
        self.reading["action_bounds"] = action_bounds
        self.keys: dict[str, Any] = {"state": state, "camera": camera, "size": size, "action": action, "end": end}
        self.keys["intervention"] = intervention
        self.chosen: dict[str, Any] = {"tasks": tasks, "episodes": episodes}

    def files(self) -> list[Path]:
        folders = ["meta", "data"] + ([] if self.keys["camera"] is None else ["videos"])
        return sorted(file for name in folders for file in (self.path / name).rglob("*") if file.is_file())

    def read(self) -> Transitions:
        return read_lerobot(self.path, **self.keys, **self.chosen, **self.reading)
