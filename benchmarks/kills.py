"""Kill ``fit``, ``run`` and ``sweep`` at random moments, go on, and compare the end with a run that was left alone.

    python -m benchmarks.kills [--moments 20] [--seed 0] [--out FILE]

For each command and each of SIGTERM and SIGKILL, ``--moments`` kills: of the process of a fit, of the pool, or of a stage that
the pool has started. The command is then given again, until it comes to its end. After every kill each stage that is marked
as finished is compared with the undisturbed one; at the end all are. Equal means bit for bit: weights and optimiser states,
questions and answers, ``results.json``.

Processes are forked from one that has imported everything, and draw no curves; apart from the seconds which that saves they are
those of the command line.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import os
import random
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

DATA = """
data:
  class_path: D4RLDataModule
  init_args:
    path: small.hdf5
    segment_length: 20
    held_out_pairs: 50
    eval_episodes: 1
    test_episodes: 2
    num_envs: 2
    cache_dir: cache
    simulator: {class_path: GymMuJoCo, init_args: {env_id: Hopper-v5}}
trainer: {accelerator: cpu, enable_progress_bar: false}
feedback: {clips: 0}
"""

EXPERIMENT = """
name: cut
stages:
  reward:
    config: [small.yaml, model/reward_ensemble.yaml, teacher/oracle.yaml, query/disagreement.yaml]
    with: {ask: {budget: 20, per_round: 10}, model: {init_args: {epochs: 4, hidden: [16, 16]}}}
  policy:
    config: [small.yaml, model/iql.yaml]
    with:
      relabel: {reward: "${stages.reward.checkpoint}"}
      model: {init_args: {updates: 60, eval_interval: 20, hidden: [16, 16], batch_size: 32}}
      then_test: true
"""

SWEEP = """
name: cut
base: {bc: [small.yaml, model/bc.yaml]}
model.init_args.lr: [1e-3, 1e-4]
model.init_args.updates: [90]
model.init_args.eval_interval: [30]
model.init_args.hidden: [[16, 16]]
then_test: [true]
"""

FIT = ["fit", "-c", "small.yaml", "-c", "model/reward_ensemble.yaml"]
FIT += ["-c", "teacher/oracle.yaml", "-c", "query/disagreement.yaml"]
FIT += ["--ask.budget=40", "--ask.per_round=10", "--model.init_args.epochs=4", "--model.init_args.hidden=[16, 16]"]
FIT += ["--then_test", "--resume"]

COMMANDS = ("fit", "run", "sweep")
ROWS = 2_000
PATIENCE_S = 600.0
"""How long a run may take that is left alone before it counts as hung."""


def write_inputs(folder: Path) -> None:
    """A file in D4RL's layout, its config, an experiment of two stages and a sweep of two trials."""
    import h5py

    rng = np.random.default_rng(0)
    ends = np.zeros(ROWS, bool)
    ends[199::200] = True
    obs, action = rng.normal(size=(ROWS, 11)), rng.uniform(-1, 1, (ROWS, 3))
    with h5py.File(folder / "small.hdf5", "w") as file:
        file["observations"], file["actions"] = obs.astype("f4"), action.astype("f4")
        file["rewards"] = (action[:, 0] + obs[:, 0] / 10).astype("f4")
        file["terminals"], file["timeouts"] = np.zeros(ROWS, bool), ends
    for name, text in (("small.yaml", DATA), ("cut.yaml", EXPERIMENT), ("grid.yaml", SWEEP)):
        (folder / name).write_text(text)


class Forked:
    """A process of the command line, forked from this one; what ``jobs`` asks of ``subprocess.Popen``."""

    def __init__(self, command: list[str], stdout: Any = None, env: dict[str, str] | None = None, **_: Any) -> None:
        sys.stdout.flush()
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            self._child(command[command.index("lightning_pbrl") + 1 :], stdout, env)

    def _child(self, args: list[str], stdout: Any, env: dict[str, str] | None) -> None:
        code = 1
        try:
            os.setsid()
            for number in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if env is not None:
                os.environ.update(env)
            for fd in os.listdir("/proc/self/fd"):  # a log is locked as long as anybody has it open
                with contextlib.suppress(OSError):
                    if os.readlink(f"/proc/self/fd/{fd}").endswith("log.txt") and int(fd) != stdout.fileno():
                        os.close(int(fd))
            os.dup2(stdout.fileno(), 1)
            os.dup2(stdout.fileno(), 2)
            sys.stdout, sys.stderr = (os.fdopen(os.dup(number), "w", 1) for number in (1, 2))
            from lightning_pbrl.cli import main

            main(args)
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        except BaseException:  # noqa: BLE001 - printed, as an interpreter would
            import traceback

            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float = PATIENCE_S) -> int:
        import subprocess

        until = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired("lightning-pbrl", timeout)
            time.sleep(0.01)
        assert self.returncode is not None
        return self.returncode


