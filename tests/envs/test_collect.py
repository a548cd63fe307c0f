"""Behaviours and resumable collection on real Meta-World physics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from warm import CONTEXT, PATIENCE

from lightning_pbrl.data import archive
from lightning_pbrl.envs import collect as module
from lightning_pbrl.envs.behaviour import Behaviour, shares
from lightning_pbrl.envs.collect import collect, episode_plan
from lightning_pbrl.envs.experts import Expert
from lightning_pbrl.envs.gym_mujoco import GymMuJoCo
from lightning_pbrl.envs.metaworld import MetaWorld
from lightning_pbrl.envs.twin import Twin
from lightning_pbrl.errors import UserError

MIXTURE = [
    Behaviour(2.0, noise=0.3),
    Behaviour(random=0.5, hold=4),
    Behaviour(expert="drawer-close-v2"),
    Behaviour(expert=False),
]
DRAWER = MetaWorld("drawer-open", horizon=12)


class KilledError(Exception):
    """Stands for a kill in the middle of a collection."""


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(module, "SHARD", 3)


def test_rows_are_what_the_simulator_does(tmp_path):
    data = collect(DRAWER, MIXTURE, 4, tmp_path / "d.safetensors", seed=1)
    assert data.episodes.lengths.tolist() == [12] * 4
    assert data.obs_dim == 39
    env = DRAWER.make()
    for episode, seed in enumerate(data.about["reset_seeds"]):
        obs, _ = env.reset(seed=seed)
        for row in range(12 * episode, 12 * episode + 12):
            assert np.array_equal(data.column("obs")[row].numpy(), obs)
            obs, reward, _, truncated, info = env.step(data.column("action")[row].numpy())
            assert np.array_equal(data.column("next_obs")[row].numpy(), obs)
            assert data.reward[row].item() == np.float32(reward)
            assert data.success[row].item() == bool(info["success"])
            assert data.column("truncated")[row].item() == truncated
    assert data.column("truncated").reshape(4, 12)[:, -1].tolist() == [1.0] * 4
    assert data.column("terminated").sum() == 0
    assert data.column("learned_reward").isnan().all()


def collect_in_part(path, episodes):
    """Begin a collection of eight episodes, killed after so many."""

    def kill(done, total):
        if done == episodes:
            raise KilledError

    with pytest.raises(KilledError):
        collect(DRAWER, MIXTURE, 8, path, seed=5, progress=kill)


def test_a_killed_collection_resumes_to_the_same_data(tmp_path):
    whole = collect(DRAWER, MIXTURE, 8, tmp_path / "whole.safetensors", seed=5)
    path = tmp_path / "cut.safetensors"
    collect_in_part(path, 5)
    assert not path.exists()
    assert len(list((tmp_path / "cut.safetensors.parts").iterdir())) == 1
    seen = []
    resumed = collect(DRAWER, MIXTURE, 8, path, seed=5, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(3, 8), (4, 8), (5, 8), (6, 8), (7, 8), (8, 8), (8, 8)]
    assert resumed.fingerprint == whole.fingerprint
    assert resumed.about == whole.about
    assert torch.equal(resumed.success, whole.success)
    assert [file.name for file in tmp_path.iterdir() if "cut" in file.name and file.suffix != ".lock"] == [path.name]


def test_a_second_call_reuses_and_a_different_one_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "d.safetensors"
    first = collect(DRAWER, MIXTURE[:1], 2, path)
    monkeypatch.setattr(MetaWorld, "make", lambda self, render=False: pytest.fail("simulated again"))
    assert collect(DRAWER, MIXTURE[:1], 2, path).fingerprint == first.fingerprint
    with pytest.raises(UserError, match=r"d.safetensors holds another collection \(simulator, seed differ\)"):
        collect(MetaWorld("drawer-open", horizon=13), MIXTURE[:1], 2, path, seed=1)


def test_shards_of_another_seed_are_refused(tmp_path):
    path = tmp_path / "d.safetensors"
    collect_in_part(path, 4)
    with pytest.raises(UserError, match=r"parts holds another collection \(seed differ\)"):
        collect(DRAWER, MIXTURE, 8, path, seed=6)


def test_provenance(tmp_path):
    collect(DRAWER, MIXTURE, 2, tmp_path / "d.safetensors", seed=3)
    about = archive.describe(tmp_path / "d.safetensors")["about"]
    assert about["simulator"] == DRAWER.describe()
    assert about["seed"] == 3
    assert about["episodes"] == 2
    assert about["versions"]["mujoco"] == "3.3.0"
    assert about["versions"]["metaworld"] == "3.1.1"
    assert about["mixture"][2]["expert"] == "drawer-close-v2"
    assert len(about["behaviours"]) == 2


def test_behaviours_are_drawn_by_weight():
    assert shares(MIXTURE).tolist() == [0.4, 0.2, 0.2, 0.2]
    drawn = np.bincount([episode_plan(MIXTURE, 0, i)[0] for i in range(1000)], minlength=4)
    assert abs(drawn[0] - 400) < 4 * np.sqrt(1000 * 0.4 * 0.6)
    assert abs(drawn[3] - 200) < 4 * np.sqrt(1000 * 0.16)
    assert len({episode_plan(MIXTURE, 0, i)[1] for i in range(1000)}) == 1000


def start(task="reach"):
    """The info of a reset and the simulator."""
    simulator = MetaWorld(task)
    return simulator, simulator.make().reset(seed=0)[1]


def test_a_clean_behaviour_is_the_expert():
    simulator, info = start()
    action = Behaviour().begin(simulator, np.random.default_rng(0)).act(info)
    assert np.array_equal(action, Expert("reach").act(info["full_obs"]))


def test_bias_is_held_and_noise_is_not():
    simulator, info = start("push")
    expert = Expert("push").act(info["full_obs"])
    actor = Behaviour(bias=0.2).begin(simulator, np.random.default_rng(1))
    offset = 0.2 * np.random.default_rng(1).standard_normal(4)
    for _ in range(3):
        assert np.allclose(actor.act(info), np.clip(expert + offset, -1, 1), atol=1e-6)
    noisy = Behaviour(noise=0.2).begin(simulator, np.random.default_rng(1))
    free = np.abs(expert) < 0.3
    assert free.any()
    drawn = np.array([noisy.act(info) for _ in range(400)])[:, free] - expert[free]
    assert abs(drawn.std() - 0.2) < 0.02
    assert abs(drawn.mean()) < 0.05


def test_random_stretches_are_held():
    simulator, info = start()
    actor = Behaviour(random=1.0, hold=5).begin(simulator, np.random.default_rng(0))
    actions = np.array([actor.act(info) for _ in range(20)])
    assert [len(np.unique(actions[i : i + 5], axis=0)) for i in range(0, 20, 5)] == [1] * 4
    assert len(np.unique(actions, axis=0)) == 4
    half = Behaviour(random=0.5, hold=2).begin(simulator, np.random.default_rng(0))
    expert = Expert("reach").act(info["full_obs"])
    clean = np.mean([np.array_equal(half.act(info), expert) for _ in range(2000)])
    assert abs(clean - 0.5) < 4 * np.sqrt(0.25 / 1000)


def test_shifts_move_what_the_expert_sees_and_nothing_else():
    simulator, info = start()
    draws = np.random.default_rng(2)
    draws.standard_normal(4)
    goal, thing = 0.1 * draws.standard_normal(3), 0.2 * draws.standard_normal(3)
    actor = Behaviour(goal_shift=0.1, object_shift=0.2).begin(simulator, np.random.default_rng(2))
    moved = actor._shown(info["full_obs"]) - info["full_obs"]
    assert np.allclose(moved[36:39], goal)
    assert np.allclose(moved[4:7], thing)
    assert np.allclose(moved[22:25], thing)
    moved[36:39] = moved[4:7] = moved[22:25] = 0
    assert (moved == 0).all()  # reach has one object; the absent second one stays absent


def test_an_offset_aims_every_episode_at_the_same_wrong_place(tmp_path):
    simulator, info = start()
    for seed in (0, 1):
        actor = Behaviour(goal_offset=(0.1, 0.0, -0.2)).begin(simulator, np.random.default_rng(seed))
        moved = actor._shown(info["full_obs"]) - info["full_obs"]
        assert np.allclose(moved[36:39], (0.1, 0.0, -0.2))
        assert (moved[:36] == 0).all()
    assert "goal_offset" not in Behaviour().describe()
    wrong = [Behaviour(goal_offset=(0.1, 0, 0))]
    path = tmp_path / "o.safetensors"
    collect(MetaWorld("reach", horizon=3), wrong, 1, path)
    again = collect(MetaWorld("reach", horizon=3), wrong, 1, path)  # what the file says is what is asked for
    assert again.about["mixture"][0]["goal_offset"] == [0.1, 0.0, 0.0]


def test_a_twin_with_the_same_reset_is_the_expert_and_another_is_blind():
    simulator = MetaWorld("push")
    env = simulator.make()
    twin = Twin(simulator, False, np.random.default_rng(0))
    seed = int(np.random.default_rng(0).integers(1 << 32))  # the twin's own reset, taken by the recorded environment, too
    info = env.reset(seed=seed)[1]
    for _ in range(5):
        assert np.array_equal(twin.full_obs, info["full_obs"])
        action = Expert("push").act(info["full_obs"])
        twin.step(action)
        info = env.step(action)[-1]
    info = env.reset(seed=seed + 1)[1]
    blind = Behaviour(twin="goal").begin(simulator, np.random.default_rng(0))
    other = Behaviour(twin="task").begin(simulator, np.random.default_rng(1))
    assert not np.array_equal(blind.act(info), Expert("push").act(info["full_obs"]))
    assert other._expert.task != "push" and other._twin.task == other._expert.task


def test_a_twin_needs_the_expert():
    with pytest.raises(UserError, match="a twin needs expert: true"):
        Behaviour(expert=False, twin="goal")


def test_episodes_end_after_some_success(tmp_path):
    """Reach is solved and stays so: the episode ends at the third successful step, by truncation."""
    data = collect(MetaWorld("reach", 150), [Behaviour()], 2, tmp_path / "r.safetensors", stop_after_success=3)
    for first, end in zip(data.episodes.offsets[:-1].tolist(), data.episodes.offsets[1:].tolist(), strict=True):
        assert end - first < 150 and int(data.success[first:end].sum()) == 3 and bool(data.success[end - 1])
        assert data.column("truncated")[first:end].tolist() == [0.0] * (end - first - 1) + [1.0]
    assert data.about["stop_after_success"] == 3


def test_random_behaviour_needs_no_expert(tmp_path):
    data = collect(GymMuJoCo("Hopper-v5", horizon=50), [Behaviour(expert=False)], 4, tmp_path / "h.safetensors")
    lengths = data.episodes.lengths
    assert lengths.max() <= 50
    assert data.success is None
    last = data.episodes.offsets[1:] - 1
    ended = data.column("terminated")[last] + data.column("truncated")[last]
    assert ended.tolist() == [1.0] * 4
    assert len(data) == int(lengths.sum())
    with pytest.raises(UserError, match="no scripted expert for Hopper-v5"):
        collect(GymMuJoCo("Hopper-v5"), [Behaviour()], 1, tmp_path / "x.safetensors")


def collecting(path, told):
    """Collect, and tell the fingerprint and how often progress was told."""
    seen = []
    data = collect(MetaWorld("reach", 20), [Behaviour()], 20, path, progress=lambda *n: seen.append(n))
    told.put((len(seen), data.fingerprint))


def test_two_processes_make_one_data_set(tmp_path):
    told = CONTEXT.Queue()
    runs = [CONTEXT.Process(target=collecting, args=(tmp_path / "d.safetensors", told)) for _ in range(2)]
    for run in runs:
        run.start()
    said = sorted(told.get(timeout=PATIENCE) for _ in runs)
    for run in runs:
        run.join()
    told.close()
    assert [run.exitcode for run in runs] == [0, 0]
    assert said[0][1] == said[1][1]
    assert [count for count, _ in said] == [1, 21]  # one collected, one waited and loaded


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written"):
        collect(DRAWER, MIXTURE, 1, tmp_path / "file" / "d.safetensors")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"random": 1.5}, "random is 1.5; it is a probability"),
        ({"noise": -1.0}, "noise is -1.0"),
        ({"weight": float("nan")}, "weight is nan"),
        ({"hold": 0}, "hold is 0"),
        ({"goal_offset": (1.0, 2.0)}, "goal_offset is .* give three numbers"),
        ({"goal_offset": (1.0, 2.0, float("nan"))}, "goal_offset is .* give three numbers"),
    ],
)
def test_impossible_behaviours(settings, words):
    with pytest.raises(UserError, match=words):
        Behaviour(**settings)


def test_what_a_simulator_does_not_have(tmp_path):
    with pytest.raises(UserError, match="did you mean reach"):
        Behaviour(expert="reech").check(MetaWorld("reach"))
    with pytest.raises(UserError, match="twin: goal, which only Meta-World has, not Fake"):
        Behaviour(twin="goal").check(Fake())
    with pytest.raises(UserError, match="no scripted expert for Hopper-v5"):  # before anything is simulated
        collect(GymMuJoCo("Hopper-v5"), [Behaviour(weight=0.0), Behaviour(expert=False)], 1, tmp_path / "x.safetensors")


class Fake(GymMuJoCo):
    """A simulator of somebody else that has an expert."""

    def __init__(self):
        super().__init__("Hopper-v5")
        self.name = "Fake"

    def expert(self, task=None):
        return Expert("reach")


def test_impossible_collections(tmp_path):
    with pytest.raises(UserError, match="episodes to collect is 0"):
        collect(DRAWER, MIXTURE, 0, tmp_path / "x")
    for mixture in ([], [Behaviour(weight=0.0)]):
        with pytest.raises(UserError, match="positive weight"):
            collect(DRAWER, mixture, 1, tmp_path / "x")


def test_yaml_builds_a_mixture():
    from jsonargparse import ArgumentParser

    parser = ArgumentParser()
    parser.add_argument("--mixture", type=list[Behaviour])
    parsed = parser.parse_args(["--mixture", "[{weight: 2, noise: 0.3}, {expert: false}, {expert: drawer-close}]"])
    assert parser.instantiate(parsed).mixture == [
        Behaviour(2.0, noise=0.3),
        Behaviour(expert=False),
        Behaviour(expert="drawer-close"),
    ]
