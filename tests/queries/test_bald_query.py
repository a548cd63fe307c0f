"""What BALD asks, that it asks nothing twice, and how quotas share the questions out."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from unified_toys import alone

from lightning_pbrl.data.feedback import Labels, Query, Status
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.errors import UserError
from lightning_pbrl.losses.information import bald, mixture_bald, pair_probability, predictive_entropy, rating_probability
from lightning_pbrl.queries import bald as bald_query
from lightning_pbrl.queries.bald import BALDQuery, fingerprint
from lightning_pbrl.queries.mixed import MixedQuery, uniformly
from lightning_pbrl.queries.quota import FixedShare, InformationPerCost, MeanScore, Worth, percentile
from lightning_pbrl.queries.ranked_list import RankedListQuery
from lightning_pbrl.queries.uniform import UniformQuery, distinct
from lightning_pbrl.rewards import posterior, scoring, unified

T = 10
NONE = {"pair": Labels.empty(T), "rating": Labels.empty(T, clips=1)}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def model() -> unified.UnifiedReward:
    obs, action = torch.randn(600, 5, generator=generator()), torch.rand(600, 2, generator=generator(1))
    return alone(Transitions.from_columns(obs, action, obs, torch.arange(0, 601, 30), obs[:, 0]), hidden=(16, 16), dropout=0.4)


def answered(start: torch.Tensor) -> Labels:
    status = torch.full((len(start),), int(Status.ANSWERED))
    return Labels(start, T, torch.zeros(len(start)), status)


# What is asked ---------------------------------------------------------------------------------------------------------


def test_the_best_clip_of_the_whole_pool(model: unified.UnifiedReward) -> None:
    """Every clip is scored; the first is the best of all, each next the best that shares no step with those before."""
    pool = model.source.pool(T)
    query = BALDQuery("rating").propose(pool, 5, model, NONE["rating"], generator())
    every = Query("rating", pool.start(torch.arange(len(pool))).unsqueeze(1), T)
    assert len(every) == 20 * 21
    sample = model.posterior(every, 20)
    score = bald(rating_probability(*(part[..., 0] for part in model.decode(sample)), 10))
    left, start = score.clone(), every.start[:, 0]
    for asked in query.start[:, 0].tolist():
        assert score[start == asked].item() == left.max().item()
        left[(start - asked).abs() < T] = -1
    assert query.kind == "rating" and query.start.shape == (5, 1)


def test_the_best_pairs_of_the_candidates(model: unified.UnifiedReward) -> None:
    pool = model.source.pool(T)
    query = BALDQuery("pair", large_batch=50).propose(pool, 4, model, NONE["pair"], generator(3))
    candidates = pool.pairs(200, generator(3))
    score = bald(pair_probability(model.posterior(candidates, 20)[..., 0]))
    assert torch.equal(query.start[0], candidates.start[score.argmax()])
    starts = query.start.flatten()
    gaps = (starts[:, None] - starts).abs() + torch.eye(8, dtype=torch.int64) * T
    for i, j in ((i, j) for i in range(8) for j in range(8) if i // 2 != j // 2):
        assert gaps[i, j] >= T  # clips of different questions share no step


@pytest.mark.parametrize("kind", ["pair", "rating"])
def test_no_clip_is_asked_twice(kind: Any, model: unified.UnifiedReward) -> None:
    """Twelve rounds of three: no two clips asked about overlap; when nothing else is left, rounds are whole all the same."""
    pool, strategy, labels = model.source.pool(T), BALDQuery(kind), NONE[kind]
    for number in range(8 if kind == "pair" else 12):
        query = strategy.propose(pool, 3, model, labels, generator(number))
        assert len(query) == 3
        labels = labels.then(answered(query.start))
    starts = labels.start.flatten().sort().values if kind == "rating" else labels.start
    if kind == "rating":
        assert starts.diff().min() >= T
    else:
        rows = [{*range(a, a + T), *range(b, b + T)} for a, b in starts.tolist()]
        assert all(not rows[i] & rows[j] for i in range(12) for j in range(i))  # as long as there were enough clips
    everything = labels.then(answered(pool.start(torch.arange(len(pool))).unsqueeze(1).expand(-1, 1 + (kind == "pair"))))
    assert len(strategy.propose(pool, 7, model, everything, generator())) == 7
    assert len(strategy.propose(pool, 0, model, labels, generator())) == 0


def test_what_was_asked_is_known_wherever_it_lies(model: unified.UnifiedReward) -> None:
    """Answers about copies of clips, as a replay keeps them: the original is not asked about again."""
    source = model.source
    best = BALDQuery("rating").propose(source.pool(T), 1, model, NONE["rating"], generator())
    rows = best.start[0, 0] + torch.arange(T)
    moved = Transitions(
        torch.cat([source.packed, source.packed[rows]]), torch.tensor([*range(0, 601, 30), 610]), None, None, 5, 2
    )
    model.source = moved
    try:
        pool = moved.pool(T)
        again = BALDQuery("rating").propose(pool, 40, model, answered(torch.tensor([[600]])), generator())
    finally:
        model.source = source
    fresh = (again.start - best.start[0, 0]).abs() >= T
    assert fresh[:20].all() and not (again.start[:20] == 600).any()


def test_fingerprints_tell_observations_apart() -> None:
    obs = torch.randn(5000, 17, generator=generator())
    assert len(fingerprint(obs).unique()) == 5000
    assert torch.equal(fingerprint(obs[100:200]), fingerprint(obs)[100:200])
    assert torch.equal(fingerprint(obs.view(50, 100, 17)).flatten(), fingerprint(obs))


@pytest.mark.parametrize("kind", ["pair", "rating"])
@pytest.mark.parametrize("acquisition", ["entropy", "margin", "variance", "random", "mixture"])
def test_other_acquisitions(kind: Any, acquisition: Any, model: unified.UnifiedReward) -> None:
    if (kind, acquisition) == ("pair", "mixture"):
        with pytest.raises(UserError, match="acquisition=mixture for pairs"):
            BALDQuery(kind, acquisition)
        return
    pool, strategy = model.source.pool(T), BALDQuery(kind, acquisition, large_batch=20)
    found = strategy.consider(pool, 3, model, NONE[kind], generator())
    query = strategy.choose(found, 3)
    assert len(query) == 3 and torch.equal(query.start[0], found.query.start[found.score.argmax()])
    sample = model.posterior(found.query, 20)
    if acquisition == "entropy" and kind == "pair":
        assert torch.equal(found.score, predictive_entropy(pair_probability(sample[..., 0])))
    if acquisition == "mixture":
        assert torch.allclose(found.score, mixture_bald(*(part[..., 0] for part in model.decode(sample))))
    if acquisition == "variance" and kind == "rating":
        assert torch.allclose(found.score, model.decode(sample)[0][..., 0].var(0, correction=0))
    assert ("posterior" in strategy.needs) == (acquisition != "random")


def test_scores_are_divided_by_the_cost(model: unified.UnifiedReward) -> None:
    pool = model.source.pool(T)
    cheap, dear = (BALDQuery("rating", cost=cost).consider(pool, 2, model, NONE["rating"], generator()) for cost in (1.0, 4.0))
    assert torch.allclose(cheap.score, 4 * dear.score)


def test_a_part_of_the_pool(model: unified.UnifiedReward) -> None:
    found = BALDQuery("rating", clips=50).consider(model.source.pool(T), 2, model, NONE["rating"], generator())
    assert len(found.query) == 50 == len(found.query.start.unique())


def test_scores_that_are_no_numbers_come_last(model: unified.UnifiedReward) -> None:
    strategy = BALDQuery("rating")
    found = strategy.consider(model.source.pool(T), 2, model, NONE["rating"], generator())
    found.score[found.score.argmax()] = math.nan
    best = found.score.nan_to_num(nan=-1).argmax()
    assert torch.equal(strategy.choose(found, 1).start[0], found.query.start[best])
    assert len(strategy.choose(found._replace(score=torch.full_like(found.score, math.nan)), 3)) == 3


def test_random_clips_are_different() -> None:
    assert distinct(10, 10, generator()).sort().values.tolist() == list(range(10))
    assert len(distinct(10, 25, generator())) == 25
    counts = torch.zeros(6)
    for seed in range(600):
        counts[distinct(6, 3, generator(seed))] += 1
    assert counts.sum() == 1800 and (counts - 300).abs().max() < 5 * math.sqrt(600 * 0.25)


@pytest.mark.parametrize("settings", [{"draws": 1}, {"cost": 0.0}, {"clips": 0}, {"large_batch": 0}])
def test_settings_out_of_range(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="BALDQuery got"):
        BALDQuery("rating", **settings)


def test_each_transition_is_scored_once_in_any_number_of_chunks(
    model: unified.UnifiedReward, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pool scored in chunks of few steps beside the table's: neighbouring clips share their rows' scores."""
    seen = [0]
    reward = type(model)._functions

    def counted(self: unified.UnifiedReward, draws: int) -> Any:
        functions = reward(self, draws)

        def count(features: torch.Tensor) -> torch.Tensor:
            seen[0] += len(features)
            return functions(features)

        return count

    pool, strategy = model.source.pool(T), BALDQuery("rating")
    whole = strategy.consider(pool, 3, model, NONE["rating"], generator()).score
    monkeypatch.setattr(bald_query, "CHUNK", 42)  # two episodes: 60 of the 600 rows
    monkeypatch.setattr(scoring, "CPU_TILE", 1)
    monkeypatch.setattr(posterior, "POSTERIOR_TILE", 1)
    monkeypatch.setattr(unified.UnifiedReward, "_functions", counted)
    model.attach(None)  # forgets its sums
    chunked = strategy.consider(pool, 3, model, NONE["rating"], generator()).score
    model.attach(None)  # forgets its sums
    assert seen[0] == 600
    torch.testing.assert_close(chunked, whole, atol=1e-5, rtol=0)


