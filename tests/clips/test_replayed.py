"""Collected episodes and those of an acting method, repeated from seed and actions, against films of the episodes themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from clip_toys import apart

from lightning_pbrl.clips.choose import renderer_for, simulator_of
from lightning_pbrl.clips.online import RecordedClips, RecordingFolder, recording
from lightning_pbrl.clips.rebuilt import RebuiltStates
from lightning_pbrl.clips.replayed import ReplayedEpisodes
from lightning_pbrl.data.replay import Replay
from lightning_pbrl.envs.behaviour import Behaviour
from lightning_pbrl.envs.collect import collect
from lightning_pbrl.envs.collector import Collector
from lightning_pbrl.envs.dm_control import DMControl
from lightning_pbrl.envs.gym_mujoco import GymMuJoCo
from lightning_pbrl.envs.gymnasium_env import GymnasiumEnv
from lightning_pbrl.envs.metaworld import MetaWorld
from lightning_pbrl.envs.pixels import Pixels
from lightning_pbrl.envs.render import Camera
from lightning_pbrl.envs.rollout import VectorEnvs
from lightning_pbrl.errors import UserError

SIZE = 64


def film(simulator, seed, actions):
    """Film an episode as ``record_video`` does, frame 0 after the reset."""
    env = simulator.make()
    env.reset(seed=seed)
    camera = Camera(env.physics, SIZE)
    frames = [camera.frame()]
    for action in actions:
        env.step(action)
        frames.append(camera.frame())
    camera.close()
    env.close()
    return np.array(frames)


def test_collected_episodes_are_pixel_for_pixel_those_that_were_collected(opengl, tmp_path):
    """Meta-World, every step of three segments in two episodes, the last one included; also of a part of the data."""
    simulator = MetaWorld("plate-slide", horizon=12)
    source = collect(simulator, [Behaviour(noise=0.5), Behaviour(random=1.0)], 3, tmp_path / "data.safetensors")
    films = []
    for episode in (0, 2):
        rows = slice(episode * 12, episode * 12 + 12)
        films.append(film(simulator, source.about["reset_seeds"][episode], source.column("action")[rows].numpy()))
    with renderer_for(source, SIZE) as clips:
        assert isinstance(clips, ReplayedEpisodes) and clips.how.endswith("exact")
        assert np.array_equal(clips.frames(0, 5), films[0][:5])
        assert np.array_equal(clips.frames(7, 5), films[0][7:12])
        assert np.array_equal(clips.frames(24 + 3, 9), films[1][3:12])
        assert (films[0][:12] != films[1][:12]).any()
    with renderer_for(source.select(torch.tensor([2, 0])), SIZE) as clips:
        assert np.array_equal(clips.frames(3, 9), films[1][3:12])


@pytest.mark.parametrize("simulator", [DMControl("walker-walk", 8), GymMuJoCo("Hopper-v5", 8)], ids=lambda each: each.name)
def test_other_simulators_and_another_camera(opengl, tmp_path, simulator):
    if isinstance(simulator, DMControl):
        pytest.importorskip("dm_control.suite")
    source = collect(simulator, [Behaviour(expert=False)], 1, tmp_path / "data.safetensors")
    expected = film(simulator, source.about["reset_seeds"][0], source.column("action").numpy())
    with renderer_for(source, SIZE) as clips:
        found = clips.frames(2, len(source) - 2)
    assert np.array_equal(found, expected[2 : len(source)])
    other = "back" if isinstance(simulator, DMControl) else "track"
    with renderer_for(source, SIZE, camera=other) as clips:
        assert clips.frames(0, 2).shape == (2, SIZE, SIZE, 3)
    with renderer_for(source, SIZE, camera="bakc") as clips, pytest.raises(UserError, match="no camera 'bakc'"):
        clips.frames(0, 2)


def test_images_of_the_policy_are_shown_where_there_are_some(opengl, tmp_path):
    simulator = Pixels(GymMuJoCo("Reacher-v5", 6), 16)
    source = collect(simulator, [Behaviour(expert=False)], 2, tmp_path / "data.safetensors")
    with renderer_for(source, 48) as clips:
        found = clips.frames(7, 4)
    assert np.array_equal(found[:, ::3, ::3], source.frames[8:12].numpy()) and found.shape == (4, 48, 48, 3)
    assert np.array_equal(found[:, 1::3, 2::3], found[:, ::3, ::3])


def test_an_episode_that_does_not_repeat_is_refused(opengl, tmp_path):
    source = collect(MetaWorld("reach", horizon=6), [Behaviour(random=1.0)], 1, tmp_path / "data.safetensors")
    source.column("obs")[4] += 0.1
    source.about["versions"] = {**source.about["versions"], "mujoco": "2.3.7"}
    with renderer_for(source, SIZE) as clips:
        assert clips.frames(0, 4).shape == (4, SIZE, SIZE, 3)
        with pytest.raises(UserError) as error:
            clips.frames(1, 5)
    assert str(error.value) == (
        "reach-v3 does not repeat episode 0: step 4 differs from the recorded one (recorded with mujoco 2.3.7, here 3.3.0); "
        "collect the data again on this machine, or ask for plots of the observations (plots=True)."
    )


def test_of_a_walker_that_does_not_repeat_its_episode_the_states_are_rebuilt(opengl, tmp_path):
    """As on another processor: the reset seed belongs to another episode."""
    simulator = GymMuJoCo("HalfCheetah-v5", 10)
    source = collect(simulator, [Behaviour(expert=False)], 1, tmp_path / "data.safetensors")
    with renderer_for(source, SIZE) as clips:
        exact = clips.frames(2, 6)
    source.about["reset_seeds"] = [source.about["reset_seeds"][0] + 1]
    with renderer_for(source, SIZE) as clips, RebuiltStates(source, simulator, SIZE) as rebuilt:
        found = clips.frames(2, 6)
        assert isinstance(clips, ReplayedEpisodes) and np.array_equal(found, rebuilt.frames(2, 6))
    assert apart(found, exact) < 0.3  # the ground is somewhere else


@pytest.mark.parametrize(
    "simulator",
    [
        MetaWorld("drawer-open-v2", 100, False, [0, 1, 2, 36]),
        DMControl("walker-walk", 250, 4),
        GymMuJoCo("Ant-v5", 100, contact_forces=False, physics="d4rl"),
    ],
    ids=lambda each: each.name,
)
def test_a_simulator_is_built_from_its_description(simulator):
    made = simulator_of(simulator.describe())
    assert type(made) is type(simulator) and made.describe() == simulator.describe() and made.obs_dim == simulator.obs_dim
    assert simulator_of({**simulator.describe(), "scene": 7}) is None
    assert simulator_of(GymnasiumEnv("Hopper-v5", 11, 3, 1000).describe()) is None


@pytest.fixture(scope="module")
def acted(opengl):
    """Two environments acted in for 34 steps, episodes of 8, a ring of 20 steps each; films of both from the first step on."""
    pytest.importorskip("dm_control.suite")
    simulator = DMControl("walker-walk", 8)
    collector = Collector(VectorEnvs(simulator, 2), Replay(40, 2, 24, 6, 8), seed=3)
    films = [[], []]
    collector._open()
    cameras = [Camera(env.physics, SIZE) for env in collector._running]
    for _ in range(34):
        for film, camera in zip(films, cameras, strict=True):
            film.append(camera.frame())
        collector.step()
    for camera in cameras:
        camera.close()
    yield simulator, collector, np.array(films)
    collector.close()


def test_clips_of_an_acting_method_are_those_of_its_episodes(acted, tmp_path):
    """The ring holds steps 14 to 33: the episode of steps 16 to 23 wholly, that of 8 to 15 without its beginning."""
    simulator, collector, films = acted
    with RecordedClips(simulator, collector, SIZE) as clips, RecordingFolder(tmp_path / "new", simulator, SIZE) as folder:
        for number, (env, step, length) in enumerate(((0, 20, 4), (1, 16, 4), (1, 26, 6))):
            start = env * 20 + step % 20
            assert np.array_equal(clips.frames(start, length), films[env, step : step + length])
            path = folder.put(number, recording(collector, start, length))
            taken = folder.get(number)
            assert taken.first == step % 8 and len(taken.action) == step % 8 + length and path.stat().st_size < 10_000
            assert np.array_equal(folder.frames(number, length), films[env, step : step + length])
        with pytest.raises(UserError, match=r"1.npz is of 4 steps, not of 5"):
            folder.frames(1, 5)
        path.write_bytes(path.read_bytes()[:-400])
        with pytest.raises(UserError, match=r"2.npz is truncated or not an .npz file"):
            folder.frames(2, 6)
        with pytest.raises(UserError, match=r"There is no recording .*7.npz"):
            folder.frames(7, 6)


def test_of_an_episode_without_a_beginning_the_states_are_rebuilt(acted, tmp_path):
    simulator, collector, films = acted
    taken = recording(collector, 20 + 14, 2)
    assert taken.seed is None
    folder = RecordingFolder(tmp_path, simulator)
    folder.put(0, taken)
    assert folder.get(0).seed is None and np.array_equal(folder.get(0).obs, taken.obs)
    with RecordedClips(simulator, collector, SIZE) as clips:
        assert apart(clips.draw(taken), films[1, 14:16]) < 0.2  # the ground is somewhere else
    with pytest.raises(UserError, match=r"overwritten the beginning of this episode.*raise data.init_args.capacity"):
        RecordedClips(MetaWorld("reach")).draw(taken)


def test_segments_that_a_replay_does_not_have(acted):
    simulator, collector, _ = acted
    for start, length in ((-1, 4), (12, 4), (40, 4), (18, 4)):
        with pytest.raises(UserError, match=f"no segment of {length} steps from row {start} on: take clips when questions are"):
            recording(collector, start, length)
    with pytest.raises(UserError, match="no replay to draw from"):
        RecordedClips(simulator).frames(0, 4)


def test_a_resumed_collector_knows_the_same_seeds(acted):
    simulator, collector, _ = acted
    other = Collector(VectorEnvs(simulator, 2), Replay(40, 2, 24, 6, 8), seed=3)
    other.replay.load_state_dict(collector.replay.state_dict())
    other.load_state_dict(collector.state_dict())
    mine, its = (recording(each, 26 % 20, 6) for each in (other, collector))
    assert mine.seed == its.seed and np.array_equal(mine.action, its.action)


def test_a_rebuilt_renderer_of_a_replay(acted):
    """A renderer of rows, for the copies that a replay keeps of what was asked."""
    simulator, collector, _ = acted
    with RebuiltStates(collector.replay, simulator, SIZE) as clips:
        assert clips.frames(16 % 20, 4).shape == (4, SIZE, SIZE, 3)
    with RebuiltStates(None, simulator) as clips, pytest.raises(UserError, match="no data to draw from"):
        clips.frames(0, 4)
