"""How well is D4RL repeated, and what do its bodies do to a score?

    PREFERENCES_ROOT=<labels> python -m benchmarks.d4rl_physics [--policies runs/human-policies]

Takes every step of the published clips of D4RL's hopper and walker2d once in Gymnasium's physics and once in D4RL's
(``GymMuJoCo(physics=...)``) and compares with the step that follows in the record. Left out are steps whose inputs were changed
before they were stored: actions clipped to +-0.999, velocities to +-10. D4RL's wrapper mapped actions from [-1, 1] to [-1, 1] in
float32, which changes them by up to 6e-8, and so does this. Then plays the policies of
``sweep/human-policies.yaml``, if it has been run, on the same 50 test episodes in both.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.measure import machine
from benchmarks.readme import RESULTS
from lightning_pbrl.data.d4rl_scores import normalized_score
from lightning_pbrl.envs.gym_mujoco import D4RL_TASKS, GymMuJoCo
from lightning_pbrl.envs.rollout import rollout
from lightning_pbrl.methods.loading import load_method
from lightning_pbrl.rng import derive

Array = npt.NDArray[np.float64]

TASKS = {"Hopper-v5": "hopper-medium-expert-v2", "Walker2d-v5": "walker2d-medium-expert-v2"}
PHYSICS = ("gymnasium", "d4rl")
EPISODES = 50


class Steps(NamedTuple):
    """Recorded steps and how far the simulator is from them.

    Attributes:
        state: before the step, (n, O): positions without the first, then velocities.
        action: as D4RL's simulator received it, (n, A).
        error: largest absolute difference of any entry after the step, metres, radians, and these per second, (n,).
    """

    state: Array
    action: Array
    error: Array


def one_step(env: Any, state: Array, action: Array) -> Array:
    """What ``env`` observes one step of ``action``, (A,), after ``state``, (O,), from a cold start."""
    import mujoco

    mujoco.mj_resetData(env.model, env.data)
    env.data.qpos[1:], env.data.qvel[:] = np.split(state, [env.model.nq - 1])
    env.do_simulation(action, env.frame_skip)
    return np.concatenate([env.data.qpos[1:], env.data.qvel.clip(-10.0, 10.0)])


def one_step_errors(env: Any, path: str | Path, every: int = 1) -> Steps:
    """Errors of the steps of a preference file's clips, but those with clipped inputs.

    Args:
        env: Gymnasium's Hopper or Walker2d.
        path: ``num100_human_train.npz``.
        every: take each so many steps only.
    """
    with np.load(path) as file:
        obs = np.concatenate([file["obs_1"], file["obs_2"]])
        action = np.concatenate([file["action_1"], file["action_2"]])
    state, following = (part.reshape(-1, obs.shape[2]) for part in (obs[:, :-1], obs[:, 1:]))
    action = action[:, :-1].reshape(len(state), -1)
    known = (np.abs(action).max(1) < 0.999 - 1e-6) & (np.abs(state[:, env.model.nq - 1 :]).max(1) < 10.0)
    rows = np.flatnonzero(known)[::every]
    action = ((action.astype(np.float32) + np.float32(1.0)) - np.float32(1.0)).astype(np.float64)
    error = [np.abs(one_step(env, state[row], action[row]) - following[row]).max() for row in rows]
    return Steps(state[rows], action[rows], np.array(error))


def rounding_bound(env: Any, state: Array, action: Array) -> Array:
    """What rounding the recorded states to float32 can make of exact steps, to first order, (n,).

    The sum over a state's entries of the change that half a float32 spacing makes, and half a spacing of the outcome.
    """
    bounds = []
    for row, push in zip(state, action, strict=True):
        outcome = one_step(env, row, push)
        total = half_spacing(outcome)
        for place, half in enumerate(half_spacing(row)):
            changes = [np.abs(one_step(env, row + moved, push) - outcome) for moved in unit(len(row), place, half)]
            total += np.maximum(*changes)
        bounds.append(total.max())
    return np.array(bounds)


def half_spacing(values: Array) -> Array:
    """How far float32 may be from ``values``."""
    return np.spacing(np.abs(values).astype(np.float32)).astype(np.float64) / 2


def unit(size: int, place: int, length: float) -> tuple[Array, Array]:
    """Vectors of zeros but for ``length`` and ``-length`` at ``place``."""
    vector = np.zeros(size)
    vector[place] = length
    return vector, -vector


def steps_of(env_id: str, path: Path) -> Iterable[dict[str, Any]]:
    """Median, 99 % and largest error in either physics; in D4RL's, how many steps rounding does not explain."""
    for physics in PHYSICS:
        env: Any = GymMuJoCo(env_id, physics=physics).make().physics.env  # type: ignore[attr-defined, arg-type]
        found = one_step_errors(env, path)
        row = {"env_id": env_id, "physics": physics, "steps": len(found.error), "median": float(np.median(found.error))}
        row |= {"quantile_99": float(np.quantile(found.error, 0.99)), "max": float(found.error.max())}
        row["share_below_1e-6"] = float((found.error < 1e-6).mean())
        if physics == "d4rl":
            above = np.flatnonzero(found.error >= 1e-6)
            bound = rounding_bound(env, found.state[above], found.action[above])
            row["largest_share_of_bound"] = float((found.error[above] / bound).max())
            row["beyond_rounding"] = int((found.error[above] > bound).sum())
        yield row


