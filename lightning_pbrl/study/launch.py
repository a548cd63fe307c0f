"""Launch trials: the interface of launchers, and the pool of processes on this machine.

A further launcher (another scheduler) is one subclass of :class:`Launcher` in a file of its own and one line in
:data:`LAUNCHERS`; outside this package it is named in full, ``--launcher my_package.MyLauncher``.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from lightning_pbrl.errors import UserError, nearest
from lightning_pbrl.jobs import Failure, Job, More, Slot, run_jobs, seed_slots, usable_cores
from lightning_pbrl.study.plan import Trial

LAUNCHERS = {
    "local": "lightning_pbrl.study.launch.LocalPool",
    "slurm": "lightning_pbrl.study.slurm.Slurm",
    "ray": "lightning_pbrl.study.ray.Ray",
}
"""Short name -> class."""


class Launcher(ABC):
    """Runs trials somewhere.

    A launcher only has to run a trial's jobs in order, with the same files in reach: what is finished says the run folder
    (``done.json``, ``failed.json``), so stopping, looking and going on work alike for all launchers.
    """

    description: ClassVar[str] = ""

    @classmethod
    @abstractmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Add the launcher's own options."""

    @abstractmethod
    def __init__(self, options: argparse.Namespace) -> None:
        """Check the options.

        Raises:
            UserError: for resources that do not exist.
        """

    @abstractmethod
    def launch(self, trials: Sequence[Trial], out: Path, title: str) -> list[Failure] | None:
        """Run trials that are not finished.

        Args:
            trials: in the order of the study.
            out: folder of the study.
            title: name of the study.

        Returns:
            Jobs that failed; None when the trials go on by themselves after this call.
        """

    def search(self, more: More, out: Path, title: str) -> list[Failure]:
        """Run the jobs of a search, which are asked for while others run.

        A job whose folder gets a ``pruned.json`` is to be ended, and is no failure.

        Args:
            more: number of jobs that could start now -> jobs to run; asked every few seconds, until it has none and all have
                ended.
            out: folder of the study.
            title: name of the study.

        Returns:
            Jobs that failed.

        Raises:
            UserError: for a launcher that cannot.
        """
        name = type(self).__name__
        raise UserError(f"The launcher {name} cannot search: give --launcher local or ray, or `random` in place of `optuna`.")


def find_launcher(name: str) -> type[Launcher]:
    """Return a launcher's class by its short or full name.

    Raises:
        UserError: when there is none.
    """
    module, _, cls = LAUNCHERS.get(name, name).rpartition(".")
    try:
        found = getattr(importlib.import_module(module), cls) if module else None
    except (ImportError, AttributeError):
        found = None
    if not (isinstance(found, type) and issubclass(found, Launcher)):
        raise UserError(f"There is no launcher {name!r}: {nearest(name, LAUNCHERS)} Or give one in full, my_package.MyLauncher.")
    return found


