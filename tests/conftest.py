"""Settings that every test needs before the libraries are imported."""

from __future__ import annotations

import os
import signal

# Before the first import of mujoco: without a display only EGL (or osmesa) renders.
os.environ.setdefault("MUJOCO_GL", "egl")
# Tests run side by side, one thread each; set before torch, inherited by the processes that tests start.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"
# Figures are files here, never windows.
os.environ.setdefault("MPLBACKEND", "agg")

import pytest  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)

# A shell starts background jobs with Ctrl-C ignored, nohup any with SIGHUP ignored, which children inherit: tests that send
# these want them heard.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked ``gpu`` are skipped where there is no CUDA device."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
