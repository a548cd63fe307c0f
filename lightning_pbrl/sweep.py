"""Let launchers that were written for ``lightning_pbrl.sweep`` find :mod:`lightning_pbrl.study`; until the next version."""

import sys
import warnings

from lightning_pbrl.study import launch, slurm

warnings.warn("lightning_pbrl.sweep is now lightning_pbrl.study: import from there.", FutureWarning, stacklevel=2)
sys.modules |= {f"{__name__}.launch": launch, f"{__name__}.slurm": slurm}