def test_scores_of_different_units_are_not_weighed() -> None:
    for quota in (MeanScore(), InformationPerCost()):
        for pair, rating in (("bald", "variance"), ("random", "random"), ("entropy", "bald")):
            with pytest.raises(UserError, match=f"weighs pairs by {pair} against ratings by {rating}"):
                MixedQuery(BALDQuery("pair", pair), BALDQuery("rating", rating), quota)  # type: ignore[arg-type]
        MixedQuery(BALDQuery("pair"), BALDQuery("rating", "mixture"), quota)


def test_the_quota_weighs_what_would_be_asked(model: unified.UnifiedReward) -> None:
    """Not the best scores of all: clips that overlap with better ones, or were asked about before, are passed over."""
    found: list[Worth] = []

    class Noted(InformationPerCost):
        def pairs(self, n: int, asked: Any, worth: Worth | None = None) -> int:
            assert worth is not None
            found.append(worth)
            return super().pairs(n, asked, worth)

    pool, query = model.source.pool(T), MixedQuery(quota=Noted())
    pairs, ratings = query.proposals(pool, 8, model, NONE, generator())
    worth = found[0]
    assert len(worth.best_pair) == len(worth.best_rating) == 8
    assert worth.best_rating.mean() < worth.rating.topk(8).values.mean()
    asked = BALDQuery("rating").score(ratings, model)
    torch.testing.assert_close(worth.best_rating[: len(ratings)], asked, atol=1e-5, rtol=0)
    asked = BALDQuery("pair").score(pairs, model)
    torch.testing.assert_close(worth.best_pair[: len(pairs)], asked, atol=1e-5, rtol=0)


