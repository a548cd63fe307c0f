"""Jobs that run a script in a shell."""

from __future__ import annotations

from pathlib import Path

from lightning_pbrl.jobs import Job


class Shell(Job):
    """A job that runs its key ``script`` in a shell, in its own folder."""

    def process_arguments(self, overlay: Path) -> list[str]:
        return ["sh", "-c", f"cd {self.folder}; {self.own['script']}"]