def scores(folder: Path) -> Iterable[dict[str, Any]]:
    """Every policy of the sweep in either physics: D4RL's score and the mean length of an episode."""
    seeds = [derive(0, "test", i) % 2**31 for i in range(EPISODES)]  # the test episodes of a fit
    for checkpoint in sorted(folder.glob("*/*/*/seed*/checkpoints/last.ckpt")):
        stage, env_id, _, seed = checkpoint.relative_to(folder).parts[:4]
        policy = load_method(checkpoint).eval()
        for physics in PHYSICS:
            played = rollout(policy.act, GymMuJoCo(env_id, physics=physics), seeds)  # type: ignore[arg-type]
            score = normalized_score(D4RL_TASKS[env_id], played.episode_return.mean())
            row = {"policy": stage, "env_id": env_id, "seed": int(seed.removeprefix("seed")), "physics": physics}
            yield row | {"score": float(score), "length": float(played.length.double().mean())}


def step_table(rows: list[dict[str, Any]]) -> Table:
    """For the terminal."""
    table = Table(title="one recorded step, largest error of any entry")
    for name in ("task", "physics", "steps", "median", "99 %", "largest", "below 1e-6", "beyond rounding"):
        table.add_column(name, justify="left" if name in ("task", "physics") else "right")
    for row in rows:
        figures = [f"{row[name]:.1e}" for name in ("median", "quantile_99", "max")]
        beyond = str(row.get("beyond_rounding", ""))
        table.add_row(row["env_id"], row["physics"], f"{row['steps']:,}", *figures, f"{row['share_below_1e-6']:.1%}", beyond)
    return table


def score_table(rows: list[dict[str, Any]]) -> Table:
    """For the terminal: mean ± standard error over seeds, and the seeds' own."""
    table = Table("policy", "task", *(f"{physics}: score ± se (seeds)" for physics in PHYSICS), title="D4RL score")
    for policy, env_id in dict.fromkeys((row["policy"], row["env_id"]) for row in rows):
        cells = []
        for physics in PHYSICS:
            values = [row["score"] for row in rows if (row["policy"], row["env_id"], row["physics"]) == (policy, env_id, physics)]
            error = np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else float("nan")
            cells.append(f"{np.mean(values):.1f} ± {error:.1f} ({', '.join(f'{value:.0f}' for value in values)})")
        table.add_row(policy, env_id, *cells)
    return table


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.d4rl_physics", description=__doc__)
    parser.add_argument("--policies", type=Path, help="folder of sweep/human-policies.yaml's runs")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of d4rl-physics.json (default: %(default)s)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    labels = Path(os.environ.get("PREFERENCES_ROOT", "data/preferences"))
    console = Console()
    steps = [row for env_id, name in TASKS.items() for row in steps_of(env_id, labels / name / "num100_human_train.npz")]
    console.print(step_table(steps))
    result: dict[str, Any] = {"machine": machine("python -m benchmarks.d4rl_physics"), "steps": steps}
    if options.policies is not None:
        result["episodes"], result["scores"] = EPISODES, list(scores(options.policies))
        console.print(score_table(result["scores"]))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "d4rl-physics.json").write_text(json.dumps(result, indent=1) + "\n")
    console.print(f"Written to {options.out}.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
