"""CLARIFY's choice of questions: densities and acceptance against slow loops, every fallback, and its counts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_pbrl.data.feedback import Labels, Query, Status
from lightning_pbrl.data.segments import Episodes, SegmentPool
from lightning_pbrl.errors import UserError
from lightning_pbrl.queries.disagreement import disagreement
from lightning_pbrl.queries.embedding import (
    EmbeddingQuery,
    acceptance,
    clarify_target,
    histogram,
    kernel_density,
    max_ratio_target,
    separation,
    within,
)

LENGTH = 3
POOL = SegmentPool(Episodes(torch.tensor([0, 200, 402])), LENGTH)


class Line:
    """A model whose embedding of a segment is a number given per row: distances are differences of those numbers."""

    def __init__(self, place: Tensor) -> None:
        self.place = place
        self.reward = torch.randn(3, len(place), generator=torch.Generator().manual_seed(0))

    def embed(self, query: Query) -> Tensor:
        return self.place[query.start].unsqueeze(-1)

    def returns(self, query: Query) -> Tensor:
        return self.reward[:, query.start]

    def observations(self, query: Query) -> Tensor:
        return query.start[..., None, None].float()


def line(spread: float = 1.0) -> Line:
    return Line(spread * torch.rand(402, generator=torch.Generator().manual_seed(1)))


def labels(model: Line, count: int, threshold: float) -> Labels:
    """Answers of a teacher who skips pairs nearer than ``threshold``."""
    query = POOL.pairs(count, rng(7))
    z = model.embed(query)
    skipped = (z[:, 0] - z[:, 1]).abs().squeeze(-1) < threshold
    value = torch.where(skipped, float("nan"), 1.0)
    return Labels(query.start, LENGTH, value, torch.where(skipped, int(Status.SKIPPED), int(Status.ANSWERED)))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gap(model: Line, query: Query) -> Tensor:
    z = model.embed(query).squeeze(-1)
    return (z[:, 0] - z[:, 1]).abs()


# Formulas --------------------------------------------------------------------------------------------------------------


def test_histograms_by_hand() -> None:
    edges = np.array([0.0, 1.0, 2.0, 3.0])
    x = np.array([0.0, 0.5, 1.0, 3.0, 3.5, -1.0])
    assert histogram(x, edges).tolist() == [2 / 4, 1 / 4, 1 / 4]  # the largest is counted
    assert histogram(x, edges, closed=False).tolist() == [2 / 3, 1 / 3, 0]  # half-open: it is lost
    assert histogram(np.array([9.0]), edges).tolist() == [0, 0, 0]
    some = np.random.default_rng(0).normal(size=500)
    ours, bins = histogram(some, np.linspace(some.min(), some.max(), 33)), np.histogram(some, 32)[0] / 500
    np.testing.assert_allclose(ours, bins)


def test_kernel_by_hand() -> None:
    # Two points at 0 and 2, bandwidth 1, seen from 0 and 1: (1 + e^-2) : (2 e^-1/2).
    first, second = 1 + math.exp(-2), 2 * math.exp(-0.5)
    expected = [first / (first + second), second / (first + second)]
    np.testing.assert_allclose(kernel_density(np.array([0.0, 2.0]), np.array([0.0, 1.0]), 1.0), expected)


def slow_target(p: list[float], c: list[float], a: list[float], max_ratio: bool) -> list[float]:
    def one(x: list[float]) -> list[float]:
        return [v / sum(x) for v in x]

    rho_c = one([ck / (pk + 1e-6) for ck, pk in zip(c, p, strict=True)])
    rho_a = one([ak / (pk + 1e-6) for ak, pk in zip(a, p, strict=True)])
    ratio = [x / (y + 1e-6) for x, y in zip(rho_c, rho_a, strict=True)]
    if max_ratio:
        return [1e-3 + (ratio[k] == max(ratio)) for k in range(len(p))]
    t1 = one([max(x - y, 0) * pk for x, y, pk in zip(rho_c, rho_a, p, strict=True)])
    t2 = one([r * pk for r, pk in zip(ratio, p, strict=True)])
    return [(x + y) / 2 for x, y in zip(t1, t2, strict=True)]


def test_targets_against_a_slow_loop() -> None:
    p, c, a = [0.1, 0.4, 0.3, 0.2], [0.05, 0.2, 0.4, 0.35], [0.2, 0.5, 0.3, 0.0]
    arrays = [np.array(x) for x in (p, c, a)]
    np.testing.assert_allclose(clarify_target(*arrays), slow_target(p, c, a, False))
    np.testing.assert_allclose(max_ratio_target(*arrays), slow_target(p, c, a, True))
    # An empty bin of the skipped is a ratio of about a million: half of the weight sits there.
    assert clarify_target(*arrays)[3] > 0.6


def test_max_ratio_weighs_every_tied_bin() -> None:
    """No skipped pair in bins 1 and 3, where clear ones are equally over-represented: both ratios are the largest."""
    everything, clear, skipped = np.array([0.25] * 4), np.array([0.1, 0.4, 0.1, 0.4]), np.array([0.6, 0.0, 0.4, 0.0])
    np.testing.assert_allclose(max_ratio_target(everything, clear, skipped), [0.001, 1.001, 0.001, 1.001])


def test_acceptance_against_a_slow_loop() -> None:
    centres, target, own = np.array([1.0, 2.0, 4.0]), np.array([0.1, 0.6, 0.3]), np.array([0.5, 0.3, 0.2])
    distance = [0.0, 1.0, 1.25, 2.0, 3.0, 4.0, 9.0]

    def interpolate(d: float, y: np.ndarray) -> float:
        if d <= 1 or d >= 4:
            return float(y[0] if d <= 1 else y[2])
        k = 0 if d < 2 else 1
        share = (d - centres[k]) / (centres[k + 1] - centres[k])
        return float(y[k] + share * (y[k + 1] - y[k]))

    ratio = [interpolate(d, target) / (interpolate(d, own) + 1e-6) for d in distance]
    clipped = acceptance(np.array(distance), centres, target, own)
    np.testing.assert_allclose(clipped, [min(r, 1.0) for r in ratio])
    assert clipped[0] == pytest.approx(0.2, rel=1e-4) and clipped[3] == 1 and clipped[-1] == 1
    exact = acceptance(np.array(distance), centres, target, own, exact=True)
    np.testing.assert_allclose(exact, np.array(ratio) / max(ratio))


def test_exact_rejection_reproduces_the_target() -> None:
    # Candidates uniform on [0, 1]; target density 2 d: the kept ones have mean 2/3, the clipped rule gives less.
    d = np.random.default_rng(0).random(100_000)
    centres = (np.arange(32) + 0.5) / 32
    chance = {exact: acceptance(d, centres, centres / 16, np.full(32, 1 / 32), exact) for exact in (True, False)}
    drawn = np.random.default_rng(1).random(100_000)
    assert d[drawn < chance[True]].mean() == pytest.approx(2 / 3, abs=0.005)
    assert d[drawn < chance[False]].mean() == pytest.approx((1 / 12 + 3 / 8) / (3 / 4), abs=0.005)  # min(2 d, 1)


def test_outliers_and_separation_by_hand() -> None:
    x = np.array([0.0] * 15 + [10.0])  # mean .625, std 2.42: the last is 3.87 of them away
    assert within(x, 3.0).tolist() == [True] * 15 + [False]
    assert within(np.ones(3), 3.0).all()
    assert separation(np.array([3.0, 1.0]), np.array([1.0, 0.0])) == (1 + 1 + 0.5 + 1) / 4
    assert math.isnan(separation(np.array([1.0]), np.array([])))


# Proposals -------------------------------------------------------------------------------------------------------------


def test_reference_acceptance_end_to_end() -> None:
    """The released rule, step by step in plain Python, with the strategy's own random numbers."""
    model = line()
    known = labels(model, 120, 0.3)
    strategy = EmbeddingQuery(density="histogram", rows="resampled", redraws=0, fill=False, bins=8)
    chosen = strategy.propose(POOL, 20, model, known, rng(3))

    stream = rng(3)
    distance = gap(model, Query("pair", known.start, LENGTH)).double()
    index = torch.randint(120, (200,), generator=stream)
    d, skip = distance[index].tolist(), (known.status[index] == Status.SKIPPED).tolist()
    mean, std = np.mean(d), np.std(d)
    rows = [(x, s) for x, s in zip(d, skip, strict=True) if abs(x - mean) < 3 * std]
    edges = np.linspace(min(x for x, _ in rows), max(x for x, _ in rows), 9)

    def counted(values: list[float], closed: bool) -> list[float]:
        bins = [0.0] * 8
        for x in values:
            for k in range(8):
                if edges[k] <= x < edges[k + 1] or (closed and k == 7 and x == edges[8]):
                    bins[k] += 1
        return [b / sum(bins) for b in bins]

    p = counted([x for x, _ in rows], True)
    target = slow_target(p, *(counted([x for x, s in rows if s == skipped], False) for skipped in (False, True)), False)  # type: ignore[arg-type]
    candidates = POOL.pairs(200, stream)
    d = gap(model, candidates).double().tolist()
    inside = [abs(x - np.mean(d)) < 3 * np.std(d) for x in d]
    own = counted([x for x, i in zip(d, inside, strict=True) if i], True)
    centres, drawn = (edges[1:] + edges[:-1]) / 2, torch.rand(200, generator=stream, dtype=torch.float64).tolist()
    kept = [
        k
        for k in range(200)
        if inside[k] and drawn[k] < min(np.interp(d[k], centres, target) / (np.interp(d[k], centres, own) + 1e-6), 1.0)
    ]
    counts = strategy.metrics()
    assert counts["query/accepted"] == len(kept) and 20 < len(kept) < 200
    score = disagreement(model.returns(candidates))
    expected = sorted(kept, key=lambda k: -float(score[k]))[:20]
    assert torch.equal(chosen.start, candidates.start[expected])


