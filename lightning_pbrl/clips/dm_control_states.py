"""States of DeepMind Control tasks from their observations (arXiv 1801.00690, and the tasks' ``get_observation``).

Not rebuilt: bodies that are free to turn about the vertical axis without observing it (humanoid, quadruped, dog, fish), tasks
with a goal that only its reset draws (finger turn, manipulator, stacker), and swimmers, which do not observe their own heading.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lightning_pbrl.clips.state import StateOf, copied
from lightning_pbrl.envs.base import Array


def dm_control_state(domain_task: str) -> StateOf | None:
    """Return the functions of a task; None if its observation does not determine its positions."""
    if domain_task == "humanoid-run_pure_state":
        return StateOf(copied(0), _observe, 28)
    return _DOMAINS.get(domain_task.split("-")[0])


def _walker(physics: Any, obs: Array) -> tuple[Array, Array]:
    """Entries: xx and xz of the rotation of seven bodies, height of the torso, nine velocities."""
    model = physics.model
    turned = {0: 0.0, **{body: float(np.arctan2(*obs[2 * body - 2 : 2 * body][::-1])) for body in range(1, model.nbody)}}
    qpos = np.zeros(model.nq)
    for joint in range(model.njnt):
        body = int(model.jnt_bodyid[joint])
        if model.joint(joint).name == "rootz":
            qpos[joint] = obs[14] - model.body_pos[body, 2]
        elif model.joint(joint).name != "rootx":
            qpos[joint] = model.jnt_axis[joint, 1] * _wrapped(turned[body] - turned[int(model.body_parentid[body])])
    return qpos, obs[15:].copy()


def _cartpole(physics: Any, obs: Array) -> tuple[Array, Array]:
    """Entries: cart, cosine and sine of each pole to the vertical, velocities."""
    poles = physics.model.nq - 1
    angle = np.arctan2(obs[2 : 1 + 2 * poles : 2], obs[1 : 1 + 2 * poles : 2])
    return np.concatenate([obs[:1], _wrapped(np.diff(angle, prepend=0.0))]), obs[1 + 2 * poles :].copy()


def _pendulum(physics: Any, obs: Array) -> tuple[Array, Array]:
    """Entries: cosine and sine, velocity."""
    return np.arctan2(obs[1:2], obs[:1]), obs[2:].copy()


def _acrobot(physics: Any, obs: Array) -> tuple[Array, Array]:
    """Entries: sines of both arms to the vertical, cosines, velocities."""
    return _wrapped(np.diff(np.arctan2(obs[:2], obs[2:4]), prepend=0.0)), obs[4:].copy()


def _reacher(physics: Any, obs: Array) -> tuple[Array, Array]:
    """Entries: two joints, target minus finger, two velocities; the target itself is a constant of the model."""
    import mujoco

    model, data = physics.model, physics.data
    data.qpos[:] = obs[:2]
    mujoco.mj_kinematics(model, data)
    model.geom("target").pos[:2] = data.geom("finger").xpos[:2] + obs[2:4]
    return obs[:2].copy(), obs[4:].copy()


def _wrapped(angle: Any) -> Any:
    """Return an angle in [-pi, pi)."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


def _observe(physics: Any) -> Array:
    return np.concatenate([np.ravel(part) for part in physics.env.task.get_observation(physics.env.physics).values()])


_DOMAINS = {
    "acrobot": StateOf(_acrobot, _observe, 4),
    "ball_in_cup": StateOf(copied(0), _observe, 4),
    "cartpole": StateOf(_cartpole, _observe, 3),
    "cheetah": StateOf(copied(1), _observe, 8, (0,)),
    "hopper": StateOf(copied(1), _observe, 6, (0,)),
    "pendulum": StateOf(_pendulum, _observe, 2),
    "point_mass": StateOf(copied(0), _observe, 2),
    "reacher": StateOf(_reacher, _observe, 4),
    "walker": StateOf(_walker, _observe, 15, (1,)),
}
