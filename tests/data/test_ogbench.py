"""OGBench's files: rows against a slow loop, single-task rewards by hand, pictures, and what is refused."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from format_files import trajectories, write_ogbench

from lightning_pbrl.data import ogbench
from lightning_pbrl.data.ogbench import read_ogbench, recognises
from lightning_pbrl.data.ogbench_goals import CUBES, PUZZLES
from lightning_pbrl.data.ogbench_tasks import Task, task_of
from lightning_pbrl.errors import UserError

MAZE = "antmaze-medium-navigate-singletask-task5-v0"  # goal in cell (1, 1), at (0, 0)


def slowly(columns: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Every step of a file, one by one: obs, action, next_obs, truncated."""
    rows = []
    for i in range(len(columns["terminals"]) - 1):
        if not columns["terminals"][i]:
            steps = (columns["observations"][i], columns["actions"][i], columns["observations"][i + 1])
            rows.append((*steps, bool(columns["terminals"][i + 1])))
    return rows


@pytest.mark.parametrize("window", [1, 200, 10**6])
@pytest.mark.parametrize("compact", [False, True])
def test_rows_are_those_of_a_slow_loop(window: int, compact: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ogbench, "WINDOW", window)
    columns = trajectories([3, 1, 12, 2])
    expected = slowly(columns)
    if compact:  # as load_dataset(compact_dataset=True) returns it
        ends = columns["terminals"]
        columns |= {"valids": 1 - ends, "terminals": np.minimum(ends + np.append(ends[1:], 1), 1)}
    found = read_ogbench(write_ogbench(tmp_path / "a.npz", columns), cache_dir=tmp_path / "cache")
    assert found.episodes.lengths.tolist() == [3, 1, 12, 2]
    assert len(found) == len(expected) == 18
    for row, (obs, action, next_obs, truncated) in enumerate(expected):
        assert found.column("obs")[row].tolist() == obs.tolist()
        assert found.column("action")[row].numpy() == pytest.approx(action, abs=2e-5)
        assert found.column("next_obs")[row].tolist() == next_obs.tolist()
        assert bool(found.column("truncated")[row]) == truncated
    assert not found.column("terminated").any() and found.reward.isnan().all() and found.success is None
    assert found.drawable is None and found.about["keys_not_read"] == ["qpos", "qvel"]
    assert found.fingerprint == read_ogbench(tmp_path / "a.npz").fingerprint


def test_rows_after_the_last_mark_are_left_out(tmp_path: Path):
    columns = trajectories([3, 4])
    columns = {key: values[:-2] for key, values in columns.items()}
    found = read_ogbench(write_ogbench(tmp_path / "a.npz", columns))
    assert len(found) == 3 and found.about["observations_left_out"] == 3


def test_a_maze_pays_where_the_agent_is_within_half_a_metre(tmp_path: Path):
    columns = trajectories([4, 3])
    columns["qpos"] = np.array([[3, 4], [0.3, 0.4], [0, 0.51], [0, 0], [0, 0], [9, 9], [0.5, 0], [1, 1], [0, 0]], np.float64)
    found = read_ogbench(write_ogbench(tmp_path / "a.npz", columns), MAZE)
    assert found.reward.tolist() == [-1, 0, -1, 0, -1, 0, -1]
    assert found.success is not None
    assert found.success.tolist() == [False, True, False, True, False, True, False]
    assert found.column("terminated").tolist() == [0, 1, 0, 1, 0, 1, 0]  # no future value at the goal
    assert found.column("truncated").tolist() == [0, 0, 0, 0, 0, 0, 1]  # the first trajectory's last step is at the goal


def test_goals_of_mazes_and_soccer():
    def goal(name: str) -> tuple[list[int], list[list[float]], float]:
        (places, target, distance), *_ = task_of(name).near
        return places, target.tolist(), distance

    assert goal("antmaze-large-navigate-singletask-v0") == ([0, 1], [[36.0, 24.0]], 0.5)
    assert goal("pointmaze-medium-stitch-singletask-task2-v0") == ([0, 1], [[20.0, 0.0]], 1.0)
    assert goal("antsoccer-arena-navigate-singletask-v0") == ([15, 16], [[0.0, 20.0]], 0.5)
    assert goal("visual-antmaze-giant-navigate-singletask-task4-v0") == ([0, 1], [[44.0, 16.0]], 0.5)


def test_a_scene_pays_for_each_condition():
    places = ([0, 1, 2], np.array([[1.0, 0.0, 0.0]]), 0.04), ([3, 4], np.array([[0.0], [0.2]]), 0.04)
    task = Task(("qpos", "button_states"), list(places), np.array([0, 1]))
    qpos = np.array([[1.0, 0.0, 0.03, 0.0, 0.2], [1.0, 0.0, 0.05, -0.05, 0.17]])
    met = task.met({"qpos": qpos, "button_states": np.array([[0, 1], [1, 1]])})
    assert met.tolist() == [[True] * 5, [False, False, True, False, True]]
    assert task.width() == {"qpos": 5, "button_states": 2}


def test_goals_of_cubes_scenes_and_puzzles():
    cubes, scene, puzzle = (task_of(f"{name}-singletask-v0") for name in ("cube-double-play", "scene-play", "puzzle-3x3-play"))
    assert cubes.keys == ("qpos",) and cubes.near[0][0] == [14, 15, 16, 21, 22, 23] and cubes.buttons is None
    assert cubes.near[0][1].tolist() == [[0.35, 0.1, 0.02], [0.5, 0.1, 0.02]]
    assert scene.keys == ("qpos", "button_states") and [places for places, *_ in scene.near] == [[14, 15, 16], [23, 24]]
    assert puzzle.keys == ("button_states",) and not puzzle.near and puzzle.buttons is not None
    assert puzzle.buttons.tolist() == [1] * 9


