"""Memory that the process holds and does not use.

glibc serves small and middling blocks from one stretch of memory and gives back only its end: what is freed below a block in
use stays with the process. Rounds whose minibatches and candidates differ in size fill such holes in ever new ways, so that
the process grows although nothing in it does.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable

import torch

_trim: Callable[[int], int] | None = None
if sys.platform.startswith("linux"):
    _trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, musl does not


def give_back(device: torch.device) -> bool:
    """Return free memory to the system; some milliseconds, for use between phases of training.

    Args:
        device: where training happens; only a CPU's memory is looked after.

    Returns:
        Whether it was done: nothing happens on other devices, and where the C library cannot do it.
    """
    if _trim is None or device.type != "cpu":
        return False
    _trim(0)
    return True