def preload() -> None:
    """Import all that a run imports, and let pools fork their stages."""
    import subprocess
    from types import SimpleNamespace

    import matplotlib.pyplot as _pyplot  # noqa: F401
    import tensorboard  # noqa: F401
    import torch

    from lightning_pbrl import jobs, registry
    from lightning_pbrl.callbacks.learning_curve import LearningCurve
    from lightning_pbrl.envs.gym_mujoco import GymMuJoCo  # noqa: F401
    from lightning_pbrl.reports import experiment as report
    from lightning_pbrl.study import command as _study  # noqa: F401
    from lightning_pbrl.train_cli import rehearse

    registry.import_all()
    rehearse()
    torch.set_num_threads(1)
    os.environ["LIGHTNING_PBRL_FORK"] = "0"  # this process forks the stages itself
    LearningCurve._draw = lambda *_: None  # type: ignore[method-assign]
    report.plot = lambda *_: None  # type: ignore[attr-defined, assignment]
    stand_in = SimpleNamespace(Popen=Forked, STDOUT=subprocess.STDOUT, TimeoutExpired=subprocess.TimeoutExpired)
    jobs.subprocess = stand_in  # type: ignore[attr-defined]


# What a run has come to ------------------------------------------------------------------------------------------------


def stages(out: Path) -> dict[str, Path]:
    """Run folders below ``out`` by their place."""
    return {str(path.parent.parent.relative_to(out)): path.parent.parent for path in sorted(out.rglob("checkpoints/last.ckpt"))}


def outcome(run: Path) -> dict[str, Any]:
    """Everything of a run that must not depend on what happened to it, as bytes and plain values."""
    import torch

    saved = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    own = saved["lightning_pbrl"]
    found: dict[str, Any] = {"step": saved["global_step"], "round": saved["epoch"], "finished": own["finished"]}
    found |= dict(_leaves({"weights": saved["state_dict"], "engine": own["engine"], "asked": own["asked"]}))
    results = run / "results.json"
    found["results"] = json.loads(results.read_text()) if results.is_file() else None
    if (run / "labels.sqlite").is_file():
        with contextlib.closing(sqlite3.connect(run / "labels.sqlite")) as store:
            columns = [row[1] for row in store.execute("pragma table_info(pbrl_questions)")]
            kept = [name for name in columns if name not in ("asked_at", "answered_at", "time", "created")]
            found["answers"] = store.execute(f"select {', '.join(kept)} from pbrl_questions order by number").fetchall()
    return found


def _leaves(tree: Any, at: str = "") -> list[tuple[str, Any]]:
    if isinstance(tree, dict):
        return [leaf for key, part in tree.items() for leaf in _leaves(part, f"{at}/{key}")]
    if isinstance(tree, list | tuple):
        return [leaf for key, part in enumerate(tree) for leaf in _leaves(part, f"{at}/{key}")]
    return [(at, tree.contiguous().numpy().tobytes() if hasattr(tree, "numpy") else tree)]


def differences(run: Path, reference: dict[str, Any]) -> list[str]:
    """Names of what differs between a run and the undisturbed one."""
    found = outcome(run)
    return [name for name in {**reference, **found} if reference.get(name) != found.get(name)]


# Killing ---------------------------------------------------------------------------------------------------------------


class Trial:
    """One command that is killed until it ends by itself.

    Args:
        kind: fit, run or sweep.
        home: the folder with the inputs.
        number: names its output.
    """

    def __init__(self, kind: str, home: Path, number: str) -> None:
        self.kind, self.out = kind, home / f"{kind}-{number}"
        tail = {"fit": [*FIT, f"--run_dir={self.out}/fit"], "run": ["run", "cut.yaml"], "sweep": ["sweep", "grid.yaml"]}[kind]
        self.args = tail if kind == "fit" else [*tail, "--out", str(self.out)]
        self.out.mkdir()

    def start(self) -> Forked:
        with (self.out / "output.txt").open("a") as output:
            return Forked(["lightning_pbrl", *self.args], stdout=output)

    def children(self) -> list[int]:
        """Stages that run now, as ``started.json`` names them."""
        found = []
        for path in self.out.rglob("started.json"):
            with contextlib.suppress(OSError, ValueError, KeyError):
                pid = json.loads(path.read_text())["pid"]
                if not (path.parent / "done.json").exists() and not (path.parent / "failed.json").exists():
                    os.kill(pid, 0)
                    found.append(pid)
        return found

    def wrongly_finished(self, reference: dict[str, dict[str, Any]]) -> list[str]:
        """Stages that are marked as finished, or have results, and are not what the undisturbed run has."""
        wrong = []
        for name, run in stages(self.out).items():
            if (run / "done.json").exists() or (run / "results.json").exists():
                wrong += [f"{self.out.name}/{name}: {what}" for what in differences(run, reference[name])]
        return wrong


