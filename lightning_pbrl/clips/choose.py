"""The renderer of a data set, chosen by what the data hold."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_pbrl.clips.base import ClipRenderer
from lightning_pbrl.clips.pictures import StoredPictures
from lightning_pbrl.clips.plots import ObservationPlots
from lightning_pbrl.clips.rebuilt import RebuiltStates, state_of
from lightning_pbrl.clips.replayed import ReplayedEpisodes
from lightning_pbrl.clips.stored_states import D4RLStates, DemoStates
from lightning_pbrl.data.simulator_states import has_states
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.envs.base import Simulator
from lightning_pbrl.envs.gym_mujoco import GymMuJoCo
from lightning_pbrl.errors import UserError

MODULES = {
    "DMControl": "dm_control",
    "Fetch": "fetch",
    "GymMuJoCo": "gym_mujoco",
    "GymnasiumRobotics": "gymnasium_robotics",
    "MetaWorld": "metaworld",
    "Robosuite": "robosuite",
}
"""Module in ``lightning_pbrl.envs`` of every simulator that its own description tells fully."""


def renderer_for(
    source: Transitions,
    size: int = 256,
    camera: str | None = None,
    plots: bool = False,
    *,
    simulator: Simulator | None = None,
    file: str | Path | None = None,
) -> ClipRenderer:
    """Return the renderer of a data set's segments.

    The first that the data have is drawn: stored images; reset seeds, from which episodes are repeated; simulator states in
    ``file``; observations that determine the state up to a shift along the ground; with ``plots``, curves of the observations.

    Args:
        source: the data.
        size: height and width of a frame, even, pixels.
        camera: name of a camera of the model; None for that of videos.
        plots: whether observations are plotted over time where nothing else can be drawn.
        simulator: simulator of the data (``data.simulator``); None for the one that collected data name.
        file: file that the data were read from, which may hold simulator states.

    Raises:
        UserError: if nothing can be drawn, with the reason and the cure.
    """
    if size < 16 or size % 2:
        raise UserError(f"The size of clips is {size}; give an even number of pixels from 16 on, for instance 256.")
    if source.has_pictures:
        return StoredPictures(source, size)
    about = source.about
    if len(about.get("reset_seeds", ())) == len(source.episodes) > 0:
        collected = _collected_in(about["simulator"], simulator)
        if collected is not None:
            return ReplayedEpisodes(source, collected, size, camera)
    if file is not None and about.get("format") == "robomimic" and has_states(file, about):
        return DemoStates(source, file, size, camera)
    if file is not None and isinstance(simulator, GymMuJoCo) and has_states(file, about):
        return D4RLStates(source, file, simulator, size, camera)
    if simulator is not None and state_of(simulator) is not None:
        return RebuiltStates(source, simulator, size, camera)
    if plots:
        return ObservationPlots(source, size)
    raise UserError(f"No clip of these data can be drawn: {_reason(about, simulator)}, or plot the observations (plots=True).")


def renderer_of(data: Any, size: int = 256, camera: str | None = None, plots: bool = False) -> ClipRenderer:
    """Return the renderer of a data module's segments, see :func:`renderer_for`; the data are loaded if they are not yet.

    Args:
        data: a ``FeedbackDataModule`` with logged or collected data.
        size: height and width of a frame, even, pixels.
        camera: name of a camera of the model; None for that of videos.
        plots: whether observations are plotted over time where nothing else can be drawn.
    """
    data = getattr(data, "drawn", data)  # whose images are features here
    if not hasattr(data, "source"):
        data.prepare_data()
        data.setup("fit")
    path = getattr(data, "path", None)
    file = Path(path) if isinstance(path, str | Path) and Path(path).is_file() else None
    return renderer_for(data.source, size, camera, plots, simulator=data.simulator, file=file)


def simulator_of(description: Mapping[str, Any]) -> Simulator | None:
    """Return the simulator with this description (:meth:`Simulator.describe`); None if none of the library's has it now."""
    module = MODULES.get(str(description.get("simulator")))
    if module is None:
        return None
    kind = getattr(importlib.import_module(f"lightning_pbrl.envs.{module}"), description["simulator"])
    known = inspect.signature(kind).parameters
    made: Simulator = kind(**{name: value for name, value in description.items() if name in known})
    return made if made.describe() == dict(description) else None


def _collected_in(description: Mapping[str, Any], simulator: Simulator | None) -> Simulator | None:
    """Return the simulator that data were collected in: ``simulator`` if it is that one, else one made from the description."""
    if simulator is not None and simulator.describe() == description:
        return simulator
    return simulator_of(description)


def _reason(about: Mapping[str, Any], simulator: Simulator | None) -> str:
    """Return the reason why nothing can be drawn, and the cure."""
    if "reset_seeds" in about:
        name = about["simulator"].get("simulator", "unknown")
        return f"they were collected in a {name} that cannot be built from its description; give that simulator (data.simulator)"
    if simulator is None:
        return (
            "they hold no images and no reset seeds, and their simulator is not known; set data.simulator (in Gymnasium's and "
            "DeepMind's walkers, observations determine the picture)"
        )
    return (
        f"they hold no images, no reset seeds and no simulator states, and an observation of {simulator.name} does not determine "
        "its state; ask about data that `lightning-pbrl collect` has made"
    )
