"""Clips of states that are rebuilt from observations, where these determine the state up to a shift along the ground.

The shift within a clip is found by the simulator itself: one step from each rebuilt state with the recorded action moves the body
as far as it moved then. The same step predicts the next recorded observation, so that data of another simulator, or normalised
ones, are refused.
"""

from __future__ import annotations

import numpy as np

from lightning_pbrl.clips.base import ClipRenderer, Frames, episode_of
from lightning_pbrl.clips.dm_control_states import dm_control_state
from lightning_pbrl.clips.gymnasium_states import gymnasium_state
from lightning_pbrl.clips.stage import Stage
from lightning_pbrl.clips.state import StateOf, compare
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.envs.base import Array, Simulator
from lightning_pbrl.envs.dm_control import DMControl
from lightning_pbrl.envs.gym_mujoco import GymMuJoCo
from lightning_pbrl.envs.pixels import Pixels
from lightning_pbrl.errors import UserError

STRAYS = 0.03
"""Error of predicted positions, metres or radians, that a quarter of a clip's steps with unclipped velocities must stay below.

D4RL's Hopper and Walker2d: 5e-8 with their own physics, 4e-3 with Gymnasium's; normalised observations: above .1.
"""


def state_of(simulator: Simulator | None) -> StateOf | None:
    """Return the function that rebuilds a simulator's state from an observation; None if observations do not determine it."""
    if isinstance(simulator, Pixels):
        return state_of(simulator.simulator)
    if isinstance(simulator, GymMuJoCo):
        return gymnasium_state(simulator.env_id)
    return dm_control_state(simulator.domain_task) if isinstance(simulator, DMControl) else None


class RebuiltStates(ClipRenderer):
    """Renderer of logged observations of a simulator whose state they determine up to a shift along the ground.

    A film of the running simulation shows Gymnasium's HalfCheetah as it was one substep, 10 ms, before
    (``findings/gymnasium_halfcheetah_is_drawn_late.sh``).

    Args:
        source: data with observations of ``simulator``; None to :meth:`draw` observations only.
        simulator: simulator of the data.
        size: height and width of a frame, pixels.
        camera: name of a camera of the model; None for that of videos, which follows a body that walks.

    Raises:
        UserError: if observations do not determine the state.
    """

    def __init__(self, source: Transitions | None, simulator: Simulator, size: int = 256, camera: str | None = None) -> None:
        found = state_of(simulator)
        if found is None:
            raise UserError(f"Observations of {simulator.name} do not determine what is seen: collect the data again.")
        self.source, self.size, self.state, self.stage = source, size, found, Stage(simulator, size, camera)
        shifted = ", exact up to a shift along the ground" if found.unseen else ", exact"
        self.how = f"states rebuilt from observations{shifted}"
        self._ready = False

    def frames(self, start: int, length: int) -> Frames:
        if self.source is None:
            raise UserError("There are no data to draw from: draw observations instead.")
        if not self.source.forgets:  # a query's rows of a replay are within an episode
            episode_of(self.source, start, length)
        obs, action = (self.source.column(name)[start : start + length].cpu().numpy() for name in ("obs", "action"))
        return self.draw(obs, action)

    def draw(self, obs: Array, action: Array) -> Frames:
        """Draw observations (T, O) with the actions that followed them, (T, A), as (T, size, size, 3), uint8.

        Raises:
            UserError: if they are no observations of this simulator.
        """
        stage = self.stage
        if obs.shape[1] != stage.simulator.obs_dim:
            raise UserError(
                f"The data have {obs.shape[1]} entries per observation and {stage.simulator.name} observes "
                f"{stage.simulator.obs_dim}: set data.simulator to theirs."
            )
        if not self._ready:
            stage.env.reset(seed=0)
            self._ready = True
        frames = np.empty((len(obs), self.size, self.size, 3), np.uint8)
        unseen, count = list(self.state.unseen), self.state.positions
        shift, errors = np.zeros(len(unseen)), []
        for step, seen in enumerate(obs.astype(np.float64)):
            qpos, qvel = self.state.rebuild(stage.physics, seen)
            qpos[unseen] = shift
            stage.place(qpos, qvel)
            compare(self.state, stage.physics, seen, stage.simulator.name)
            frames[step] = stage.frame()
            if step < len(obs) - 1:
                predicted = stage.physics.advance(action[step])[0]
                if np.abs(qvel).max() < self.state.largest:
                    errors.append(np.abs(predicted[:count] - obs[step + 1, :count]).max())
                shift = stage.physics.data.qpos[unseen].copy()
        if errors and not np.quantile(errors, 0.25) < STRAYS:
            raise UserError(
                f"Observations do not follow each other as in {stage.simulator.name} (positions are off by "
                f"{np.quantile(errors, 0.25):.2g} in most steps): the data are of another simulator or were normalised; set "
                "data.simulator to theirs, or ask for plots of the observations (plots=True)."
            )
        return frames

    def close(self) -> None:
        self.stage.close()
        self._ready = False