@pytest.mark.parametrize(
    "settings",
    [{}, {"density": "histogram"}, {"target": "max_ratio"}, {"rejection": "exact"}, {"rows": "resampled", "target": "max_ratio"}],
    ids=str,
)
def test_it_asks_what_the_teacher_can_tell(settings: dict[str, Any]) -> None:
    """The teacher skips pairs nearer than 0.3, which are 51 % of all; proposals avoid them."""
    model = line()
    assert (gap(model, POOL.pairs(5000, rng(5))) < 0.3).float().mean() == pytest.approx(0.51, abs=0.03)
    strategy = EmbeddingQuery(**settings)
    chosen = strategy.propose(POOL, 50, model, labels(model, 200, 0.3), rng())
    counts = strategy.metrics()
    assert len(chosen) == 50
    assert (gap(model, chosen) < 0.3).float().mean() < 0.3
    assert counts["query/embedding_auc"] == 1.0  # the embedding separates them entirely
    assert counts["query/filled"] == counts["query/single_class"] == counts["query/collapsed"] == 0
    assert counts["query/candidates"] == 500 * (1 + counts["query/redraws"])
    assert strategy.metrics()["query/candidates"] == 0  # reading starts anew


def disagreement_alone(model: Line, n: int) -> Tensor:
    candidates = POOL.pairs(10 * n, rng())
    return candidates.start[disagreement(model.returns(candidates)).argsort(descending=True, stable=True)[:n]]


