"""Run jobs as processes: in order of need, each with cores, GPUs and a log of its own, one bar for each that runs.

A job that has ended well is never run again, one that was cut off resumes.
"""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from lightning_pbrl import run_folder, signals
from lightning_pbrl.data.atomic import replacing
from lightning_pbrl.fork_server import LOST, Forked, ForkServer
from lightning_pbrl.job import Job as Job
from lightning_pbrl.job import check as check

POLL_S = 0.25
STOP_S = 10.0
"""Seconds in which an interrupted job may end by itself."""

More = Callable[[int], list[Job]]
"""Number of free slots -> further jobs, which may be none; asked again and again while jobs run."""


class Slot(NamedTuple):
    """Name the resources of a running job; a pool runs as many jobs at a time as it has slots.

    Attributes:
        cores: it is pinned to them, where the system allows that; empty: it is not pinned.
        threads: of its numerical libraries; 0 leaves the number to them.
        gpus: its ``CUDA_VISIBLE_DEVICES``; empty hides every GPU, None leaves the variable alone.
        bound: True if it ends when the pool's process is killed; else it goes on, and the next pool waits for its end.
    """

    cores: tuple[int, ...] = ()
    threads: int = 0
    gpus: tuple[str, ...] | None = None
    bound: bool = False


def usable_cores() -> list[int]:
    """Return the numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def seed_slots(at_once: int) -> list[Slot]:
    """Return slots for ``at_once`` jobs, one thread and core each; a job that runs alone may use the whole machine.

    On a CPU independent processes are the fastest way to run seeds.
    """
    cores = usable_cores()
    return [Slot()] if at_once == 1 else [Slot((cores[k % len(cores)],), 1) for k in range(at_once)]


class Failure(NamedTuple):
    """A job that did not end well, and why ("exit code 2", "killed by SIGKILL" ...)."""

    job: Job
    reason: str


class Outcome(NamedTuple):
    """Report what a pool has done.

    Attributes:
        failed: jobs that failed, and those that waited for them.
        cpu_s: CPU seconds of all processes.
        wall_s: seconds from the first start to the last end.
    """

    failed: list[Failure]
    cpu_s: float
    wall_s: float


def run_jobs(jobs: Sequence[Job], slots: Sequence[Slot], title: str, more: More | None = None) -> Outcome:
    """Run what is not finished yet, one job per slot at a time; what another process is running is waited for.

    A job whose folder gets a ``pruned.json`` is ended, and is no failure.

    Args:
        jobs: in order of preference.
        slots: where jobs run.
        title: of the bar.
        more: gives further jobs; the pool ends when it gives none and all have ended.

    Raises:
        UserError: as :func:`check`.
    """
    check(jobs)
    console = Console()
    waiting = [job for job in jobs if not job.finished()]
    for job in jobs:
        if job not in waiting:
            console.print(f"{job.label}: finished before, skipped", highlight=False)
    free = list(slots)
    running: list[_Process] = []
    elsewhere: set[Job] = set()
    failed: list[Failure] = []
    began, used = time.monotonic(), _children_cpu_s()
    several = len(waiting) > 1 or more is not None
    server = ForkServer(lambda text: console.print(text, markup=False, highlight=False)) if several else None
    with _progress(console) as bars, signals.listening():
        overall = bars.add_task(f"[bold]{title}", total=len(jobs), completed=len(jobs) - len(waiting), what="")

        def fail(job: Job, reason: str, tail: str = "") -> None:
            failed.append(Failure(job, reason))
            console.print(f"{job.label}{' failed: ' if tail else ': '}{reason}", style="red", markup=False, highlight=False)
            if tail:
                console.print(tail, markup=False, highlight=False)

        def start(job: Job) -> None:
            log = _locked_log(job)
            if log is None:
                if job not in elsewhere:
                    elsewhere.add(job)
                    who = run_folder.who(run_folder.read_json(job.folder / "started.json"))
                    say = f"{job.label}: {who} is running it; waiting for its end"
                    console.print(say, markup=False, highlight=False, soft_wrap=True)
                return
            waiting.remove(job)
            if job.finished():
                log.close()
                bars.advance(overall)
                console.print(f"{job.label}: finished elsewhere", highlight=False)
            else:
                running.append(_Process(job, free.pop(0), bars, log, server))

        def ask() -> None:
            found = more(len(free)) if more is not None else []
            check(found)
            waiting.extend(found)
            if found:
                bars.update(overall, total=(bars.tasks[0].total or 0) + len(found))

        try:
            ask()
            while waiting or running:
                for process in [process for process in running if process.poll()]:
                    running.remove(process)
                    free.append(process.slot)
                    bars.advance(overall)
                    if process.reason is not None:
                        fail(process.job, process.reason, process.job.tail())
                for job in [job for job in waiting if more is not None and job.pruned()]:
                    waiting.remove(job)
                    bars.advance(overall)
                lost = {failure.job for failure in failed}
                for job in [job for job in waiting if not lost.isdisjoint(job.after)]:
                    waiting.remove(job)
                    fail(job, "not run, because a stage it needs has failed")
                unfinished = {*waiting, *(process.job for process in running)}
                for job in [job for job in waiting if unfinished.isdisjoint(job.after)]:
                    if free:
                        start(job)
                ask()
                if running or waiting:
                    time.sleep(POLL_S)
        finally:
            _stop(running)
            if server is not None:
                server.close()
    return Outcome(failed, _children_cpu_s() - used, time.monotonic() - began)


def _progress(console: Console) -> Progress:
    what = TextColumn("{task.fields[what]}", markup=False)
    columns = (TextColumn("{task.description}"), BarColumn(24), what, TimeElapsedColumn())
    return Progress(*columns, console=console, refresh_per_second=4)


def _locked_log(job: Job) -> IO[str] | None:
    """Return the job's log, locked; None when another process is running the job.

    The lock lasts as long as this process, the job or anything that it has started can write to the log: so no second pool runs
    the same job, and none looks for its mark before it is there.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    log = (job.folder / "log.txt").open("a")
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        log.close()
        return None
    return log


