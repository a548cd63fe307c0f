"""Data collection: episodes of a mixture of behaviours, in shards that survive a kill.

Episode i takes its behaviour, its reset seed and its noise from (seed, i) alone. An interrupted collection therefore continues at
the first missing shard. It ends with exactly the data of an uninterrupted one.
"""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from lightning_pbrl.data import archive
from lightning_pbrl.data.transitions import PER_EPISODE, Transitions
from lightning_pbrl.envs.base import Array, Simulator
from lightning_pbrl.envs.behaviour import Behaviour, shares
from lightning_pbrl.envs.finite import LARGEST, check_step
from lightning_pbrl.envs.take_over import TakeOver
from lightning_pbrl.errors import UserError
from lightning_pbrl.rng import derive

SHARD = 50
"""Episodes per shard: the most that a kill can lose."""


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of Python, this library, NumPy, torch and ``packages``, for provenance."""
    found = {"python": platform.python_version()}
    for package in ("lightning-pbrl", "numpy", "torch", *packages):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def episode_plan(mixture: Sequence[Behaviour], seed: int, episode: int) -> tuple[int, int, np.random.Generator]:
    """Draw the behaviour of an episode, its reset seed and the generator of its noise."""
    rng = np.random.default_rng(derive(seed, "collect", episode))
    behaviour = int(rng.choice(len(mixture), p=shares(mixture)))
    return behaviour, int(rng.integers(1 << 32)), rng


def collect(
    simulator: Simulator,
    mixture: Sequence[Behaviour],
    episodes: int,
    path: str | Path,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    stop_after_success: int | None = None,
    take_over: TakeOver | None = None,
) -> Transitions:
    """Collect a data set into the file ``path``, or load it if it exists.

    Args:
        simulator: simulator to act in.
        mixture: behaviours with their weights.
        episodes: number of episodes.
        path: the data file; shards are stored beside it in ``<path>.parts`` until it is complete.
        seed: seed of everything random.
        progress: called with (episodes done, total episodes) after each episode and at the end.
        stop_after_success: end an episode (truncated) after this many successful steps; None runs to the time limit.
        take_over: rule by which a script takes over from a behaviour that is stuck; None for no interventions.

    Returns:
        The data set; for :class:`~lightning_pbrl.envs.pixels.Pixels`, the states and an image of every time step.
        ``about`` holds the simulator, mixture, seed and versions, and for each episode its ``behaviours`` (index into the
        mixture) and ``reset_seeds``; with ``take_over`` also its ``interventions`` (:mod:`lightning_pbrl.data.interventions`).

    Raises:
        UserError: for no episodes, a mixture that is invalid or not supported by the simulator, or a ``path`` that holds
            another collection.
    """
    if episodes < 1:
        raise UserError(f"The number of episodes to collect is {episodes}; give at least 1.")
    shares(mixture)
    for behaviour in mixture:
        behaviour.check(simulator)
    if take_over is not None:
        take_over.check(simulator, list(mixture))
    path = Path(path)
    request: dict[str, Any] = {
        "source": "collect",
        "simulator": simulator.describe(),
        "mixture": [behaviour.describe() for behaviour in mixture],
        "seed": seed,
        "episodes": episodes,
        "versions": versions(simulator.packages),
    }
    if stop_after_success is not None:
        request["stop_after_success"] = stop_after_success
    if take_over is not None:
        request["take_over"] = take_over.describe()
    report = progress or (lambda done, total: None)
    if not path.exists():
        with _alone(path):
            if not path.exists():  # another process may have made it meanwhile
                _make(simulator, mixture, request, path, report, take_over)
    report(episodes, episodes)
    return _same(archive.load(path), request, path, but="versions")


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep other processes from collecting the same file; they wait here, then find it complete.

    Raises:
        UserError: if the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f"{path.name}.lock"))
        lock.acquire()
    except OSError as error:
        raise UserError(f"{path.parent} cannot be written ({error.strerror or error}); choose a writable folder.") from error
    try:
        yield
    finally:
        lock.release()


def _make(
    simulator: Simulator,
    mixture: Sequence[Behaviour],
    request: dict[str, Any],
    path: Path,
    report: Callable[[int, int], None],
    take_over: TakeOver | None = None,
) -> None:
    """Collect the missing shards one by one, then join the shards into ``path`` and remove them."""
    parts, seed, episodes = path.with_name(f"{path.name}.parts"), request["seed"], request["episodes"]
    shards, env = [], None
    for first in range(0, episodes, SHARD):
        last = min(first + SHARD, episodes)
        shard = parts / f"{first:07d}.safetensors"
        if shard.exists():
            report(last, episodes)
        else:
            env = env or simulator.make()
            stop = request.get("stop_after_success")
            numbers = range(first, last)
            part = _episodes(env, simulator, mixture, seed, numbers, lambda done: report(done, episodes), stop, take_over)
            part.about = {**request, **part.about}
            archive.save(part, shard)
        shards.append(_same(archive.load(shard), request, parts))
    if env is not None:
        env.close()
    whole = _join(shards)
    whole.about = {**request, **whole.about}
    archive.save(whole, path)
    shutil.rmtree(parts)


def _same(found: Transitions, request: dict[str, Any], place: Path, but: str = "") -> Transitions:
    """Return ``found`` if it was collected as ``request`` says (``but`` names an entry that may differ)."""
    differ = [key for key, value in request.items() if key != but and found.about.get(key) != value]
    if differ:
        raise UserError(f"{place} holds another collection ({', '.join(differ)} differ); delete it or give another path.")
    return found


def _episodes(
    env: Any,
    simulator: Simulator,
    mixture: Sequence[Behaviour],
    seed: int,
    numbers: range,
    done: Callable[[int], None],
    stop_after_success: int | None = None,
    take_over: TakeOver | None = None,
) -> Transitions:
    """Run the episodes ``numbers`` one after the other; ``about`` holds their behaviours and reset seeds."""
    size = len(numbers) * simulator.horizon
    obs = np.empty((size, simulator.state_dim), np.float32)
    next_obs = np.empty_like(obs)
    action = np.empty((size, simulator.action_dim), np.float32)
    scalars = np.zeros((size, 4), np.float32)  # reward, terminated, truncated, success
    side = simulator.frames
    frames = None if side is None else np.empty((size + len(numbers), side, side, 3), np.uint8)
    offsets, behaviours, reset_seeds, at, has_success = [0], [], [], 0, False
    interventions: list[list[list[Any]]] = []

    def state(seen: Array, info: dict[str, Any]) -> Array:
        """Return the state of an observation; its image, if any, is stored beside the rows."""
        if frames is None:
            return seen
        frames[at + len(offsets) - 1] = info["picture"]
        return np.asarray(info["state"])

    for number in numbers:
        behaviour, reset_seed, rng = episode_plan(mixture, seed, number)
        actor = mixture[behaviour].begin(simulator, rng)
        supervisor = None if take_over is None else take_over.begin(simulator)
        seen, info = env.reset(seed=reset_seed)
        seen = state(seen, info)
        check_step(simulator.name, reset_seed, 0, seen)
        over, solved = False, 0.0
        while not over:
            obs[at], action[at] = seen, actor.act(info) if supervisor is None else supervisor.act(actor, info)
            seen, reward, terminated, truncated, info = env.step(action[at])
            has_success |= "success" in info
            solved += info.get("success", 0.0)
            if supervisor is not None:
                supervisor.see(float(reward), info.get("success", 0.0))
            truncated = truncated or (stop_after_success is not None and solved >= stop_after_success)
            scalars[at] = np.clip(reward, -LARGEST, LARGEST), terminated, truncated, info.get("success", 0.0)
            at += 1
            next_obs[at - 1] = seen = state(seen, info)
            check_step(simulator.name, reset_seed, at - offsets[-1], next_obs[at - 1], float(reward))
            over = terminated or truncated
        offsets.append(at)
        behaviours.append(behaviour)
        reset_seeds.append(reset_seed)
        interventions += [] if supervisor is None else [supervisor.spans]
        done(number + 1)
    reward, terminated, truncated, success = torch.from_numpy(scalars[:at]).unbind(1)
    return Transitions.from_columns(
        torch.from_numpy(obs[:at]),
        torch.from_numpy(action[:at]),
        torch.from_numpy(next_obs[:at]),
        torch.tensor(offsets),
        reward=reward,
        terminated=terminated,
        truncated=truncated,
        success=success > 0.0 if has_success else None,
        frames=None if frames is None else torch.from_numpy(frames[: at + len(numbers)]),
        about={"behaviours": behaviours, "reset_seeds": reset_seeds, **({"interventions": interventions} if take_over else {})},
    )


def _join(shards: Sequence[Transitions]) -> Transitions:
    """Concatenate shards and their episode lists."""
    lengths = torch.cat([shard.episodes.lengths for shard in shards])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    success: Tensor | None = None
    if any(shard.success is not None for shard in shards):  # one that was never told of success has none
        known = [torch.zeros(len(shard), dtype=torch.bool) if shard.success is None else shard.success for shard in shards]
        success = torch.cat(known)
    frames = [shard.frames for shard in shards if shard.frames is not None]
    return Transitions(
        torch.cat([shard.packed for shard in shards]),
        offsets,
        torch.cat([shard.reward for shard in shards]),
        success,
        shards[0].obs_dim,
        shards[0].action_dim,
        {name: [entry for shard in shards for entry in shard.about[name]] for name in PER_EPISODE if name in shards[0].about},
        frames=torch.cat(frames) if frames else None,
    )
