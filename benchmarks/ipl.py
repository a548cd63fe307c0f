"""IPL-IQL and CPL in the update engine against reference-style code: one thread, side by side.

An update of IPL reads 1,280 rows: windows of 64 steps of both segments of 8 labelled pairs, and 256 transitions (the sizes of
``preset/ipl/gym.yaml`` on Hopper). An update of CPL reads such windows of 16 pairs. Both sides draw every batch anew.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from benchmarks.engine import columns, transitions
from benchmarks.measure import Claim, interleave, judge, per_unit, summary, without_onednn
from benchmarks.plain_cpl import ALPHA, BIAS, PlainCPL
from benchmarks.plain_ipl import BETA, CHI2, PlainIPL
from benchmarks.plain_iql import LR
from lightning_pbrl.data.feedback import Labels, Status
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.engine import UpdateEngine
from lightning_pbrl.methods.cpl import CPL
from lightning_pbrl.methods.ipl import IPL
from lightning_pbrl.methods.preference_policy import PreferencePolicy
from lightning_pbrl.rng import stream

CLAIMS = [
    Claim("IPL engine compiled / plain PyTorch loop", 1.6, "plain", "compiled"),
    Claim("IPL engine eager / plain PyTorch loop", None, "plain", "eager"),
    Claim("CPL engine compiled / plain PyTorch loop", 1.6, "CPL plain", "CPL compiled"),
    Claim("CPL engine eager / plain PyTorch loop", None, "CPL plain", "CPL eager"),
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
    cpl_pairs: int = 16
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
    return ready(IPL(spec, beta=BETA, chi2_coeff=CHI2, ortho_init=False, **batch), source, labels)


def cpl(source: Transitions, labels: Labels, size: Size) -> CPL:
    """The method with its data and labels, without a Trainer and without dropout."""
    spec = {"obs_dim": source.obs_dim, "action_dim": source.action_dim, "horizon": 0}
    settings = {"hidden": size.hidden, "batch_size": size.cpl_pairs, "window": size.window}
    return ready(CPL(spec, alpha=ALPHA, bias=BIAS, dropout=0.0, ortho_init=False, lr=LR, **settings), source, labels)


def ready(method: Any, source: Transitions, labels: Labels) -> Any:
    method.configure_model()
    method.source = source
    method.use_labels(labels)
    return method


def engine(method: PreferencePolicy, compile: bool) -> UpdateEngine:  # noqa: A002 - as the engine calls it
    """The bare engine of the method."""
    return UpdateEngine(method, method.groups(), method.programs(), [0], compile)


def plain(source: Transitions, labels: Labels, size: Size) -> PlainIPL:
    """The opponent on the same data."""
    sizes = {"pairs": size.pairs, "batch_size": size.batch_size}
    return PlainIPL(columns(source), labels.start, labels.value, size.length, size.window, size.hidden, **sizes)


def plain_cpl(source: Transitions, labels: Labels, size: Size) -> PlainCPL:
    """The opponent of CPL on the same data."""
    return PlainCPL(columns(source), labels.start, labels.value, size.length, size.window, size.hidden, size.cpl_pairs)


def main(size: Size) -> dict[str, Any]:
    """Measure everything; plain JSON."""
    source = transitions(size.rows, size.obs_dim, size.action_dim)
    labels = answers(source, size)
    opponent = plain(source, labels, size)
    eager, compiled = (engine(ipl(source, labels, size), compile) for compile in (False, size.compile))  # noqa: A001
    cpl_opponent = plain_cpl(source, labels, size)
    cpl_eager, cpl_compiled = (engine(cpl(source, labels, size), compile) for compile in (False, size.compile))  # noqa: A001
    bare_eager = per_unit(lambda: eager.run("policy", size.updates), size.updates)
    bare_compiled = per_unit(lambda: compiled.run("policy", size.updates), size.updates)
    contestants = {
        "plain": per_unit(lambda: opponent.run(size.updates), size.updates),
        "eager": bare_eager,
        "compiled": bare_compiled,
        "eager, default library": without_onednn(bare_eager),
        "compiled, default library": without_onednn(bare_compiled),
        "CPL plain": per_unit(lambda: cpl_opponent.run(size.updates), size.updates),
        "CPL eager": per_unit(lambda: cpl_eager.run("policy", size.updates), size.updates),
        "CPL compiled": per_unit(lambda: cpl_compiled.run("policy", size.updates), size.updates),
    }
    seen = interleave(contestants, size.rounds)
    return {
        "size": size._asdict(),
        "unit": "CPU seconds per update",
        "claims": [judge(claim, seen) for claim in CLAIMS],
        "seconds": summary(seen),
    }
