"""Limits of the process that reads HDF5 files (:mod:`lightning_pbrl.data.hdf5_child`); it imports nothing of this library."""

from __future__ import annotations

import signal
from contextlib import suppress

MEMORY = 2 * 2**30
"""Address space of this process, bytes; a data set with large chunks has more."""
BYTES_PER_SECOND = 50e6
"""Decompression speed of the slowest machine; a larger slab has more time."""
FREE, RATIO = 256 * 2**20, 100
"""Limits of the size that a compressed data set may declare: bytes, and multiples of the stored size (see ``guard.py``)."""


def limit(seconds: float, memory: int = MEMORY) -> None:
    """Limit this process to ``seconds`` of further computing time, after which the system ends it, and to ``memory`` bytes."""
    with suppress(ImportError, OSError, ValueError, AttributeError):  # POSIX; elsewhere there is no limit
        import resource

        signal.setitimer(signal.ITIMER_PROF, seconds)
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (memory if hard == resource.RLIM_INFINITY else min(memory, hard), hard))
