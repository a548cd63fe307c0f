"""Logged episodes with a film of each, drawn by the camera of videos while the episode was acted out."""

from __future__ import annotations

from typing import Any, NamedTuple

import mujoco
import numpy as np
import torch
from numpy.typing import NDArray

from lightning_pbrl.clips.base import Frames
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.envs.base import Simulator
from lightning_pbrl.envs.render import Camera


class Episode(NamedTuple):
    """An episode as it was: observations (T + 1, O), actions (T, A), positions and velocities (T + 1, ...), frames."""

    obs: NDArray[np.float32]
    action: NDArray[np.float32]
    qpos: NDArray[np.float64]
    qvel: NDArray[np.float64]
    film: Frames | None


def act_out(
    simulator: Simulator, seed: int, steps: int, size: int | None = None, settled: bool = False, origin: tuple[int, ...] = ()
) -> Episode:
    """Act randomly for at most ``steps`` steps.

    Args:
        simulator: the simulator.
        seed: of the reset and of the actions.
        steps: of the episode, unless it ends before.
        size: of the film's frames, pixels; None for no film.
        origin: positions that are set to 0 after the reset.
        settled: whether everything drawn is brought up to date before a frame, which Gymnasium does not do by itself.
    """
    env: Any = simulator.make()
    physics, rng = env.physics, np.random.default_rng(seed)
    camera = None if size is None else Camera(physics, size)
    obs, action, qpos, qvel, film = [env.reset(seed=seed)[0]], [], [], [], []
    physics.data.qpos[list(origin)] = 0.0
    mujoco.mj_forward(physics.model, physics.data)

    def look() -> None:
        qpos.append(physics.data.qpos.copy())
        qvel.append(physics.data.qvel.copy())
        if camera is not None:
            if settled:
                mujoco.mj_kinematics(physics.model, physics.data)
                mujoco.mj_comPos(physics.model, physics.data)
                mujoco.mj_camlight(physics.model, physics.data)
            film.append(camera.frame())

    look()
    for _ in range(steps):
        action.append(rng.uniform(-1, 1, simulator.action_dim).astype(np.float32))
        after, _, terminated, truncated, _ = env.step(action[-1])
        obs.append(after)
        look()
        if terminated or truncated:
            break
    if camera is not None:
        camera.close()
    env.close()
    return Episode(*(np.array(part) for part in (obs, action, qpos, qvel)), np.array(film) if film else None)


def table(episodes: list[Episode], **about: Any) -> Transitions:
    """Data of these episodes."""
    lengths = torch.tensor([0, *(len(episode.action) for episode in episodes)]).cumsum(0)
    obs = torch.from_numpy(np.concatenate([episode.obs[:-1] for episode in episodes]))
    after = torch.from_numpy(np.concatenate([episode.obs[1:] for episode in episodes]))
    action = torch.from_numpy(np.concatenate([episode.action for episode in episodes]))
    return Transitions.from_columns(obs, action, after, lengths, about=about)


def apart(one: Frames, other: Frames, levels: int = 8) -> float:
    """Share of the pixels that differ by more than ``levels`` of 255."""
    return float((np.abs(one.astype(int) - other.astype(int)).max(-1) > levels).mean())
