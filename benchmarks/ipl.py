"""IPL-IQL in the update engine against reference-style code: one thread, side by side.

An update reads 1,280 rows: windows of 64 steps of both segments of 8 labelled pairs, and 256 transitions (the sizes of
``preset/ipl/gym.yaml`` on Hopper).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from benchmarks.engine import columns, transitions
from benchmarks.measure import Claim, interleave, judge, per_unit, summary, without_onednn
from benchmarks.plain_ipl import BETA, CHI2, PlainIPL
from lightning_pbrl.data.feedback import Labels, Status
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.engine import UpdateEngine
from lightning_pbrl.methods.ipl import IPL
from lightning_pbrl.rng import stream

CLAIMS = [
    Claim("IPL engine compiled / plain PyTorch loop", 1.2, "plain", "compiled"),
    Claim("IPL engine eager / plain PyTorch loop", None, "plain", "eager"),
    Claim("... compiled, without oneDNN / plain PyTorch loop", None, "plain", "compiled, default library"),
    Claim("... eager, without oneDNN / plain PyTorch loop", None, "plain", "eager, default library"),
]


class Size(NamedTuple):
    """How much is measured; the goal is stated for the default."""

    rows: int = 250_000
    obs_dim: int = 11
    action_dim: int = 3
    hidden: tuple[int, ...] = (256, 256)
    labels: int = 500
    length: int = 100
    window: int = 64
    pairs: int = 8
    batch_size: int = 256
    updates: int = 48
    rounds: int = 11
    compile: bool = True


QUICK = Size(rows=2_000, hidden=(32, 32), labels=40, length=20, window=10, updates=8, rounds=2, compile=False)


def answers(source: Transitions, size: Size) -> Labels:
    """Random answers about random pairs."""
    rng = stream(0, "answers")
    query = source.pool(size.length).pairs(size.labels, rng)
    value = torch.randint(2, (size.labels,), generator=rng).float()
    return Labels(query.start, size.length, value, torch.full((size.labels,), int(Status.ANSWERED)))


def ipl(source: Transitions, labels: Labels, size: Size) -> IPL:
    """The method with its data and labels, without a Trainer."""
    spec = {"obs_dim": source.obs_dim, "action_dim": source.action_dim, "horizon": 0}
    batch = {"batch_size": size.pairs, "window": size.window, "replay_batch_size": size.batch_size, "hidden": size.hidden}
    method = IPL(spec, beta=BETA, chi2_coeff=CHI2, ortho_init=False, **batch)
    method.configure_model()
    method.source = source
    method.use_labels(labels)
    return method


def engine(method: IPL, compile: bool) -> UpdateEngine:  # noqa: A002 - as the engine calls it
    """The bare engine of the method."""
    return UpdateEngine(method, method.groups(), method.programs(), [0], compile)


def plain(source: Transitions, labels: Labels, size: Size) -> PlainIPL:
    """The opponent on the same data."""
    sizes = {"pairs": size.pairs, "batch_size": size.batch_size}
    return PlainIPL(columns(source), labels.start, labels.value, size.length, size.window, size.hidden, **sizes)


def main(size: Size) -> dict[str, Any]:
    """Measure everything; plain JSON."""
    source = transitions(size.rows, size.obs_dim, size.action_dim)
    labels = answers(source, size)
    opponent = plain(source, labels, size)
    eager, compiled = (engine(ipl(source, labels, size), compile) for compile in (False, size.compile))  # noqa: A001
    bare_eager = per_unit(lambda: eager.run("policy", size.updates), size.updates)
    bare_compiled = per_unit(lambda: compiled.run("policy", size.updates), size.updates)
    contestants = {
        "plain": per_unit(lambda: opponent.run(size.updates), size.updates),
        "eager": bare_eager,
        "compiled": bare_compiled,
        "eager, default library": without_onednn(bare_eager),
        "compiled, default library": without_onednn(bare_compiled),
    }
    seen = interleave(contestants, size.rounds)
    return {
        "size": size._asdict(),
        "unit": "CPU seconds per update",
        "claims": [judge(claim, seen) for claim in CLAIMS],
        "seconds": summary(seen),
    }
