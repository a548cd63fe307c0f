"""Frames and videos of any MuJoCo simulation, without a display.

Shadows, multisampling and reflections are off. Without a GPU this makes Meta-World frames about seven times faster. All videos
are made this way, so segments shown to a person are comparable. The OpenGL context is created with the first frame, so
simulations without videos need no graphics libraries. ``MUJOCO_GL`` selects the back end: ``egl`` (default), ``osmesa`` or
``glfw``; ``disabled`` forbids images.
"""

from __future__ import annotations

import atexit
import importlib
import os
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from lightning_pbrl.envs.base import Array, Scene, Simulator, View, need
from lightning_pbrl.envs.rollout import Rollouts, VectorEnvs, rollout
from lightning_pbrl.errors import UserError, nearest

LIBRARIES = "libegl1 libgl1 libgles2 libegl-mesa0 libgl1-mesa-dri"
"""Debian and Ubuntu packages that rendering without a display needs."""


CURE = "install lightning-pbrl with its dependencies (gymnasium[mujoco])."
OFF = ("disable", "disabled", "off", "false", "0")
"""Values of ``MUJOCO_GL`` that forbid images."""
BACKENDS = dict.fromkeys(("", "enable", "enabled", "on", "true", "1", "egl"), "egl")
BACKENDS |= {"osmesa": "osmesa", "glfw": "glfw", "glx": "glfw"}
"""OpenGL back end by value of ``MUJOCO_GL``."""


@contextmanager
def _opengl() -> Iterator[Callable[[int], Any]]:
    """Yield a function that creates an OpenGL context of a given size, in pixels.

    Any failure while rendering is set up becomes one sentence.

    Raises:
        UserError: if this machine cannot render, with the cure.
    """
    asked = os.environ.get("MUJOCO_GL", "").lower().strip()
    if asked in OFF:
        raise UserError(f"MUJOCO_GL={asked} forbids images and videos: leave it unset, or set it to egl.")
    if asked not in BACKENDS:
        raise UserError(f"MUJOCO_GL is {asked!r}; {nearest(asked, ('egl', 'osmesa', 'glfw'))}")
    backend = BACKENDS[asked]
    need("mujoco", CURE)

    def context(size: int) -> Any:
        made = importlib.import_module(f"mujoco.{backend}").GLContext(size, size)
        made.make_current()
        # GLFW continues without a window until MuJoCo ends the process.
        if backend == "glfw" and not importlib.import_module("glfw").get_current_context():
            raise RuntimeError("there is no display")
        return made

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # where there is no display, glfw warns before it fails
            yield context
    except UserError:
        raise
    except Exception as error:  # each back end has exceptions of its own
        raise UserError(
            f"Rendering with the OpenGL back end {backend!r} failed ({str(error).strip()}); install the system libraries with "
            f"'apt-get install --no-install-recommends {LIBRARIES}' and leave MUJOCO_GL unset or set it to egl."
        ) from error


def check_rendering() -> None:
    """Create an OpenGL context and free it.

    Raises:
        UserError: if this machine cannot render, with the cure.
    """
    with _opengl() as context:
        context(16).free()


def _upside_down(model: Any, camera: int) -> bool:
    """Return True if a stationary camera is mounted upside down; a moving camera has no such side.

    Four of Meta-World's cameras are (corner, corner2, corner3, corner4). A camera that looks straight down is not.
    """
    stands_still = model.body_weldid[model.cam_bodyid[camera]] == 0
    return bool(stands_still and model.cam_mat0[camera].reshape(3, 3)[2, 1] < -0.1)  # height that its upward axis gains


_open: weakref.WeakSet[Camera] = weakref.WeakSet()


def _close_all() -> None:
    """Close cameras that were left open; registered after MuJoCo's own exit hook, hence run before it ends the display."""
    for camera in list(_open):
        camera.close()


