"""LiRE's layout: rows, episodes, ends and every way a file can be wrong."""

from __future__ import annotations

import pickle
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic import synthetic_transitions

from lightning_pbrl.data import lire
from lightning_pbrl.data.lire import read_lire, split_episodes, write_lire
from lightning_pbrl.datamodules.lire import LiREDataModule
from lightning_pbrl.envs.dm_control import DMControl
from lightning_pbrl.errors import UserError

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "lire"
real_files = pytest.mark.skipif(not REAL.is_dir(), reason="the recreated LiRE files are not on this machine")


def buffer(seed: int = 0, rows: int = 12, ends: tuple[int, ...] = (3, 9), **changes: object) -> dict[str, object]:
    """A buffer whose observations and rewards count 100 * seed + row; ``ends`` are the rows with a done.

    What followed a row is the next row; after a done it is a quarter more, which is in no other row.
    """
    count = 100.0 * seed + np.arange(rows)
    done = np.zeros(rows)
    done[list(ends)] = 1
    after = np.where(done == 1, 0.25, 1.0)
    arrays = {
        "observations": np.stack([count, -count], 1),
        "actions": np.full((rows, 1), 0.5, np.float32),
        "next_observations": np.stack([count + after, -(count + after)], 1),
        "rewards": count[:, None],
        "dones": done[:, None],
    }
    return {key: value for key, value in {**arrays, **changes}.items() if value is not None}


