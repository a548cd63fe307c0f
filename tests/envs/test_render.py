"""Frames and films; skipped where the system has no OpenGL."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from online_toys import WalkSimulator
from toys import SeedSimulator, ToyData, make_trainer

from lightning_pbrl.envs.base import View, need
from lightning_pbrl.envs.dm_control import DMControl
from lightning_pbrl.envs.gym_mujoco import GymMuJoCo
from lightning_pbrl.envs.gymnasium_env import GymnasiumEnv
from lightning_pbrl.envs.metaworld import MetaWorld
from lightning_pbrl.envs.pixels import Pixels
from lightning_pbrl.envs.render import Camera, check_rendering, record_video
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.bc import BC


@pytest.fixture(scope="module")
def opengl():
    """Skip when this machine cannot render."""
    try:
        Camera(GymMuJoCo("Hopper-v5").make().physics, 16).close()
    except UserError as error:
        pytest.skip(str(error))


def test_missing_libraries_are_named(monkeypatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setitem(sys.modules, "mujoco.egl", None)
    with pytest.raises(UserError, match=r"'egl' failed.*apt-get install.*libegl1"):
        Camera(GymMuJoCo("Hopper-v5").make().physics, 16)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("disabled", "MUJOCO_GL=disabled forbids images and videos: leave it unset, or set it to egl"),
        ("glfw", r"'glfw' failed \(there is no display\); .* set it to egl"),
        ("wgl", "MUJOCO_GL is 'wgl'; did you mean egl or glfw"),
    ],
)
def test_what_mujoco_gl_forbids_is_said_in_one_sentence(value, words, monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MUJOCO_GL", value)
    env = GymMuJoCo("Hopper-v5").make(render=True)
    env.reset(seed=0)
    for draw in (check_rendering, env.render, env.render):
        with pytest.raises(UserError, match=words):
            draw()
    assert env.step(np.zeros(3))[1] == pytest.approx(1.0, abs=0.1)


def test_only_mujoco_can_be_filmed(tmp_path):
    with pytest.raises(UserError, match="Images and videos need a simulation that runs on MuJoCo"):
        record_video(lambda obs: obs[:, :1], WalkSimulator(), 0, tmp_path / "film.mp4")


def test_pictures_that_cannot_be_drawn_stop_a_fit_before_it_learns(monkeypatch, tmp_path):
    monkeypatch.setenv("MUJOCO_GL", "off")
    data = ToyData()
    data.simulator = Pixels(SeedSimulator(), 8)
    trainer = make_trainer(tmp_path)
    with pytest.raises(UserError, match="MUJOCO_GL=off forbids images"):
        trainer.fit(BC({"obs_dim": 5, "action_dim": 2, "horizon": 3}), datamodule=data)
    assert trainer.global_step == 0 and not hasattr(data, "source")


def test_a_simulator_is_imported_without_its_renderer(monkeypatch, tmp_path):
    (tmp_path / "draws.py").write_text("import os\nseen = os.environ['MUJOCO_GL']\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    assert need("draws", "").seen == "disabled" and os.environ["MUJOCO_GL"] == "osmesa"
    monkeypatch.delenv("MUJOCO_GL")
    need("draws", "")
    assert "MUJOCO_GL" not in os.environ


def test_physics_needs_no_opengl():
    """PyOpenGL is hidden as a machine without OpenGL hides its libraries; dm_control's registered tasks load it by themselves."""
    pytest.importorskip("shimmy")
    code = (
        "import sys\nsys.modules['OpenGL'] = None\n"
        "from lightning_pbrl.envs.dm_control import DMControl\n"
        "from lightning_pbrl.envs.gym_mujoco import GymMuJoCo\n"
        "from lightning_pbrl.envs.gymnasium_env import GymnasiumEnv\n"
        "registered = GymnasiumEnv('shimmy:dm_control/pendulum-swingup-v0', horizon=9)\n"
        "for simulator in (registered, GymMuJoCo('Hopper-v5'), DMControl('cartpole-swingup')):\n"
        "    env = simulator.make()\n    env.reset(seed=0)\n    print(simulator.name, env.step(env.action_space.sample())[2])\n"
        "print([name for name in sys.modules if name in ('mujoco.egl', 'mujoco.glfw', 'mujoco.osmesa')])"
    )
    environment = {**os.environ, "MUJOCO_GL": "egl"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    names = ["shimmy:dm_control/pendulum-swingup-v0", "Hopper-v5", "cartpole-swingup"]
    assert done.stdout.splitlines() == [*(f"{name} False" for name in names), "[]"], done.stderr


def test_meta_world_frames_are_upright_and_follow_the_state(opengl):
    env = MetaWorld("drawer-open").make(render=True)
    env.reset(seed=3)
    before = env.render()
    assert before.shape == (256, 256, 3)
    assert before.dtype == np.uint8
    red = (before[..., 0] > 120) & (before[..., 1] < 70)  # the arm stands left of the table
    rows, columns = np.nonzero(red)
    assert len(rows) > 500
    assert columns.mean() < 128
    assert np.array_equal(before, env.render())
    for _ in range(10):
        env.step(np.ones(4))
    assert (before != env.render()).mean() > 0.005
    env.close()


@pytest.fixture(scope="module")
def drawer(opengl):
    env = MetaWorld("drawer-open").make()
    env.reset(seed=1)
    return env.physics


ABOVE, BEHIND = (0.0, 0.0, 0.06), (0.0, 0.06, 0.0)
"""Where the upper edge of a picture lies; for a camera that looks straight down: away from the robot."""


@pytest.mark.parametrize(
    ("camera", "upwards", "turned"),
    [
        ("corner", ABOVE, True),
        ("corner2", ABOVE, True),
        ("corner3", ABOVE, True),
        ("corner4", ABOVE, True),
        ("topview", BEHIND, False),
        ("behindGripper", ABOVE, False),
        ("gripperPOV", BEHIND, False),
    ],
)
def test_every_camera_of_meta_world_has_its_upper_side_up(drawer, camera, upwards, turned):
    mark = drawer.data.site("goal")
    film = Camera(drawer, 192, View(camera=camera))
    assert film._turned is turned
    frames = []
    for place in ((0.0, 0.0, -9.0), (0.05, 0.7, 0.12), np.add((0.05, 0.7, 0.12), upwards)):
        mark.xpos = place
        frames.append(film.frame().astype(int))
    film.close()
    without, low, high = frames
    rows = [np.nonzero(np.abs(frame - without).sum(-1) > 60)[0] for frame in (low, high)]
    assert min(map(len, rows)) > 3
    assert rows[1].mean() < rows[0].mean() - 1.0


def test_cameras_that_move_are_never_turned(opengl):
    """The humanoid's eyes begin with their upper side down; other cameras of the suite are upright."""
    pytest.importorskip("dm_control.suite")
    env = DMControl("humanoid-run").make()
    env.reset(seed=1)
    assert env.physics.data.cam("egocentric").xmat.reshape(3, 3)[2, 1] < -0.1
    for camera in ("egocentric", "back", "side"):
        film = Camera(env.physics, 16, View(camera=camera))
        assert not film._turned
        film.close()


def test_rendering_does_not_touch_the_physics(opengl):
    simulator = MetaWorld("door-open", horizon=20)
    plain, filmed = simulator.make(), simulator.make(render=True)
    plain.reset(seed=1)
    filmed.reset(seed=1)
    for _ in range(20):
        action = np.array([0.5, 1.0, -0.5, 1.0])
        filmed.render()
        assert np.array_equal(plain.step(action)[0], filmed.step(action)[0])


def test_films_do_not_move_the_blocks_of_fetch(opengl):
    """The package's own render() does: 4.7 mm in ten steps."""
    pytest.importorskip("gymnasium_robotics")
    simulator = GymnasiumEnv("gymnasium_robotics:FetchPickAndPlace-v4", 31, 4, 50)
    plain, filmed = simulator.make(), simulator.make(render=True)
    plain.reset(seed=1)
    filmed.reset(seed=1)
    for action in np.random.default_rng(0).uniform(-1, 1, (10, 4)):
        filmed.render()
        assert np.array_equal(plain.step(action)[0], filmed.step(action)[0])
    filmed.close()


def test_other_simulators_render(opengl):
    pytest.importorskip("dm_control.suite")
    for simulator in (GymMuJoCo("Reacher-v5"), GymMuJoCo("HalfCheetah-v5"), DMControl("walker-walk")):
        env = simulator.make(render=True)
        env.reset(seed=0)
        assert env.render().std() > 10.0
        env.close()


def test_video(opengl, tmp_path):
    import imageio

    path = tmp_path / "new" / "film.mp4"
    result = record_video(lambda obs: torch.sin(obs[:, :4]), MetaWorld("reach", horizon=11), 0, path, size=64)
    with imageio.get_reader(path) as film:
        frames = [film.get_data(i) for i in range(film.count_frames())]
    assert len(frames) == 12
    assert frames[0].shape == (64, 64, 3)
    assert result.length.tolist() == [11]
    assert [file.name for file in path.parent.iterdir()] == ["film.mp4"]


def test_a_camera_left_open_is_freed_silently_at_exit(opengl):
    code = (
        "from lightning_pbrl.envs.gym_mujoco import GymMuJoCo\n"
        "import lightning_pbrl.envs.render\n"
        "env = GymMuJoCo('Hopper-v5').make(render=True)\nenv.reset(seed=0)\nprint(env.render().shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "(256, 256, 3)\n"
    assert done.stderr == ""


def test_odd_video_size():
    with pytest.raises(UserError, match="video size is 63"):
        record_video(lambda obs: obs, MetaWorld("reach"), 0, "unused.mp4", size=63)