# Who gets how many -----------------------------------------------------------------------------------------------------


def play(quota: Any, sizes: list[int], worth: list[Worth] | None = None, resume: bool = False) -> list[int]:
    """Pairs of every round; with ``resume`` a new quota that knows the notes alone makes every decision."""
    asked: dict[Any, int] = {"pair": 0, "rating": 0}
    notes: dict[str, Any] = {}
    pairs = []
    for number, n in enumerate(sizes):
        now = type(quota)(**{k: v for k, v in quota.describe().items() if k != "class"}) if resume else quota
        now.recall(notes)
        pairs.append(now.pairs(n, asked, worth[number] if worth else None))
        notes = now.notes()
        asked = {"pair": asked["pair"] + pairs[-1], "rating": asked["rating"] + n - pairs[-1]}
    return pairs


def flat(a: float, b: float, count: int = 10) -> Worth:
    return all_good(torch.full((count,), a), torch.full((count,), b))


def all_good(pair: torch.Tensor, rating: torch.Tensor) -> Worth:
    """Candidates all of which would be asked."""
    return Worth(pair, rating, pair, rating)


def test_a_fixed_share_carries_over() -> None:
    """Three a round at one half: 1, 2, 1, 2 (the released rule gives 2 of 3 every time); single questions alternate."""
    assert play(FixedShare(0.5), [3] * 6) == [1, 2, 1, 2, 1, 2]
    assert play(FixedShare(0.5), [1] * 6) == [0, 1, 0, 1, 0, 1]
    assert play(FixedShare(0.29), [100]) == [29]
    assert play(FixedShare(1.0), [3, 4]) == [3, 4] and play(FixedShare(0.0), [3, 4]) == [0, 0]
    assert FixedShare(0.5).pairs(4, {"pair": 10, "rating": 0}) == 0  # pairs wait until ratings have caught up
    assert FixedShare(0.5).pairs(4, {"pair": 0, "rating": 10}) == 4