@pytest.mark.parametrize("threshold", [0.0, 2.0], ids=["all clear", "all skipped"])
def test_single_class_falls_back_to_disagreement(threshold: float) -> None:
    model, strategy = line(), EmbeddingQuery()
    chosen = strategy.propose(POOL, 5, model, labels(model, 30, threshold), rng())
    assert torch.equal(chosen.start, disagreement_alone(model, 5))
    assert strategy.metrics()["query/single_class"] == 1


def test_no_answers_fall_back_to_disagreement() -> None:
    model, strategy = line(), EmbeddingQuery()
    chosen = strategy.propose(POOL, 5, model, Labels.empty(LENGTH), rng())
    assert torch.equal(chosen.start, disagreement_alone(model, 5))
    counts = strategy.metrics()
    assert counts["query/single_class"] == 1 and "query/embedding_auc" not in counts


@pytest.mark.parametrize("place", [0.0, float("nan")], ids=["collapsed", "diverged"])
def test_collapsed_embedding_falls_back_to_disagreement(place: float) -> None:
    known = labels(line(), 60, 0.3)
    model, strategy = Line(torch.full((402,), place)), EmbeddingQuery()
    chosen = strategy.propose(POOL, 5, model, known, rng())
    assert torch.equal(chosen.start, disagreement_alone(model, 5))
    counts = strategy.metrics()
    assert counts["query/collapsed"] == 1 and counts["query/single_class"] == 0


