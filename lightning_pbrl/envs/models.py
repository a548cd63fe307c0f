"""MuJoCo models, read from a file once: meshes take most of the time in which an environment is built."""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_one_at_a_time = threading.RLock()
_newest: dict[tuple[str, int], Any] = {}
"""The model that was read last, as it was read, by path and time of the last change."""


@contextmanager
def models_read_once() -> Iterator[None]:
    """Give a package that reads the same model file again a copy of what it held, in a tenth of the time."""
    import mujoco

    with _one_at_a_time:
        read = mujoco.MjModel.from_xml_path

        def copied(path: str, *assets: Any) -> Any:
            if assets or not os.path.isfile(path):
                return read(path, *assets)
            key = os.fspath(path), os.stat(path).st_mtime_ns
            if key not in _newest:
                model = read(path)  # first: a file that cannot be read leaves the last one
                _newest.clear()
                _newest[key] = model
            return copy.copy(_newest[key])

        mujoco.MjModel.from_xml_path = copied
        try:
            yield
        finally:
            mujoco.MjModel.from_xml_path = read