def written(folder: Path, seed: int = 0, suffix: str = "pkl", size: int = 1000000, **changes: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"saved_replay_buffer_{size}_seed{seed}.{suffix}"
    arrays = buffer(seed, **changes)
    if suffix == "npz":
        np.savez(path, **arrays)
    else:
        path.write_bytes(pickle.dumps(arrays, protocol=4))
    return path


@pytest.fixture
def small_quality(monkeypatch: pytest.MonkeyPatch) -> None:
    """``data_quality`` 1 is ten rows."""
    monkeypatch.setattr(lire, "ROWS_PER_QUALITY", 10)


def test_split_by_hand():
    done = torch.zeros(12, dtype=torch.bool)
    done[[3, 9]] = True
    # dones end rows 0-3 and 4-9; the limit of 4 cuts the second into 4-7 and 8-9; part two begins at row 11
    offsets, ended = split_episodes(done, [11, 1], limit=4)
    assert offsets.tolist() == [0, 4, 8, 10, 11, 12]
    assert ended.tolist() == [True, False, True, False, False]


def test_split_against_a_slow_loop():
    rng = torch.Generator().manual_seed(0)
    done = torch.rand(500, generator=rng) < 0.05
    parts, limit = [200, 137, 163], 17
    starts, length = [], 0
    borders = {0, 200, 337}
    for row in range(500):
        if row in borders or (row and done[row - 1]) or length == limit:
            starts.append(row)
            length = 0
        length += 1
    assert split_episodes(done, parts, limit)[0].tolist() == [*starts, 500]


@pytest.mark.parametrize("suffix", ["pkl", "npz"])
def test_buffers_are_joined_in_seed_order(tmp_path: Path, suffix: str):
    for seed in (2, 0, 1):
        written(tmp_path / "hammer-v2", seed, suffix)
    data = read_lire(tmp_path / "hammer-v2")
    count = torch.cat([100 * seed + torch.arange(12.0) for seed in (0, 1, 2)])
    assert torch.equal(data.reward, count)
    assert torch.equal(data.column("obs"), torch.stack([count, -count], 1))
    assert data.column("next_obs")[[3, 9, 15], 0].tolist() == [3.25, 9.25, 103.25]  # as stored, not the next row's observation
    assert data.episodes.offsets.tolist() == [0, 4, 10, 12, 16, 22, 24, 28, 34, 36]  # ragged, last one partial
    assert data.about["task"] is None
    assert data.about["horizon"] == 6
    assert [file["rows"] for file in data.about["files"]] == [12, 12, 12]
    assert len(data.about["files"][0]["sha256"]) == 64


def test_flat_rewards_and_dones_read_the_same(tmp_path: Path):
    written(tmp_path / "a")
    arrays = buffer()
    written(tmp_path / "b", rewards=arrays["rewards"].reshape(-1), dones=arrays["dones"].reshape(-1).astype(bool))
    assert read_lire(tmp_path / "a", seeds=[0]).fingerprint == read_lire(tmp_path / "b", seeds=[0]).fingerprint


def test_every_end_is_a_time_limit_unless_told_otherwise(tmp_path: Path):
    written(tmp_path / "a")
    data = read_lire(tmp_path / "a", seeds=[0], max_episode_steps=6)
    assert data.episodes.lengths.tolist() == [4, 6, 2]
    assert data.column("terminated").sum() == 0
    assert data.column("truncated").nonzero()[:, 0].tolist() == [3, 9, 11]
    data = read_lire(tmp_path / "a", seeds=[0], max_episode_steps=6, early_end="terminated")
    assert data.column("terminated").nonzero()[:, 0].tolist() == [3]  # after 4 of 6 steps; row 9 is at the limit
    assert data.column("truncated").nonzero()[:, 0].tolist() == [9, 11]


@pytest.mark.filterwarnings("ignore:.*reset.s. inside episodes are not marked")
def test_the_folders_name_decides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A link, ``.`` and any other name give the same table, with dones and without."""
    jump = np.arange(1100.0) + 50 * (np.arange(1100) >= 500)  # reset after row 499
    unmarked = {"observations": np.stack([jump, -jump], 1), "next_observations": np.stack([jump + 1, -jump - 1], 1)}
    for name, changes in (("marked", {"ends": (499, 999)}), ("unmarked", {"ends": (999,), **unmarked})):
        folder = tmp_path / name / "hammer-v2"
        written(folder, rows=1100, **changes)
        (tmp_path / name / "walker-walk").symlink_to(folder)
        monkeypatch.chdir(folder)
        for place in (folder, tmp_path / name / "walker-walk", Path(".")):
            data = read_lire(place, seeds=[0])
            assert data.episodes.lengths.tolist() == [500, 500, 100]
            assert data.about["horizon"] == 500


def test_who_says_how_long_an_episode_is(tmp_path: Path):
    written(tmp_path, rows=1100, ends=())
    with pytest.raises(UserError) as error:
        read_lire(tmp_path, seeds=[0])
    assert str(error.value) == (
        f"{tmp_path}/saved_replay_buffer_1000000_seed0.pkl marks no end of an episode in 1100 rows, neither by 'dones' nor by a "
        "reset: set max_episode_steps to the time limit of the task."
    )
    assert read_lire(tmp_path, seeds=[0], max_episode_steps=500).episodes.lengths.tolist() == [500, 500, 100]
    assert len(read_lire(tmp_path, seeds=[0], max_episode_steps=1100).episodes) == 1
    with pytest.raises(UserError, match="early_end: terminated needs max_episode_steps, because a done at the time limit"):
        read_lire(tmp_path, seeds=[0], early_end="terminated")
    with pytest.raises(UserError, match="max_episode_steps is 0; give at least 1"):
        read_lire(tmp_path, seeds=[0], max_episode_steps=0)


def test_unmarked_resets_end_episodes_and_are_told(tmp_path: Path):
    place = np.r_[0:5, 20:27].astype(float)
    columns = {"observations": place[:, None], "next_observations": place[:, None] + 1}
    written(tmp_path, ends=(8,), **columns)
    sentence = r"seed0\.pkl: 1 reset\(s\) inside episodes are not marked, the first after row 4: next_observations do not lead to"
    with pytest.warns(UserWarning, match=sentence):
        data = read_lire(tmp_path, seeds=[0])
    assert data.episodes.offsets.tolist() == [0, 5, 9, 12]
    assert data.column("truncated").nonzero()[:, 0].tolist() == [4, 8, 11]
    assert data.column("next_obs")[4].item() == 5.0
    assert data.about["files"][0]["unmarked_resets"] == 1
    assert read_lire(tmp_path, seeds=[0], max_episode_steps=5).episodes.offsets.tolist() == [
        0,
        5,
        9,
        12,
    ]  # at the limit: expected


def test_the_module_takes_the_time_limit_from_the_user_or_the_simulator(tmp_path: Path):
    wide = {"observations": np.zeros((1100, 24)), "next_observations": np.zeros((1100, 24)), "actions": np.zeros((1100, 6))}
    written(tmp_path, rows=1100, ends=(), **wide)
    simulator = DMControl("walker-walk")
    lengths = [1000, 100]
    for settings, expected in (({}, lengths), ({"max_episode_steps": 600}, [600, 500])):
        module = LiREDataModule(str(tmp_path), simulator, seeds=[0], **settings)
        assert module.load().episodes.lengths.tolist() == expected
    assert module.load().about["task"] == "walker-walk"
    with pytest.raises(
        UserError, match="has 24 observation and 6 action entries and cheetah-run has 17 and 6: give the simulator"
    ):
        LiREDataModule(str(tmp_path), DMControl("cheetah-run"), seeds=[0]).load()


@pytest.mark.usefixtures("small_quality")
def test_data_quality_takes_the_first_rows_of_each_seed(tmp_path: Path):
    for seed in (0, 1):
        written(tmp_path / "a", seed)
    data = read_lire(tmp_path / "a", "a", data_quality=0.6, seeds=(0, 1))
    assert data.reward.tolist() == [0, 1, 2, 3, 4, 5, 100, 101, 102, 103, 104, 105]
    with pytest.raises(UserError, match=r"seed0\.pkl has 12 rows, and data_quality 1.5 of a needs 15.*<= 1\.2"):
        read_lire(tmp_path / "a", "a", data_quality=1.5)
    with pytest.raises(UserError, match="data_quality 0 of a asks for no rows: choose more than 0"):
        read_lire(tmp_path / "a", "a", data_quality=0)


@pytest.mark.usefixtures("small_quality")
def test_humanoid_leaves_out_its_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert lire.HUMANOID_SKIP == 200_000
    monkeypatch.setattr(lire, "HUMANOID_SKIP", 4)
    written(tmp_path / "any")
    assert read_lire(tmp_path / "any", "humanoid-walk", data_quality=0.7, seeds=[0]).reward.tolist() == [4, 5, 6]
    with pytest.raises(UserError, match=r"choose more than 0\.4"):
        read_lire(tmp_path / "any", "humanoid-walk", data_quality=0.4, seeds=[0])


def test_which_file_of_a_seed(tmp_path: Path):
    written(tmp_path, suffix="pkl", size=1000)
    written(tmp_path, suffix="pkl", size=20000, rows=13)
    (tmp_path / "saved_replay_buffer_90000_seed0_first5episodes.pkl").write_bytes(b"not a buffer")
    assert len(read_lire(tmp_path, seeds=[0])) == 13
    written(tmp_path, suffix="npz", size=20000, rows=14)
    assert len(read_lire(tmp_path, seeds=[0])) == 14


def test_actions_in_other_units(tmp_path: Path):
    written(tmp_path, actions=np.linspace(-3, 3, 12)[:, None])
    with pytest.raises(UserError, match=r"leaves \[-1, 1\] in 8 row\(s\) by up to 2, the first is row 0 with 3: rescale"):
        read_lire(tmp_path, seeds=[0])
    data = read_lire(tmp_path, seeds=[0], action_bounds=[-3.0, 3.0])
    assert data.column("action")[:, 0].tolist() == pytest.approx(np.linspace(-1, 1, 12), abs=1e-6)
    assert read_lire(tmp_path, seeds=[0], clip_actions=True).column("action")[0].item() == -1.0


@pytest.mark.parametrize("suffix", ["npz", "pkl"])
def test_write_and_read_back(tmp_path: Path, suffix: str):
    data = synthetic_transitions(episodes=4, length=10)
    path = write_lire(data, tmp_path / "t", seed=1, suffix=suffix)
    assert path.name == f"saved_replay_buffer_40_seed1.{suffix}"
    back = read_lire(tmp_path / "t", seeds=[1], max_episode_steps=10)
    assert back.fingerprint == data.fingerprint
    assert torch.equal(back.column("truncated"), data.column("truncated"))
    keys = sorted(np.load(path)) if suffix == "npz" else sorted(pickle.loads(path.read_bytes()))
    assert keys == sorted(lire.KEYS.values())


def test_unknown_rewards_cannot_be_written(tmp_path: Path):
    data = synthetic_transitions()
    data.reward[3] = float("nan")
    with pytest.raises(UserError, match="need the true reward of every row"):
        write_lire(data, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"next_observations": None}, r"seed0\.pkl has no key 'next_observations' \(it has actions, dones"),
        ({"observations": np.full((12, 2), "x")}, "instead of numbers"),
        ({"observations": np.full((12, 2), None)}, "instead of numbers"),
        ({"observations": [[1.0, 2.0]] * 11 + [["a", "b"]]}, "key 'observations' holds <U"),
        ({"rewards": np.full(12, np.nan)}, "key 'rewards' is NaN or infinite in 12 row.*first is row 0"),
        ({"rewards": np.zeros((12, 2))}, r"key 'rewards' has shape \(12, 2\)"),
        ({"dones": np.zeros(11)}, "key 'dones' has 11 rows and 'observations' has 12"),
        ({"dones": np.full(12, 0.5)}, r"key 'dones' holds 0\.5 in row 0: store 0 and 1, or booleans"),
        ({"dones": np.r_[np.zeros(7), 2, np.zeros(4)]}, r"key 'dones' holds 2\.0 in row 7"),
        ({"next_observations": np.zeros((12, 2))}, r"'next_observations' is not the observation of the next row in 9 of the 9"),
        ({"actions": np.full((12, 1), 2.0)}, r"key 'actions' leaves \[-1, 1\] in 12 row.*rescale actions"),
        ({"next_observations": np.zeros((12, 3))}, r"key 'next_observations' has shape \(12, 3\)"),
    ],
)
def test_bad_content(tmp_path: Path, changes: dict, message: str):
    written(tmp_path, **changes)
    with pytest.raises(UserError, match=message):
        read_lire(tmp_path, seeds=[0])


def test_ragged_arrays_are_named(tmp_path: Path):
    written(tmp_path, observations=[[1.0, 2.0], [3.0]])
    with pytest.raises(UserError, match="holds rows of unequal sizes"):
        read_lire(tmp_path, seeds=[0])


@pytest.mark.parametrize("suffix", ["npz", "pkl"])
@pytest.mark.parametrize("keep", [0, 10, 300, -30])
def test_truncated_files(tmp_path: Path, suffix: str, keep: int):
    path = written(tmp_path, suffix=suffix)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=rf"seed0\.{suffix} is truncated or not an? .*copy it again"):
        read_lire(tmp_path, seeds=[0])


def test_npz_with_objects_is_not_unpickled(tmp_path: Path):
    written(tmp_path, suffix="npz", observations=np.array([{"a": 1}] * 12, dtype=object))
    with pytest.raises(UserError, match="something other than plain numbers"):
        read_lire(tmp_path, seeds=[0])


def test_missing_tree(tmp_path: Path):
    with pytest.raises(UserError, match=r"no folder .*absent.*saved_replay_buffer_\*_seed\{0,1,2\}"):
        read_lire(tmp_path / "absent")
    written(tmp_path / "a")
    with pytest.raises(UserError, match=r"has no saved_replay_buffer_\*_seed1\.pkl or \.npz: .*leave 1 out of seeds"):
        read_lire(tmp_path / "a")


def test_a_pickled_list_and_mixed_tasks(tmp_path: Path):
    (tmp_path / "saved_replay_buffer_1_seed0.pkl").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(UserError, match="holds a list, not a dict of arrays"):
        read_lire(tmp_path, seeds=[0])
    written(tmp_path / "a", 0)
    written(tmp_path / "a", 1, actions=np.zeros((12, 2)))
    with pytest.raises(UserError, match="differ in observation or action size"):
        read_lire(tmp_path / "a", seeds=[0, 1])


def test_no_loop_over_rows(tmp_path: Path):
    rows = 300_000
    written(tmp_path, rows=rows, ends=tuple(range(499, rows, 500)))
    start = time.perf_counter()
    assert len(read_lire(tmp_path, seeds=[0]).episodes) == rows // 500
    assert time.perf_counter() - start < 3.0


@real_files
def test_the_real_tasks():
    """Mean rewards, rows and episodes as the files' own README states them."""
    for task, episodes, mean, sizes in (
        ("MetaWorld/button-press-topdown-v3", 600, 3.6084, (39, 4)),
        ("DMControl/walker-walk", 300, 0.3955, (24, 6)),
    ):
        data = read_lire(REAL / task, data_quality=1.0)
        assert len(data) == 300_000
        assert len(data.episodes) == episodes
        assert data.episodes.lengths.unique().numel() == 1
        assert (data.obs_dim, data.action_dim) == sizes
        assert data.reward.mean().item() == pytest.approx(mean, abs=5e-5)
        assert data.column("terminated").sum() == 0
        assert data.column("truncated").sum() == episodes


@real_files
def test_the_real_pickle(tmp_path: Path):
    """The sample in the original on-disk form equals the first five episodes of the .npz."""
    folder = REAL / "MetaWorld" / "button-press-topdown-v3"
    sample = next(folder.glob("*_first5episodes.pkl"))
    shutil.copy(sample, tmp_path / "saved_replay_buffer_1000000_seed0.pkl")
    data = read_lire(tmp_path, seeds=[0])
    assert data.fingerprint == read_lire(folder, data_quality=0.025, seeds=[0]).fingerprint
    assert data.episodes.lengths.tolist() == [500] * 5