class LocalPool(Launcher):
    """Processes on this machine: every trial has cores of its own, one thread each, and GPU slots if it asks for them."""

    description = "processes on this machine, pinned to cores"

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--jobs", type=int, help="jobs at a time, one core and thread each when above 1 (run: 1; sweep: as cores allow)"
        )
        parser.add_argument("--cpus", type=int, help="cores per job, one thread each (default 1)")
        parser.add_argument("--valid-cpus", nargs="+", metavar="CORES", help="cores to use, such as 0-8 10 (default all)")
        parser.add_argument("--gpus", type=int, default=0, help="GPUs per job (default 0: of a sweep, jobs see none)")
        parser.add_argument("--valid-gpus", nargs="+", metavar="GPU", help="GPUs to use, such as 0 1 (default all that are seen)")
        parser.add_argument("--trials-per-gpu", type=int, default=1, help="jobs that share a GPU (default 1)")

    def __init__(self, options: argparse.Namespace) -> None:
        if options.jobs is not None and options.jobs < 1:
            raise UserError(f"--jobs {options.jobs}: give at least 1 job.")
        if options.jobs and not (options.cpus or options.valid_cpus or options.gpus or options.valid_gpus):
            self.slots = seed_slots(options.jobs)
            return
        cores = usable_cores()
        if options.valid_cpus:
            wanted = number_ranges(options.valid_cpus)
            if missing := sorted(set(wanted) - set(cores)):
                raise UserError(f"--valid-cpus names the cores {missing}, which this process may not use: it has {cores}.")
            cores = wanted
        gpus = list(options.valid_gpus or (visible_gpus() if options.gpus else []))
        cpus = 1 if options.cpus is None else options.cpus
        self.slots = place(cpus, cores, options.gpus, gpus, options.trials_per_gpu)[: options.jobs]

    def launch(self, trials: Sequence[Trial], out: Path, title: str) -> list[Failure]:
        # All configurations with the first seed come first: a look at half of a sweep then shows all of it.
        jobs = [job for trial in sorted(trials, key=lambda trial: trial.point.seed) for job in trial.jobs]
        return self._run(jobs, title, f"{len(trials)} trials")

    def search(self, more: More, out: Path, title: str) -> list[Failure]:
        return self._run([], title, "The search", more)

    def _run(self, jobs: Sequence[Job], title: str, what: str, more: More | None = None) -> list[Failure]:
        outcome = run_jobs(jobs, self.slots, title, more)
        cores = len({core for slot in self.slots for core in slot.cores or usable_cores()})
        used = outcome.cpu_s / (outcome.wall_s * cores) if outcome.wall_s > 0 else 0.0
        print(
            f"{what}, {len(self.slots)} at a time, took {outcome.wall_s:.1f} s: "
            f"{outcome.cpu_s:.1f} CPU seconds on {cores} cores, {used:.0%} of them in use"
        )
        return outcome.failed


def place(cpus: int, cores: Sequence[int], gpus: int, valid_gpus: Sequence[str], trials_per_gpu: int) -> list[Slot]:
    """As many slots as fit: each has ``cpus`` cores of its own and ``gpus`` GPUs that at most ``trials_per_gpu`` share.

    Neighbouring slots lie on different GPUs, so that a half empty pool uses all of them.

    Raises:
        UserError: when not even one fits.
    """
    if cpus < 1 or gpus < 0 or trials_per_gpu < 1:
        raise UserError(
            f"--cpus {cpus} --gpus {gpus} --trials-per-gpu {trials_per_gpu}: give at least 1 core, 0 or more GPUs and "
            "at least 1 trial per GPU."
        )
    if cpus > len(cores):
        raise UserError(f"A trial asks for {cpus} cores, but there are {len(cores)}: lower --cpus, or name more --valid-cpus.")
    if gpus > len(valid_gpus):
        raise UserError(f"A trial asks for {gpus} GPUs, but there are {len(valid_gpus)}: lower --gpus, or name --valid-gpus.")
    own = [tuple(cores[k : k + cpus]) for k in range(0, len(cores) - cpus + 1, cpus)]
    if not gpus:
        return [Slot(mine, cpus, ()) for mine in own]
    sets = [tuple(valid_gpus[k : k + gpus]) for k in range(0, len(valid_gpus) - gpus + 1, gpus)]
    return [Slot(mine, cpus, sets[k % len(sets)]) for k, mine in enumerate(own[: len(sets) * trials_per_gpu])]


def number_ranges(texts: Sequence[str]) -> list[int]:
    """["0-2", "5"] -> [0, 1, 2, 5].

    Raises:
        UserError: for anything else.
    """
    numbers: list[int] = []
    for text in texts:
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
        if match is None or int(match[1]) > int(match[2] or match[1]):
            raise UserError(f"--valid-cpus {text!r} is not understood: write numbers and ranges, such as 0-8 10.")
        numbers += range(int(match[1]), int(match[2] or match[1]) + 1)
    return list(dict.fromkeys(numbers))


def visible_gpus() -> list[str]:
    """Return the GPUs that this process sees."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return [gpu for gpu in listed.split(",") if gpu]
    import torch

    return [str(gpu) for gpu in range(torch.cuda.device_count())]
