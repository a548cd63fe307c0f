"""Define a job, one stage for one seed, and tell whether its folder holds its result."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_pbrl import run_folder
from lightning_pbrl.configs import merged, read_config
from lightning_pbrl.errors import UserError

TAIL_LINES = 15


@dataclass(eq=False)
class Job:
    """Describe one stage for one seed.

    Attributes:
        stage: name of the stage; of a grid also the folders that lead to it.
        seed: the run's seed.
        folder: its run folder.
        command: fit, validate, test or predict.
        files: config files, later ones win.
        own: the stage's own keys, references resolved.
        after: jobs that must have finished before.
        films: whether it may film its policy; no part of its result.
    """

    stage: str
    seed: int
    folder: Path
    command: str
    files: list[str]
    own: dict[str, Any]
    after: list[Job] = field(default_factory=list)
    films: bool = True

    @property
    def label(self) -> str:
        return f"{self.stage}/seed{self.seed}"

    @property
    def overlay(self) -> dict[str, Any]:
        """The last config of the command line: the stage's own keys, the seed and the run folder."""
        given = {"run_dir": str(self.folder), "seed_everything": self.seed, "progress": {"heartbeat": True, "name": self.label}}
        own = self.own if self.films else merged([self.own, {"video": {"every": None}}])
        return {**own, **given}

    @property
    def settings(self) -> dict[str, Any]:
        """Its config files as they are now, and its own keys on top."""
        return merged([*map(read_config, self.files), self.own])

    @property
    def variables(self) -> list[str]:
        """Names of the environment variables that its settings refer to, in order."""
        return _variables(json.dumps(self.settings, default=str))

    @property
    def digest(self) -> str:
        """A hash of everything that defines the job: its settings, whichever files they are written in, verb and seed."""
        text = json.dumps([self.command, self.seed, self.settings], sort_keys=True, default=str)
        text += "".join(f"\0{name}={os.environ.get(name)}" for name in _variables(text))
        return f"settings-{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"

    def arguments(self, overlay: Path) -> list[str]:
        """Return the command line behind ``python -m lightning_pbrl``."""
        files = [arg for file in [*self.files, str(overlay)] for arg in ("-c", file)]
        return [self.command, *files, *(["--resume"] if self.command == "fit" else [])]

    def process_arguments(self, overlay: Path) -> list[str]:
        """Return the program of the job's process and its arguments."""
        return [sys.executable, "-P", "-m", "lightning_pbrl", *self.arguments(overlay)]

    def finished(self) -> bool:
        """Return True when a run has come to its end in the folder; :func:`check` says whether it was this job."""
        return "digest" in run_folder.read_json(self.folder / "done.json")

    def made_from(self) -> dict[str, Any]:
        """Return all that a result of the job depends on: its definition, and what the jobs before it have left."""
        needed = [file for job in self.after for file in run_folder.results(job.folder)]
        return {"digest": self.digest, "inputs": run_folder.record(needed)}

    def stale(self) -> str | None:
        """Say why the folder, finished or not, holds no result of this job as it is now; None when it does, or is empty."""
        finished = self.finished()
        if not finished and not (self.folder / run_folder.LAST).is_file():
            return None
        made = run_folder.read_json(self.folder / ("done.json" if finished else "started.json"))
        if not self._made_this(made.get("digest", self.digest)):
            return f"{self.folder} holds a {'finished' if finished else 'half-finished'} run of another configuration"
        for job in self.after:
            if job.stale() or not job.finished():
                return f"{self.folder} was made from {job.folder}, which is to be made anew"
        if path := run_folder.outdated(self.folder):
            return f"{self.folder} was made from {path}, which has changed since"
        return None

    def _made_this(self, digest: object) -> bool:
        """Compare a mark with this job; an earlier version's hashed the text of config files, which says less."""
        if str(digest).startswith("settings-"):
            return bool(digest == self.digest)
        return run_folder.agrees(self.folder, self.settings)

    def pruned(self) -> bool:
        """Return True when a search has given the job up."""
        return (self.folder / run_folder.PRUNED).is_file()

    @property
    def state(self) -> str:
        """One of finished, pruned, failed (why), started (cut off, or running now) and missing."""
        if self.finished():
            return "finished"
        if self.pruned():
            return "pruned"
        return f"failed ({why})" if (why := self.failure()) else "started" if self.folder.is_dir() else "missing"

    def failure(self) -> str | None:
        """Return how the job's last process failed; None when it has not."""
        reason = run_folder.read_json(self.folder / "failed.json").get("reason")
        return None if reason is None else str(reason)

    def tail(self) -> str:
        """Return the end of the job's log."""
        try:
            with (self.folder / "log.txt").open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - 100 * 1024))
                return "\n".join(log.read().decode(errors="replace").splitlines()[-TAIL_LINES:])
        except OSError:
            return "(it left no log)"


def _variables(text: str) -> list[str]:
    """Return the names in ``${oc.env:NAME}``."""
    return sorted(set(re.findall(r"\$\{oc\.env:(\w+)", text)))


def check(jobs: Iterable[Job]) -> None:
    """Refuse folders that hold results of other jobs than these, or results made from something that is no more.

    Raises:
        UserError: names all of them.
    """
    reasons = [reason for job in jobs if (reason := job.stale())]
    if reasons:
        those = "that folder" if len(reasons) == 1 else "those folders"
        raise UserError(f"{'; '.join(reasons)}: choose another --out, or remove {those}.")
