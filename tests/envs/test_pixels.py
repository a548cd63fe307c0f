"""Pictures instead of states, while acting and in collected data; skipped where the system has no OpenGL."""

from __future__ import annotations

import json
import pickle
from itertools import pairwise

import numpy as np
import pytest
import torch

from lightning_pbrl.data import archive
from lightning_pbrl.data.example_choosers import SuccessExamples
from lightning_pbrl.datamodules.collected import CollectedDataModule
from lightning_pbrl.datamodules.examples import ExamplesDataModule
from lightning_pbrl.envs import collect as collecting
from lightning_pbrl.envs.base import View
from lightning_pbrl.envs.behaviour import Behaviour
from lightning_pbrl.envs.collect import collect
from lightning_pbrl.envs.fetch import Fetch
from lightning_pbrl.envs.gym_mujoco import GymMuJoCo
from lightning_pbrl.envs.metaworld import MetaWorld
from lightning_pbrl.envs.pixels import Pixels
from lightning_pbrl.envs.render import Camera
from lightning_pbrl.envs.rollout import rollout
from lightning_pbrl.errors import UserError

WINDOW = MetaWorld("window-open", horizon=6)
SEEN = Pixels(WINDOW, size=32)


@pytest.fixture
def _opengl() -> None:
    """Skip when this machine cannot render."""
    try:
        Camera(GymMuJoCo("Reacher-v5").make().physics, 16).close()
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture
def _robotics() -> None:
    pytest.importorskip("gymnasium_robotics", reason="needs the extra robotics")


def test_a_description_needs_no_renderer():
    again = pickle.loads(pickle.dumps(SEEN))
    assert (again.obs_dim, again.state_dim, again.pixels, again.horizon) == (32 * 32 * 3, 39, 32, 6)
    assert again.name == "window-open-v3-pixels"
    view = {"camera": "corner2", "fovy": 17.0, "position": [None, -0.1, 1.1]}
    described = {"simulator": "Pixels", "of": WINDOW.describe(), "size": 32, "view": view}
    assert json.loads(json.dumps(SEEN.describe())) == described
    assert "upright" not in Pixels(WINDOW, view=View(camera="topview")).describe()
    assert Pixels(WINDOW, view=View(camera="corner")).describe()["upright"] is True  # pictures have changed: another name
    reach = Pixels(Fetch("reach")).describe()["view"]
    assert reach == {"lookat": [1.2, 0.8, 0.5], "distance": 1.4, "azimuth": 120.0, "elevation": -30.0}
    assert CollectedDataModule(SEEN).spec == {"obs_dim": 3072, "action_dim": 4, "horizon": 6, "pixels": 32}


def test_mistakes():
    with pytest.raises(UserError, match="size of pictures is 4"):
        Pixels(WINDOW, size=4)
    with pytest.raises(UserError, match="not another Pixels"):
        Pixels(SEEN)
    with pytest.raises(UserError, match="a free camera has lookat"):
        View(camera="corner2", lookat=(0.0, 0.0, 0.0))
    with pytest.raises(UserError, match="no scripted expert for Hopper-v5"):
        CollectedDataModule(Pixels(GymMuJoCo("Hopper-v5")))


@pytest.mark.usefixtures("_opengl")
def test_views_that_the_model_does_not_have():
    with pytest.raises(UserError, match="no camera 'corner5' in the model; did you mean corner"):
        Pixels(WINDOW, view=View(camera="corner5")).make()
    with pytest.raises(UserError, match="moves the simulation's own camera, and it has none"):
        Pixels(GymMuJoCo("InvertedPendulum-v5"), view=View(fovy=20.0)).make()


@pytest.mark.usefixtures("_opengl")
def test_an_observation_is_the_picture_and_the_rest_is_the_simulators():
    env, plain = SEEN.make(), WINDOW.make()
    obs, info = env.reset(seed=4)
    state, _ = plain.reset(seed=4)
    pictures = [info["picture"]]
    for _ in range(6):
        assert obs.dtype == np.float32
        assert np.array_equal(obs, info["picture"].reshape(-1).astype(np.float32))  # row, column, colour
        assert info["picture"].shape == (32, 32, 3)
        assert np.array_equal(info["state"].astype(np.float32), state)
        action = np.array([0.3, 1.0, -0.2, 1.0])
        obs, *rest, info = env.step(action)
        state, *plain_rest, plain_info = plain.step(action)
        assert rest == plain_rest
        assert info["success"] == plain_info["success"]
        pictures.append(info["picture"])
    assert env.observation_space.contains(obs)
    assert pictures[0].std() > 10.0
    assert all((one != other).any() for one, other in pairwise(pictures))
    again = SEEN.make()
    assert np.array_equal(again.reset(seed=4)[1]["picture"], pictures[0])  # from the seed, in another environment
    assert not np.array_equal(again.reset(seed=5)[1]["picture"], pictures[0])
    env.close()
    env.close()


