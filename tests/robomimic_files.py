"""Small files in robomimic's layout: random demonstrations, and a writer for any."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

SIZES = {
    "object": 10,
    "robot0_joint_pos": 7,
    "robot0_joint_pos_cos": 7,
    "robot0_joint_pos_sin": 7,
    "robot0_joint_vel": 7,
    "robot0_eef_pos": 3,
    "robot0_eef_quat": 4,
    "robot0_gripper_qpos": 2,
    "robot0_gripper_qvel": 2,
}
"""Keys of Lift; files hold keys in alphabetical order, which is not the order of an observation."""

Demo = dict[str, Any]


def random_demo(number: int, steps: int = 6, sizes: Mapping[str, int] = SIZES) -> Demo:
    """A demonstration whose arrays say where they belong; its last step is a success.

    Entry j of key k at time t of demo i is ``100 i + t + j / 100 + (place of k) / 10``.
    """
    rng = np.random.default_rng(number)
    time = 100.0 * number + np.arange(steps + 1.0)[:, None]
    obs = {key: time + np.arange(size) / 100 + place / 10 for place, (key, size) in enumerate(sizes.items())}
    rewards = np.zeros(steps)
    rewards[-1] = 1.0
    return {
        "actions": rng.uniform(-0.9, 0.9, (steps, 7)),
        "rewards": rewards,
        "dones": rewards.astype(np.int64),
        "states": rng.normal(size=(steps, 32)),
        "obs": {key: values[:-1] for key, values in obs.items()},
        "next_obs": {key: values[1:] for key, values in obs.items()},
    }


def write_robomimic(
    path: str | Path,
    demos: Mapping[str, Demo],
    masks: Mapping[str, Sequence[str]] | None = None,
    env_args: Mapping[str, Any] | str | None = None,
) -> Path:
    """Write demonstrations as robomimic does.

    Args:
        path: the file.
        demos: by name: ``actions`` (T, A), ``rewards``, ``dones``, ``states``, ``obs`` and, if any, ``next_obs``, each a dict
            of (T, d) arrays or one array (T, O). Entries that are None are left out.
        masks: filter keys and the demos they name.
        env_args: what the file says about its environment; a string is written as it is, None says Lift.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if env_args is None:
        env_args = {"env_name": "Lift", "type": 1, "env_kwargs": {"control_freq": 20, "robots": ["Panda"]}}
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = env_args if isinstance(env_args, str) else json.dumps(env_args)
        for name, demo in demos.items():
            group = data.create_group(name)
            group.attrs["num_samples"] = len(demo["rewards"])
            for key, values in flattened(demo).items():
                group.create_dataset(key, data=values)
        data.attrs["total"] = sum(len(demo["rewards"]) for demo in demos.values())
        for key, names in (masks or {}).items():
            file.create_dataset(f"mask/{key}", data=np.array(names, dtype="S"))
    return path


def flattened(demo: Demo) -> dict[str, NDArray[Any]]:
    """Arrays of a demonstration by their path in the file."""
    flat: dict[str, NDArray[Any]] = {}
    for key, values in demo.items():
        if isinstance(values, dict):
            flat.update({f"{key}/{inner}": array for inner, array in values.items() if array is not None})
        elif values is not None:
            flat[key] = values
    return flat


def flat_demo(demo: Demo, keys: Sequence[str]) -> Demo:
    """The same demonstration with one array per observation, ``keys`` end to end."""
    return {**demo, **{which: np.concatenate([demo[which][key] for key in keys], axis=1) for which in ("obs", "next_obs")}}
