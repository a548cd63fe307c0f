"""States rebuilt from observations, and states that a file holds, against the states and films of the episodes themselves."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import h5py
import mujoco
import numpy as np
import pytest
import torch
from clip_toys import act_out, apart, table
from d4rl_files import write_d4rl
from robomimic_files import random_demo, write_robomimic

from lightning_pbrl.clips.choose import renderer_for, renderer_of
from lightning_pbrl.clips.rebuilt import RebuiltStates, state_of
from lightning_pbrl.clips.stored_states import D4RLStates, DemoStates, with_own_files
from lightning_pbrl.data.d4rl import file_rows, read_d4rl
from lightning_pbrl.data.robomimic import read_robomimic
from lightning_pbrl.datamodules.d4rl import D4RLDataModule
from lightning_pbrl.envs.dm_control import TASKS, DMControl
from lightning_pbrl.envs.gym_mujoco import SIZES, GymMuJoCo
from lightning_pbrl.envs.render import Camera, View
from lightning_pbrl.errors import UserError

SIZE = 64
WALKERS = [GymMuJoCo(f"{name}-v5") for name in ("Hopper", "Walker2d", "HalfCheetah", "Ant")]
OTHERS = [GymMuJoCo(env_id) for env_id in SIZES if env_id not in {walker.env_id for walker in WALKERS}]
SUITE = [DMControl(task) for task in TASKS if state_of(DMControl(task)) is not None]


def refused(words):
    return pytest.raises(UserError, match=words)


def named(simulator):
    return simulator.name


class Watched:
    """Puts what a renderer places on record."""

    def __init__(self, clips: Any) -> None:
        self.placed: list[Any] = []
        place = clips.stage.place
        clips.stage.place = lambda qpos, qvel: (self.placed.append((qpos.copy(), qvel.copy())), place(qpos, qvel))


def test_which_tasks_can_be_rebuilt():
    assert [simulator.env_id for simulator in OTHERS if state_of(simulator) is None] == ["Pusher-v5"]
    assert {simulator.domain_task.split("-")[0] for simulator in SUITE} == {
        *("acrobot", "ball_in_cup", "cartpole", "cheetah", "hopper", "humanoid", "pendulum", "point_mass", "reacher", "walker"),
    }
    assert state_of(None) is None


@pytest.mark.parametrize("simulator", [*WALKERS, *OTHERS, *SUITE], ids=named)
def test_positions_are_exact_up_to_a_shift_along_the_ground(monkeypatch, simulator):
    """To the rounding of observations (float32); angles up to whole turns; unclipped velocities, too.

    The place along the ground is found by the physics: where a velocity was clipped (Walker2d's fall) to 2 mm.
    """
    if isinstance(simulator, DMControl):
        pytest.importorskip("dm_control.suite")
    if state_of(simulator) is None:
        return
    episode = act_out(simulator, 1, 30)
    clips = RebuiltStates(table([episode]), simulator, SIZE)
    monkeypatch.setattr(clips.stage, "frame", lambda: np.zeros((SIZE, SIZE, 3), np.uint8))
    watched, first = Watched(clips), len(episode.action) // 3
    clips.frames(first, len(episode.action) - first)
    clips.close()
    found, velocity = (np.array(part) for part in zip(*watched.placed, strict=True))
    unseen, expected = list(clips.state.unseen), episode.qpos[first:-1].copy()
    expected[:, unseen] -= expected[0, unseen]
    off = found - expected
    model = simulator.make().unwrapped.physics.model
    turns = [model.jnt_qposadr[joint] for joint in range(model.njnt) if model.jnt_type[joint] == mujoco.mjtJoint.mjJNT_HINGE]
    off[:, turns] = (off[:, turns] + np.pi) % (2 * np.pi) - np.pi
    assert np.abs(np.delete(off, unseen, 1)).max() < 3e-6
    assert np.abs(off[:, unseen]).max(initial=0.0) < 3e-3
    clipped = simulator.name in ("Hopper-v5", "Walker2d-v5", "InvertedDoublePendulum-v5")
    seen = velocity[:, : 2 if simulator.name == "Reacher-v5" else None]
    true = episode.qvel[first:-1, : seen.shape[1]].clip(*((-10, 10) if clipped else (None, None)))
    assert np.abs(seen - true).max() < 3e-5


@pytest.mark.parametrize("simulator", [*WALKERS, DMControl("walker-walk"), DMControl("cheetah-run")], ids=named)
def test_rebuilt_clips_are_films_of_the_episode(opengl, simulator):
    """To rounding, for an episode that begins where a clip does; Gymnasium's own films are one substep late."""
    if isinstance(simulator, DMControl):
        pytest.importorskip("dm_control.suite")
    unseen = state_of(simulator).unseen
    episode = act_out(simulator, 2, 12, SIZE, settled=True, origin=unseen)
    running = act_out(simulator, 2, 12, SIZE, origin=unseen).film
    with renderer_for(table([episode]), SIZE, simulator=simulator) as clips:
        found = clips.frames(0, len(episode.action))
    assert isinstance(clips, RebuiltStates) and "exact up to a shift along the ground" in clips.how
    for step in (0, 5, len(episode.action) - 1):
        assert apart(found[step], episode.film[step]) < 0.002
    assert apart(found, running[:-1]) < 0.09
    assert apart(found[0], found[-1]) > 0.02


def test_data_of_another_simulator_or_normalised_ones_are_refused(opengl):
    simulator = GymMuJoCo("Hopper-v5")
    episode = act_out(simulator, 0, 12)
    source = table([episode._replace(obs=(episode.obs - episode.obs.mean(0)) / episode.obs.std(0))])
    with (
        renderer_for(source, SIZE, simulator=simulator) as clips,
        refused(r"do not follow each other as in Hopper-v5 \(.*\): .* were normalised; set data.simul"),
    ):
        clips.frames(0, 9)
    walk = act_out(DMControl("walker-walk"), 0, 12) if find_spec("dm_control") else None
    if walk is not None:
        source = table([walk._replace(obs=walk.obs * 1.5)])
        with (
            renderer_for(source, SIZE, simulator=DMControl("walker-walk")) as clips,
            refused(r"Entry \d+ of an observation is .*, and walker-walk observes .* in the state"),
        ):
            clips.frames(0, 9)
    with (
        renderer_for(table([act_out(GymMuJoCo("Reacher-v5"), 0, 4)]), SIZE, simulator=GymMuJoCo("HalfCheetah-v5")) as clips,
        refused("The data have 10 entries per observation and HalfCheetah-v5 observes 17"),
    ):
        clips.frames(0, 3)


@pytest.fixture(scope="module")
def hops():
    """Three episodes of the hopper; the second is short."""
    return [act_out(GymMuJoCo("Hopper-v5"), seed, steps) for seed, steps in ((0, 12), (1, 3), (2, 9))]


def d4rl_file(path, hops, next_observations):
    """Write them as D4RL does; the first and last end by a timeout, an incomplete episode follows."""
    parts = [*hops, hops[0]._replace(obs=hops[0].obs[:5], action=hops[0].action[:4], qpos=hops[0].qpos[:5])]
    ends = np.cumsum([len(each.action) for each in parts])[:3] - 1
    count = sum(len(each.action) for each in parts)
    columns = {
        "observations": np.concatenate([each.obs[:-1] for each in parts]),
        "next_observations": np.concatenate([each.obs[1:] for each in parts]),
        "actions": np.concatenate([each.action for each in parts]),
        "rewards": np.zeros(count, np.float32),
        "terminals": np.isin(np.arange(count), ends[1]),
        "timeouts": np.isin(np.arange(count), ends[[0, 2]]),
    }
    write_d4rl(path, columns, () if next_observations else ("next_observations",))
    with h5py.File(path, "r+") as file:
        del file["infos/qpos"]
        file["infos/qpos"] = np.concatenate([each.qpos[:-1] for each in parts])
    return path


@pytest.mark.parametrize("stored", [True, False], ids=["next_observations", "shifted"])
def test_positions_in_a_d4rl_file(opengl, tmp_path, hops, stored):
    """Without next observations a row is left out of the table at a timeout, and rows are no longer those of the file."""
    path = d4rl_file(tmp_path / "hopper.hdf5", hops, stored)
    simulator = GymMuJoCo("Hopper-v5")
    source = read_d4rl(path)
    assert file_rows(path, source.about).tolist() == [*range(24)] if stored else [*range(11), 12, 13, 14, *range(15, 23)]
    module = D4RLDataModule(path, simulator, cache_dir=None)
    with renderer_of(module, SIZE) as clips:
        assert isinstance(clips, D4RLStates)
        watched, first = Watched(clips), int(source.episodes.first[2])
        frames = clips.frames(first, 8)
    assert np.array_equal([qpos for qpos, _ in watched.placed], hops[2].qpos[:8])
    assert np.array_equal(frames, act_out(simulator, 2, 9, SIZE, settled=True).film[:8])
    with renderer_of(D4RLDataModule(path, GymMuJoCo("Hopper-v5"), cache_dir=None), SIZE) as clips:
        clips.path.write_bytes(path.read_bytes() + b" ")
        with pytest.raises(UserError, match=r"hopper.hdf5 has changed since the data were read"):
            clips.frames(0, 3)


def test_positions_of_other_rows_are_refused(opengl, tmp_path, hops):
    path = d4rl_file(tmp_path / "hopper.hdf5", hops, True)
    with h5py.File(path, "r+") as file:
        file["infos/qpos"][:] = np.roll(file["infos/qpos"][:], 1, axis=0)
    with (
        renderer_for(read_d4rl(path), SIZE, simulator=GymMuJoCo("Hopper-v5"), file=path) as clips,
        refused(r"Entry \d of an observation is .*, and Hopper-v5 observes"),
    ):
        clips.frames(1, 5)


ARM = """
<mujoco><asset><texture name="grid" type="2d" builtin="checker" rgb1=".2 .3 .4" rgb2=".6 .7 .8" width="64" height="64"/>
<material name="grid" texture="grid" texrepeat="8 8"/></asset><worldbody><light pos="0 0 3"/>
<geom type="plane" size="2 2 .1" material="grid"/><camera name="agentview" pos="0 -1.5 1" xyaxes="1 0 0 0 .5 .8"/>
<camera name="above" pos="0 0 2"/>
<body name="robot0_link" pos="0 0 .4"><joint name="turn" axis="0 1 0"/><geom type="capsule" size=".05" fromto="0 0 0 .4 0 0"
rgba="1 0 0 1" group="1"/><geom type="sphere" size=".3" rgba="0 1 0 1" group="0"/></body>
<body name="cube" pos=".3 .2 .1"><freejoint/><geom type="box" size="{size} .05 .05" rgba="0 0 1 1" group="1"/></body>
</worldbody></mujoco>
"""


def demos_file(path, model=True):
    """Three demonstrations of a toy arm; the cube of each has its own size, so each has its own model."""
    demos, films = {}, {}
    for number, steps in ((0, 6), (1, 4), (2, 7)):
        text = ARM.format(size=0.05 + 0.05 * number)
        scene = mujoco.MjModel.from_xml_string(text)
        scene.geom_rgba[scene.geom_group == 0, 3] = 0.0
        data = mujoco.MjData(scene)
        camera = Camera(type("Scene", (), {"model": scene, "data": data, "camera": "agentview"})(), SIZE, View())
        rows, film, rng = [], [], np.random.default_rng(number)
        data.qvel[:] = rng.normal(size=scene.nv)
        for _ in range(steps):
            mujoco.mj_forward(scene, data)
            rows.append(np.concatenate([[data.time], data.qpos, data.qvel]))
            film.append(camera.frame())
            for _ in range(10):
                mujoco.mj_step(scene, data)
        camera.close()
        demos[f"demo_{number}"], films[number] = {**random_demo(number, steps), "states": np.array(rows)}, np.array(film)
    write_robomimic(path, demos, {"odd": ["demo_1"]})
    with h5py.File(path, "r+") as file:
        for number in range(3 if model else 0):
            file[f"data/demo_{number}"].attrs["model_file"] = ARM.format(size=0.05 + 0.05 * number)
    return path, films


def test_states_in_a_robomimic_file_are_drawn_in_the_model_of_their_demonstration(opengl, tmp_path):
    path, films = demos_file(tmp_path / "low_dim.hdf5")
    source = read_robomimic(path)
    with renderer_for(source, SIZE, file=path) as clips:
        assert isinstance(clips, DemoStates)
        assert np.array_equal(clips.frames(10, 7), films[2]) and np.array_equal(clips.frames(1, 5), films[0][1:])
        assert np.array_equal(clips.frames(6, 4), films[1])
    assert apart(films[0][:1], films[2][:1]) > 0.01
    with renderer_for(source, SIZE, "above", file=path) as clips:
        assert apart(clips.frames(0, 1), films[0][:1]) > 0.03
    with renderer_for(read_robomimic(path, "odd", last="drop"), SIZE, file=path) as clips:
        assert np.array_equal(clips.frames(0, 3), films[1][:3])
    with renderer_for(source.select(torch.tensor([2, 1])), SIZE, file=path) as clips:
        assert np.array_equal(clips.frames(7, 4), films[1])


def test_robomimic_files_that_cannot_be_drawn(opengl, tmp_path):
    path, _ = demos_file(tmp_path / "low_dim.hdf5", model=False)
    with (
        renderer_for(read_robomimic(path), SIZE, file=path) as clips,
        refused(r"'data/demo_0' has states and no attribute 'model_file'"),
    ):
        clips.frames(0, 3)
    with h5py.File(path, "r+") as file:
        file["data/demo_0"].attrs["model_file"] = (
            '<mujoco><asset><mesh file="/x/robosuite/models/assets/a.stl"/></asset></mujoco>'
        )
        file["data/demo_1"].attrs["model_file"] = "<mujoco/>"
    with renderer_for(read_robomimic(path), SIZE, file=path) as clips:
        with pytest.raises(UserError, match=r"'data/demo_0': MuJoCo cannot build the model .*a.stl.*plots=True"):
            clips.frames(0, 3)
        with pytest.raises(UserError, match=r"'data/demo_1/states' has 16 entries per step and its model has 0 positions"):
            clips.frames(6, 3)
    bare = write_robomimic(tmp_path / "bare.hdf5", {"demo_0": {**random_demo(0), "states": None}})
    with pytest.raises(UserError, match="No clip of these data can be drawn"):
        renderer_for(read_robomimic(bare), SIZE, file=bare)


def test_meshes_of_another_machine_are_those_of_this_installation(monkeypatch, tmp_path):
    (tmp_path / "robosuite").mkdir()
    (tmp_path / "robosuite" / "__init__.py").touch()
    text = '<mesh file="{}/models/assets/robots/a.stl"/><mesh file="b.stl"/>'
    own = tmp_path / "robosuite"
    monkeypatch.syspath_prepend(tmp_path)
    assert with_own_files(text.format("/home/x/robosuite/robosuite")) == text.format(own.as_posix())
