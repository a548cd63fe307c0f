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
    with pytest.warns(UserWarning, match=r"1 reset\(s\) inside episodes are not marked, the first after row 3"):
        table = read_d4rl(path, max_episode_steps=5)  # the data show a reset where the count would go on
    assert table.episodes.offsets.tolist() == [0, 4]
    path = write_d4rl(tmp_path / "b.hdf5", episodes(("timeout", "timeout"), (4, 4)), ["timeouts", "next_observations"])
    assert read_d4rl(path, max_episode_steps=5).episodes.offsets.tolist() == [0, 4]  # nothing but the count


def test_unmarked_resets_end_episodes_and_are_told(tmp_path):
    """Rows 0-3, 4-6 and 7-9 are three recordings; the file marks the end of the last two alone."""
    columns = episodes(("nothing", "terminal", "timeout"), (4, 3, 3))
    path, cache = write_d4rl(tmp_path / "a.hdf5", columns), tmp_path / "cache"
    sentence = (
        rf"{path}: 1 reset\(s\) inside episodes are not marked, the first after row 3: next_observations do not lead to the "
        "next row there; episodes were split, their last steps truncated."
    )
    for _ in range(2):  # also when the copy is read
        with pytest.warns(UserWarning, match=f"^{sentence}$"):
            table = read_d4rl(path, cache_dir=cache)
    assert table.episodes.offsets.tolist() == [0, 4, 7, 10]
    assert flags(table) == ([6], [3, 9])
    assert table.column("next_obs")[3, 0] == 4.0
    check_successors(table)
    assert (table.about["unmarked_resets"], table.about["first_reset_after_row"]) == (1, 3)


def test_a_goal_does_not_hide_a_reset(tmp_path):
    columns = episodes(("nothing", "timeout"), (4, 3))
    columns["terminals"][1] = columns["terminals"][3] = True  # AntMaze: at the goal, once as the recording was reset
    path = write_d4rl(tmp_path / "a.hdf5", columns)
    with pytest.warns(UserWarning, match="the first after row 3"):
        table = read_d4rl(path, terminals="goal")
    assert table.episodes.offsets.tolist() == [0, 4, 7]
    assert flags(table) == ([1, 3], [6])


def test_rounding_is_no_reset_but_a_left_out_row_is(tmp_path):
    columns = episodes(("timeout", "timeout"), (6, 6))
    columns["next_observations"] = columns["next_observations"] * (1 + 1e-7)
    assert read_d4rl(write_d4rl(tmp_path / "a.hdf5", columns)).about["unmarked_resets"] == 0
    half = {**columns, "observations": columns["observations"].astype(np.float16)}
    assert read_d4rl(write_d4rl(tmp_path / "b.hdf5", half)).about["unmarked_resets"] == 0
    left_out = {key: np.delete(values, 2, axis=0) for key, values in columns.items()}
    with pytest.warns(UserWarning, match="1 reset.*the first after row 1"):
        assert read_d4rl(write_d4rl(tmp_path / "c.hdf5", left_out)).episodes.offsets.tolist() == [0, 2, 5, 11]


def test_rows_in_no_order_are_refused(tmp_path):
    columns = episodes(("timeout",), (12,))
    columns["next_observations"] = columns["next_observations"][::-1]
    with pytest.raises(
        UserError, match=r"a\.hdf5: key 'next_observations' is not the observation of the next row in 11 of the 11 "
    ):
        read_d4rl(write_d4rl(tmp_path / "a.hdf5", columns))


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


def test_actions_beyond_their_scale(tmp_path):
    """Rounding is clipped; more is refused, rescaled by the bounds that the user names, or clipped where the environment does."""
    columns = episodes(("timeout",), (3,))
    columns["actions"][:, 0], columns["actions"][:, 1] = [1.0005, -1.0, 1.5], 0.5
    path = write_d4rl(tmp_path / "a.hdf5", columns)
    with pytest.raises(UserError) as error:
        read_d4rl(path)
    assert str(error.value) == (
        f"{path}: key 'actions' leaves [-1, 1] in 1 row(s) by up to 0.5, the first is row 2 with 1.5: rescale actions to [-1, 1] "
        "before storing them, or set action_bounds to [low, high] of their units, or set clip_actions: true where the "
        "environment itself clips them."
    )
    table, bound = read_d4rl(path, clip_actions=True), torch.tensor(1.0 - 1e-5)
    assert torch.equal(table.column("action")[:, 0], torch.stack([bound, -bound, bound]))
    assert table.about["actions_clipped"] == 2
    table = read_d4rl(path, action_bounds=[-2.0, 2.0], cache_dir=tmp_path / "cache")
    assert table.column("action")[:, 0].tolist() == pytest.approx([0.50025, -0.5, 0.75])
    assert table.about["actions_clipped"] == 0
    each = read_d4rl(path, action_bounds=[[-2.0, 0.0], [2.0, 1.0]], cache_dir=tmp_path / "cache")  # another setting, another copy
    assert each.column("action")[2].tolist() == pytest.approx([0.75, 0.0])
    with pytest.raises(UserError, match=r"leaves .-1, 1. after rescaling in 1 row.*row 2 with 1.25: set action_bounds to the r"):
        read_d4rl(path, action_bounds=[-1.0, 1.2222222])
    for wrong in ([-1.0], [1.0, 1.0], [-np.inf, np.inf], [[-1.0, -1.0, -1.0], 1.0]):
        with pytest.raises(UserError, match=r"a\.hdf5: key 'actions'.*action_bounds is .*: give "):
            read_d4rl(path, action_bounds=wrong)


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
    monkeypatch.setattr("lightning_pbrl.data.d4rl._scan", None)  # reading the file again would fail
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
        ({"timeouts": np.where(np.arange(ROWS) == 5, np.nan, 0.0)}, ["key 'timeouts' holds nan in row 5", "store 0 and 1"]),
        ({"terminals": np.full(ROWS, -1)}, ["key 'terminals' holds -1 in row 0", "store 0 and 1"]),
        (
            {"terminals": np.zeros(ROWS), "timeouts": np.zeros(ROWS), "next_observations": None},
            ["no complete episode", "'terminals' or 'timeouts'"],
        ),
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


def test_an_array_whose_name_is_nearly_that_of_another(tmp_path: Path):
    columns = episodes(["timeout"], [5])
    columns["next_obsErvations"] = columns.pop("next_observations")
    path = write_d4rl(tmp_path / "d.hdf5", columns)
    with pytest.raises(UserError) as caught:
        read_d4rl(path)
    assert str(caught.value) == (
        f"{path} has no key 'next_observations' and one called 'next_obsErvations': rename it, or download the file again."
    )