class Camera:
    """Renderer of the frames of one running simulation.

    Args:
        physics: the simulation; its model's visual settings and cameras are changed (never its physics).
        size: height and width of a frame, pixels.
        view: camera pose; None for the simulation's own camera for videos.
        marks: whether MuJoCo's sites are drawn, such as the mark of a target, which no real camera would see.

    Raises:
        UserError: if no OpenGL context can be created, with the packages to install; for a simulation without a MuJoCo model,
            or a camera that the model does not have.
    """

    def __init__(self, physics: Scene, size: int = 256, view: View | None = None, marks: bool = True) -> None:
        self._mujoco = mujoco = need("mujoco", CURE)
        self._physics, model = physics, physics.model
        if not isinstance(model, mujoco.MjModel):
            raise UserError("Images and videos need a simulation that runs on MuJoCo, and this one has no MuJoCo model.")
        model.vis.global_.offwidth, model.vis.global_.offheight = size, size
        model.vis.quality.offsamples = 0
        model.vis.quality.shadowsize = 0
        model.light_castshadow[:] = 0
        model.mat_reflectance[:] = 0.0
        self._scene = mujoco.MjvScene(model, maxgeom=1000)
        with _opengl() as context:
            self._gl = context(size)
            self._draw = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
            mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._draw)
        if not _open:
            atexit.unregister(_close_all)
            atexit.register(_close_all)
        _open.add(self)
        self._option = mujoco.MjvOption()
        if not marks:
            self._option.sitegroup[:] = 0
        self._place(view or View())
        self._rect = mujoco.MjrRect(0, 0, size, size)
        self._image = np.empty((size, size, 3), np.uint8)

    def _place(self, view: View) -> None:
        """Place the camera as ``view`` says."""
        mujoco, model = self._mujoco, self._physics.model
        self._view = mujoco.MjvCamera()
        camera = self._physics.camera if view.camera is None else view.camera
        self._turned = False
        if view.lookat is not None:
            self._view.type = mujoco.mjtCamera.mjCAMERA_FREE
            self._view.lookat[:] = view.lookat
            self._view.distance, self._view.azimuth, self._view.elevation = view.distance, view.azimuth, view.elevation
            return
        if camera == -1:
            if (view.fovy, view.position) != (None, None):
                raise UserError("A view moves the simulation's own camera, and it has none: name a camera, or give lookat.")
            mujoco.mjv_defaultFreeCamera(model, self._view)
            return
        names = [model.cam(i).name for i in range(model.ncam)]
        if isinstance(camera, str) and camera not in names:
            raise UserError(f"There is no camera {camera!r} in the model; {nearest(camera, names)}")
        number = model.cam(camera).id
        self._view.type, self._view.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, number
        self._turned = _upside_down(model, number)
        if view.fovy is not None:
            model.cam_fovy[number] = view.fovy
        for axis, place in enumerate(view.position or ()):
            if place is not None:
                model.cam_pos[number, axis] = place
        mujoco.mj_camlight(model, self._physics.data)

    def frame(self) -> Array:
        """Render the present state as an RGB image, (size, size, 3), uint8, a copy."""
        self._gl.make_current()
        mujoco, physics = self._mujoco, self._physics
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(physics.model, physics.data, self._option, None, self._view, everything, self._scene)
        mujoco.mjr_render(self._rect, self._scene, self._draw)
        mujoco.mjr_readPixels(self._image, None, self._rect, self._draw)
        # OpenGL counts rows from the bottom, which is a flip; a camera mounted upside down needs half a turn as well.
        return (self._image[:, ::-1] if self._turned else self._image[::-1]).copy()

    def close(self) -> None:
        """Free the OpenGL context; a second call does nothing."""
        if self in _open:
            _open.discard(self)
            self._draw.free()
            self._gl.free()


def record_video(
    act: Callable[[Tensor], Tensor],
    simulator: Simulator,
    seed: int,
    path: str | Path,
    size: int = 256,
    fps: int = 30,
    device: str = "cpu",
) -> Rollouts:
    """Record the episode of one seed as an mp4 video (h264, yuv420p), which every browser plays.

    Args:
        act: the policy, (1, O) float32 on ``device`` -> (1, A) in [-1, 1].
        simulator: simulator to act in.
        seed: reset seed of the episode.
        path: the video file; it appears only when complete, and its folder is created if missing.
        size: height and width, even, pixels.
        fps: frames per second of the video; one frame per environment step.
        device: device of the observations passed to ``act``.

    Returns:
        The episode's figures.

    Raises:
        UserError: for an odd size, or if this machine cannot render.
    """
    if size < 2 or size % 2:
        raise UserError(f"The video size is {size}; h264 needs an even number of pixels, for instance 256.")
    import imageio

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    envs = VectorEnvs(simulator, 1)
    env: Any = envs[0].unwrapped
    camera = Camera(env.physics, size)
    part = path.with_name(f".{path.stem}.part.mp4")
    try:
        film: Any = imageio.get_writer(part, fps=fps, codec="libx264", pixelformat="yuv420p", macro_block_size=2)
        with film:
            result = rollout(act, envs, [seed], device, on_step=lambda episode, env: film.append_data(camera.frame()))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
        camera.close()
        envs.close()
    return result
