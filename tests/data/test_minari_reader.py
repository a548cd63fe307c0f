"""Minari's data sets: what a small local one becomes, and what is wrong with others."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lightning_pbrl.data.minari import _table, read_minari
from lightning_pbrl.errors import UserError

LENGTHS = (4, 3, 2)


def recorded(dictionary: bool = False) -> list[SimpleNamespace]:
    """Three episodes: truncated, terminated, and one whose recording stops; observation 0 is 100 i + t."""
    found = []
    for number, steps in enumerate(LENGTHS):
        time = 100.0 * number + np.arange(steps + 1.0)[:, None]
        plain = time + np.array([0.0, 0.5])
        goals = {"observation": plain, "desired_goal": {"y": time + 20, "x": time + 10}, "achieved_goal": time + 30}
        found.append(
            SimpleNamespace(
                id=number,
                observations=goals if dictionary else plain,
                actions=np.tile([[-2.0, 0.0, 3.0]], (steps, 1)),  # the space is [-2, 2] x [-1, 1] x [0, 4]
                rewards=np.arange(steps) + 1.0,
                terminations=np.arange(steps) == (steps - 1 if number == 1 else steps),
                truncations=np.arange(steps) == (steps - 1 if number == 0 else steps),
                infos={"success": np.arange(steps + 1) == steps},
            )
        )
    return found


def made(episodes: list[SimpleNamespace], **changes) -> SimpleNamespace:
    """What ``minari.load_dataset`` gives, as far as it is used."""
    from gymnasium.spaces import Box

    space = Box(np.array([-2, -1, 0], np.float32), np.array([2, 1, 4], np.float32))
    about = {"id": "test/tiny-v0", "env_spec": SimpleNamespace(id="Tiny-v0"), "minari_version": "0.5.4", "action_space": space}
    return SimpleNamespace(iterate_episodes=lambda: iter(episodes), **{**about, **changes})


def test_episodes_become_transitions():
    table = _table(made(recorded()))
    assert table.episodes.offsets.tolist() == [0, 4, 7, 9]
    assert table.column("obs")[:, 0].tolist() == [0, 1, 2, 3, 100, 101, 102, 200, 201]
    assert torch.equal(table.column("next_obs"), table.column("obs") + 1)  # also after each episode's last step
    assert table.column("terminated").nonzero().flatten().tolist() == [6]
    assert table.column("truncated").nonzero().flatten().tolist() == [3, 8]
    assert table.reward.tolist() == [1, 2, 3, 4, 1, 2, 3, 1, 2]
    assert table.success.nonzero().flatten().tolist() == [3, 6, 8]  # the infos begin with the reset's
    # -2 of [-2, 2], 0 of [-1, 1], 3 of [0, 4]
    assert table.column("action")[0].tolist() == pytest.approx([-1 + 1e-5, 0.0, 0.5])
    assert table.about["observation"] == {"observation": 2}
    assert (table.about["dataset_id"], table.about["env_id"]) == ("test/tiny-v0", "Tiny-v0")


def test_dictionaries_are_laid_end_to_end_by_key_goals_included():
    table = _table(made(recorded(dictionary=True)))
    assert list(table.about["observation"]) == ["achieved_goal", "desired_goal/x", "desired_goal/y", "observation"]
    assert table.column("obs")[5].tolist() == [131, 111, 121, 101, 101.5]
    assert table.column("next_obs")[5].tolist() == [132, 112, 122, 102, 102.5]


def test_actions_beyond_their_space_are_clipped_and_counted():
    episodes = recorded()
    episodes[2].actions[1, 1] = 1.2
    table = _table(made(episodes))
    assert table.column("action")[8, 1] == torch.tensor(1 - 1e-5)
    assert table.about["actions_clipped"] == 1


def test_without_infos_success_is_unknown():
    episodes = recorded()
    for episode in episodes:
        episode.infos = None
    assert _table(made(episodes)).success is None


def broken(name: str, value: object) -> SimpleNamespace:
    episodes = recorded()
    setattr(episodes[1], name, value)
    return made(episodes)


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        (broken("observations", np.zeros((3, 2))), "episode 1 has 3 entries of float64 in observations"),
        (broken("observations", np.full((4, 2), np.nan)), "'observations' is NaN or infinite in 3"),
        (broken("observations", np.full((4, 2), "x")), "vector of numbers"),
        (broken("actions", np.zeros(3)), r"episode 1 has actions of shape \(3,\) for 3 steps"),
        (broken("rewards", np.array([1.0, np.inf, 0.0])), "'rewards' is NaN or infinite in 1"),
        (made([]), "has no steps"),
        (made(recorded(), action_space=SimpleNamespace(n=4)), "vectors of continuous actions"),
    ],
)
def test_what_is_wrong_with_an_episode(dataset, words):
    with pytest.raises(UserError, match=rf"test/tiny-v0.*{words}"):
        _table(dataset)


def test_the_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(UserError, match=r"'minari' is not installed.*lightning-pbrl\[minari\]"):
        read_minari("mujoco/hopper/medium-v0")


# With the package -------------------------------------------------------------------------------------------------------


@pytest.fixture
def local(tmp_path, monkeypatch):
    """A data set with goals on disk, under the name test/goals-v0, and one without under test/plain-v0."""
    minari = pytest.importorskip("minari")
    from gymnasium.spaces import Box, Dict
    from minari.data_collector import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))

    def box(size: int) -> Box:
        return Box(-np.inf, np.inf, (size,), np.float64)

    goals = Dict({"x": box(1), "y": box(1)})
    spaces = {"plain": box(2), "goals": Dict({"observation": box(2), "desired_goal": goals, "achieved_goal": box(1)})}
    fields = ("observations", "actions", "rewards", "terminations", "truncations", "infos")
    for name, space in spaces.items():
        minari.create_dataset_from_buffers(
            f"test/{name}-v0",
            [EpisodeBuffer(**{field: getattr(e, field) for field in fields}) for e in recorded(name == "goals")],
            observation_space=space,
            action_space=Box(np.array([-2, -1, 0], np.float32), np.array([2, 1, 4], np.float32)),
            algorithm_name="none",
            author="nobody",
            author_email="nobody@example.org",
            code_permalink="https://example.org",
            description="three episodes",
        )
    return tmp_path


@pytest.mark.filterwarnings("ignore::UserWarning:minari")  # it asks for an environment, which a hand-made set has not
def test_a_data_set_on_disk(local):
    for name, dictionary in (("plain", False), ("goals", True)):
        table, expected = read_minari(f"test/{name}-v0"), _table(made(recorded(dictionary)))
        assert torch.equal(table.packed[:, :-1].nan_to_num(-7), expected.packed[:, :-1].nan_to_num(-7))
        assert torch.equal(table.success, expected.success)
        assert table.about["observation"] == expected.about["observation"]
        again = read_minari(f"test/{name}-v0", cache_dir=local / "cache")
        assert read_minari(f"test/{name}-v0", cache_dir=local / "cache").fingerprint == again.fingerprint == table.fingerprint
    with pytest.raises(UserError, match=r"Minari cannot open 'test/other-v0' in .*minari download test/other-v0"):
        read_minari("test/other-v0")
    with pytest.raises(UserError, match="check the name"):
        read_minari("no version")
