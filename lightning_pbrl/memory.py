"""Release of memory that the process holds but does not use.

glibc serves small and medium blocks from one region of memory and returns only its end. Memory freed below a block in use stays
with the process. Rounds with minibatches and candidates of different sizes fill such gaps in ever new ways. The process then
grows although nothing in it does.
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
    """Return free memory to the system; it takes some milliseconds, for use between phases of training.

    Args:
        device: training device; only CPU memory is released.

    Returns:
        True if memory was released; False on other devices, or if the C library cannot release it.
    """
    if _trim is None or device.type != "cpu":
        return False
    _trim(0)
    return True
