"""Settings that every test needs before the libraries are imported."""

from __future__ import annotations

import copy
import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

# Before the first import of mujoco: without a display only EGL (or osmesa) renders.
os.environ.setdefault("MUJOCO_GL", "egl")
# Tests run side by side, one thread each; set before torch, inherited by the processes that tests start.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"
# Processes that tests start import the package: compiled once, not in each of them.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# Figures are files here, never windows.
os.environ.setdefault("MPLBACKEND", "agg")

# Some tests are about benchmarks/, which is not installed.
sys.path.append(str(Path(__file__).parents[1]))

import pytest  # noqa: E402
import torch  # noqa: E402

import lightning_pbrl  # noqa: E402, F401 - before Lightning: what that imports and few processes need is put off

torch.set_num_threads(1)

# A shell starts background jobs with Ctrl-C ignored, nohup any with SIGHUP ignored, which children inherit: tests that send
# these want them heard.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="module")
def no_ink() -> Iterator[Callable[..., Any]]:
    """Pictures of runs are neither laid out nor painted, which takes longer than a fit here; gives what paints them."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    from lightning_pbrl.reports import feedback_sheet

    paint = Figure.savefig
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda self, path, **_: Path(path).write_bytes(b"not painted"))
        patch.setattr(Figure, "findobj", lambda *_: [])  # makes every tick
        patch.setattr(ConstrainedLayoutEngine, "execute", lambda *_: None)
        patch.setattr(feedback_sheet, "draw_sheet", lambda panels, out, title: Path(out).write_bytes(b"not painted"))
        yield paint


@pytest.fixture(scope="session", autouse=True)
def _models_are_compiled_once() -> Iterator[None]:
    """MuJoCo's models of installed packages are copies of one that was compiled, which takes longer than an episode here."""
    import mujoco

    installed, compile_ = str(Path(mujoco.__file__).parents[1]), mujoco.MjModel.from_xml_path
    kept = lru_cache(maxsize=4)(compile_)

    def copied(filename: str, *rest: Any) -> Any:
        return copy.copy(kept(filename)) if filename.startswith(installed) and not rest else compile_(filename, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mujoco.MjModel, "from_xml_path", copied)
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Notebooks, the longest tests, come first; tests marked ``gpu`` are skipped where there is no CUDA device."""
    items.sort(key=lambda item: item.path.suffix != ".ipynb")
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over the modules and the thousands of tests, which stay to the end."""
    gc.collect()
    gc.freeze()
