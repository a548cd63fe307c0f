"""Run ``lightning-pbrl`` with jobs that are ``fit_by_formula.py``."""

import sys
from pathlib import Path

from lightning_pbrl.cli import main
from lightning_pbrl.job import Job
from lightning_pbrl.study import command

FIT = str(Path(__file__).with_name("fit_by_formula.py"))
Job.process_arguments = lambda job, overlay: [sys.executable, FIT, str(overlay)]  # type: ignore[method-assign]
command.check_keys = lambda _: None

if __name__ == "__main__":
    main(sys.argv[1:])
