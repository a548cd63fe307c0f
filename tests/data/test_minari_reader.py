"""Minari's data sets: what a small local one becomes, and what is wrong with others."""

from __future__ import annotations

import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lightning_pbrl.data import archive
from lightning_pbrl.data.draft import Draft
from lightning_pbrl.data.minari import _write, read_minari
from lightning_pbrl.data.transitions import Transitions
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


def _table(dataset: SimpleNamespace, **settings) -> Transitions:
    """What is read of a data set that is in memory."""
    draft = Draft()
    _write(draft, dataset, **settings)
    return draft.table()


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


def test_actions_beyond_their_space():
    episodes = recorded()
    episodes[2].actions[1, 1] = 1.2
    with pytest.raises(UserError, match=r"'actions' leaves \[-1, 1\] after rescaling in 1 row\(s\) by up to 0.2, the first is r"):
        _table(made(episodes))
    table = _table(made(episodes), clip=True)
    assert table.column("action")[8, 1] == torch.tensor(1 - 1e-5)
    assert table.about["actions_clipped"] == 1
    table = _table(made(episodes), bounds=[-4.0, 4.0])
    assert table.column("action")[8].tolist() == pytest.approx([-0.5, 0.3, 0.75])


def boxed(low: list[float], high: list[float], action: list[float], **settings):
    """The first action of a set with this action space."""
    from gymnasium.spaces import Box

    episodes = recorded()
    for episode in episodes:
        episode.actions = np.tile([action], (len(episode.rewards), 1))
    space = Box(np.array(low, np.float32), np.array(high, np.float32))
    return _table(made(episodes, action_space=space), **settings).column("action")[0].tolist()


def test_bounds_that_say_nothing():
    """Infinite and absurd bounds leave actions as they are; what then leaves [-1, 1] is refused, never squashed."""
    far, inf = float(np.finfo(np.float32).max), np.inf
    for bound in (inf, far, 3e38, 1e6):
        assert boxed([-bound] * 2, [bound] * 2, [0.5, -0.25]) == [0.5, -0.25]
    assert boxed([-inf, -2.0, 0.0], [inf, 2.0, inf], [0.5, 1.0, 0.25]) == [0.5, 0.5, 0.25]
    with pytest.raises(UserError) as error:
        boxed([-inf] * 2, [inf] * 2, [0.5, -5.0])
    assert str(error.value) == (
        "Minari data set test/tiny-v0: key 'actions' (its action space names no bounds) leaves [-1, 1] in 9 row(s) by up to 4, "
        "the first is row 0 with 5: rescale actions to [-1, 1] before storing them, or set action_bounds to [low, high] of their "
        "units, or set clip_actions: true where the environment itself clips them."
    )
    assert boxed([-inf] * 2, [inf] * 2, [0.5, -5.0], bounds=[-5.0, 5.0]) == pytest.approx([0.1, -1 + 1e-5])
    with pytest.raises(UserError, match="entry 1 of its action space goes from 0 to 0, so its scale is unknown: set action_b"):
        boxed([-1.0, 0.0], [1.0, 0.0], [0.5, 0.0])


def test_actions_on_the_scale_already_keep_every_bit():
    action = np.random.default_rng(0).uniform(-0.99, 0.99, 3).astype(np.float32)
    assert boxed([-1.0] * 3, [1.0] * 3, action.tolist()) == action.tolist()


def test_success_that_some_episodes_or_steps_do_not_tell():
    for told in (0, 1):  # whichever of the first two tells
        episodes = recorded()
        episodes[1 - told].infos = {}
        table = _table(made(episodes))
        assert table.success.nonzero().flatten().tolist() == [(3, 6)[told], 8]
        assert table.success_unknown.nonzero().flatten().tolist() == ([4, 5, 6] if told == 0 else [0, 1, 2, 3])
        solved, failed = table.solved_episodes()
        assert solved.tolist() == [told == 0, told == 1, True] and failed.tolist() == [False] * 3
    episodes = recorded()
    episodes[0].infos = {"is_success": np.array([np.nan, np.nan, np.nan, 0.0, 1.0])}
    episodes[2].infos = {"success": np.array([0.0, 0.0, 0.0])}
    table = _table(made(episodes))
    assert table.success.nonzero().flatten().tolist() == [3, 6]
    assert table.success_unknown.nonzero().flatten().tolist() == [0, 1]
    solved, failed = table.solved_episodes()
    assert solved.tolist() == [True, True, False] and failed.tolist() == [False, False, True]
    part = table.select(torch.tensor([1, 0]))
    assert part.success_unknown.nonzero().flatten().tolist() == [3, 4]