def _write(path: Path, content: Any) -> None:
    with replacing(path) as part:
        part.write_text(run_folder.dumped(content))


class _Process:
    """One job as a process group, its locked log and its progress bar."""

    def __init__(self, job: Job, slot: Slot, bars: Progress, log: IO[str], server: ForkServer | None) -> None:
        self.job, self.slot, self.bars, self.log, self.server = job, slot, bars, log, server
        self.reason: str | None = None
        self.given_up: float | None = None
        """Time at which a pruned job was told to end, seconds."""
        self.made = job.made_from()
        for left in ("progress.json", "failed.json"):
            (job.folder / left).unlink(missing_ok=True)
        self.process = self._start()
        self.bar: TaskID = bars.add_task(job.label, total=None, what="starting")

    def _start(self) -> subprocess.Popen[bytes] | Forked:
        """Start the process as a group of its own: ended whole, and Ctrl-C reaches the pool alone."""
        overlay = self.job.folder / "stage.yaml"
        overlay.write_text(yaml.safe_dump(self.job.overlay, sort_keys=False))
        command, environment = self.job.process_arguments(overlay), _environment(self.job, self.slot)
        forked = None if self.server is None else self.server.fork(command, environment, self.log)
        process = forked or subprocess.Popen(
            command, stdout=self.log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        try:
            _pin(process.pid, self.slot.cores)
            _write(self.job.folder / "started.json", {**self.made, **run_folder.this_process(), "pid": process.pid})
        except BaseException:  # interrupted: nobody else knows of it yet
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(STOP_S)
            raise
        return process

    def poll(self) -> bool:
        """Refresh the bar; True when the process has ended."""
        self._end_if_pruned()
        if beat := run_folder.read_json(self.job.folder / "progress.json"):
            with suppress(AttributeError, TypeError, ValueError):  # a damaged one: the bar stays as it is
                self._draw(beat)
        code = self.process.poll()
        if code == LOST:
            self.process = self._start()  # goes on where it was
        if code in (None, LOST):
            return False
        self.send(signal.SIGKILL)  # to what it has left behind
        if code == 0:
            _write(self.job.folder / "done.json", self.made)
        elif self.given_up is None:
            self.reason = signals.reason(code)
            _write(self.job.folder / "failed.json", {"exit_code": code, "reason": self.reason})
        self.log.close()
        self.bars.remove_task(self.bar)
        return True

    def _end_if_pruned(self) -> None:
        """End a job that a search has given up, as an interrupted one is ended."""
        if self.given_up is None and self.job.pruned():
            self.given_up = time.monotonic()
            self.send(signal.SIGTERM)
        elif self.given_up is not None and time.monotonic() > self.given_up + STOP_S:
            self.send(signal.SIGKILL)

    def _draw(self, beat: dict[str, Any]) -> None:
        shown = {key: value for key, value in beat.get("metrics", {}).items() if key.split("/")[0] in ("eval", "pref")}
        metrics = " ".join(f"{key.split('/')[-1]} {value:.3g}" for key, value in shown.items())
        whole = ("updates", "planned") if beat.get("planned") and beat.get("stage") == "fit" else ("done", "total")
        done, total = (float(beat.get(key) or 0) for key in whole)
        what = f"{beat.get('stage', '')} round {beat.get('round', 0)} {beat.get('phase', '')} {metrics}"
        self.bars.update(self.bar, total=total or None, completed=done, what=what)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the whole group."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


def _stop(processes: Sequence[_Process]) -> None:
    """End processes and whatever they have started; no second interrupt leaves an orphan."""
    try:
        for process in processes:
            process.send(signal.SIGTERM)
        until = time.monotonic() + STOP_S
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.process.wait(max(0.0, until - time.monotonic()))
    finally:
        for process in processes:
            process.send(signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):
                process.process.wait(STOP_S)
            process.log.close()


def _environment(job: Job, slot: Slot) -> dict[str, str]:
    """Return the variables of a job's process; those of this process stay as they are."""
    own = {"PYTHONUNBUFFERED": "1", "LIGHTNING_PBRL_STAGE": job.label}
    if slot.threads:
        own |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(slot.threads))
    if slot.bound:
        own[signals.ENDS_WITH] = str(os.getpid())
    if slot.gpus is not None:
        own["CUDA_VISIBLE_DEVICES"] = ",".join(slot.gpus)
    return {**os.environ, **own}


def _pin(pid: int, cores: Sequence[int]) -> None:
    if not cores or not hasattr(os, "sched_setaffinity"):
        return
    with suppress(OSError):  # the process has ended already, or the system forbids it: speed only
        os.sched_setaffinity(pid, cores)


def _children_cpu_s() -> float:
    """CPU seconds of all processes that this one has waited for, and of those that they have."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
