"""``python -m benchmarks.answers [--quick]``: what an answer of each kind is worth, by held-out accuracy against questions.

A reward that is known, the sum of two fixed random networks of observation and action, is to be recovered by reward ensembles
from answers about random segments, asked and kept as in a run. All arms have the same data, network, passes over the answers and
held-out pairs. They differ in what one question asks, and in how many segments it shows. Two axes are the two networks: each
answer is about one of them, and the sum is made when the reward is read.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.measure import machine
from benchmarks.readme import RESULTS, rewrite
from lightning_pbrl.callbacks.ask_teacher import AskTeacher
from lightning_pbrl.data.feedback import Clips
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.methods.base import Method
from lightning_pbrl.methods.learn_reward import LearnReward
from lightning_pbrl.queries.axes import AxesQuery
from lightning_pbrl.queries.base import QueryStrategy
from lightning_pbrl.queries.best_of import BestOfQuery
from lightning_pbrl.queries.corrections import CorrectionQuery
from lightning_pbrl.queries.graded import GradedQuery
from lightning_pbrl.queries.uniform import UniformQuery
from lightning_pbrl.rng import stream
from lightning_pbrl.teachers.axes import AxesTeacher
from lightning_pbrl.teachers.base import Teacher
from lightning_pbrl.teachers.best_of import BestOfTeacher
from lightning_pbrl.teachers.correcting import CorrectingTeacher
from lightning_pbrl.teachers.graded import GradedTeacher
from lightning_pbrl.teachers.simulated import SimulatedTeacher
from lightning_pbrl.testing.toys import ToyData, make_trainer

MARKER = "answers: written by python -m benchmarks.answers"
OBS, ACTION, LENGTH = 6, 2, 10
SPEC = {"obs_dim": OBS, "action_dim": ACTION, "horizon": 50}
AXES, WEIGHTS = ["first", "second"], [1.0, 0.5]
"""Names of the two axes, and their weights in the true reward."""
BETA = 2.0
"""Rationality of the noisy teachers, per standard deviation of the returns of segments."""


class Size(NamedTuple):
    """How much is measured."""

    episodes: int = 400
    horizon: int = 50
    questions: Sequence[int] = (25, 50, 100, 200)
    seeds: int = 5
    epochs: int = 40
    held_out: int = 5_000


QUICK = Size(episodes=30, questions=(10, 20), seeds=1, epochs=2, held_out=100)


class Arm(NamedTuple):
    """One way to ask: the strategy, settings of the reward model, segments that a question shows, teachers if any."""

    query: QueryStrategy
    clips: float
    settings: Mapping[str, Any]
    rational: Teacher
    noisy: Teacher | None


def arms(seed: int) -> dict[str, Arm]:
    """Return the ways to ask, by name, about the reward of a seed."""
    axes = {name: partial(axis_reward, seed, place) for place, name in enumerate(AXES)}
    graded = GradedTeacher(), GradedTeacher(beta=BETA)
    return {
        "pair": Arm(UniformQuery(), 2, {}, SimulatedTeacher(unit="return_std"), SimulatedTeacher(beta=BETA, unit="return_std")),
        "graded, soft labels": Arm(GradedQuery(), 2, {"graded": "soft"}, *graded),
        "graded, ordinal": Arm(GradedQuery(), 2, {"graded": "ordinal"}, *graded),
        "best of 4": Arm(BestOfQuery(4), 4, {}, BestOfTeacher(unit="return_std"), BestOfTeacher(beta=BETA, unit="return_std")),
        "a correction, if there is one": Arm(CorrectionQuery(), 2, {}, CorrectingTeacher(), None),
        "one of two axes": Arm(
            AxesQuery(AXES),
            2,
            {"axes": AXES, "weights": dict(zip(AXES, WEIGHTS, strict=True))},
            AxesTeacher(axes),
            AxesTeacher(axes, beta=BETA / LENGTH**0.5),
        ),
    }


@cache
def axis(seed: int, place: int) -> nn.Module:
    """Return the network of an axis."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1000 * seed + place)
        return nn.Sequential(nn.Linear(OBS + ACTION, 32), nn.Tanh(), nn.Linear(32, 1)).requires_grad_(False)


@cache
def moments(seed: int, place: int) -> tuple[float, float]:
    """Return mean and standard deviation of an axis's reward over random states and actions."""
    rng = stream(seed, "moments")
    many = torch.cat([torch.randn(20_000, OBS, generator=rng), torch.rand(20_000, ACTION, generator=rng) * 2 - 1], 1)
    found = axis(seed, place)(many)
    return float(found.mean()), float(found.std())


def axis_reward(seed: int, place: int, clips: Clips) -> Tensor:
    """Return the reward per step on an axis, of mean 0 and standard deviation 1: (B, C, T)."""
    mean, std = moments(seed, place)
    found: Tensor = axis(seed, place)(torch.cat([clips.obs, clips.action], -1)).squeeze(-1)
    return (found - mean) / std


