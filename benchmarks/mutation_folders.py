"""Formats of other libraries among those that are mutated: small sound files, written as the tests write them."""

from __future__ import annotations

import json
import pickle
import random
import shutil
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import mutation_kinds as kinds
from benchmarks.mutation_data import table
from lightning_pbrl.data.hdf5_process import Group, opened
from lightning_pbrl.data.imitation import read_imitation
from lightning_pbrl.data.imitation_preferences import CLASSES, PARTS
from lightning_pbrl.data.lerobot import read_lerobot
from lightning_pbrl.data.npz import read_npz
from lightning_pbrl.data.pickles import load_pickle, load_records
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.data.uni_rlhf import read_uni_rlhf

Arrays = dict[str, Any]


def _helper(name: str) -> Any:
    """Return a module of the tests' folder."""
    folder = str(Path(__file__).parents[1] / "tests")
    if folder not in sys.path:
        sys.path.append(folder)
    return import_module(name)


# -- OGBench, d3rlpy -----------------------------------------------------------------------------------------------------------


def write_ogbench(path: Path) -> None:
    files = _helper("format_files")
    files.write_ogbench(path, files.trajectories([3, 5, 4]))


def ogbench_arrays(path: Path) -> Arrays:
    keys = ("observations", "actions", "terminals")
    return dict(read_npz(path, "copy it again", lambda key: key in keys))


def write_d3rlpy(path: Path) -> None:
    files = _helper("format_files")
    files.write_d3rlpy(path, files.d3rlpy_episodes([4, 3, 5], [True, False, True]))


def d3rlpy_keys(file: Any) -> list[str]:
    return [f"{name}_{number}" for name in ("observations", "actions", "rewards", "terminated") for number in range(3)]


def d3rlpy_matrices(file: Any) -> list[str]:
    return [key for key in d3rlpy_keys(file) if not key.startswith("terminated")]


def d3rlpy_arrays(path: Path) -> Arrays:
    with opened(path) as file:
        return {key: file[key][()] for key in d3rlpy_keys(file) if not isinstance(file[key], Group)}


# -- imitation -----------------------------------------------------------------------------------------------------------------


def write_preferences(path: Path) -> None:
    files = _helper("format_files")
    one = files.imitation_fragment
    pairs = [(one(3, 100 * pair), one(3, 100 * pair + 50)) for pair in range(4)]
    files.write_imitation_preferences(path, pairs, [1.0, 0.0, 0.5, 1.0])


def preferences_arrays(path: Path) -> Arrays:
    found = load_records(path, CLASSES)
    sides = {side: found.state[side] for side in ("fragments1", "fragments2")}
    arrays = {
        f"{side}/{number}/{name}": each.array(name)
        for side, all_ in sides.items()
        for number, each in enumerate(all_)
        for name in PARTS
    }
    return {**arrays, "preferences": found.array("preferences")}


TRAJECTORY = ("obs", "acts", "rews", "terminal")


def write_trajectories(path: Path) -> None:
    files = _helper("format_files")
    shutil.rmtree(path.parent)
    files.write_imitation(path.parent, [files.imitation_row(steps, 10 * steps) for steps in (4, 3, 5)])


def read_trajectories(path: Path) -> Transitions:
    return read_imitation(path.parent)


def trajectories_arrays(path: Path) -> Arrays:
    import pyarrow

    with pyarrow.OSFile(str(path)) as source:
        rows = pyarrow.ipc.open_stream(source).read_all().select(TRAJECTORY).to_pylist()
    return {f"{row}/{name}": np.asarray(rows[row][name]) for row in range(len(rows)) for name in TRAJECTORY}


# -- Uni-RLHF, LeRobot ---------------------------------------------------------------------------------------------------------

UNI_LABEL = "human_label_domain_mujoco_env_hopper-medium-v2_num_6_len_4_abc.pkl"


def write_labels(path: Path) -> None:
    shutil.rmtree(path.parent)
    label = np.array([[1, 0], [0, 1], [0.5, 0.5], [1, 0], [0, 1], [0, 1]])
    first, second = np.array([0, 12, 24, 36, 1, 2]), np.array([3, 15, 26, 30, 7, 8])
    _helper("format_files").write_uni_rlhf(path.parent, label, first, second, 4)


def read_labels(path: Path) -> Any:
    return read_uni_rlhf(path.parent, table()).labels


def label_array(path: Path) -> Arrays:
    return {"label": np.asarray(load_pickle(path))}


def odd_label(path: Path, rng: random.Random) -> int:
    """Other content in place of the labels."""
    odd: tuple[Any, ...] = (None, 5, "words", [], [[1, 0]] * 6, np.zeros((6, 3)), np.full((6, 2), np.nan), {"a": 1})
    path.write_bytes(pickle.dumps(rng.choice(odd), protocol=rng.choice((2, 4, 5))))
    return 12


def write_rows(path: Path) -> None:
    """Write a whole folder, which ``path`` is two or four levels deep in.

    Rows have neither dictionaries nor compression, a byte of which stands for many numbers.
    """
    from pyarrow import parquet

    folder = next(each for each in path.parents if each.name == "toy")
    shutil.rmtree(folder)
    files = _helper("lerobot_files")
    files.write_lerobot(folder, files.episodes())
    for rows in sorted((folder / "data").rglob("*.parquet")):
        parquet.write_table(parquet.read_table(rows), rows, use_dictionary=False, compression="none")


def read_rows(path: Path) -> Transitions:
    return read_lerobot(next(each for each in path.parents if each.name == "toy"))


def parquet_arrays(path: Path) -> Arrays:
    """Return the columns that the reader reads; damage in others is none of its business."""
    from pyarrow import parquet

    columns = ["observation.state", "action", "next.reward", "next.success", "next.done", "episode_index"]
    found = parquet.read_table(path, columns=columns)
    return {name: np.asarray(found.column(name).to_pylist()) for name in columns}


def odd_info(path: Path, rng: random.Random) -> int:
    """One value of the description replaced by an odd one, the whole in one line."""
    path.write_text(json.dumps(json.loads(path.read_text())))
    return kinds.odd_json(path, rng)
