"""Run the jobs of an experiment as processes: in order of need, several at a time, with one bar each."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from lightning_pbrl.errors import UserError

POLL_S = 0.25
TAIL_LINES = 15


@dataclass
class Job:
    """One stage for one seed.

    Attributes:
        stage: name of the stage.
        seed: the run's seed.
        folder: its run folder.
        command: fit, validate, test or predict.
        files: config files, later ones win.
        own: the stage's own keys, references resolved.
        after: jobs that must have finished before.
    """

    stage: str
    seed: int
    folder: Path
    command: str
    files: list[str]
    own: dict[str, Any]
    after: list[Job] = field(default_factory=list)

    @property
    def label(self) -> str:
        return f"{self.stage}/seed{self.seed}"

    @property
    def overlay(self) -> dict[str, Any]:
        """The last config of the command line: the stage's own keys, the seed and the run folder."""
        progress = {"heartbeat": True, "name": self.label}
        return {**self.own, "run_dir": str(self.folder), "seed_everything": self.seed, "progress": progress}

    @property
    def digest(self) -> str:
        """A hash of everything that defines the job."""
        parts = [self.command, *(Path(file).read_text() for file in self.files), json.dumps(self.overlay, sort_keys=True)]
        return hashlib.blake2b("\0".join(parts).encode(), digest_size=8).hexdigest()

    def arguments(self, overlay: Path) -> list[str]:
        """Command line behind ``python -m lightning_pbrl``."""
        files = [arg for file in [*self.files, str(overlay)] for arg in ("-c", file)]
        return [self.command, *files, *(["--resume"] if self.command == "fit" else [])]

    def finished(self) -> bool:
        """Whether this very job has run to its end before.

        Raises:
            UserError: when another configuration has finished in the same folder.
        """
        done = self.folder / "done.json"
        if not done.is_file():
            return False
        if json.loads(done.read_text())["digest"] != self.digest:
            raise UserError(
                f"{self.folder} holds a finished run of another configuration: choose another --out, or remove that folder."
            )
        return True


def run_jobs(jobs: list[Job], at_once: int, title: str) -> list[Job]:
    """Run what is not finished yet; returns the jobs that failed (and those that waited for them).

    With ``at_once`` above 1 every process has one thread and, where the system allows it, a core of its own: on a
    CPU independent processes are the fastest way to run seeds.
    """
    console = Console()
    waiting = [job for job in jobs if not job.finished()]
    for job in jobs:
        if job not in waiting:
            console.print(f"{job.label}: finished before, skipped")
    running: dict[int, _Process] = {}
    failed: list[Job] = []
    columns = (
        TextColumn("{task.description}", table_column=None),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[what]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, refresh_per_second=4) as bars:
        overall = bars.add_task(f"[bold]{title}", total=len(jobs), completed=len(jobs) - len(waiting), what="")
        try:
            while waiting or running:
                for job in [job for job in waiting if any(needed in failed for needed in job.after)]:
                    waiting.remove(job)
                    failed.append(job)
                    console.print(f"[red]{job.label}: not run, because a stage it needs has failed")
                for slot in set(range(at_once)) - set(running):
                    busy = [process.job for process in running.values()]
                    ready = [job for job in waiting if not any(need in waiting or need in busy for need in job.after)]
                    if not ready:
                        break
                    waiting.remove(ready[0])
                    running[slot] = _Process(ready[0], slot if at_once > 1 else None, bars)
                for slot, process in list(running.items()):
                    if process.poll():
                        del running[slot]
                        bars.advance(overall)
                        if not process.succeeded:
                            failed.append(process.job)
                            console.print(f"[red]{process.job.label} failed:[/red]\n{process.tail()}", highlight=False)
                time.sleep(POLL_S)
        finally:
            for process in running.values():
                process.stop()
    return failed


class _Process:
    """One job as a process, its log and its progress bar."""

    def __init__(self, job: Job, core: int | None, bars: Progress) -> None:
        self.job, self.bars, self.succeeded = job, bars, False
        job.folder.mkdir(parents=True, exist_ok=True)
        overlay = job.folder / "stage.yaml"
        overlay.write_text(yaml.safe_dump(job.overlay, sort_keys=False))
        (job.folder / "progress.json").unlink(missing_ok=True)
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "LIGHTNING_PBRL_STAGE": job.label}
        if core is not None:
            environment.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
        self.log = (job.folder / "log.txt").open("a")
        command = [sys.executable, "-m", "lightning_pbrl", *job.arguments(overlay)]
        self.process = subprocess.Popen(command, stdout=self.log, stderr=subprocess.STDOUT, env=environment)
        _pin(self.process.pid, core)
        self.bar: TaskID = bars.add_task(job.label, total=None, what="starting")

    def poll(self) -> bool:
        """Refresh the bar; True when the process has ended."""
        beat = _heartbeat(self.job.folder / "progress.json")
        if beat:
            shown = {key: value for key, value in beat.get("metrics", {}).items() if key.split("/")[0] in ("eval", "pref")}
            metrics = " ".join(f"{key.split('/')[-1]} {value:.3g}" for key, value in shown.items())
            whole = ("updates", "planned") if beat.get("planned") and beat.get("stage") == "fit" else ("done", "total")
            done, total = (beat.get(key) for key in whole)
            what = f"{beat.get('stage', '')} round {beat.get('round', 0)} {beat.get('phase', '')} {metrics}"
            self.bars.update(self.bar, total=total or None, completed=done or 0, what=what)
        code = self.process.poll()
        if code is None:
            return False
        self.log.close()
        self.succeeded = code == 0
        if self.succeeded:
            (self.job.folder / "done.json").write_text(json.dumps({"digest": self.job.digest}))
        self.bars.remove_task(self.bar)
        return True

    def tail(self) -> str:
        """The end of the job's log."""
        return "\n".join((self.job.folder / "log.txt").read_text().splitlines()[-TAIL_LINES:])

    def stop(self) -> None:
        """End the process (an interrupt leaves no orphan)."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.log.close()


def _pin(pid: int, core: int | None) -> None:
    if core is None or not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    try:
        os.sched_setaffinity(pid, {cores[core % len(cores)]})
    except OSError:  # the process has ended already, or the system forbids it: speed only
        return


def _heartbeat(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content
