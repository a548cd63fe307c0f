"""One fit over several nodes of a SLURM cluster: ``srun`` starts a task for each rank, and every task runs the same command.

The first task is a pool as everywhere: it holds the log, writes the marks of the run folder and decides what is run. The others
start the same command beside it, and Lightning finds its ranks in SLURM's variables. Stages on one node are the first's alone.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from lightning_pbrl import signals
from lightning_pbrl.errors import UserError
from lightning_pbrl.jobs import STOP_S, Job, Slot, run_jobs

POLL_S = 0.5
"""Seconds between looks of a task at what the first one does."""
PATIENCE_S = 60.0
"""Seconds in which the first task may notice that a rank has failed."""


def shape(job: Job) -> tuple[int, int]:
    """Return how many nodes a job's Trainer asks for, and how many devices on each.

    Raises:
        UserError: for a fit over several nodes that leaves the number of devices open.
    """
    trainer = job.settings.get("trainer") or {}
    nodes, devices = trainer.get("num_nodes") or 1, trainer.get("devices", 1)
    devices = len(devices) if isinstance(devices, list) else devices
    if nodes > 1 and not (isinstance(devices, int) and devices > 0):
        raise UserError(
            f"{job.label} has trainer.num_nodes {nodes} and trainer.devices {devices}: give a number of devices, as many as each "
            "node shall have tasks."
        )
    return nodes, devices if isinstance(devices, int) else 1


def run(jobs: Sequence[Job], slots: Sequence[Slot], title: str, folder: Path) -> dict[str, str]:
    """Run a trial's jobs in order, as the task that this process is.

    Args:
        jobs: of one trial.
        slots: of the first task's pool.
        title: name of the study.
        folder: that all nodes see, where the first task says that it has ended.

    Returns:
        Why jobs failed, by label; of the first task alone.
    """
    attempt = "-".join(os.environ.get(name, "0") for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT"))
    over = folder / f"{attempt}.over"
    if int(os.environ["SLURM_PROCID"]):
        for job in jobs:
            if shape(job)[0] > 1:
                _beside(job, over)
        return {}
    try:
        return _first(jobs, slots, title)
    finally:
        over.touch()


def _first(jobs: Sequence[Job], slots: Sequence[Slot], title: str) -> dict[str, str]:
    failed: dict[str, str] = {}
    for job in jobs:
        if any(before.label in failed for before in job.after):
            failed[job.label] = "not run, because a stage it needs has failed"
            continue
        # By this name Lightning starts as anywhere; by any other it takes each task for a rank.
        os.environ["SLURM_JOB_NAME"] = "interactive" if shape(job)[0] == 1 else "fit"
        failed |= {failure.job.label: failure.reason for failure in run_jobs([job], slots, title).failed}
    return failed


def _beside(job: Job, over: Path) -> None:
    """Run the command of a job as a further rank of it, once its turn has come and as long as the first task is there."""
    while not (job.finished() or all(before.finished() for before in job.after)):
        if over.exists():
            return
        time.sleep(POLL_S)
    if job.finished():
        return
    os.environ["SLURM_JOB_NAME"] = "fit"
    with tempfile.TemporaryDirectory() as own:
        overlay = Path(own) / "stage.yaml"
        overlay.write_text(yaml.safe_dump(job.overlay, sort_keys=False))
        rank = subprocess.Popen(job.process_arguments(overlay))
        while rank.poll() is None and not over.exists():
            time.sleep(POLL_S)
        if rank.returncode:
            _end_with(rank.returncode, job, over)
        rank.terminate()
        try:
            rank.wait(STOP_S)
        except subprocess.TimeoutExpired:
            rank.kill()
            rank.wait()


def _end_with(code: int, job: Job, over: Path) -> None:
    """Give the first task time to notice that a rank has failed; then end them all, for it would wait for this one.

    Raises:
        RuntimeError: when the first task goes on; ``srun`` then ends it.
    """
    until = time.monotonic() + PATIENCE_S
    while not (over.exists() or job.finished()):
        if time.monotonic() > until:
            raise RuntimeError(f"{job.label}: a rank on {os.uname().nodename} has failed ({signals.reason(code)})")
        time.sleep(POLL_S)
