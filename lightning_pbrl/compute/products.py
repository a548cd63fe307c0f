"""Matrix products of a layer on a CPU: the order of their factors, and the library, measured once per machine and size.

A product whose result is narrow may be slow: the gradient of a 256 x 11 weight takes an AMD EPYC 4 to 6 times as long as its
transpose (MKL, ``benchmarks/``). So compiled layers with narrow inputs compute their gradients transposed, and others where that
repays what a function of our own costs autograd: on an Intel Xeon (model 207) it does not.

PyTorch's CPU build ships MKL, its default, and oneDNN. Which is faster depends on processor and size: products of 256 x 256
matrices take an AMD EPYC of family 26 0.56 times as long with oneDNN, one of family 25 1.3 times as long (``benchmarks/``).

A choice is measured when a process first meets a size. It is kept in the user's cache folder, so that every process of a
machine makes the same one. A run keeps its choices in its checkpoints, so that it ends with the same bits if the folder is gone.
``XDG_CACHE_HOME`` moves the folder.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

AVAILABLE = hasattr(torch.ops.mkldnn, "_linear_pointwise")
"""True if this build of PyTorch has oneDNN."""
MARGIN = 1.05
"""Smallest lead at which oneDNN is taken, because of the memory that it keeps."""
MOST_ROWS = 1024
"""Number of rows from which the choice no longer depends on it."""
FUNCTION_COSTS = 40e-6
"""Seconds that a ``torch.autograd.Function`` adds to a layer that is not compiled."""
ROUNDS = 7
"""Rounds of a measurement."""

Product = Callable[..., Tensor]
"""x (B, in), weight (out, in), bias (out,) or None -> x W^T + b, as ``F.linear``."""


class Size(NamedTuple):
    """Size of a layer and of its input."""

    rows: int
    fan_in: int
    fan_out: int

    @property
    def name(self) -> str:
        """Name under which a choice is kept; it includes the number of threads."""
        return f"{self.rows} x {self.fan_in} x {self.fan_out}, {torch.get_num_threads()} threads"


_choices: dict[str, bool] = {}
"""Name of a size -> True if oneDNN computes it; "NAME, transposed" -> True if its gradients are computed transposed."""


def by_onednn(rows: int, fan_in: int, fan_out: int) -> bool:
    """Return True if oneDNN is to multiply ``rows`` rows by a layer's weight; sizes between powers of two share a choice."""
    size = _size(rows, fan_in, fan_out)
    if size.name not in _choices:
        _choices[size.name] = AVAILABLE and _cached(size.name, lambda: _library(size))
    return _choices[size.name]


by_onednn._dynamo_marked_constant = True  # type: ignore[attr-defined]  # torch.compile calls it while it traces (assume_constant_result)


def by_transposing(rows: int, fan_in: int, fan_out: int) -> bool:
    """Return True if an eager layer with narrow inputs is to compute its gradients transposed."""
    size = _size(rows, fan_in, fan_out)
    name = f"{size.name}, transposed"
    if name not in _choices:
        _choices[name] = _cached(name, lambda: _order(size))
    return _choices[name]


def _size(rows: int, fan_in: int, fan_out: int) -> Size:
    return Size(min(1 << (rows.bit_length() - 1), MOST_ROWS), fan_in, fan_out)


def kept() -> dict[str, Any]:
    """Return the choices of this process for a checkpoint, and the machine that they hold for."""
    return {"machine": machine(), "onednn": dict(_choices)}


def restore(kept: Mapping[str, Any] | None) -> None:
    """Make a run's choices those of this process; those of another machine are measured anew."""
    if kept is not None and kept["machine"] == machine():
        _choices.update(kept["onednn"])


def measure(size: Size, clock: Callable[[], float] | None = None) -> tuple[float, float]:
    """Return seconds of one layer, forward and backward, by the default library and by oneDNN: the least of :data:`ROUNDS`."""
    x, weight, bias, grad = _filled(size)

    def layer(product: Product) -> None:
        product(x, weight, bias), of_input(product, grad, weight), of_weight(product, grad, x)

    return _least(lambda: layer(F.linear), lambda: layer(onednn), clock)


