"""D4RL files: where episodes end, what follows what, and what is wrong with a file."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from d4rl_files import episodes, write_d4rl

from lightning_pbrl.data.d4rl import read_d4rl
from lightning_pbrl.data.reward_scaling import rescale
from lightning_pbrl.envs.gym_mujoco import GymMuJoCo
from lightning_pbrl.errors import UserError

MIXED = (("timeout", "terminal", "timeout", "nothing"), (4, 3, 2, 5))
"""Three complete episodes, 4, 3 and 2 steps, and the beginning of a fourth."""


def flags(table) -> tuple[list[int], list[int]]:
    """Rows that are terminated, and truncated."""
    return tuple(table.column(name).nonzero().flatten().tolist() for name in ("terminated", "truncated"))


def check_successors(table) -> None:
    """No (s, s') pair crosses an episode: observation 0 is 100 i + t, so a successor is one more."""
    bootstrapped = table.column("terminated") == 0
    step = table.column("next_obs")[:, 0] - table.column("obs")[:, 0]
    assert bootstrapped.any()
    assert (step[bootstrapped] == 1.0).all()
    episode = (table.column("obs")[:, 0] / 100).floor()
    for first, last in zip(table.episodes.offsets[:-1], table.episodes.offsets[1:] - 1, strict=True):
        assert episode[first] == episode[last]


def test_terminals_and_timeouts_end_episodes(tmp_path):
    path = write_d4rl(tmp_path / "a.hdf5", episodes(*MIXED))
    table = read_d4rl(path)
    assert table.episodes.offsets.tolist() == [0, 4, 7, 9]  # the last five rows belong to no complete episode
    assert flags(table) == ([6], [3, 8])
    check_successors(table)
    assert table.column("next_obs")[3, 0] == 4.0  # what followed a timeout was recorded
    assert table.reward.tolist() == [1, 2, 3, 4, 1, 2, 3, 1, 2]
    assert table.column("learned_reward").isnan().all()
    assert table.success is None
    about = table.about
    assert about["rows_left_out"] == {"incomplete_episode": 5, "no_next_obs": 0}
    assert (about["file"]["name"], about["timeouts"], about["next_obs"]) == ("a.hdf5", "stored", "stored")


def test_without_next_observations_a_timeouts_last_step_is_left_out(tmp_path):
    path = write_d4rl(tmp_path / "a.hdf5", episodes(*MIXED), without=["next_observations"])
    table = read_d4rl(path)
    assert table.episodes.offsets.tolist() == [0, 3, 6, 7]  # 4, 3 and 2 steps: 3, 3 (ends in a terminal) and 1
    assert table.column("obs")[:, 0].tolist() == [0, 1, 2, 100, 101, 102, 200]
    assert flags(table) == ([5], [2, 6])
    check_successors(table)
    assert table.column("next_obs")[5, 0] == 102.0  # never looked at: there is no future value
    assert table.about["rows_left_out"] == {"incomplete_episode": 5, "no_next_obs": 2}
    assert table.about["next_obs"] == "shifted"


def test_an_episode_of_one_step_whose_successor_is_unknown_disappears(tmp_path):
    columns = episodes(("timeout", "timeout", "terminal"), (1, 3, 1))
    table = read_d4rl(write_d4rl(tmp_path / "a.hdf5", columns, without=["next_observations"]))
    assert table.episodes.offsets.tolist() == [0, 2, 3]
    assert table.column("obs")[:, 0].tolist() == [100, 101, 200]


@pytest.mark.parametrize("stored", [True, False])
def test_missing_timeouts_are_counted(tmp_path, stored):
    columns = episodes(("timeout", "terminal", "timeout", "nothing"), (4, 3, 4, 3))
    without = ["timeouts"] if stored else ["timeouts", "next_observations"]
    table = read_d4rl(write_d4rl(tmp_path / "a.hdf5", columns, without), max_episode_steps=4)
    assert table.episodes.offsets.tolist() == ([0, 4, 7, 11] if stored else [0, 3, 6, 9])
    assert flags(table) == (([6], [3, 10]) if stored else ([5], [2, 8]))
    check_successors(table)
    assert table.about["timeouts"] == "every 4 steps"


def test_a_counted_last_episode_is_complete_at_the_limit(tmp_path):
    path = write_d4rl(tmp_path / "a.hdf5", episodes(("timeout", "timeout"), (4, 4)), without=["timeouts"])
    assert read_d4rl(path, max_episode_steps=4).episodes.offsets.tolist() == [0, 4, 8]
    assert read_d4rl(path, max_episode_steps=5).episodes.offsets.tolist() == [0, 5]


def test_a_row_that_is_both_is_terminal(tmp_path):
    columns = episodes(("terminal", "timeout"), (3, 3))
    columns["timeouts"][2] = True
    assert flags(read_d4rl(write_d4rl(tmp_path / "a.hdf5", columns))) == ([2], [5])


def test_in_antmaze_terminals_are_goals_and_episodes_end_at_timeouts(tmp_path):
    columns = episodes(("timeout", "timeout", "nothing"), (5, 4, 3))
    columns["terminals"][[2, 3, 8, 10]] = True  # at the goal: inside the first, at the end of the second, in the unfinished one
    columns["rewards"] = columns["terminals"].astype(np.float32)
    path = write_d4rl(tmp_path / "a.hdf5", columns, without=["next_observations"])
    table = read_d4rl(path, terminals="goal")
    assert table.episodes.offsets.tolist() == [0, 4, 8]  # the second keeps its last step, nothing follows it
    assert flags(table) == ([2, 3, 7], [])
    assert table.success.nonzero().flatten().tolist() == [2, 3, 7]
    check_successors(table)
    assert read_d4rl(path).episodes.offsets.tolist() == [0, 3, 4, 8, 10]  # read as ends they cut the episodes


def test_no_learner_bootstraps_from_a_goal_but_from_a_timeout(tmp_path):
    columns = episodes(("timeout",), (4,))
    columns["terminals"][1] = True
    table = read_d4rl(write_d4rl(tmp_path / "a.hdf5", columns), terminals="goal")
    discount = 0.99 * (1 - table.column("terminated"))
    assert discount.tolist() == pytest.approx([0.99, 0.0, 0.99, 0.99])


def test_iqls_scale_of_the_true_reward(tmp_path):
    table = read_d4rl(write_d4rl(tmp_path / "a.hdf5", episodes(*MIXED)))
    # returns of the complete episodes: 1 + 2 + 3 + 4 = 10, 6 and 3, so r * 1000 / (10 - 3)
    scaled = rescale(table.reward, table, "return_range", 1000)
    assert scaled.tolist() == pytest.approx([r * 1000 / 7 for r in (1, 2, 3, 4, 1, 2, 3, 1, 2)], rel=1e-5)


def test_actions_are_clipped_and_counted(tmp_path):
    columns = episodes(("timeout",), (3,))
    columns["actions"][:, 0] = [1.0, -1.0, 1.5]
    table = read_d4rl(write_d4rl(tmp_path / "a.hdf5", columns))
    bound = torch.tensor(1.0 - 1e-5)
    assert torch.equal(table.column("action")[:, 0], torch.stack([bound, -bound, bound]))
    assert table.about["actions_clipped"] == 1


def test_other_types_and_shapes_are_read(tmp_path):
    columns = episodes(*MIXED)
    same = read_d4rl(write_d4rl(tmp_path / "a.hdf5", columns))
    columns["observations"] = columns["observations"].astype(np.float64)
    columns["rewards"] = columns["rewards"][:, None]
    columns["terminals"] = columns["terminals"].astype(np.uint8)[:, None]
    table = read_d4rl(write_d4rl(tmp_path / "b.hdf5", columns, compression="gzip"))
    assert table.fingerprint == same.fingerprint


def test_the_first_entries_of_an_observation(tmp_path):
    path = write_d4rl(tmp_path / "a.hdf5", episodes(*MIXED, obs_dim=5))
    table = read_d4rl(path, obs_dim=2)
    assert table.obs_dim == 2
    assert torch.equal(table.column("obs"), read_d4rl(path).column("obs")[:, :2])
    check_successors(table)


def test_the_second_opening_reads_a_copy(tmp_path, monkeypatch):
    path, cache = write_d4rl(tmp_path / "a.hdf5", episodes(*MIXED)), tmp_path / "cache"
    first = read_d4rl(path, cache_dir=cache)
    monkeypatch.setattr("lightning_pbrl.data.d4rl._columns", None)  # reading the file again would fail
    again = read_d4rl(path, cache_dir=cache)
    assert again.fingerprint == first.fingerprint
    assert again.about == first.about
    with pytest.raises(TypeError):
        read_d4rl(path, obs_dim=2, cache_dir=cache)  # another setting is another copy


# Mistakes --------------------------------------------------------------------------------------------------------------


def spoiled(tmp_path: Path, **changes) -> Path:
    columns = episodes(*MIXED)
    return write_d4rl(
        tmp_path / "a.hdf5", {**columns, **changes}, without=[key for key, value in changes.items() if value is None]
    )


ROWS = sum(MIXED[1])
NAN = np.where(np.arange(ROWS)[:, None] == 6, np.nan, np.ones((ROWS, 3), dtype=np.float32))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"actions": None}, ["no key 'actions'", "observations"]),
        ({"terminals": None}, ["no key 'terminals'"]),
        ({"timeouts": None}, ["no key 'timeouts'", "max_episode_steps"]),
        ({"rewards": np.array([b"one"] * ROWS)}, ["key 'rewards'", "instead of numbers", "float32"]),
        ({"terminals": np.full(ROWS, 0.5)}, ["key 'terminals'", "0.5", "store 0 and 1"]),
        ({"observations": NAN}, ["key 'observations'", "NaN", "row 6"]),
        ({"next_observations": NAN}, ["key 'next_observations'", "NaN", "row 6"]),
        ({"rewards": np.full(ROWS, np.inf)}, ["key 'rewards'", "row 0"]),
        ({"actions": np.zeros((3, 2))}, ["key 'actions'", "3 rows", f"where {ROWS} belong"]),
        ({"observations": np.zeros(ROWS)}, ["key 'observations'", "shape"]),
        ({"next_observations": np.zeros((ROWS, 2))}, ["'next_observations'", "'observations'", "same size"]),
        ({"terminals": np.zeros(ROWS), "timeouts": np.zeros(ROWS)}, ["no complete episode", "'terminals' or 'timeouts'"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_bad_files_name_file_key_and_cure(tmp_path, changes, words):
    with pytest.raises(UserError) as error:
        read_d4rl(spoiled(tmp_path, **changes))
    sentence = str(error.value)
    assert "a.hdf5" in sentence
    assert "\n" not in sentence
    for word in words:
        assert word in sentence


def test_goals_without_timeouts(tmp_path):
    path = write_d4rl(tmp_path / "a.hdf5", episodes(("terminal",), (3,)))
    with pytest.raises(UserError, match="no complete episode, no row of 'timeouts' is set"):
        read_d4rl(path, terminals="goal")


def test_too_few_rows_for_an_episode(tmp_path):
    path = write_d4rl(tmp_path / "a.hdf5", episodes(("nothing",), (3,)), without=["timeouts"])
    with pytest.raises(UserError, match="fewer than 1000 rows"):
        read_d4rl(path, max_episode_steps=1000)


def test_steps_whose_successor_is_never_known(tmp_path):
    path = write_d4rl(tmp_path / "a.hdf5", episodes(("timeout",) * 3, (1, 1, 1)), without=["next_observations"])
    with pytest.raises(UserError, match="episodes of one step only and no 'next_observations'"):
        read_d4rl(path)


@pytest.mark.parametrize("size", [4, 3000])
def test_a_truncated_file(tmp_path, size):
    whole = write_d4rl(tmp_path / "whole.hdf5", episodes(("timeout",) * 10, (50,) * 10))
    path = tmp_path / "a.hdf5"
    path.write_bytes(whole.read_bytes()[:size])
    with pytest.raises(UserError, match=r"a\.hdf5 is .*download it again"):
        read_d4rl(path)


def test_no_file_and_no_such_sizes(tmp_path):
    with pytest.raises(UserError, match=r"no file .*nowhere\.hdf5: check the path"):
        read_d4rl(tmp_path / "nowhere.hdf5")
    path = spoiled(tmp_path)
    with pytest.raises(UserError, match=r"a\.hdf5: key 'observations' has 3 entries per row and obs_dim is 4"):
        read_d4rl(path, obs_dim=4)
    with pytest.raises(UserError, match="max_episode_steps is 0"):
        read_d4rl(path, max_episode_steps=0)


def test_a_group_in_place_of_an_array(tmp_path):
    path = spoiled(tmp_path, observations=None)
    with h5py.File(path, "a") as file:
        file["observations/agent"] = np.zeros((ROWS, 3))
    with pytest.raises(UserError, match="key 'observations' is a group of agent"):
        read_d4rl(path)


# The simulator of ant ---------------------------------------------------------------------------------------------------


def test_ant_without_contact_forces_has_the_27_numbers_that_are_not_zero_in_d4rl():
    simulator = GymMuJoCo("Ant-v5", contact_forces=False)
    assert (simulator.obs_dim, simulator.action_dim, simulator.d4rl_task) == (27, 8, "ant")
    bare, full = simulator.make(), GymMuJoCo("Ant-v5").make()
    first = bare.reset(seed=3)[0]
    assert np.array_equal(first, full.reset(seed=3)[0][:27])
    action = np.linspace(-1, 1, 8)
    for _ in range(20):  # the ant falls on its feet
        obs, reward, *_ = bare.step(action)
        full_obs, full_reward, *_ = full.step(action)
    assert np.array_equal(obs, full_obs[:27])
    assert reward > full_reward  # no cost of contacts
    assert simulator.describe()["contact_forces"] is False
    with pytest.raises(UserError, match="Ant-v5 alone"):
        GymMuJoCo("Hopper-v5", contact_forces=False)