@pytest.mark.usefixtures("_opengl", "_robotics")
def test_targets_are_not_in_the_picture():
    """The mark of the target is drawn in red for films and absent from what a policy sees."""
    env = Fetch("reach").make()
    env.reset(seed=0)
    view = View(lookat=(1.3, 0.3, 0.9), distance=0.4, azimuth=90.0, elevation=-10.0)
    film, picture = Camera(env.physics, 64, view), Camera(env.physics, 64, view, marks=False)

    def red(frame: np.ndarray) -> int:
        frame = frame.astype(int)
        return int(((frame[..., 0] > 100) & (frame[..., 1] < 60) & (frame[..., 2] < 60)).sum())

    assert red(film.frame()) > 20
    assert red(picture.frame()) == 0
    film.close()
    picture.close()


@pytest.mark.usefixtures("_opengl")
def test_collected_pictures_are_those_of_every_time_step(tmp_path, monkeypatch):
    monkeypatch.setattr(collecting, "SHARD", 2)
    mixture = [Behaviour(noise=0.3), Behaviour(expert=False)]
    data = collect(SEEN, mixture, 3, tmp_path / "p.safetensors", seed=1)
    states = collect(WINDOW, mixture, 3, tmp_path / "s.safetensors", seed=1)
    assert torch.equal(data.packed[:, :-3], states.packed[:, :-3])  # the small rows are the states
    assert data.frames.shape == (21, 32, 32, 3)
    assert (data.obs_dim, data.shown_dim) == (39, 3072)
    env = SEEN.make()
    for episode, seed in enumerate(data.about["reset_seeds"]):
        _, info = env.reset(seed=seed)
        for row in range(6 * episode, 6 * episode + 6):
            assert np.array_equal(data.pictures(data.frame_ids(torch.tensor([row])))[0].numpy(), info["picture"])
            *_, info = env.step(data.column("action")[row].numpy())
            assert np.array_equal(data.pictures(data.frame_ids(torch.tensor([row])) + 1)[0].numpy(), info["picture"])
    assert archive.describe(tmp_path / "p.safetensors")["about"]["simulator"]["size"] == 32


@pytest.mark.usefixtures("_opengl")
def test_a_policy_is_shown_pictures_in_rollouts():
    shown = []

    def act(obs: torch.Tensor) -> torch.Tensor:
        shown.append(obs.clone())
        return torch.zeros(len(obs), 4)

    result = rollout(act, SEEN, [3, 4])
    assert result.length.tolist() == [6, 6]
    assert shown[0].shape == (2, 3072)
    assert shown[0].dtype == torch.float32
    assert shown[0].max() <= 255.0
    assert shown[0].max() > 100.0
    env = SEEN.make()
    assert np.array_equal(shown[0][1].numpy(), env.reset(seed=4)[0])


@pytest.mark.usefixtures("_opengl", "_robotics")
def test_examples_are_pictures(tmp_path):
    simulator = Pixels(Fetch("reach", horizon=16), size=16)
    data = ExamplesDataModule(
        CollectedDataModule(simulator, 4, [Behaviour()], cache_dir=str(tmp_path)), SuccessExamples(3), validation_share=0.25
    )
    data.prepare_data()
    data.setup("fit")
    assert data.spec == {"obs_dim": 768, "action_dim": 4, "horizon": 16, "pixels": 16}
    assert data.examples.states.shape == (3, 16, 16, 3)
    assert data.examples.states.dtype == torch.uint8
    assert len(data.source.frames) == 3 * 17
    assert len(data.held_out_source.frames) == 17
    rows = torch.tensor(data.examples.about["rows"])
    assert data.source.success[rows].all()
    assert torch.equal(data.source.pictures(data.source.frame_ids(rows) + 1), data.examples.states)
