"""From a checkpoint file to a working method of whatever class it names."""

from __future__ import annotations

from pathlib import Path

from lightning_pbrl.fitting.saving import read_checkpoint as read_checkpoint
from lightning_pbrl.methods.base import Method


def load(path: str | Path, replica: int = 0, device: str = "cpu") -> Method:
    """Return a trained method, ready to ``predict``; :meth:`Method.load` of its class says more.

    Args:
        path: a checkpoint, or what ``Method.save`` has written.
        replica: which of the run's replicas.
        device: where to put it.

    Raises:
        UserError: unreadable file, unknown method, or no such replica.
    """
    return Method.load(path, replica, device)


load_method = load
"""The name of version 0.1."""
