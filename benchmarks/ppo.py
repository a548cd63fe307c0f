"""``python -m benchmarks.ppo [--quick | --curves]``: PPO beside stable-baselines3's, which is installed for this alone.

Without ``--curves``: one whole update from equal weights, rollout and order of minibatches, compared weight by weight; and both
loops on one environment, timed in turn. Written to ``results/ppo.json``. With ``--curves``: both are trained, seed by seed, and
judged at the same steps on the same episodes; written to ``results/ppo-curves.csv`` as they come, so that it can be interrupted,
and drawn beside it.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from rich.console import Console

from benchmarks.__main__ import table
from benchmarks.engine import trainer
from benchmarks.measure import Claim, Rounds, interleave, judge, machine, per_unit, summary
from benchmarks.readme import RESULTS
from benchmarks.sb3_ppo import collect, ours_after, parity, sb3_model
from lightning_pbrl.datamodules.online import OnlineDataModule
from lightning_pbrl.envs.gym_mujoco import GymMuJoCo
from lightning_pbrl.methods.ppo import PPO
from lightning_pbrl.reports.plot import new_figure, save_figure

CLAIMS = [
    Claim("PPO loop (env steps, 10 passes, 64-64) in the Trainer, compiled / stable-baselines3", 2.0, "loop sb3", "loop ours"),
    Claim("... eager, as in runs of less than 12,000 updates / stable-baselines3", 1.3, "loop sb3 again", "loop eager"),
    Claim("PPO updates of a rollout, compiled / stable-baselines3", 3.0, "updates sb3", "updates compiled"),
    Claim("PPO updates of a rollout, eager / stable-baselines3", 1.3, "updates sb3", "updates eager"),
]
FIELDS = ("who", "env", "seed", "env_steps", "return_mean", "cpu_seconds")


class Size(NamedTuple):
    """How much is measured; the goals are stated for the default."""

    env_id: str = "HalfCheetah-v5"
    rollout: int = 2_048
    epochs: int = 10
    rounds: int = 5
    compile: bool = True
    curve_steps: int = 307_200
    curve_round: int = 20_480
    episodes: int = 10


QUICK = Size(
    env_id="InvertedPendulum-v5",
    rollout=128,
    epochs=2,
    rounds=2,
    compile=False,
    curve_steps=512,
    curve_round=256,
    episodes=2,
)


class TakeTurns(pl.Callback):
    """Before every rollout of ours, one of the opponent with its updates; both in CPU seconds per env step.

    Ours counts from the end of the opponent's turn to the beginning of its next one: everything that Lightning does is in it.
    """

    def __init__(self, theirs: Any, size: Size) -> None:
        self.theirs, self.size = theirs, size
        self.ours: list[float] = []
        self.other: list[float] = []
        self.began = 0.0

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        if pl_module.rounds.name != "rollout":
            return
        before, steps = time.process_time(), self.size.rollout
        self.ours.append((before - self.began) / steps)
        self.theirs.learn(steps, reset_num_timesteps=False)
        self.began = time.process_time()
        self.other.append((self.began - before) / steps)

    def rounds(self) -> tuple[list[float], list[float]]:
        """Of the opponent and of ours, without the first two turns (compiling, warming up)."""
        return self.other[2:-1], self.ours[3:]


def loop(size: Size, compiled: bool) -> tuple[list[float], list[float]]:
    """Both loops in one fit, ours with Trainer, data module, replay and CSV log."""
    module = OnlineDataModule(GymMuJoCo(size.env_id), eval_episodes=0, segment_length=1)
    steps = (size.rounds + 3) * size.rollout
    settings = {"env_steps": steps, "round_steps": steps, "n_steps": size.rollout, "n_epochs": size.epochs}
    method = PPO(module.spec, compile=compiled, block=320, **settings)
    theirs = sb3_model(GymMuJoCo(size.env_id), 1, True, 0, n_steps=size.rollout, n_epochs=size.epochs)
    turns = TakeTurns(theirs, size)
    with tempfile.TemporaryDirectory() as folder:
        trainer(folder, -1, turns).fit(method, module)
    theirs.env.close()
    return turns.rounds()


def loops(size: Size) -> Rounds:
    """The loop of both, ours compiled and eager."""
    seen: Rounds = {}
    seen["loop sb3"], seen["loop ours"] = loop(size, size.compile)
    seen["loop sb3 again"], seen["loop eager"] = loop(size, False)
    return seen


def updates(size: Size) -> Rounds:
    """All passes over one rollout, CPU seconds per update."""
    simulator = GymMuJoCo(size.env_id)
    theirs = sb3_model(simulator, 1, False, 0, n_steps=size.rollout, n_epochs=size.epochs)
    recorded = collect(theirs, size.rollout)
    count = size.epochs * size.rollout // 64
    contestants = {"updates sb3": per_unit(theirs.train, count)}
    for name, compiled in (("eager", False), ("compiled", size.compile)):
        _, engine = ours_after(recorded, theirs, simulator.horizon, n_epochs=size.epochs, compile=compiled)
        contestants[f"updates {name}"] = per_unit(lambda engine=engine: engine.run("policy", count), count)
    return interleave(contestants, size.rounds)


def main(size: Size) -> dict[str, Any]:
    """Measure everything; plain JSON."""
    hopper = {"simulator": GymMuJoCo("Hopper-v5", horizon=20), "num_envs": 2, "steps": 512 if size.compile else 64}
    same = parity(**hopper, epochs=size.epochs, batch_size=64 if size.compile else 32)
    began = time.perf_counter()
    seen = {**loops(size), **updates(size)}
    import stable_baselines3

    return {
        "size": size._asdict(),
        "stable_baselines3": stable_baselines3.__version__,
        "unit": "CPU seconds per env step with its share of updates (loop), per update (updates)",
        "one_update_from_equal_weights": same,
        "claims": [judge(claim, seen) for claim in CLAIMS],
        "seconds": summary(seen),
        "wall_seconds_in_all": time.perf_counter() - began,
    }


# Learning curves ---------------------------------------------------------------------------------------------------------

Note = Callable[[int, float], None]
"""Takes env steps so far and the mean return of the evaluation episodes."""


def our_curve(size: Size, seed: int, note: Note) -> None:
    """Our fit, judged by its own validation at every round's end."""

    class Judged(pl.Callback):
        def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
            note(pl_module.env_steps, float(trainer.callback_metrics["eval/return_mean"]))

    module = OnlineDataModule(GymMuJoCo(size.env_id), eval_episodes=size.episodes, eval_envs=size.episodes, segment_length=1)
    steps = {"env_steps": size.curve_steps, "round_steps": size.curve_round, "n_steps": size.rollout, "n_epochs": size.epochs}
    method = PPO(module.spec, seed=seed, block=320, compile="auto" if size.compile else False, **steps)
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    pl.Trainer(accelerator="cpu", devices=1, max_epochs=-1, callbacks=[Judged()], enable_model_summary=False, **quiet).fit(
        method, module
    )