def test_the_released_rule_by_hand() -> None:
    """Means .25 and .75: a quarter of 10 is 2.5, to even 2; with one of them not positive all or nothing, with none half."""
    quota = MeanScore(normalize=False)
    asked: Any = {"pair": 0, "rating": 0}
    assert quota.pairs(10, asked, flat(0.25, 0.75)) == 2 and quota.pairs(14, asked, flat(0.25, 0.75)) == 4  # 3.5 to even
    assert quota.pairs(7, asked, flat(0.0, 0.5)) == 0 and quota.pairs(7, asked, flat(0.5, -0.1)) == 7
    assert quota.pairs(7, asked, flat(0.0, 0.0)) == 3
    assert quota.pairs(7, asked, flat(math.nan, 0.5)) == 0
    assert quota.pairs(7, asked, all_good(torch.empty(0), torch.empty(0))) == 3


def test_the_released_scale_never_shrinks_and_is_remembered() -> None:
    """Ratings at half their largest 99th percentile count .5 whatever their unit."""
    scores = all_good(torch.full((101,), 0.5), torch.arange(101.0))  # 99th percentile 99, mean 50
    assert float(percentile(torch.arange(101.0), 0.99)) == 99
    later = all_good(torch.full((101,), 0.5), torch.full((101,), 9.9))
    first, second = 0.5 / (0.5 + 50 / 99), 0.5 / (0.5 + 0.1)
    expected = [round(100 * first), round(100 * second)]
    for resume in (False, True):
        assert play(MeanScore(), [100, 100], [scores, later], resume) == expected
    assert play(MeanScore(), [100], [later]) == [round(100 * 0.5 / 1.5)]


def test_information_per_cost_by_hand() -> None:
    """f = .625, .6875, .71875, .734375 towards .75, ten questions a round: 6.25, 13.125, 20.3125 and 27.65625 pairs in all."""
    for resume in (False, True):
        assert play(InformationPerCost(0.5, 0.5, 0.0), [10] * 4, [flat(0.75, 0.25)] * 4, resume) == [6, 7, 7, 7]


