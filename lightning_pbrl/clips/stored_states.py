"""Clips of simulator states that a data set's file holds beside the transitions: D4RL's and robomimic's."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from lightning_pbrl.clips.base import ClipRenderer, Frames, episode_of
from lightning_pbrl.clips.rebuilt import state_of
from lightning_pbrl.clips.stage import Stage
from lightning_pbrl.clips.state import compare
from lightning_pbrl.data.simulator_states import POSITIONS, check_file, d4rl_positions, demo_states
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.envs.base import Array, View, need
from lightning_pbrl.envs.gym_mujoco import GymMuJoCo
from lightning_pbrl.envs.render import CURE, Camera
from lightning_pbrl.errors import UserError


class D4RLStates(ClipRenderer):
    """Renderer of the positions in a D4RL file of Gymnasium's tasks; each is compared with the observation of its row.

    Args:
        source: data that :func:`~lightning_pbrl.data.d4rl.read_d4rl` has read.
        path: their file.
        simulator: simulator of the task.
        size: height and width of a frame, pixels.
        camera: name of a camera of the model; None for that of videos.
    """

    how = f"positions stored in the file ({POSITIONS}), exact"

    def __init__(
        self, source: Transitions, path: str | Path, simulator: GymMuJoCo, size: int = 256, camera: str | None = None
    ) -> None:
        self.source, self.path, self.size, self.stage = source, path, size, Stage(simulator, size, camera)
        self._positions: Array | None = None

    def frames(self, start: int, length: int) -> Frames:
        episode_of(self.source, start, length)
        stage, name = self.stage, self.stage.simulator.name
        if self._positions is None:
            self._positions = d4rl_positions(self.path, self.source.about)
            stage.env.reset(seed=0)
        nq, nv = stage.sizes()
        if self._positions.shape[1] != nq:
            raise UserError(
                f"{self.path}: key {POSITIONS!r} has {self._positions.shape[1]} entries per row and {name} has {nq} positions: "
                "set data.simulator to the task of the file."
            )
        obs, state = self.source.column("obs")[start : start + length].double().cpu().numpy(), state_of(stage.simulator)
        frames = np.empty((length, self.size, self.size, 3), np.uint8)
        for step, qpos in enumerate(self._positions[start : start + length]):
            stage.place(qpos, np.zeros(nv))
            if state is not None:
                compare(state, stage.physics, obs[step], name)
            frames[step] = stage.frame()
        return frames

    def close(self) -> None:
        self.stage.close()
        self._positions = None


class DemoStates(ClipRenderer):
    """Renderer of the states in a robomimic file, each demonstration in the model that the file holds for it.

    Args:
        source: data that :func:`~lightning_pbrl.data.robomimic.read_robomimic` has read.
        path: their file.
        size: height and width of a frame, pixels.
        camera: name of a camera of the model; None for ``agentview``, or MuJoCo's free camera where there is none.
    """

    how = "simulator states stored in the file, exact"

    def __init__(self, source: Transitions, path: str | Path, size: int = 256, camera: str | None = None) -> None:
        self.source, self.path, self.size, self.camera = source, path, size, camera
        self._demo: str | None = None  # the demonstration whose scene is ready
        self._states: Array = np.empty((0, 0))
        self._scene: _Scene | None = None
        self._eye: Camera | None = None
        self._checked = False

    def frames(self, start: int, length: int) -> Frames:
        episode, first = episode_of(self.source, start, length)
        self._open(self.source.about["demos"][episode])
        scene, eye, states = self._scene, self._eye, self._states[start - first : start - first + length]
        assert scene is not None and eye is not None  # noqa: S101 - _open has made them
        if len(states) < length:
            raise UserError(f"{self.path}: {self._demo} has {len(self._states)} states and more actions: download it again.")
        frames = np.empty((length, self.size, self.size, 3), np.uint8)
        for step, state in enumerate(states):
            scene.place(state)
            frames[step] = eye.frame()
        return frames

    def close(self) -> None:
        if self._eye is not None:
            self._eye.close()
        self._eye = self._scene = self._demo = None

    def _open(self, demo: str) -> None:
        """Make the scene of a demonstration, unless it is the present one."""
        if demo == self._demo:
            return
        if not self._checked:
            check_file(self.path, self.source.about)
            self._checked = True
        self.close()
        text, self._states = demo_states(self.path, demo)
        if text is None:
            raise UserError(f"{self.path}: 'data/{demo}' has states and no attribute 'model_file', the scene that they are of.")
        self._scene = _Scene(text, f"{self.path}: 'data/{demo}'")
        if self._states.shape[1] != 1 + self._scene.model.nq + self._scene.model.nv:
            raise UserError(
                f"{self.path}: 'data/{demo}/states' has {self._states.shape[1]} entries per step and its model has "
                f"{self._scene.model.nq} positions and {self._scene.model.nv} velocities beside the time: download it again."
            )
        self._eye, self._demo = Camera(self._scene, self.size, View(camera=self.camera)), demo


class _Scene:
    """MuJoCo model of a file without an environment around it (a :class:`~lightning_pbrl.envs.base.Scene`)."""

    def __init__(self, text: str, where: str) -> None:
        self._mujoco = mujoco = need("mujoco", CURE)
        try:
            self.model = mujoco.MjModel.from_xml_string(with_own_files(text))
        except ValueError as error:
            cure = "" if find_spec("robosuite") else "install robosuite, whose meshes it names (requirements/robomimic.txt), or "
            raise UserError(
                f"{where}: MuJoCo cannot build the model of attribute 'model_file' ({' '.join(str(error).split())}); {cure}"
                "ask for plots of the observations (plots=True)."
            ) from error
        self.data = mujoco.MjData(self.model)
        names = [self.model.cam(i).name for i in range(self.model.ncam)]
        self.camera: str | int = "agentview" if "agentview" in names else -1
        if any(name.startswith("robot0_") for name in (self.model.body(i).name for i in range(self.model.nbody))):
            self.model.geom_rgba[self.model.geom_group == 0, 3] = 0.0  # robosuite's coloured collision shapes

    def place(self, state: Array) -> None:
        """Set time, positions and velocities, (1 + nq + nv,)."""
        nq = self.model.nq
        self.data.time, self.data.qpos[:], self.data.qvel[:] = state[0], state[1 : 1 + nq], state[1 + nq :]
        self._mujoco.mj_forward(self.model, self.data)


def with_own_files(text: str) -> str:
    """Return a model whose files in a robosuite installation elsewhere are those of this machine's."""
    found = find_spec("robosuite")
    if found is None or found.origin is None:
        return text
    own = Path(found.origin).parent.as_posix()
    return re.sub(r'file="[^"]*?/robosuite/(models/assets/[^"]*)"', lambda match: f'file="{own}/{match[1]}"', text)
