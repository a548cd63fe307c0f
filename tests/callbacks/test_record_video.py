"""Films of the learned policy."""

from __future__ import annotations

import os
import warnings

import pytest
import torch
from toys import ToyData, callbacks_for, make_trainer

from lightning_pbrl.callbacks import record_video as module
from lightning_pbrl.callbacks.record_video import RecordVideo
from lightning_pbrl.envs.base import Simulator
from lightning_pbrl.envs.metaworld import MetaWorld
from lightning_pbrl.envs.render import Camera
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.bc import BC
from lightning_pbrl.methods.learn_reward import RewardEnsemble

SMALL = {"updates": 20, "eval_interval": 10, "hidden": (8,)}


@pytest.fixture
def filmed(monkeypatch):
    """In place of films: what would have been filmed, with a file that says how often."""
    calls = []

    def fake(act, simulator, seed, path, size, fps, device):
        calls.append((path.name, seed, size, fps, device, act(torch.zeros(1, 5)).shape))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(len(calls)))

    monkeypatch.setattr(module, "record_video", fake)
    return calls


def test_rounds_and_end(tmp_path, filmed):
    data = ToyData()
    policy = BC(data.spec, **SMALL)
    trainer = make_trainer(tmp_path, [RecordVideo(every=1, seed=7, size=64, fps=10)])
    trainer.fit(policy, data)
    assert filmed == [(f"round_000{k}.mp4", 7, 64, 10, "cpu", (1, 2)) for k in (0, 1)]
    assert (tmp_path / "video.mp4").read_text() == "2"  # the weights of the last round: copied, not filmed again
    assert sorted(os.listdir(tmp_path / "videos")) == ["round_0000.mp4", "round_0001.mp4"]
    assert policy.training


def test_every_second_round(tmp_path, filmed):
    data = ToyData()
    make_trainer(tmp_path, [RecordVideo(every=2)]).fit(BC(data.spec, **{**SMALL, "updates": 30}), data)
    assert [call[0] for call in filmed] == ["round_0001.mp4", "video.mp4"]


def test_a_test_of_the_same_weights_films_once(tmp_path, filmed):
    data = ToyData()
    policy = BC(data.spec, **SMALL)
    video = RecordVideo()
    trainer = make_trainer(tmp_path, [video])
    trainer.fit(policy, data)
    trainer.test(policy, data, verbose=False)
    assert [call[0] for call in filmed] == ["video.mp4"]
    seed = filmed[0][1]
    assert seed not in data.episode_seeds("validation", 100) + data.episode_seeds("test", 100)
    make_trainer(tmp_path, [RecordVideo()]).test(BC(data.spec, **SMALL), data, verbose=False)  # a test alone films too
    assert [call[:2] for call in filmed] == [("video.mp4", seed)] * 2


def test_nothing_to_film(tmp_path, filmed):
    data = ToyData()
    callbacks = [*callbacks_for(RewardEnsemble), RecordVideo(every=1)]
    make_trainer(tmp_path, callbacks).fit(RewardEnsemble(data.spec, hidden=(8,), epochs=1), data)
    make_trainer(tmp_path / "never", [RecordVideo(every=None)]).fit(BC(data.spec, **SMALL), ToyData())
    assert filmed == []


def test_a_missing_library_costs_one_warning_and_no_run(tmp_path, monkeypatch):
    def no_opengl(*args):
        raise UserError("Rendering failed; install libegl1.")

    monkeypatch.setattr(module, "record_video", no_opengl)
    data = ToyData()
    trainer = make_trainer(tmp_path, [RecordVideo(every=1)])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(BC(data.spec, **SMALL), data)
    ours = [str(w.message) for w in caught if "No video" in str(w.message)]
    assert ours == ["No video was made: Rendering failed; install libegl1."]
    assert trainer.global_step == 20


@pytest.mark.parametrize("wrong", [{"size": 63}, {"every": -1}, {"fps": 0}])
def test_settings_are_checked_before_training(wrong):
    with pytest.raises(UserError, match=r"an even number of pixels|RecordVideo got (every=-1|fps=0): give a number of at least"):
        RecordVideo(**wrong)


class MetaWorldToy(ToyData):
    """Toy data under a real simulator: short episodes of a Meta-World task."""

    def __init__(self, simulator: Simulator) -> None:
        super().__init__(eval_episodes=0)
        self.simulator = simulator


def test_a_real_film(tmp_path):
    import imageio

    simulator = MetaWorld("reach", horizon=12)
    try:
        env = simulator.make()
        Camera(env.unwrapped.physics, 16).close()
    except UserError as error:
        pytest.skip(str(error))
    data = MetaWorldToy(simulator)

    class Still(BC):
        """Keeps the arm where it is; observations of the simulator are wider than the toy data's."""

        def act(self, obs, sample=False):
            return torch.zeros(len(obs), 4)

    policy = Still(ToyData().spec, **SMALL)
    make_trainer(tmp_path, [RecordVideo(size=64)], limit_val_batches=0).fit(policy, data)
    with imageio.get_reader(tmp_path / "video.mp4") as film:
        frames = [film.get_data(i) for i in range(film.count_frames())]
    assert len(frames) == 13
    assert frames[-1].shape == (64, 64, 3)
    assert frames[-1].std() > 10
