"""Jobs on a cluster of Ray, each as a task of its own: a process on some node, with its command, run folder and exit code.

A task is a pool of one job, as an element of SLURM's array is one: the run folder says what is finished, so a task that is run
again, because its node was lost or its process killed, resumes. All nodes must see the working folder under the same path.
Checkpoints, metrics and the choice of what to run stay ours: nothing of Ray Train or Ray Tune is used.
"""

from __future__ import annotations

import argparse
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lightning_pbrl import signals
from lightning_pbrl.errors import UserError
from lightning_pbrl.jobs import Failure, Job, More, Slot, check, run_jobs
from lightning_pbrl.study.launch import Launcher
from lightning_pbrl.study.plan import Trial

POLL_S = 1.0
"""Seconds between looks at the tasks."""
ANSWER_S = 30.0
"""Longest time for a cluster to answer, seconds."""


class CutOffError(Exception):
    """Exception of a task whose process was ended by a signal; Ray runs such a task again."""


def run_job(job: Job, folder: str, variables: Mapping[str, str], cpus: int, title: str) -> str | None:
    """Run a job on this node.

    Args:
        job: to run.
        folder: working folder, to which the paths of the job belong.
        variables: of the environment, to which its settings refer.
        cpus: threads of its numerical libraries.
        title: name of the study.

    Returns:
        Why it failed; None when it ended well.

    Raises:
        CutOffError: when its process was ended by a signal.
    """
    import ray

    try:
        os.chdir(folder)
    except OSError:
        return f"the node {os.uname().nodename} does not see the folder {folder}: start in a folder that all nodes share"
    os.environ.update(variables)
    slot = Slot((), cpus, tuple(map(str, ray.get_gpu_ids())), bound=True)  # a worker's loss leaves no process behind
    try:
        failed = run_jobs([job], [slot], title).failed
    except UserError as error:
        return str(error)
    if failed and signals.cut_off(failed[0].reason):
        raise CutOffError(failed[0].reason)
    return failed[0].reason if failed else None


class Ray(Launcher):
    """Tasks of a Ray cluster."""

    description = "tasks of a Ray cluster, one for each stage and seed (extra ray)"

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        add(
            "--address",
            default="auto",
            help="of the cluster, host:port or ray://host:port (default: RAY_ADDRESS, or the one here)",
        )
        add("--cpus", type=int, default=1, help="cores per job, one thread each (default 1)")
        add("--gpus", type=float, default=0.0, help="GPUs per job; 0.25 lets four jobs share one (default 0)")
        add(
            "--resources",
            action="append",
            default=[],
            metavar="NAME=AMOUNT",
            help="further resources of a node; may be given again",
        )
        add("--retries", type=int, default=3, help="how often a job whose node or process was lost is resumed (default 3)")
        add("--parallel", type=int, help="jobs at a time (default: all that the cluster has room for)")

    def __init__(self, options: argparse.Namespace) -> None:
        o = options
        if o.cpus < 1 or o.retries < 0 or (o.parallel is not None and o.parallel < 1):
            raise UserError(
                f"--cpus {o.cpus} --retries {o.retries} --parallel {o.parallel}: give at least 1 core, 0 retries, 1 job."
            )
        if not o.gpus >= 0 or (o.gpus > 1 and not o.gpus.is_integer()):
            raise UserError(f"--gpus {o.gpus:g}: give a part of one GPU, such as 0.25, or a whole number of them.")
        self.options = o
        self.needs = {"CPU": float(o.cpus), **({"GPU": o.gpus} if o.gpus else {}), **dict(map(_resource, o.resources))}

    def launch(self, trials: Sequence[Trial], out: Path, title: str) -> list[Failure]:
        jobs = [job for trial in sorted(trials, key=lambda trial: trial.point.seed) for job in trial.jobs]
        with self._cluster() as ray:
            return self._run(ray, jobs, title, self.options.parallel or len(jobs))

    def search(self, more: More, out: Path, title: str) -> list[Failure]:
        with self._cluster() as ray:
            return self._run(ray, [], title, self.options.parallel or max(1, self._room(ray)), more)

    def _room(self, ray: Any) -> int:
        """Return how many jobs the cluster can run at a time, as it is now."""
        there = ray.cluster_resources()
        return int(min(there.get(name, 0.0) / amount for name, amount in self.needs.items()))

    @contextmanager
    def _cluster(self) -> Iterator[Any]:
        """Connect to the cluster for a while.

        Raises:
            UserError: if Ray is not installed, or there is no cluster.
        """
        try:
            import ray
        except ImportError as error:
            raise UserError("The Ray launcher needs Ray: pip install 'lightning-pbrl[ray]'.") from error
        address = self.options.address
        if address != "auto":
            os.environ["RAY_ADDRESS"] = address  # which Ray would prefer to what it is told
        try:
            _check_answers(os.environ.get("RAY_ADDRESS") or _last_cluster(ray))
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError, ValueError) as error:
            why = " ".join(str(error).split())[:200]
            raise UserError(
                f"No Ray cluster answers at {address} ({why}): start one with `ray start --head`, or use --launcher local."
            ) from error
        try:
            if not self._room(ray):
                asked = ", ".join(f"{name} {amount:g}" for name, amount in self.needs.items())
                print(f"No node can run a job now (it asks for {asked}): waiting for one that can", flush=True)
            yield ray
        finally:
            ray.shutdown()

    def _run(self, ray: Any, jobs: Sequence[Job], title: str, most: int, more: More | None = None) -> list[Failure]:
        """Keep up to ``most`` tasks in the cluster's queue, in order of need, until no job is left."""
        check(jobs)
        o = self.options
        own = {name: amount for name, amount in self.needs.items() if name not in ("CPU", "GPU")}
        retry = {"max_retries": o.retries, "retry_exceptions": [CutOffError]}
        task = ray.remote(run_job).options(num_cpus=o.cpus, num_gpus=o.gpus, resources=own, scheduling_strategy="SPREAD", **retry)
        waiting = [job for job in jobs if not job.finished()]
        running: dict[Any, Job] = {}
        failed: list[Failure] = []
        with signals.listening():
            try:
                while True:
                    found = more(most - len(running)) if more is not None else []
                    check(found)
                    waiting += found
                    if not waiting and not running:
                        return failed
                    lost = {failure.job for failure in failed}
                    for job in list(waiting):
                        if job.pruned():
                            waiting.remove(job)
                        elif not lost.isdisjoint(job.after):
                            waiting.remove(job)
                            failed.append(Failure(job, "not run, because a stage it needs has failed"))
                            lost.add(job)
                    unfinished = {*waiting, *running.values()}
                    for job in [job for job in waiting if unfinished.isdisjoint(job.after)][: most - len(running)]:
                        waiting.remove(job)
                        running[task.remote(job, os.getcwd(), _variables(job), o.cpus, title)] = job
                    for ref in _ended(ray, running, POLL_S / 10 if found else POLL_S):  # there may be more of a search to place
                        job = running.pop(ref)
                        reason = _reason(ray, ref)
                        told = reason or ("pruned" if job.pruned() else "finished")
                        print(f"{job.label}: {told}\n", end="", flush=True)  # one write, which no other can part
                        if reason is not None:
                            failed.append(Failure(job, reason))
            finally:
                for ref in running:
                    ray.cancel(ref)
                if running:
                    with suppress(ray.exceptions.RayError):
                        ray.wait(list(running), num_returns=len(running), timeout=signals.PATIENCE_S)