class Known(ToyData):
    """Random states and actions whose reward is a fixed random network.

    Args:
        size: how many there are.
        seed: of states, actions and reward.
    """

    def __init__(self, size: Size, seed: int) -> None:
        super().__init__()
        self.segment_length, self.size, self.seed = LENGTH, size, seed

    def load(self) -> Transitions:
        rng = stream(self.seed, "answers")
        n = self.size.episodes * self.size.horizon
        obs, action = torch.randn(n, OBS, generator=rng), torch.rand(n, ACTION, generator=rng) * 2 - 1
        clips = Clips(obs, action, torch.empty(n))
        reward = torch.stack([w * axis_reward(self.seed, place, clips) for place, w in enumerate(WEIGHTS)]).sum(0)
        offsets = torch.arange(0, n + 1, self.size.horizon)
        return Transitions.from_columns(obs, action, obs, offsets, reward)


def fitted(name: str, noise: str, size: Size, questions: int, seed: int) -> Method:
    """Return an ensemble that has learned from so many answers of a kind."""
    arm, data = arms(seed)[name], Known(size, seed)
    same = {"hidden": (64, 64), "lr": 1e-3, "batch_size": 32, "epochs": size.epochs, "stop_accuracy": 1.0, "output": "none"}
    model, more = ("AxisRewards", {}) if "axes" in arm.settings else ("RewardEnsemble", {"tile": None})
    method = LearnReward(SPEC, {"class_path": model, "init_args": {**same, **more, **arm.settings}}, seed=seed)
    ask = AskTeacher(getattr(arm, noise), arm.query, budget=questions, per_round=questions)
    with TemporaryDirectory() as folder:
        make_trainer(Path(folder), [ask], limit_val_batches=0).fit(method, data)
    return method


def accuracy(method: Method, size: Size, seed: int) -> float:
    """Return the accuracy on held-out pairs."""
    source = method.source
    pairs = source.pool(LENGTH).pairs(size.held_out, stream(seed, "held out"))
    first, second = source.true_returns(pairs).T
    predicted = method.scorer.returns(pairs).mean(0)
    return float(((predicted[:, 1] > predicted[:, 0]) == (second > first)).double().mean())


def needed(curve: Mapping[int, float], goal: float) -> float | None:
    """Return the number of questions at which a curve first reaches an accuracy, between its points on a straight line."""
    points = sorted(curve.items())
    for (before, low), (after, high) in pairwise(points):
        if low < goal <= high:
            return before + (after - before) * (goal - low) / (high - low)
    return float(points[0][0]) if points[0][1] >= goal else None


def measure(size: Size) -> dict[str, Any]:
    """Return the accuracies of all arms, teachers, numbers of questions and seeds."""
    found: dict[str, Any] = {}
    for noise in ("rational", "noisy"):
        for name, arm in arms(0).items():
            if getattr(arm, noise) is None:
                continue
            began, runs = time.process_time(), {}
            for questions in size.questions:
                runs[questions] = [accuracy(fitted(name, noise, size, questions, seed), size, seed) for seed in range(size.seeds)]
            found.setdefault(noise, {})[name] = {"clips": arm.clips, "accuracy": runs, "cpu_seconds": time.process_time() - began}
            print(noise, name, {q: round(statistics.fmean(values), 4) for q, values in runs.items()}, flush=True)
    return found


def told(result: Mapping[str, Any], size: Size) -> str:
    """Return the tables of the README."""
    lines = []
    for noise, by_arm in result["arms"].items():
        means = {name: {int(q): statistics.fmean(v) for q, v in arm["accuracy"].items()} for name, arm in by_arm.items()}
        goal = means["pair"][size.questions[-2]]
        who = "Rational teachers" if noise == "rational" else f"Noisy teachers (beta {BETA:g} per standard deviation of returns)"
        lines += [f"{who}: accuracy on {size.held_out:,} held-out pairs, mean of {size.seeds} seeds (standard deviation).", ""]
        header = [*(f"{q} questions" for q in size.questions), f"questions for {goal:.3f}", "clips for that"]
        lines += ["| one answer | " + " | ".join(header) + " |", "|---|" + "---|" * len(header)]
        for name, arm in by_arm.items():
            cells = [f"{statistics.fmean(v):.3f} ({statistics.pstdev(v):.3f})" for v in arm["accuracy"].values()]
            count = needed(means[name], goal)
            cells += ["not reached", ""] if count is None else [f"{count:.0f}", f"{arm['clips'] * count:.0f}"]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines).strip()


def main(args: Sequence[str] | None = None) -> int:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.answers", description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--quick", action="store_true", help="a size for tests; writes no README")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of answers.json")
    options = parser.parse_args(args)
    torch.set_num_threads(1)
    size = QUICK if options.quick else Size()
    began = time.process_time()
    result = {"command": "python -m benchmarks.answers", "machine": machine(), "size": size._asdict(), "arms": measure(size)}
    result["cpu_seconds"] = time.process_time() - began
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "answers.json").write_text(json.dumps(result, indent=1) + "\n")
    text = told(result, size)
    print(text)
    if not options.quick:
        rewrite(MARKER, f"{text}\n\n{result['cpu_seconds']:.0f} CPU seconds.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