def kill_and_go_on(kind: str, number: signal.Signals, moments: int, home: Path, rng: random.Random) -> dict[str, Any]:
    """``moments`` kills of one command by one signal; what went wrong is listed."""
    quiet = Trial(kind, home, f"{number.name}-alone")
    began = time.monotonic()
    code = quiet.start().wait()
    takes = time.monotonic() - began
    if code:
        raise SystemExit(f"{kind} does not run undisturbed: {(quiet.out / 'output.txt').read_text()[-2000:]}")
    reference = {name: outcome(run) for name, run in stages(quiet.out).items()}
    row: dict[str, Any] = {"undisturbed_s": round(takes, 2), "kills": 0, "of_a_stage": 0, "ends": 0}
    row |= {"wrongly_finished": [], "other_ends": [], "exit_codes": {}}
    life, trial = 0, None
    while row["kills"] < moments or trial is not None:
        if trial is None:
            life += 1
            trial = Trial(kind, home, f"{number.name}-{life}")
        process = trial.start()
        if row["kills"] < moments:
            until = time.monotonic() + rng.uniform(0.05, takes)
            while time.monotonic() < until and process.poll() is None:
                time.sleep(0.005)
            below = trial.children() if kind != "fit" and rng.random() < 0.5 else []
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(below[0] if below else process.pid, number)
                    row["kills"] += 1
                    row["of_a_stage"] += bool(below)
        code = process.wait()
        print(f"{trial.out.name}: {row['kills']} kills, exit code {code}", file=sys.stderr, flush=True)
        row["exit_codes"][str(code)] = row["exit_codes"].get(str(code), 0) + 1
        row["wrongly_finished"] += trial.wrongly_finished(reference)
        if code == 0:
            ended = stages(trial.out)
            if ended.keys() != reference.keys():
                row["other_ends"].append(f"{trial.out.name}: {sorted(ended)}")
            row["other_ends"] += [
                f"{trial.out.name}/{name}: {what}" for name, run in ended.items() for what in differences(run, reference[name])
            ]
            row["ends"] += 1
            if not row["wrongly_finished"] and not row["other_ends"]:
                shutil.rmtree(trial.out)
            trial = None
    return row


@contextlib.contextmanager
def at_home(folder: Path | None) -> Iterator[Path]:
    """Work in a folder, or in a temporary one, that has the configs and data; everything that processes need is imported."""
    with tempfile.TemporaryDirectory() if folder is None else contextlib.nullcontext(folder) as name:
        home = Path(name).resolve()
        home.mkdir(parents=True, exist_ok=True)
        os.chdir(home)
        write_inputs(home)
        preload()
        yield home


def main() -> None:
    """Run all six combinations; exit code 1 when anything was wrong."""
    parser = argparse.ArgumentParser("python -m benchmarks.kills", description=__doc__)
    parser.add_argument("--moments", type=int, default=20, help="kills per command and signal (default 20)")
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=COMMANDS, help="which (default all)")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "kills.json")
    parser.add_argument("--folder", type=Path, help="where the runs go (default: a temporary folder, removed at the end)")
    options = parser.parse_args()
    faulthandler.enable()
    out = options.out.resolve()
    with at_home(options.folder) as home:
        rng, began = random.Random(options.seed), time.monotonic()
        rows = {}
        for kind in options.commands:
            for number in (signal.SIGTERM, signal.SIGKILL):
                row = rows[f"{kind} {number.name}"] = kill_and_go_on(kind, number, options.moments, home, rng)
                print(f"{kind} {number.name}: {row}", flush=True)
    wrong = sum(len(row["wrongly_finished"]) + len(row["other_ends"]) for row in rows.values())
    content = {"seed": options.seed, "seconds": round(time.monotonic() - began), "wrong": wrong, "moments": rows}
    out.write_text(json.dumps(content, indent=1) + "\n")
    print(f"{sum(row['kills'] for row in rows.values())} kills, {wrong} wrong: {out}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