def their_curve(size: Size, seed: int, note: Note) -> None:
    """Its training, judged after the same updates on the same episodes by its mean action and its present statistics."""
    from stable_baselines3.common.callbacks import BaseCallback

    module = OnlineDataModule(GymMuJoCo(size.env_id), eval_envs=size.episodes, segment_length=1)
    model = sb3_model(GymMuJoCo(size.env_id), 1, True, seed, n_steps=size.rollout, n_epochs=size.epochs)
    seeds = module.episode_seeds("validation", size.episodes)

    def act(obs: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(model.predict(model.env.normalize_obs(obs.numpy()), deterministic=True)[0])

    def judge_now() -> None:
        note(model.num_timesteps, float(module.rollout(act, seeds).episode_return.mean()))

    class Judged(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:  # the updates of the rollout before are done
            if self.num_timesteps and self.num_timesteps % size.curve_round == 0:
                judge_now()

    model.learn(size.curve_steps, Judged())
    judge_now()


def curves(size: Size, seeds: list[int], who: list[str], path: Path) -> None:
    """Train each, and append what is missing; an unfinished run is begun anew."""
    rows: list[dict[str, str]] = []
    if path.exists():
        with open(path) as file:
            rows = list(csv.DictReader(file))
    last = {(row["who"], row["env"], row["seed"]) for row in rows if int(row["env_steps"]) >= size.curve_steps}
    rows = [row for row in rows if (row["who"], row["env"], row["seed"]) in last]

    def write() -> None:
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, FIELDS)
            writer.writeheader()
            writer.writerows(rows)

    for seed in seeds:
        for name in who:
            if (name, size.env_id, str(seed)) in last:
                continue
            began = time.process_time()

            def note(env_steps: int, mean: float, name: str = name, seed: int = seed, began: float = began) -> None:
                spent = time.process_time() - began
                values = (name, size.env_id, str(seed), str(env_steps), f"{mean:.3f}", f"{spent:.1f}")
                rows.append(dict(zip(FIELDS, values, strict=True)))
                write()

            (our_curve if name == "ours" else their_curve)(size, seed, note)
            print(f"{name}, seed {seed}: {rows[-1]['return_mean']} after {rows[-1]['env_steps']} env steps")
    write()


class Interval(NamedTuple):
    """Mean over seeds and half the width of its 95 % interval (Student's t; nan for one seed)."""

    mean: float
    half: float
    seeds: int


def intervals(path: Path) -> dict[str, dict[int, Interval]]:
    """Of every evaluation: who -> env steps -> interval."""
    from scipy import stats

    with open(path) as file:
        rows = list(csv.DictReader(file))
    found: dict[str, dict[int, Interval]] = {}
    for who, steps in sorted({(row["who"], int(row["env_steps"])) for row in rows}):
        values = np.array([float(row["return_mean"]) for row in rows if (row["who"], int(row["env_steps"])) == (who, steps)])
        n = len(values)
        half = stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan
        found.setdefault(who, {})[steps] = Interval(float(values.mean()), float(half), n)
    return found


def final(path: Path) -> dict[str, str]:
    """The last evaluation, by who."""
    ends = {who: curve[max(curve)] for who, curve in intervals(path).items()}
    return {who: f"{end.mean:.1f} +- {end.half:.1f} over {end.seeds} seeds" for who, end in ends.items()}


def draw(path: Path, out: Path) -> None:
    """Both curves with their intervals."""
    figure, (axes,) = new_figure(1, size=(5.6, 3.8))
    for who, curve in intervals(path).items():
        steps, means, halves = list(curve), *(np.array([point[i] for point in curve.values()]) for i in range(2))
        axes.plot(steps, means, marker=".", label={"ours": "lightning-pbrl", "sb3": "stable-baselines3"}[who])
        axes.fill_between(steps, means - halves, means + halves, alpha=0.2, linewidth=0)
    axes.set(xlabel="env steps", ylabel="return of evaluation episodes")
    axes.legend()
    axes.grid(alpha=0.3)
    save_figure(figure, out, "PPO: mean over seeds, 95 % interval")


def command_line(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ppo", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs")
    parser.add_argument("--curves", action="store_true", help="train both and write a CSV file instead of timing them")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the curves (default: %(default)s)")
    parser.add_argument("--who", nargs="+", choices=("ours", "sb3"), default=["ours", "sb3"], help="whose curves")
    parser.add_argument("--env", help="Gymnasium id of the task (default: HalfCheetah-v5)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results (default: %(default)s)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    size = QUICK if options.quick else Size()
    if options.env:
        size = size._replace(env_id=options.env)
    if options.quick and options.out == RESULTS:
        options.out = RESULTS / "quick"
    options.out.mkdir(parents=True, exist_ok=True)
    console = Console()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice about workers and devices
        if options.curves:
            path = options.out / "ppo-curves.csv"
            curves(size, options.seeds, options.who, path)
            draw(path, path.with_suffix(".png"))
            console.print(final(path))
            return 0
        before = machine("python -m benchmarks.ppo")
        result = {"machine": before, **main(size)}
    (options.out / "ppo.json").write_text(json.dumps(result, indent=2) + "\n")
    console.print(table(result["claims"]))
    console.print(result["one_update_from_equal_weights"])
    console.print(f"Written to {options.out}.")
    return 0


if __name__ == "__main__":
    raise SystemExit(command_line())
