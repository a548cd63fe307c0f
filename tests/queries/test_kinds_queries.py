"""Strategies of graded pairs and of the best of several."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from lightning_pbrl.data.feedback import Labels, Query
from lightning_pbrl.data.segments import Episodes, SegmentPool
from lightning_pbrl.errors import UserError
from lightning_pbrl.queries.base import QueryStrategy
from lightning_pbrl.queries.best_of import BestOfQuery, choice_disagreement, different
from lightning_pbrl.queries.disagreement import DisagreementQuery, disagreement
from lightning_pbrl.queries.graded import GradedQuery
from lightning_pbrl.queries.ranked_list import RankedListQuery
from lightning_pbrl.testing import check_query


def pool(segments: int, length: int = 3) -> SegmentPool:
    return SegmentPool(Episodes(torch.tensor([0, segments + length - 1])), length)


def test_sets_of_different_segments_are_uniform() -> None:
    found = different(pool(4), 6000, 3, torch.Generator().manual_seed(0)).start
    assert bool(found.sort(1).values.diff(dim=1).all()) and found.min() == 0 and found.max() == 3
    counts = torch.unique(found, dim=0, return_counts=True)[1]  # 24 ordered sets
    assert len(counts) == 24 and counts.min() > 250 - 4 * 15.5 and counts.max() < 250 + 4 * 15.5
    with pytest.raises(
        UserError, match="A question about 5 segments needs so many different ones and the data hold 4: lower clips"
    ):
        different(pool(4), 1, 5, torch.Generator())


def test_disagreement_about_choices_by_hand() -> None:
    """Two members: probabilities (1/2, 1/4, 1/4) and (1/4, 1/2, 1/4); their variances are 1/64, 1/64, 0."""
    returns = torch.tensor([[[2.0, 1, 1]], [[1.0, 2, 1]]]).log()
    assert choice_disagreement(returns).item() == pytest.approx((0.5 * 2 / 64) ** 0.5)
    pairs = torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(choice_disagreement(pairs), disagreement(pairs))
    with pytest.raises(UserError, match="Disagreement needs at least two ensemble members"):
        choice_disagreement(returns[:1])


def test_the_sets_that_members_disagree_about_are_asked() -> None:
    """The members differ about segments from row 10 on alone."""

    def returns(query: Query) -> torch.Tensor:
        high = (query.start >= 10).double()
        return torch.stack([high * torch.arange(query.start.shape[1]), -high * torch.arange(query.start.shape[1])])

    strategy = BestOfQuery(3, "disagreement", large_batch=20)
    asked = strategy.propose(
        pool(20), 4, SimpleNamespace(returns=returns), Labels.empty(3, clips=3), torch.Generator().manual_seed(0)
    )
    assert asked.kind == "best" and asked.start.shape == (4, 3) and bool((asked.start >= 10).sum(1).ge(2).all())
    assert isinstance(strategy.at_random(), BestOfQuery) and strategy.at_random().describe()["acquisition"] == "uniform"


def test_graded_pairs_are_those_of_the_strategy_inside() -> None:
    model = SimpleNamespace(returns=lambda query: torch.stack([query.start.double(), -query.start.double()]))
    settings = pool(30), 5, model, Labels.empty(3)
    plain = DisagreementQuery().propose(*settings, torch.Generator().manual_seed(3))
    graded = GradedQuery(DisagreementQuery()).propose(*settings, torch.Generator().manual_seed(3))
    assert graded.kind == "graded" and torch.equal(plain.start, graded.start)
    assert GradedQuery(DisagreementQuery()).needs == {"returns"} and GradedQuery().at_random().kinds == {"graded"}
    with pytest.raises(UserError, match="GradedQuery got RankedListQuery for its pairs"):
        GradedQuery(RankedListQuery())


@pytest.mark.parametrize(
    "strategy", [GradedQuery(), GradedQuery(DisagreementQuery()), BestOfQuery(), BestOfQuery(3, "disagreement")]
)
def test_they_are_strategies(strategy: QueryStrategy) -> None:
    check_query(strategy)
