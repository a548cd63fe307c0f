"""Files by their real writers, read by their real readers: run by ``python -m benchmarks.formats`` with another Python.

It imports nothing of this library. ``write KIND PATH SIZE`` writes, ``read KIND PATH OUT`` reads, prints CPU seconds, the rise of
the peak and the bytes of the arrays as JSON, and saves these as OUT (.npz).
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

TASKS = {"ogbench": "antmaze-large-singletask-v0", "ogbench-scene": "scene-singletask-v0"}


def write_ogbench(path: str, rows: int) -> None:
    """Write trajectories of 1,001 rows with the call and the keys of OGBench's own scripts."""
    rng = np.random.default_rng(0)
    terminals = (np.arange(1, rows + 1) % 1_001 == 0) | (np.arange(1, rows + 1) == rows)
    qpos = rng.uniform(20, 40, (rows, 15))
    obs = rng.standard_normal((rows, 29), dtype=np.float32)
    actions = rng.uniform(-1, 1, (rows, 8)).astype(np.float32)
    np.savez_compressed(path, observations=obs, actions=actions, terminals=terminals, qpos=qpos, qvel=np.zeros((rows, 14)))


def write_ogbench_pictures(path: str, rows: int) -> None:
    """Write trajectories of 501 pictures of smooth noise."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (rows, 16, 16, 3), np.uint8)
    terminals = (np.arange(1, rows + 1) % 501 == 0) | (np.arange(1, rows + 1) == rows)
    obs = small.repeat(4, axis=1).repeat(4, axis=2)
    np.savez_compressed(
        path, observations=obs, actions=np.zeros((rows, 5), np.float32), terminals=terminals, qpos=np.zeros((rows, 21))
    )


def write_ogbench_scene(path: str, rows: int) -> None:
    """Record random actions in the real environment, 101 rows a trajectory."""
    import gymnasium
    import ogbench  # noqa: F401 - registers it

    env, found = gymnasium.make("scene-v0"), []
    env.action_space.seed(0)
    for trajectory in range(rows // 101):
        obs, info = env.reset(seed=trajectory)
        for step in range(101):
            action = env.action_space.sample()
            found.append((obs, action, float(step == 100), info["qpos"], info["qvel"], info["button_states"]))
            obs, _, _, _, info = env.step(action)
    keys = ("observations", "actions", "terminals", "qpos", "qvel", "button_states")
    columns = {key: np.array(values) for key, values in zip(keys, zip(*found, strict=True), strict=True)}
    columns["observations"] = columns["observations"].astype(np.float32)
    np.savez_compressed(path, **columns)


def write_d3rlpy(path: str, rows: int) -> None:
    """Dump episodes of 1,000 steps; a third of them is terminated."""
    from d3rlpy.dataset import Episode, InfiniteBuffer, ReplayBuffer

    rng, episodes = np.random.default_rng(0), []
    for number in range(rows // 1_000):
        obs, actions = rng.standard_normal((1_000, 39), dtype=np.float32), rng.uniform(-1, 1, (1_000, 4)).astype(np.float32)
        episodes.append(Episode(obs, actions, rng.random((1_000, 1), dtype=np.float32), number % 3 == 0))
    with open(path, "w+b") as file:
        ReplayBuffer(InfiniteBuffer(), episodes=episodes).dump(file)


def write_imitation(path: str, rows: int) -> None:
    """Save trajectories of 200 steps; a fifth is incomplete."""
    from imitation.data import serialize
    from imitation.data.types import TrajectoryWithRew

    rng, found = np.random.default_rng(0), []
    for number in range(rows // 200):
        obs, actions = rng.standard_normal((201, 17), dtype=np.float32), rng.uniform(-1, 1, (200, 6)).astype(np.float32)
        infos = np.array([{"step": step} for step in range(200)])
        found.append(TrajectoryWithRew(obs=obs, acts=actions, infos=infos, terminal=number % 5 > 0, rews=rng.random(200)))
    serialize.save(path, found)


def write_imitation_preferences(path: str, rows: int) -> None:
    """Save pairs of fragments of 50 steps; the last of a trajectory now and then."""
    from imitation.algorithms.preference_comparisons import PreferenceDataset
    from imitation.data.types import TrajectoryWithRew

    rng, found = np.random.default_rng(0), PreferenceDataset()

    def fragment(number: int) -> Any:
        obs, actions = rng.standard_normal((51, 17), dtype=np.float32), rng.uniform(-1, 1, (50, 6)).astype(np.float32)
        infos = np.array([{"step": step} for step in range(50)])
        return TrajectoryWithRew(obs=obs, acts=actions, infos=infos, terminal=number % 20 == 0, rews=rng.random(50))

    pairs = [(fragment(number), fragment(number + 7)) for number in range(rows // 100)]
    found.push(pairs, rng.choice([0, 0.5, 1], len(pairs)).astype(np.float32))
    found.save(path)


def read_ogbench(path: str, task: str | None) -> dict[str, Any]:
    """Read by ``load_dataset``, and ``relabel_dataset`` for the rewards of a task."""
    import gymnasium
    from ogbench.relabel_utils import relabel_dataset
    from ogbench.utils import load_dataset

    pictures = task is None
    found = load_dataset(path, ob_dtype=np.uint8 if pictures else np.float32, add_info=True)
    if task is not None:
        relabel_dataset(task, gymnasium.make(task), found)
    return found


def read_d3rlpy(path: str) -> dict[str, Any]:
    """Read by ``ReplayBuffer.load``; the arrays of all episodes."""
    from d3rlpy.dataset import InfiniteBuffer, ReplayBuffer

    with open(path, "rb") as file:
        episodes = list(ReplayBuffer.load(file, InfiniteBuffer()).episodes)
    return {
        "observations": [each.observations for each in episodes],
        "actions": [each.actions for each in episodes],
        "rewards": [each.rewards for each in episodes],
        "terminated": [np.array([each.terminated]) for each in episodes],
        "lengths": [np.array([len(each)]) for each in episodes],
    }


def read_imitation(path: str) -> dict[str, Any]:
    """Read by ``serialize.load``; the arrays of all trajectories."""
    from imitation.data import serialize

    return _trajectories(list(serialize.load(path)))


def read_imitation_preferences(path: str) -> dict[str, Any]:
    """Read by ``PreferenceDataset.load``; the arrays of all fragments, those of a pair side by side."""
    from imitation.algorithms.preference_comparisons import PreferenceDataset

    pairs = PreferenceDataset.load(path)
    found = [each for pair in zip(pairs.fragments1, pairs.fragments2, strict=True) for each in pair]
    return {**_trajectories(found), "preferences": pairs.preferences}


def _trajectories(found: list[Any]) -> dict[str, Any]:
    return {
        "observations": [each.obs for each in found],
        "actions": [each.acts for each in found],
        "rewards": [each.rews for each in found],
        "terminated": [np.array([bool(each.terminal)]) for each in found],
        "lengths": [np.array([len(each)]) for each in found],
    }


def status(key: str) -> int:
    """Return a size in this process's status, bytes."""
    return next(
        1024 * int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key)
    )


