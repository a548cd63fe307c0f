"""Trials on a SLURM cluster, through submitit: one array job whose elements each run one or several trials.

An element is a pool like the local one, on its node: trials side by side, pinned where SLURM has bound the element to
cores of its own, exit codes kept in the run folders. When its time is nearly over, SLURM signals it, submitit puts it back
into the queue, and its trials resume from their last finished round.

A trial with a fit over several nodes (``trainer.num_nodes``) has an element of its own, whose tasks are the fit's ranks
(:mod:`~lightning_pbrl.study.slurm_nodes`).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_pbrl.data.atomic import replacing
from lightning_pbrl.data.guard import parse_json, reading
from lightning_pbrl.errors import UserError
from lightning_pbrl.jobs import Failure, Job, Slot, run_jobs, usable_cores
from lightning_pbrl.study import slurm_nodes
from lightning_pbrl.study.launch import Launcher, visible_gpus
from lightning_pbrl.study.plan import Trial

POLL_S = 2.0
"""Seconds between looks at the queue with ``--wait``."""


@dataclass
class Allocation:
    """Run one element of the array; called on its node, once by each of its tasks.

    Attributes:
        trials: jobs of each trial, in order.
        cpus: cores of each task.
        title: name of the study.
        over: folder in which the first task says that it has ended, where the tasks are ranks of one trial's fits.
    """

    trials: list[list[Job]]
    cpus: int
    title: str
    over: Path | None = None

    def __call__(self) -> dict[str, str]:
        """Run this task's share; returns label -> reason of the jobs that failed."""
        if self.over is not None:
            return slurm_nodes.run(self.trials[0], shares(1, self.cpus), self.title, self.over)
        rank, tasks = int(os.environ.get("SLURM_PROCID", 0)), int(os.environ.get("SLURM_NTASKS", 1))
        mine = self.trials[rank::tasks]
        os.environ["SLURM_JOB_NAME"] = "interactive"  # Lightning then starts as anywhere; our pool has placed it already
        outcome = run_jobs([job for trial in mine for job in trial], shares(len(mine), self.cpus), self.title)
        return {failure.job.label: failure.reason for failure in outcome.failed}

    def checkpoint(self) -> Any:
        """Asked for by submitit before it requeues: the same again, because run folders say what is left to do."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def shares(trials: int, cpus: int) -> list[Slot]:
    """One slot per trial: ``cpus`` cores and the GPUs that are seen, dealt out evenly.

    A trial is pinned only where SLURM has bound this task to its own cores: elsewhere nothing says which cores those are.
    """
    cores, gpus = usable_cores(), visible_gpus() if "CUDA_VISIBLE_DEVICES" in os.environ else []
    each = max(1, cpus // max(1, trials))
    slots = []
    for k in range(trials):
        mine = tuple(cores[(k * each + i) % cpus] for i in range(each)) if len(cores) == cpus else ()
        slots.append(Slot(mine, each, (gpus[k % len(gpus)],) if gpus and trials > 1 else None))
    return slots


def divide(trials: Sequence[Trial], size: int, remainder: str) -> list[list[Trial]]:
    """Trials in groups of ``size``; what is left over is a smaller group (``new``) or one more for some (``split``)."""
    full = len(trials) // size
    if remainder == "new" or full == 0:
        return [list(trials[k : k + size]) for k in range(0, len(trials), size)]
    groups, at = [], 0
    for k in range(full):
        count = len(trials) // full + (k < len(trials) % full)
        groups.append(list(trials[at : at + count]))
        at += count
    return groups


def minutes(text: str) -> int:
    """SLURM's ways to write a time: minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM or D-HH:MM:SS; rounded up.

    Raises:
        UserError: for anything else.
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if match is None:
        raise UserError(f"--time {text!r} is not understood: write 48:00:00, 2-00:00:00 or minutes.")
    days, first, second, third = (int(part) if part else 0 for part in match.groups())
    if match[1] is not None:
        seconds = ((days * 24 + first) * 60 + second) * 60 + third
    elif match[4] is not None:
        seconds = (first * 60 + second) * 60 + third
    else:
        seconds = first * 60 + second
    return -(-seconds // 60)


class Slurm(Launcher):
    """An array job of a SLURM cluster."""

    description = "an array job of a SLURM cluster; needs the extra `slurm`"

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        add("--cpus", type=int, default=1, help="cores per task, one thread each, shared by its trials (default 1)")
        add("--partition", help="partition (default: the cluster's)")
        add("--time", default="48:00:00", help="limit of an element; it is requeued and resumes (default 48:00:00)")
        add("--nodes", type=int, default=1, help="nodes per element (default 1, or a fit's trainer.num_nodes)")
        add("--ntasks-per-node", type=int, default=1, help="tasks per node, which share out an element's trials (default 1)")
        add("--gpus", metavar="GRES", help="GPUs per node, as in gres=gpu:GRES: 1 or a100:2")
        add("--mem", help="memory per node, such as 8G (default: the cluster's)")
        add("--output", type=Path, help="folder of the elements' output (default: slurm/ of the study)")
        add("--error", type=Path, help="folder of their errors (default: as --output)")
        add("--job-name", help="name in the queue (default: the study's)")
        add("--exclude", help="nodes not to use")
        add("--nodelist", help="nodes to use")
        add("--account", help="account to charge")
        names = ("--jobs-per-instance", "--scripts-per-job", "--trials-per-job")
        add(*names, type=int, default=1, help="trials that run side by side in an element (default 1)")
        add("--remainder", choices=("split", "new"), default="new", help="trials left over: an element of their own, or shared")
        add("--setup", type=Path, help="shell script that every element sources first")
        add("--parallel", type=int, default=256, help="elements at a time (default 256)")
        add("--max-timeouts", type=int, default=10, help="how often an element may reach its limit and go on (default 10)")
        add("--wait", action="store_true", help="come back when all elements have ended, and list what failed")

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        for name in ("cpus", "nodes", "ntasks_per_node", "jobs_per_instance", "parallel"):
            if getattr(options, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} {getattr(options, name)}: give at least 1.")
        if options.setup and not options.setup.is_file():
            raise UserError(f"--setup {options.setup}: there is no such file; give a shell script.")
        self.minutes = minutes(options.time)

    def parameters(self, title: str, elements: int, ranks: tuple[int, int] | None = None) -> dict[str, Any]:
        """Return the options that were given, by SLURM's names, as submitit takes them.

        Args:
            title: name of the study.
            elements: of the array; one is no array for SLURM.
            ranks: nodes, and tasks on each, of a fit over several nodes; None: the options say.
        """
        o = self.options
        nodes, tasks = ranks or (o.nodes, o.ntasks_per_node)
        name = o.job_name or title
        given = {
            "job_name": name,
            "partition": o.partition,
            "time": self.minutes,
            "nodes": nodes,
            "ntasks_per_node": tasks,
            "cpus_per_task": o.cpus,
            "gres": o.gpus and f"gpu:{o.gpus}",
            "mem": o.mem,
            "exclude": o.exclude,
            "nodelist": o.nodelist,
            "account": o.account,
            "setup": o.setup and [f"source {shlex.quote(str(o.setup.resolve()))}"],
            "array_parallelism": o.parallel,
            "additional_parameters": {"requeue": True},
        }
        number = "%A_%a" if elements > 1 else "%j"
        files = {"output": o.output, "error": o.error or o.output}
        srun = [f"--{flag}={folder.resolve()}/{name}_{number}_%t.{flag[:3]}" for flag, folder in files.items() if folder]
        srun += ["--kill-on-bad-exit=1"] if ranks else []
        return {key: value for key, value in {**given, "srun_args": srun or None}.items() if value is not None}

    def ranks(self, trials: Sequence[Trial]) -> tuple[int, int] | None:
        """Return nodes, and tasks on each, of the trials' fits over several nodes; None when there are none.

        Raises:
            UserError: when they differ, or the options ask for something else.
        """
        found = {slurm_nodes.shape(job) for trial in trials for job in trial.jobs}
        wide = sorted(shape for shape in found if shape[0] > 1)
        if not wide:
            return None
        o, (nodes, devices) = self.options, wide[0]
        if len(wide) > 1 or o.nodes not in (1, nodes) or o.ntasks_per_node not in (1, devices) or o.jobs_per_instance > 1:
            said = ", ".join(f"num_nodes {nodes} with devices {devices}" for nodes, devices in wide)
            raise UserError(
                f"Fits over several nodes ask for trainer.{said}: an element is one such trial and its tasks are the ranks, so "
                "give one size in a study, and leave --nodes, --ntasks-per-node and --jobs-per-instance out."
            )
        return nodes, devices

    def launch(self, trials: Sequence[Trial], out: Path, title: str) -> list[Failure] | None:
        if shutil.which("sbatch") is None:
            raise UserError("There is no SLURM here (no sbatch on PATH): use --launcher local, or log in to the cluster.")
        try:
            import submitit
        except ImportError as error:
            raise UserError("The SLURM launcher needs submitit: pip install 'lightning-pbrl[slurm]'.") from error
        logs = out / "slurm"
        logs.mkdir(parents=True, exist_ok=True)
        submitted = _submitted(logs / "submitted.json")
        busy = {label for job in _in_queue() & set(submitted) for label in submitted[job]}
        ended = {trial.label for trial in trials if all(job.finished() for job in trial.jobs)}  # since the study was read
        new = [trial for trial in trials if trial.label not in busy | ended]
        if waiting := sum(trial.label in busy for trial in trials):
            print(f"{waiting} trials are in the queue already", flush=True)
        groups = divide(new, self.options.jobs_per_instance, self.options.remainder)
        for folder in filter(None, (self.options.output, self.options.error)):
            folder.mkdir(parents=True, exist_ok=True)
        executor = submitit.SlurmExecutor(logs, max_num_timeout=self.options.max_timeouts)
        ranks = self.ranks(new)
        executor.update_parameters(**self.parameters(title, len(groups), ranks))
        over = logs if ranks else None
        parts = [Allocation([trial.jobs for trial in group], self.options.cpus, title, over) for group in groups]
        try:
            with executor.batch():
                jobs = [executor.submit(part) for part in parts]
        except submitit.core.utils.FailedJobError as error:
            raise UserError(f"SLURM has not taken the job: {' '.join(str(error).split())[-300:]}") from error
        submitted |= {job.job_id: [trial.label for trial in group] for job, group in zip(jobs, groups, strict=True)}
        with replacing(logs / "submitted.json") as part:
            part.write_text(json.dumps(submitted, indent=1))
        ids = ", ".join(sorted({str(job.job_id).split("_")[0] for job in jobs}))
        if jobs:
            print(f"SLURM job {ids}: {len(new)} trials in {len(jobs)} elements; their output is in {self.options.output or logs}")
        return self._wait(trials, set(submitted)) if self.options.wait else None

    def _wait(self, trials: Sequence[Trial], ours: set[str]) -> list[Failure]:
        """Look at the queue until none of our elements is in it, then at the run folders."""
        before = -1
        while left := _in_queue() & ours:
            if len(left) != before:
                print(f"{len(left)} elements are in the queue", flush=True)
                before = len(left)
            time.sleep(POLL_S)
        unfinished = [job for trial in trials for job in trial.jobs if not job.finished()]
        return [Failure(job, job.failure() or "its element ended before it (cancelled, or out of time)") for job in unfinished]


def _in_queue() -> set[str]:
    """Ids of this user's elements that are pending or running, such as 12_0."""
    asked = subprocess.run(["squeue", "--me", "--noheader", "--array", "--format=%i"], capture_output=True, text=True)
    if asked.returncode:
        raise UserError(f"SLURM does not answer ({' '.join(asked.stderr.split())}): try again when squeue works.")
    return set(asked.stdout.split())


def _submitted(path: Path) -> dict[str, list[str]]:
    """Id of every element that was submitted -> labels of its trials.

    Raises:
        UserError: when the file is damaged.
    """
    if not path.is_file():
        return {}
    with reading(path, "is damaged", "when no element of this sweep is in the queue any more (squeue --me), remove it"):
        return {str(element): [str(label) for label in labels] for element, labels in parse_json(path.read_text()).items()}