def test_too_few_accepted_are_redrawn_then_filled() -> None:
    """Clear answers were one pair in a hundred apart; few candidates are kept, and the round is still whole."""
    model = line()
    known = labels(model, 300, 0.9)
    fussy: dict[str, Any] = {"large_batch": 1, "target": "max_ratio", "density": "histogram"}
    strategy = EmbeddingQuery(redraws=2, **fussy)
    chosen = strategy.propose(POOL, 40, model, known, rng())
    counts = strategy.metrics()
    assert len(chosen) == 40 and counts["query/redraws"] == 2 and counts["query/candidates"] == 120
    assert counts["query/accepted"] + counts["query/filled"] == 40 and counts["query/filled"] > 10
    assert (gap(model, chosen) > 0.8).sum() >= 1
    assert len({tuple(pair) for pair in chosen.start.tolist()}) == 40

    short = EmbeddingQuery(redraws=0, fill=False, **fussy)
    chosen = short.propose(POOL, 40, model, known, rng())
    counts = short.metrics()
    assert len(chosen) == counts["query/accepted"] < 30 and counts["query/redraws"] == counts["query/filled"] == 0


def test_nothing_kept_is_filled_even_without_fill(monkeypatch: pytest.MonkeyPatch) -> None:
    """A round without a single question would end the run; the released code stops with an error there."""
    model = line()
    strategy = EmbeddingQuery(redraws=0, fill=False)
    monkeypatch.setattr(strategy, "_accept", lambda grid, target, distance, rng: torch.zeros(len(distance), dtype=torch.bool))
    chosen = strategy.propose(POOL, 5, model, labels(model, 60, 0.3), rng())
    assert torch.equal(chosen.start, disagreement_alone(model, 5)) and strategy.metrics()["query/filled"] == 5


def test_random_pick_asks_the_first_that_were_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidates come in random order; of those kept, no score decides."""
    model = line()
    strategy = EmbeddingQuery(pick="random")
    keep = torch.arange(200) % 3 == 1
    monkeypatch.setattr(strategy, "_accept", lambda grid, target, distance, rng: keep)
    chosen = strategy.propose(POOL, 20, model, labels(model, 60, 0.3), rng())
    assert torch.equal(chosen.start, POOL.pairs(200, rng()).start[keep][:20])


def test_equal_and_pending_answers_belong_to_neither_class() -> None:
    model = line()
    known = labels(model, 60, 0.3)
    status = torch.where(known.status == Status.SKIPPED, int(Status.EQUAL), known.status)
    strategy = EmbeddingQuery()
    strategy.propose(POOL, 5, model, Labels(known.start, LENGTH, known.value, status), rng())
    assert strategy.metrics()["query/single_class"] == 1
    waiting = torch.where(known.status == Status.SKIPPED, int(Status.PENDING), known.status)
    strategy.propose(POOL, 5, model, Labels(known.start, LENGTH, known.value, waiting), rng())
    assert strategy.metrics()["query/single_class"] == 1


def test_same_generator_same_questions() -> None:
    model = line()
    known = labels(model, 100, 0.3)
    first, second = (EmbeddingQuery().propose(POOL, 20, model, known, rng(4)) for _ in range(2))
    assert torch.equal(first.start, second.start)


def test_settings_are_described_and_checked() -> None:
    assert EmbeddingQuery(redraws=1, density="histogram").describe() == {
        "class": "EmbeddingQuery",
        "large_batch": 10,
        "density": "histogram",
        "target": "clarify",
        "rejection": "clipped",
        "bins": 32,
        "outlier": 3.0,
        "rows": "all",
        "redraws": 1,
        "fill": True,
        "pick": "disagreement",
    }
    for wrong in ({"bins": 1}, {"outlier": 0.0}, {"redraws": -1}):
        with pytest.raises(UserError, match=r"EmbeddingQuery got (bins|outlier|redraws)=\S+: give a number"):
            EmbeddingQuery(**wrong)  # type: ignore[arg-type]
