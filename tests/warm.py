"""Processes that start at once: forked from one that has imported the package, which takes a new interpreter seconds."""

from __future__ import annotations

import os
from multiprocessing import get_context
from pathlib import Path

CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(["lightning_pbrl.trainer", "lightning_pbrl.methods.qpa", "lightning_pbrl.envs.metaworld"])
PATIENCE = 300.0
"""Seconds after which a process counts as hung, far more than it takes on a busy machine."""


def say_to(path: Path) -> None:
    """Let this process print to the end of a file."""
    with path.open("a") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
