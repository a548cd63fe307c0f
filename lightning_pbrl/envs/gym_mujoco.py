"""The MuJoCo locomotion and control tasks of Gymnasium, version 5 (Towers et al. 2024, arXiv 2407.17032)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from lightning_pbrl.envs.base import Array, OverEnv, Simulator, check_horizon, need, rescale
from lightning_pbrl.envs.d4rl_physics import VERSION_2, missing_reward, restore_bodies
from lightning_pbrl.errors import UserError, nearest

if TYPE_CHECKING:
    from lightning_pbrl.envs.episodic import Episodic

SIZES = {
    "Ant-v5": (105, 8),
    "HalfCheetah-v5": (17, 6),
    "Hopper-v5": (11, 3),
    "Humanoid-v5": (348, 17),
    "HumanoidStandup-v5": (348, 17),
    "InvertedDoublePendulum-v5": (9, 1),
    "InvertedPendulum-v5": (4, 1),
    "Pusher-v5": (23, 7),
    "Reacher-v5": (10, 2),
    "Swimmer-v5": (8, 2),
    "Walker2d-v5": (17, 6),
}
"""Observation and action size of each task with the constructor's default arguments."""
HORIZONS = {**dict.fromkeys(SIZES, 1000), "Pusher-v5": 100, "Reacher-v5": 50}
"""Steps of an episode as Gymnasium registers each task."""

FALLING = ("Ant-v5", "Hopper-v5", "Humanoid-v5", "Walker2d-v5")
"""Tasks whose episodes end when the body falls, unless they are told not to."""
D4RL_TASKS = {env_id: env_id.removesuffix("-v5").lower() for env_id in VERSION_2}
"""Tasks of D4RL's locomotion data, and D4RL's names for them."""


class GymMuJoCo(Simulator):
    """One Gymnasium MuJoCo task; no task of this family defines success.

    The tasks of D4RL's data have D4RL's normalised score as well. It is D4RL's own with ``physics: d4rl``, which undoes what
    changed since Gym's version 2 and MuJoCo 2.0 (:mod:`lightning_pbrl.envs.d4rl_physics`): masses and inertias of capsules,
    friction of Walker2d's right foot (0.9, now 1.9), no healthy reward in the step of a fall.

    Args:
        env_id: Gymnasium id with its version, for instance ``HalfCheetah-v5``.
        horizon: steps per episode; null: as registered, 1000, in Pusher 100 and in Reacher 50. The walkers also terminate when
            they fall. Returns of other than 1000 steps have no score.
        contact_forces: false leaves Ant's contact forces out of its observation (27 entries) and reward, as in D4RL's ant,
            where they are zero.
        terminate_when_unhealthy: false lets an episode go on after a fall, so that its length tells a learner nothing (a learned
            reward cannot be told from one that pays for staying alive otherwise); such returns have no D4RL score.
        physics: "d4rl" for policies and clips of D4RL's data, in Ant together with ``contact_forces: false``; "gymnasium" plays
            version 5 as it is.
    """

    packages = ("gymnasium", "mujoco")

    def __init__(
        self,
        env_id: str,
        horizon: int | None = None,
        contact_forces: bool = True,
        terminate_when_unhealthy: bool = True,
        physics: Literal["gymnasium", "d4rl"] = "gymnasium",
    ) -> None:
        if env_id not in SIZES:
            raise UserError(f"There is no Gymnasium MuJoCo task {env_id!r}; {nearest(env_id, SIZES)}")
        if not contact_forces and env_id != "Ant-v5":
            raise UserError(f"contact_forces: false is for Ant-v5 alone; leave it out for {env_id}.")
        if not terminate_when_unhealthy and env_id not in FALLING:
            raise UserError(f"{env_id} never ends by a fall: leave terminate_when_unhealthy out ({', '.join(FALLING)} have it).")
        if physics == "d4rl" and env_id not in VERSION_2:
            raise UserError(f"D4RL has no data of {env_id}: leave physics out ({', '.join(VERSION_2)} have D4RL's).")
        if physics == "d4rl" and env_id == "Ant-v5" and contact_forces:
            raise UserError("The contact forces of D4RL's ant are zero: give contact_forces: false beside physics: d4rl.")
        self.name = self.env_id = env_id
        self.physics = physics
        self.terminate_when_unhealthy = terminate_when_unhealthy
        self.horizon = HORIZONS[env_id] if horizon is None else check_horizon(horizon)
        self.contact_forces = contact_forces
        self.obs_dim, self.action_dim = SIZES[env_id] if contact_forces else (27, 8)
        self.d4rl_task = D4RL_TASKS.get(env_id) if self.horizon == 1000 and terminate_when_unhealthy else None
        self.d4rl_physics = physics == "d4rl"

    def make(self, render: bool = False) -> Episodic:
        """Build the environment; see :meth:`Simulator.make`."""
        gymnasium = need("gymnasium", "install lightning-pbrl with its dependencies (gymnasium[mujoco]).")
        from lightning_pbrl.envs.episodic import Episodic

        settings = dict(VERSION_2[self.env_id]) if self.d4rl_physics else {}
        if not self.contact_forces:
            settings |= {"include_cfrc_ext_in_observation": False, "contact_cost_weight": 0.0}
        if not self.terminate_when_unhealthy:
            settings["terminate_when_unhealthy"] = False
        return Episodic(self, _Body(gymnasium.make(self.env_id, **settings).unwrapped, self.d4rl_physics), render)

    def describe(self) -> dict[str, Any]:
        """Class name and settings."""
        about = {"simulator": "GymMuJoCo", "env_id": self.env_id, "horizon": self.horizon}
        switches = {"contact_forces": self.contact_forces, "terminate_when_unhealthy": self.terminate_when_unhealthy}
        physics = {"physics": self.physics} if self.d4rl_physics else {}
        return {**about, **{name: value for name, value in switches.items() if not value}, **physics}


class _Body(OverEnv):
    """The physics of one task (see :class:`lightning_pbrl.envs.base.Physics`)."""

    def __init__(self, env: Any, d4rl: bool) -> None:
        self.env, self.d4rl = env, d4rl
        if d4rl:
            restore_bodies(env.model, env.fullpath)
        self.low, self.high = env.action_space.low, env.action_space.high  # Humanoid: -0.4 to 0.4
        self.camera: str | int = "track" if any(env.model.cam(i).name == "track" for i in range(env.model.ncam)) else -1

    def begin(self, seed: int) -> tuple[Array, dict[str, Any]]:
        return self.env.reset(seed=seed)

    def advance(self, action: Array) -> tuple[Array, float, bool, dict[str, Any]]:
        obs, reward, terminated, _, info = self.env.step(rescale(action, self.low, self.high))
        return obs, float(reward) + (missing_reward(info) if self.d4rl else 0.0), bool(terminated), info