def _check_answers(address: str) -> None:
    """Look for a server of Ray at ``host:port`` or ``ray://host:port``; Ray itself would try for minutes.

    Raises:
        ConnectionError: when nobody listens, or what listens does not speak HTTP/2 as Ray's servers do.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal() or os.environ.get("RAY_USE_TLS", "0") != "0":
        return
    settings = b"\0\0\0\x04\0\0\0\0\0"  # an empty frame, with which both sides begin
    try:
        with socket.create_connection((host.strip("[]"), int(port)), ANSWER_S) as line:
            line.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings)
            if line.recv(4, socket.MSG_WAITALL)[3:] != settings[3:4]:
                raise ConnectionError("what listens there is not Ray")
    except TimeoutError as error:
        raise ConnectionError(f"no answer within {ANSWER_S:g} s") from error
    except OSError as error:
        raise ConnectionError(str(error)) from error


def _last_cluster(ray: Any) -> str:
    """Return the address of the cluster that was started last on this machine, as Ray remembers it; empty without one."""
    with suppress(AttributeError):  # no public part of Ray
        return ray._private.services.find_bootstrap_address(None) or ""
    return ""


def _ended(ray: Any, running: Mapping[Any, Job], seconds: float) -> list[Any]:
    """Return a task that has ended, or none after a while."""
    if running:
        return list(ray.wait(list(running), num_returns=1, timeout=seconds)[0])
    time.sleep(seconds / 10)
    return []


def _reason(ray: Any, ref: Any) -> str | None:
    """Return why a task failed; None when it ended well."""
    try:
        return ray.get(ref)
    except CutOffError as error:  # Ray's error is one of ours, too
        return f"{str(error).strip().splitlines()[-1].removeprefix('lightning_pbrl.study.ray.CutOffError: ')}, and so each time"
    except ray.exceptions.RayError as error:
        return f"its task was lost ({type(error).__name__}: {' '.join(str(error).split())[:300]})"


def _resource(text: str) -> tuple[str, float]:
    name, _, amount = text.partition("=")
    try:
        found = float(amount)
    except ValueError:
        found = 0.0
    if not name or found <= 0:
        raise UserError(f"--resources {text!r} is not understood: write NAME=AMOUNT, such as a100=1.")
    return name, found


def _variables(job: Job) -> dict[str, str]:
    """Return the variables to which a job's settings refer, and those of the jobs before it."""
    found = {name: os.environ[name] for name in job.variables if name in os.environ}
    for before in job.after:
        found |= _variables(before)
    return found