def reader(kind: str, path: str) -> dict[str, Any]:
    if kind.startswith("ogbench"):
        return read_ogbench(path, TASKS.get(kind))
    return {"d3rlpy": read_d3rlpy, "imitation": read_imitation, "imitation-preferences": read_imitation_preferences}[kind](path)


def main() -> None:
    verb, kind, path, last = sys.argv[1:]
    if verb == "write":
        globals()[f"write_{kind.replace('-', '_')}"](path, int(last))
        return
    if kind.startswith("ogbench"):  # what is imported first is no part of the reading
        import gymnasium
        import ogbench.utils  # noqa: F401

        if kind in TASKS:
            gymnasium.make(TASKS[kind]).reset()
    elif kind == "d3rlpy":
        import d3rlpy.dataset  # noqa: F401
    else:
        import imitation.algorithms.preference_comparisons
        import imitation.data.serialize  # noqa: F401
    Path("/proc/self/clear_refs").write_text("5")
    before, began = status("VmRSS"), time.process_time()
    found = reader(kind, path)
    seconds, peak = time.process_time() - began, status("VmHWM") - before
    whole = {key: np.concatenate(values) if isinstance(values, list) else values for key, values in found.items()}
    print(json.dumps({"seconds": seconds, "peak": peak, "bytes": sum(values.nbytes for values in whole.values())}))
    np.savez(last, **whole)


if __name__ == "__main__":
    main()