def test_a_minimum_share_and_scores_that_say_nothing() -> None:
    assert sum(play(InformationPerCost(0.5, 1.0, 0.2), [10] * 10, [flat(0.0, 1.0)] * 10)) == 20
    assert sum(play(InformationPerCost(0.5, 1.0, 0.2), [10] * 10, [flat(1.0, 0.0)] * 10)) == 80
    for nothing in (flat(0.0, 0.0), flat(math.nan, math.nan), flat(-1.0, -2.0), all_good(torch.empty(0), torch.empty(0))):
        assert play(InformationPerCost(0.3, 1.0), [10] * 3, [nothing] * 3) == [3, 3, 3]
    assert play(InformationPerCost(0.5, 0.0), [3] * 4, [flat(0.0, 1.0)] * 4) == [1, 2, 1, 2]  # eta 0 keeps the target


def test_only_what_could_be_bought_is_weighed() -> None:
    """A thousand worthless pairs beside five good ones: of five questions, the good ones count."""
    five, pairs, ratings = torch.full((5,), 0.9), torch.zeros(1000), torch.full((1000,), 0.1)
    good = Worth(torch.cat([five, pairs]), ratings, five, ratings[:5])
    assert play(InformationPerCost(0.5, 1.0, 0.0), [5], [good]) == [4]  # 4.5, the half is carried on
    assert play(MeanScore(normalize=False), [5], [good]) == [0]


def test_never_over_and_never_below() -> None:
    """Random worths and sizes: between 0 and n, and the plan is kept to one question."""
    rng = generator()
    quota, asked, planned = InformationPerCost(0.5, 0.3, 0.05), {"pair": 0, "rating": 0}, 0.0
    for _ in range(300):
        n = int(torch.randint(0, 6, (1,), generator=rng))
        worth = all_good(torch.rand(20, generator=rng), torch.rand(20, generator=rng))
        pairs = quota.pairs(n, asked, worth)  # type: ignore[arg-type]
        assert 0 <= pairs <= n
        planned += quota.metrics()["query/target_share"] * n
        asked = {"pair": asked["pair"] + pairs, "rating": asked["rating"] + n - pairs}
        assert -1e-6 < planned - asked["pair"] < 1


@pytest.mark.parametrize("quota", [FixedShare(0.3), MeanScore(), InformationPerCost(0.4, 0.5)])
def test_mixed_asks_exactly_what_is_wanted(quota: Any, model: unified.UnifiedReward) -> None:
    strategy, pool = MixedQuery(BALDQuery("pair", large_batch=10), BALDQuery("rating"), quota), model.source.pool(T)
    labels = dict(NONE)
    for n in (1, 2, 3, 5, 8):
        queries = strategy.proposals(pool, n, model, labels, generator(n))
        assert sum(len(query) for query in queries) == n
        for query in queries:
            labels[query.kind] = labels[query.kind].then(answered(query.start))
    assert set(strategy.needs) == {"posterior", "observations", "decode", "rating_probability"}
    assert "query/score_rating" in strategy.metrics()


def test_mixed_refuses_what_cannot_work() -> None:
    with pytest.raises(UserError, match="MixedQuery got UniformQuery for the questions of kind 'rating'"):
        MixedQuery(rating=UniformQuery())
    with pytest.raises(UserError, match="MixedQuery got RankedListQuery for the questions of kind 'pair'"):
        MixedQuery(RankedListQuery())
    with pytest.raises(UserError, match="InformationPerCost weighs kinds of question by their scores and UniformQuery has none"):
        MixedQuery(UniformQuery(), quota=InformationPerCost())
    with pytest.raises(UserError, match=r"FixedShare got share=1\.5"):
        FixedShare(1.5)
    with pytest.raises(UserError, match=r"InformationPerCost got minimum=0\.6"):
        InformationPerCost(minimum=0.6)
    assert uniformly({"pair", "rating"}).describe()["quota"] == {"class": "FixedShare", "share": 0.5}