def measure_orders(size: Size, clock: Callable[[], float] | None = None) -> tuple[float, float]:
    """Return seconds of a weight's gradient, as it is and transposed, by the default library: the least of :data:`ROUNDS`."""
    x, _, _, grad = _filled(size)
    return _least(lambda: F.linear(grad.T, x.T), lambda: F.linear(x.T, grad.T), clock)


def _filled(size: Size) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return input, weight, bias and gradient of the output of a layer, all ones."""
    shapes = (size.rows, size.fan_in), (size.fan_out, size.fan_in), (size.fan_out,), (size.rows, size.fan_out)
    x, weight, bias, grad = (torch.ones(shape, dtype=torch.float32, device="cpu") for shape in shapes)
    return x, weight, bias, grad


def _least(first: Callable[[], object], second: Callable[[], object], clock: Callable[[], float] | None) -> tuple[float, float]:
    """Return the fewest seconds of two works that take turns."""
    if clock is None:  # seconds of waiting are no part of a thread's own
        clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    best = [float("inf"), float("inf")]
    with torch.no_grad():
        for _ in range(1 + ROUNDS):  # the first warms up
            for which, work in enumerate((first, second)):
                began = clock()
                work()
                best[which] = min(best[which], clock() - began)
    return best[0], best[1]


def is_narrow(fan_in: int, fan_out: int) -> bool:
    """Return True if a layer has at most half as many inputs as outputs."""
    return 2 * fan_in <= fan_out


def of_input(product: Product, grad: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient of a layer's input: (B, out), (out, in) -> (B, in)."""
    return product(weight.T, grad, None).T if is_narrow(*weight.T.shape) else product(grad, weight.T, None)


def of_weight(product: Product, grad: Tensor, x: Tensor) -> Tensor:
    """Return the gradient of a layer's weight: (B, out), (B, in) -> (out, in)."""
    return product(x.T, grad.T, None).T if is_narrow(x.shape[1], grad.shape[1]) else product(grad.T, x.T, None)


def onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return x W^T + b of two matrices, computed by oneDNN."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


@functools.cache
def machine() -> str:
    """Return a fingerprint of what the choices depend on: processor and PyTorch."""
    described, wanted = [platform.machine(), torch.__version__], ("vendor_id", "cpu family", "model", "stepping", "flags")
    with suppress(OSError):
        first = Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0].splitlines()
        described += [line for line in first if line.split("\t")[0] in wanted or line.startswith("model name")]
    return hashlib.blake2b("\n".join(described).encode(), digest_size=8).hexdigest()


def cache() -> Path:
    """Return the file of this machine's choices."""
    folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(folder) / "lightning-pbrl" / f"products-{machine()}.json"


def _cached(name: str, measured: Callable[[], dict[str, Any]]) -> bool:
    """Return the choice that the file has, or measure it and write it there; of several processes the first decides."""
    try:
        cache().parent.mkdir(parents=True, exist_ok=True)
        with cache().open("a+") as file:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
            found = _read(cache())
            if name not in found:
                found[name] = measured()
                file.truncate(0)
                file.write(json.dumps(found, indent=1))
            return _decided(found[name])
    except (OSError, RuntimeError):  # a home that is read-only, or none
        return _decided(measured())


def _library(size: Size) -> dict[str, Any]:
    default, ours = measure(size)
    return {"onednn": default > MARGIN * ours, "seconds": {"default": default, "oneDNN": ours}}


def _order(size: Size) -> dict[str, Any]:
    plain, transposed = measure_orders(size)
    return {"transposed": plain - transposed > FUNCTION_COSTS, "seconds": {"as it is": plain, "transposed": transposed}}


def _decided(entry: Mapping[str, Any]) -> bool:
    return bool(entry["onednn"] if "onednn" in entry else entry["transposed"])


def _read(path: Path) -> dict[str, Any]:
    """Return the file's choices; none of a damaged file."""
    with suppress(ValueError):
        found = json.loads(path.read_text())
        kinds = {"onednn", "transposed"}
        if isinstance(found, dict) and all(isinstance(entry, dict) and kinds & entry.keys() for entry in found.values()):
            return found
    return {}
