"""A pool of two jobs that sleep, each with a child that sleeps too: ``pool_of_sleepers.py FOLDER``; made to be interrupted."""

from __future__ import annotations

import sys
from pathlib import Path

from lightning_pbrl.jobs import Job, run_jobs, seed_slots


class Sleeper(Job):
    """Starts a grandchild, says that it is there, and waits."""

    def process_arguments(self, overlay: Path) -> list[str]:
        return ["sh", "-c", f"sleep 300 & touch {self.folder}/ready; wait"]


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    try:
        run_jobs([Sleeper("sleep", seed, folder / f"seed{seed}", "fit", [], {}) for seed in (0, 1)], seed_slots(2), "sleep")
    except KeyboardInterrupt:
        sys.exit(130)