@pytest.mark.parametrize("name", [*(f"cube-{size}" for size in CUBES), "scene", *(f"puzzle-{size}" for size in PUZZLES)])
def test_goals_are_those_of_the_package(name: str):
    pytest.importorskip("ogbench.manipspace", reason="the extra ogbench is not installed")
    kind, _, size = name.partition("-")
    made = getattr(import_module(f"ogbench.manipspace.envs.{kind}_env"), f"{kind.capitalize()}Env")
    env = made.__new__(made)  # the goals need no simulator
    env._env_type, env._reward_task_id = size, 1
    env._num_rows, env._num_cols = map(int, size.split("x")) if kind == "puzzle" else (0, 0)
    env.set_tasks()
    assert len(env.task_infos) == 5
    for number, info in enumerate(env.task_infos, start=1):
        goal, task = info.get("goal", info), task_of(f"{name}-play-singletask-task{number}-v0")
        xyz, states = (
            goal.get(key[kind == "scene"]) for key in (("goal_xyzs", "block_xyzs"), ("goal_button_states", "button_states"))
        )
        if xyz is not None:
            assert np.array_equal(task.near[0][1], xyz)
        if states is not None:
            assert task.buttons is not None and np.array_equal(task.buttons, states)
        if kind == "scene":
            assert task.near[1][1].tolist() == [[goal["drawer_pos"]], [goal["window_pos"]]]


@pytest.mark.parametrize("cached", [False, True])
def test_pictures_are_stored_once_per_step(cached: bool, tmp_path: Path):
    columns = trajectories([2, 3])
    columns["observations"] = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), np.uint8)
    found = read_ogbench(write_ogbench(tmp_path / "a.npz", columns), cache_dir=tmp_path / "cache" if cached else None)
    rows = torch.arange(5)
    assert found.frames is not None and found.frames.dtype == torch.uint8
    shown = [0, 1, 3, 4, 5]
    assert (found.pictures(found.frame_ids(rows)).numpy() == columns["observations"][shown]).all()
    assert (found.pictures(found.frame_ids(rows) + 1).numpy() == columns["observations"][np.array(shown) + 1]).all()
    assert found.column("obs").tolist() == columns["qpos"][shown].tolist()
    fingerprint, found._fingerprint = found.fingerprint, None
    assert found.fingerprint == fingerprint


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"actions": None}, "no key 'actions'"),
        ({"actions": np.zeros((9, 1), np.int32)}, "discrete"),
        ({"terminals": np.zeros(9)}, "no row of 'terminals' is set"),
        ({"terminals": np.array([0, 0, 0, 1, 1, 0, 0, 0, 1.0])}, "ends a trajectory at row 4, its only row"),
        ({"terminals": np.full(9, 0.5)}, "holds 0.5 in row 0"),
        ({"observations": np.zeros((9, 4, 4, 6), np.uint8)}, "pictures are"),
        ({"observations": np.full((9, 3), np.nan, np.float32)}, "'observations' is NaN or infinite in 9 row"),
        ({"actions": np.full((9, 2), 3, np.float32)}, "leaves \\[-1, 1\\] in 7 row"),
        ({"next_observations": np.zeros((9, 3))}, "next_observations"),
    ],
)
def test_refused_files(change: dict[str, Any], said: str, tmp_path: Path):
    columns = {key: values for key, values in {**trajectories([3, 4]), **change}.items() if values is not None}
    with pytest.raises(UserError, match=said):
        read_ogbench(write_ogbench(tmp_path / "a.npz", columns))


def test_refused_tasks_and_damage(tmp_path: Path):
    path = write_ogbench(tmp_path / "a.npz", trajectories([3, 4]))
    with pytest.raises(UserError, match="no single task 'antmaze'"):
        read_ogbench(path, "antmaze")
    with pytest.raises(UserError, match="no environment of size 'huge'"):
        read_ogbench(path, "antmaze-huge-navigate-singletask-v0")
    with pytest.raises(UserError, match="no environment 'powderworld-easy'"):
        read_ogbench(path, "powderworld-easy-play-singletask-v0")
    with pytest.raises(UserError, match=r"'qpos' has shape \(9, 2\), and antsoccer"):
        read_ogbench(path, "antsoccer-arena-navigate-singletask-v0")
    for name, task in (("antmaze-large-navigate-v0", "antmaze-medium"), ("visual-cube-single-play-v0-val", "cube-double")):
        other = path.rename(tmp_path / f"{name}.npz")
        with pytest.raises(UserError, match=f"is of .* by its name, and {task}-play-singletask-task1-v0 of another environment"):
            read_ogbench(other, f"{task}-play-singletask-task1-v0")
        path = other
    path = path.rename(tmp_path / "visual-antmaze-medium-explore-v0-val.npz")
    assert read_ogbench(path, "antmaze-medium-navigate-singletask-task1-v0").about["task"]
    content = bytearray(path.read_bytes())
    content[90] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(UserError, match="CRC-32"):
        read_ogbench(path)


def test_recognised(tmp_path: Path):
    assert recognises(write_ogbench(tmp_path / "a.npz", trajectories([3])))
    np.savez(tmp_path / "b.npz", observations=np.zeros(3))
    assert not recognises(tmp_path / "b.npz") and not recognises(tmp_path)
