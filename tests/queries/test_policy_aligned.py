"""The window of newest episodes around any other strategy."""

from __future__ import annotations

import pytest
import torch

from lightning_pbrl.data.feedback import Answer, Labels, Query
from lightning_pbrl.data.segments import Episodes, SegmentPool
from lightning_pbrl.errors import UserError
from lightning_pbrl.queries.disagreement import DisagreementQuery
from lightning_pbrl.queries.policy_aligned import PolicyAlignedQuery
from lightning_pbrl.queries.ranked_list import RankedListQuery
from lightning_pbrl.queries.uniform import UniformQuery

POOL = SegmentPool(Episodes(torch.tensor([0, 30, 60])), 10)


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


class Rows:
    """Two members that disagree the more the later the second segment begins."""

    def returns(self, query: Query) -> torch.Tensor:
        start = query.start.float() / 20
        return torch.stack([start, -start])


def test_it_asks_what_the_inner_strategy_asks() -> None:
    proposed = PolicyAlignedQuery().propose(POOL, 5, Rows(), Labels.empty(), rng())  # type: ignore[arg-type]
    uniform = UniformQuery().propose(POOL, 5, Rows(), Labels.empty(), rng())  # type: ignore[arg-type]
    assert torch.equal(proposed.start, uniform.start) and len(proposed) == 5
    inner = DisagreementQuery()
    proposed = PolicyAlignedQuery(3, inner).propose(POOL, 5, Rows(), Labels.empty(), rng())  # type: ignore[arg-type]
    assert torch.equal(proposed.start, inner.propose(POOL, 5, Rows(), Labels.empty(), rng()).start)  # type: ignore[arg-type]
    assert not torch.equal(proposed.start, uniform.start)


def test_it_needs_what_the_inner_strategy_needs() -> None:
    assert PolicyAlignedQuery().needs == frozenset() and not PolicyAlignedQuery().sequential
    assert PolicyAlignedQuery(inner=DisagreementQuery()).needs == {"returns"}
    assert PolicyAlignedQuery(inner=RankedListQuery()).sequential
    assert PolicyAlignedQuery().recent == 10 and UniformQuery().recent is None


def test_the_inner_strategy_hears_and_tells() -> None:
    class Listening(UniformQuery):
        heard = 0

        def observe(self, query: Query, answer: Answer) -> None:
            self.heard += len(query)

        def metrics(self) -> dict[str, float]:
            return {"query/heard": float(self.heard)}

    strategy = PolicyAlignedQuery(inner=Listening())
    query = strategy.propose(POOL, 4, Rows(), Labels.empty(), rng())  # type: ignore[arg-type]
    strategy.observe(query, Answer(torch.ones(4), torch.ones(4, dtype=torch.int64)))
    assert strategy.metrics() == {"query/heard": 4.0}


def test_settings_are_written_down_and_checked() -> None:
    assert PolicyAlignedQuery(30).describe() == {"class": "PolicyAlignedQuery", "recent": 30, "inner": {"class": "UniformQuery"}}
    with pytest.raises(UserError, match="PolicyAlignedQuery got recent=0: give a number of at least 1"):
        PolicyAlignedQuery(0)
