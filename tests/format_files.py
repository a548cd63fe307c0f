"""Small files in the layouts of OGBench, d3rlpy, imitation and Uni-RLHF, as their writers leave them; and a replay of ours."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import h5py
import numpy as np
from numpy.typing import NDArray


def trajectories(lengths: Sequence[int], obs_dim: int = 3, action_dim: int = 2, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Trajectories as OGBench stores them: T + 1 rows each; observation t of trajectory i is ``100 i + t + entry / 100``."""
    rng = np.random.default_rng(seed)
    time = np.concatenate([100.0 * i + np.arange(length + 1) for i, length in enumerate(lengths)])
    terminals = np.zeros(len(time), np.float32)
    terminals[np.cumsum(np.array(lengths) + 1) - 1] = 1
    return {
        "observations": (time[:, None] + np.arange(obs_dim) / 100).astype(np.float32),
        "actions": rng.uniform(-1, 1, (len(time), action_dim)).astype(np.float32),
        "terminals": terminals,
        "qpos": np.stack([time % 100, 0 * time], axis=1),
        "qvel": np.zeros((len(time), 2)),
    }


def write_ogbench(path: Path, columns: Mapping[str, NDArray[Any]]) -> Path:
    """Write a file as OGBench does."""
    np.savez_compressed(path, **columns)  # type: ignore[arg-type]
    return path


Episode = dict[str, Any]
INFO = '{"py/object": "os.system"}'
"""Text in which imitation keeps what an environment told; it must stay closed."""


def d3rlpy_episodes(lengths: Sequence[int], ended: Sequence[bool], parts: int = 1, seed: int = 0) -> list[Episode]:
    """Episodes whose observation t of episode i is ``100 i + t``; a tuple of ``parts`` arrays if there are several."""
    rng = np.random.default_rng(seed)
    found = []
    for number, (length, over) in enumerate(zip(lengths, ended, strict=True)):
        time = 100.0 * number + np.arange(length)[:, None]
        obs = [(time + np.full(2 + j, j / 10)).astype(np.float32) for j in range(parts)]
        found.append(
            {
                "observations": obs[0] if parts == 1 else obs,
                "actions": rng.uniform(-1, 1, (length, 2)).astype(np.float32),
                "rewards": np.arange(1, length + 1, dtype=np.float32)[:, None] + 10 * number,
                "terminated": over,
            }
        )
    return found


def write_d3rlpy(path: Path, episodes: Sequence[Episode], version: str = "2.1") -> Path:
    """Write a file as ``ReplayBuffer.dump`` of d3rlpy 2.8 does."""
    with h5py.File(path, "w") as file:
        file["columns"] = list(episodes[0])
        file["num_episodes"], file["version"] = len(episodes), version
        for number, episode in enumerate(episodes):
            for key, values in episode.items():
                if isinstance(values, list):
                    for part, each in enumerate(values):
                        file[f"{key}_{number}_{part}"] = each
                else:
                    file[f"{key}_{number}"] = values
    return path


def imitation_row(steps: int, first: float, terminal: bool = True, **other: Any) -> dict[str, Any]:
    """A trajectory whose observation t is ``first + t``, twice."""
    rng = np.random.default_rng(int(first))
    found = {
        "obs": [[first + t, first + t] for t in range(steps + 1)],
        "acts": rng.uniform(-1, 1, (steps, 2)).tolist(),
        "infos": [INFO] * steps,
        "terminal": terminal,
        "rews": [first + t / 8 for t in range(steps)],
    }
    return found | other


def write_imitation(path: Path, rows: Sequence[Mapping[str, Any]], files: int = 1) -> Path:
    """Write a folder as HuggingFace's ``save_to_disk`` does, the rows shared out among ``files`` files."""
    import pyarrow

    path.mkdir(parents=True)
    names = [f"data-{number:05}-of-{files:05}.arrow" for number in range(files)]
    table = pyarrow.Table.from_pylist([dict(row) for row in rows])
    for number, name in enumerate(names):
        part = table.take(list(range(len(rows)))[number * len(rows) // files : (number + 1) * len(rows) // files])
        with pyarrow.OSFile(str(path / name), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(part, max_chunksize=2)
    (path / "dataset_info.json").write_text(json.dumps({"features": {name: {} for name in table.schema.names}}))
    (path / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    return path


def imitation_fragment(steps: int, first: float, **other: Any) -> dict[str, Any]:
    """A fragment whose observation t is ``first + t`` and ``first + t + 0.5``."""
    rng = np.random.default_rng(int(first))
    found = {
        "obs": (first + np.arange(steps + 1)[:, None] + np.array([0, 0.5])).astype(np.float32),
        "acts": rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
        "infos": np.array([{"TimeLimit.truncated": False, "state": np.zeros(2), "path": Path()} for _ in range(steps)]),
        "terminal": False,
        "rews": first + np.arange(steps) / 8,
    }
    return found | other


def write_imitation_preferences(path: Path, pairs: Sequence[Sequence[Mapping[str, Any]]], preferences: Any) -> Path:
    """Write a file as ``PreferenceDataset.save`` of imitation 1.0.1 does, byte by byte."""
    places = {"PreferenceDataset": "imitation.algorithms.preference_comparisons", "TrajectoryWithRew": "imitation.data.types"}
    classes = {name: type(name, (), {"__module__": module}) for name, module in places.items()}
    packages = ("imitation", "imitation.algorithms", "imitation.data", *places.values())
    modules = {module: ModuleType(module) for module in packages}
    for name, module in places.items():
        setattr(modules[module], name, classes[name])

    def made(name: str, state: Mapping[str, Any]) -> Any:
        found = classes[name]()
        vars(found).update(state)
        return found

    first, second = ([made("TrajectoryWithRew", pair[side]) for pair in pairs] for side in (0, 1))
    content = {"fragments1": first, "fragments2": second, "max_size": None, "preferences": np.asarray(preferences, np.float64)}
    with patch.dict(sys.modules, modules):
        path.write_bytes(pickle.dumps(made("PreferenceDataset", content)))
    return path


def write_uni_rlhf(path: Path, label: Any, first: Any, second: Any, length: int, kind: str = "human") -> Path:
    """Write the three pickles of a label folder."""
    path.mkdir(parents=True)
    for name, values in ((f"{kind}_label", label), ("indices_1", first), ("indices_2", second)):
        file = path / f"{name}_domain_mujoco_env_hopper-medium-v2_num_{len(first)}_len_{length}_abc.pkl"
        file.write_bytes(pickle.dumps(values))
    return path


def write_replay(path: Path, episodes: int = 2, length: int = 60) -> Path:
    """Write what a checkpoint of ours says of a replay, O = 3, A = 2."""
    import torch

    from lightning_pbrl.data.replay import Replay

    replay = Replay(episodes * length, 1, obs_dim=3, action_dim=2, horizon=length)
    for step in range(episodes * length):
        obs, over = np.full((1, 3), float(step)), np.array([(step + 1) % length == 0])
        replay.append(obs, np.zeros((1, 2)), obs + 1, np.ones(1), np.zeros(1, bool), over)
    about = {"hyper_parameters": {"spec": {"obs_dim": 3, "action_dim": 2}, "seed": 0}, "lightning_pbrl": {"method": "SAC"}}
    torch.save({**about, "OnlineDataModule": {"replay": replay.state_dict()}}, path)
    return path
