"""Small sound data sets of each format that is mutated, and the numbers that lie in their files."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from lightning_pbrl.data.examples import make_examples, save_examples
from lightning_pbrl.data.hdf5_process import Group, opened
from lightning_pbrl.data.lire import KEYS, read_lire
from lightning_pbrl.data.npz import read_npz
from lightning_pbrl.data.pickles import load_pickle
from lightning_pbrl.data.transitions import Transitions

Arrays = Mapping[str, Any]


def columns(rows: int = 48, obs: int = 3, action: int = 2, episode: int = 12) -> dict[str, np.ndarray]:
    """Episodes of a random walk, in the names of D4RL."""
    rng = np.random.default_rng(0)
    walk = rng.normal(size=(rows // episode, episode + 1, obs)).cumsum(1).astype("f4")
    last = np.arange(rows) % episode == episode - 1
    return {
        "observations": walk[:, :-1].reshape(rows, obs),
        "actions": rng.uniform(-0.9, 0.9, (rows, action)).astype("f4"),
        "rewards": rng.normal(size=rows).astype("f4"),
        "terminals": np.zeros(rows, bool),
        "timeouts": last,
        "next_observations": walk[:, 1:].reshape(rows, obs),
    }


def write_d4rl(path: Path, **options: Any) -> None:
    with h5py.File(path, "w") as file:
        for key, values in columns().items():
            file.create_dataset(key, data=values, **options)
        file["infos/qpos"] = np.zeros((48, 2))
        file["metadata/algorithm"] = np.bytes_("none")


OBS_KEYS = ["object", "robot0_eef_pos"]


def write_robomimic(path: Path) -> None:
    with h5py.File(path, "w") as file:
        for number, steps in enumerate((9, 8, 10, 7)):
            part = columns(rows=steps, obs=6, action=7, episode=steps)
            demo = file.create_group(f"data/demo_{number}")
            demo.attrs["num_samples"] = steps
            demo.create_dataset("actions", data=part["actions"].astype("f8"))
            demo.create_dataset("rewards", data=part["timeouts"].astype("f8"))
            demo.create_dataset("dones", data=part["timeouts"].astype("i8"))
            for which, key in (("obs", "observations"), ("next_obs", "next_observations")):
                demo.create_dataset(f"{which}/object", data=part[key][:, :3].astype("f8"))
                demo.create_dataset(f"{which}/robot0_eef_pos", data=part[key][:, 3:].astype("f8"), compression="gzip")
        file["data"].attrs["env_args"] = json.dumps({"env_name": "Lift", "type": 1, "env_kwargs": {"control_freq": 20}})
        file["data"].attrs["total"] = 34
        file["mask/train"] = np.array(["demo_1", "demo_3", "demo_2"], dtype="S8")


def robomimic_keys(file: Any) -> list[str]:
    parts = [f"{which}/{key}" for which in ("obs", "next_obs") for key in OBS_KEYS]
    return [f"data/demo_{number}/{key}" for number in (1, 2, 3) for key in ("actions", "rewards", *parts)]


def hdf5_arrays(keys: Callable[[Any], list[str]]) -> Callable[[Path], Arrays]:
    """Arrays of an HDF5 file that its reader looks at."""

    def arrays(path: Path) -> Arrays:
        with opened(path) as file:
            return {key: file[key][()] for key in keys(file) if not isinstance(file[key], Group)}

    return arrays


def write_minari(path: Path) -> None:
    import gymnasium as gym
    from minari import create_dataset_from_buffers
    from minari.data_collector import EpisodeBuffer

    part = columns(rows=12, obs=3, action=2, episode=12)
    buffers = []
    for number, steps in enumerate((4, 5, 6)):
        obs = np.concatenate([part["observations"][:steps], part["next_observations"][steps - 1 : steps]])
        ends = np.arange(steps) == steps - 1
        buffers.append(
            EpisodeBuffer(
                id=number,
                observations=list(obs),
                actions=list(part["actions"][:steps]),
                rewards=list(part["rewards"][:steps]),
                terminations=list(ends),
                truncations=[False] * steps,
                infos={"success": list(np.append(False, ends))},
            )
        )
    box = gym.spaces.Box
    create_dataset_from_buffers(
        "mutations/tiny-v0",
        buffers,
        observation_space=box(-np.inf, np.inf, (3,), np.float32),
        action_space=box(-1, 1, (2,), np.float32),
    )


def read_tiny(path: Path) -> Transitions:
    from lightning_pbrl.data.minari import read_minari

    return read_minari("mutations/tiny-v0")


def minari_keys(file: Any) -> list[str]:
    names = ("observations", "actions", "rewards", "terminations", "truncations")
    return [f"{episode}/{name}" for episode in file for name in names]


def write_lire(path: Path) -> None:
    part = columns()
    arrays = {key: part[key] for key in ("observations", "actions", "next_observations", "rewards")}
    arrays["dones"] = part["timeouts"].astype("f4")[:, None]
    if path.suffix == ".npz":
        np.savez_compressed(path, **arrays)
    else:
        path.write_bytes(pickle.dumps(arrays, protocol=4))


def read_walker(path: Path) -> Transitions:
    return read_lire(path.parent, task="walker-walk", max_episode_steps=12, seeds=(0,))


def write_human(path: Path) -> None:
    part = columns()
    arrays = {key: part[key] for key in ("observations", "actions", "next_observations", "rewards")}
    content = {key: [np.array(row) for row in values] for key, values in arrays.items()}
    content["dones"] = [float(flag) for flag in part["timeouts"]]
    path.write_bytes(pickle.dumps(content, protocol=2))


def pickled(path: Path) -> Arrays:
    content = load_pickle(path)
    return {key: np.asarray(content[key]) for key in KEYS.values() if key in content}


def npz_arrays(path: Path) -> Arrays:
    return read_npz(path, "copy it again", lambda key: key in {*KEYS.values(), "label"} or key.startswith(("obs_", "action_")))


def write_pairs(path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {"label": rng.choice([0.0, 0.5, 1.0], 8)}
    for clip in (1, 2):
        arrays[f"obs_{clip}.object"] = rng.normal(size=(8, 4, 2))
        arrays[f"obs_{clip}.gripper"] = rng.normal(size=(8, 4, 1))
        arrays[f"action_{clip}"] = rng.uniform(-1, 1, (8, 4, 2))
    np.savez_compressed(path, **arrays)


def table() -> Transitions:
    part = {key: torch.from_numpy(values) for key, values in columns().items()}
    return Transitions.from_columns(
        part["observations"],
        part["actions"],
        part["next_observations"],
        torch.arange(5) * 12,
        reward=part["rewards"],
        truncated=part["timeouts"],
        success=part["timeouts"],
        about={"format": "mutations"},
        drawable=torch.arange(40),
    )


def write_examples(path: Path) -> None:
    save_examples(make_examples(torch.arange(60.0).view(12, 5), {"chooser": {"class": "Mine"}, "seed": 1}), path)