def test_unknown_success_is_stored(tmp_path):
    episodes = recorded()
    episodes[1].infos = None
    table = _table(made(episodes))
    path = archive.save(table, tmp_path / "a.safetensors")
    again = archive.load(path)
    assert torch.equal(again.success, table.success) and torch.equal(again.success_unknown, table.success_unknown)
    assert archive.describe(path)["schema_version"] == 4


def test_fewer_steps_than_the_set_has_are_refused():
    """Minari 0.5.4 cuts episodes of Arrow and Parquet files at 32,767 steps and gives the rest as the next episode."""
    storage = SimpleNamespace(FORMAT="arrow")
    with pytest.raises(UserError) as error:
        _table(made(recorded(), storage=storage, total_steps=12))
    assert str(error.value) == (
        "Minari data set test/tiny-v0 has 12 steps and its episodes 9 together: Minari takes batches of 32,768 rows of arrow "
        "files for episodes, so record it with data_format='hdf5', or in shorter episodes."
    )
    with pytest.raises(UserError, match="has 12 steps and its episodes 9 together: download or record it again"):
        _table(made(recorded(), total_steps=12))
    assert len(_table(made(recorded(), storage=storage, total_steps=9))) == 9


def test_equal_episodes_are_counted():
    assert _table(made(recorded())).about["equal_episodes"] == 0
    assert _table(made(recorded() + recorded()[1:])).about["equal_episodes"] == 2


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
        (broken("observations", np.full((4, 2), "x")), "observation of shape .* and type <U1"),
        (broken("actions", np.zeros(3)), r"episode 1 has actions of shape \(3,\) for 3 steps"),
        (broken("rewards", np.array([1.0, np.inf, 0.0])), "'rewards' is NaN or infinite in 1"),
        (broken("terminations", np.array([0, 0.5, 1])), "episode 1: key 'terminations' holds 0.5 in row 1: store 0 and 1"),
        (broken("terminations", np.array([0, np.nan, 1])), "episode 1: key 'terminations' holds nan in row 1"),
        (broken("truncations", np.array([0, 2, 0])), "episode 1: key 'truncations' holds 2 in row 1"),
        (broken("truncations", np.array([0, 1, 0])), "episode 1 is truncated after step 1 of 3 and goes on: record two episodes"),
        (broken("truncations", np.zeros(2)), "episode 1 has 2 truncations for 3 steps"),
        (broken("infos", {"success": np.array([0, 0, 2.0])}), "episode 1: infos 'success' holds 2.0 in row 2: store 0 and 1"),
        (broken("infos", {"success": np.zeros(2)}), r"episode 1: infos 'success' has shape \(2,\) for 3 steps"),
        (broken("infos", {"success": np.array(["yes"] * 4)}), "episode 1: infos 'success' holds something other than numbers"),
        (broken("observations", np.zeros((4, 3))), "has episodes of different observation or action sizes"),
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


@pytest.mark.filterwarnings("ignore::UserWarning:minari")
def test_pictures_in_jpeg_and_equal_episodes_are_told_each_time(tmp_path, monkeypatch):
    minari = pytest.importorskip("minari")
    from gymnasium.spaces import Box
    from minari.data_collector import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    frames = np.zeros((4, 32, 32, 3), np.uint8)
    frames[:, 5:7, 5:7, 0] = 255
    end = [False, False, True]
    episode = EpisodeBuffer(observations=frames, actions=np.zeros((3, 1)), rewards=[0.0] * 3, terminations=end, truncations=end)
    picture = Box(0, 255, (32, 32, 3), np.uint8)
    for name, jpeg in (("jpeg", True), ("exact", False)):
        dataset = minari.create_dataset_from_buffers(
            f"test/{name}-v0",
            [episode, episode],
            observation_space=picture,
            action_space=Box(-1, 1, (1,), np.float32),
            jpeg_encoding=jpeg,
            algorithm_name="none",
            author="nobody",
            author_email="nobody@example.org",
            code_permalink="https://example.org",
            description="two equal episodes",
        )
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            for _ in range(2):
                table = read_minari(dataset.id, cache_dir=tmp_path / "cache")
        sentences = [str(warning.message) for warning in told if "test/" in str(warning.message)]
        assert table.about["jpeg_pictures"] == (["observation"] if jpeg else [])
        assert len(sentences) == (4 if jpeg else 2)
        assert sentences[0].startswith(f"Minari data set test/{name}-v0 has 1 episode(s) that equal an earlier one: ")
        seen = table.column("obs").reshape(-1, 32, 32, 3)[0, 5, 5].tolist()
        assert (seen == [255, 0, 0]) != jpeg
