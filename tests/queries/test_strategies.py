"""Query strategies: acquisition functions by hand, and the pair that was built to be chosen is chosen."""

from __future__ import annotations

import math
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lightning_pbrl.data.feedback import Labels, Query, Status
from lightning_pbrl.data.segments import Episodes, SegmentPool
from lightning_pbrl.errors import UserError
from lightning_pbrl.queries.base import QueryStrategy, best
from lightning_pbrl.queries.disagreement import DisagreementQuery, disagreement
from lightning_pbrl.queries.entropy import EntropyQuery, entropy
from lightning_pbrl.queries.kcenter import KCenterDisagreementQuery, KCenterEntropyQuery, KCenterQuery, k_center
from lightning_pbrl.queries.uniform import UniformQuery

LENGTH = 3
POOL = SegmentPool(Episodes(torch.tensor([0, 40, 100])), LENGTH)
STRATEGIES = [
    UniformQuery(),
    DisagreementQuery(),
    EntropyQuery(),
    KCenterQuery(),
    KCenterDisagreementQuery(),
    KCenterEntropyQuery(),
]


class Table:
    """A scorer with given member rewards and observations per row."""

    def __init__(self, reward: Tensor, obs: Tensor) -> None:
        self.reward, self.obs = reward, obs  # (E, N), (N, O)

    def _rows(self, query: Query) -> Tensor:
        return query.start.unsqueeze(-1) + torch.arange(query.length)

    def returns(self, query: Query) -> Tensor:
        return self.reward[:, self._rows(query)].sum(-1)

    def observations(self, query: Query) -> Tensor:
        return self.obs[self._rows(query)]


def table(members: int = 3) -> Table:
    rng = torch.Generator().manual_seed(0)
    return Table(torch.randn(members, 100, generator=rng), torch.randn(100, 4, generator=rng))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def test_disagreement_by_hand() -> None:
    # P over three members: (.2, .5, .8): mean .5, variance (.09 + 0 + .09) / 3; the second pair: all alike.
    gap = torch.tensor([[logit(0.2), 2.0], [0.0, 2.0], [logit(0.8), 2.0]])
    returns = torch.stack([torch.ones_like(gap), 1 + gap], dim=-1)
    torch.testing.assert_close(disagreement(returns), torch.tensor([math.sqrt(0.06), 0.0]))
    torch.testing.assert_close(disagreement(returns.flip(-1)), torch.tensor([math.sqrt(0.06), 0.0]))


def test_entropy_by_hand() -> None:
    def bernoulli(p: float) -> float:
        return -p * math.log(p) - (1 - p) * math.log(1 - p)

    gap = torch.tensor([[0.0, logit(0.9), 1000.0], [logit(0.25), logit(0.1), -1000.0]])
    returns = torch.stack([torch.zeros_like(gap), gap], dim=-1)
    expected = torch.tensor([(math.log(2) + bernoulli(0.25)) / 2, bernoulli(0.1), 0.0])
    torch.testing.assert_close(entropy(returns), expected)


def test_best_keeps_the_earlier_of_equals() -> None:
    assert best(torch.tensor([1.0, 3.0, 2.0, 3.0, 2.0]), 4).tolist() == [1, 3, 2, 4]
    assert best(torch.tensor([1.0, 3.0]), 9).tolist() == [1, 0]


def test_one_member_cannot_disagree() -> None:
    with pytest.raises(UserError, match="Disagreement needs at least two ensemble members and the model has one"):
        DisagreementQuery().propose(POOL, 2, table(1), Labels.empty(), rng())


@pytest.mark.parametrize("strategy", [DisagreementQuery(30), KCenterDisagreementQuery(30, keep=0.01)])
def test_disagreement_finds_the_rows_built_to_disagree(strategy: QueryStrategy) -> None:
    # Members agree that everything is worth 0, but on rows 50..52: +9, 0, -9 in all.
    reward = torch.zeros(3, 100)
    reward[0, 50:53], reward[2, 50:53] = 3.0, -3.0
    query = strategy.propose(POOL, 4, Table(reward, table().obs), Labels.empty(), rng())
    holds = ((query.start >= 48) & (query.start <= 52)).any(1)  # at least one of the three rows is in the segment
    assert len(query) == 4
    assert holds.all()


@pytest.mark.parametrize("strategy", [EntropyQuery(30), KCenterEntropyQuery(30, keep=0.01)])
def test_entropy_finds_the_pairs_built_to_be_close(strategy: QueryStrategy) -> None:
    # Both members are sure which episode is better; only pairs within one episode are a coin toss.
    reward = torch.zeros(2, 100)
    reward[:, 40:] = 10.0
    query = strategy.propose(POOL, 4, Table(reward, table().obs), Labels.empty(), rng())
    assert torch.equal(query.start[:, 0] >= 40, query.start[:, 1] >= 40)


def test_top_n_of_the_candidates_that_were_drawn() -> None:
    model, candidates = table(), POOL.pairs(40, rng(7))
    order = disagreement(model.returns(candidates)).tolist()
    expected = sorted(range(40), key=lambda i: -order[i])[:4]
    query = DisagreementQuery(large_batch=10).propose(POOL, 4, model, Labels.empty(), rng(7))
    assert query.start.tolist() == candidates.start[expected].tolist()


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: type(strategy).__name__)
@pytest.mark.parametrize("n", [0, 1, 5])
def test_contract(strategy: QueryStrategy, n: int) -> None:
    model = table()
    query = strategy.propose(POOL, n, model, Labels.empty(), rng(3))
    assert (query.kind, query.length, tuple(query.start.shape)) == ("pair", LENGTH, (n, 2))
    legal = POOL.start(torch.arange(len(POOL)))
    assert torch.isin(query.start, legal).all()
    again = strategy.propose(POOL, n, model, Labels.empty(), rng(3))
    assert torch.equal(query.start, again.start)
    if n == 5:
        assert not torch.equal(query.start, strategy.propose(POOL, n, model, Labels.empty(), rng(4)).start)
    assert strategy.describe()["class"] == type(strategy).__name__


def test_needs_say_what_is_used() -> None:
    class Strict(Table):
        """Counts what is asked."""

        def __init__(self) -> None:
            super().__init__(table().reward, table().obs)
            self.asked: set[str] = set()

        def returns(self, query: Query) -> Tensor:
            self.asked.add("returns")
            return super().returns(query)

        def observations(self, query: Query) -> Tensor:
            self.asked.add("observations")
            return super().observations(query)

    for strategy in STRATEGIES:
        model = Strict()
        strategy.propose(POOL, 2, model, Labels.empty(), rng())
        assert model.asked == strategy.needs


# --- k-center ---------------------------------------------------------------------------------------------------------


def slow_k_center(features: Tensor, centres: Tensor, n: int) -> list[int]:
    """The textbook loop: all distances to all centres, at every pick, from differences in float64."""
    picks: list[int] = []
    for _ in range(n):
        known = torch.cat([centres, features[picks]]).double()
        nearest = [float(((known - point.double()) ** 2).sum(1).sqrt().min()) for point in features]
        picks.append(max(range(len(nearest)), key=nearest.__getitem__))
    return picks


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_k_center_picks_what_the_slow_loop_picks(offset: float) -> None:
    features = torch.randn(60, 50, generator=rng(1)) + offset  # far from the origin: where |x|^2 - 2xc + |c|^2 cancels
    centres = torch.randn(25, 50, generator=rng(2)) + offset
    features[10] = features[3]  # duplicates of each other and of a centre
    features[11] = centres[0]
    expected = slow_k_center(features, centres, 20)
    assert k_center(features.__getitem__, 60, [centres], 20).tolist() == expected
    assert k_center(features.__getitem__, 60, centres.split(7), 20).tolist() == expected  # blocks change nothing


def test_k_center_is_exact_where_each_pick_changes_many_points() -> None:
    """A walk in the plane, more points than are compared at a time."""
    walk = torch.randn(600, 2, generator=rng(3)).cumsum(0)
    assert k_center(walk.__getitem__, 600, [walk[:1]], 40).tolist() == slow_k_center(walk, walk[:1], 40)


def test_k_center_by_hand() -> None:
    # On a line, centre at 0: 10 is farthest; then 5 (5 from both) before 4 and 9; then 9's 1 ties with 4's, first wins.
    line = torch.tensor([[9.0], [10.0], [5.0], [4.0]])
    chosen = partial(k_center, line.__getitem__, 4)
    assert chosen([torch.zeros(1, 1)], 3).tolist() == [1, 2, 0]
    assert chosen([], 2).tolist() == [0, 3]  # no centre: the first point, then the one farthest from it
    assert sorted(chosen([], 9).tolist()) == [0, 1, 2, 3]
    assert chosen([], 0).tolist() == []


def test_k_center_never_picks_a_point_twice() -> None:
    assert sorted(k_center(torch.ones(6, 3).__getitem__, 6, [torch.ones(2, 3)], 6).tolist()) == list(range(6))


CHOOSE = """
import ctypes, sys
from pathlib import Path
import torch
from lightning_pbrl.queries.kcenter import BLOCK, k_center

def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key))

torch.set_num_threads(1)
data = torch.randn(10_000, 40, generator=torch.Generator().manual_seed(0))
start = torch.randint(9_900, (10_000,), generator=torch.Generator().manual_seed(1))
for width in range(32, 40):  # whether free blocks are used again depends on the sizes
    features = lambda index: data[start[index, None] + torch.arange(100)][..., :width].flatten(1)
    features(torch.arange(BLOCK)) @ features(torch.arange(BLOCK)).T  # what the library for products keeps
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = status("VmRSS")
    k_center(features, 10_000, [], int(sys.argv[1]))
    print(status("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak")
def test_k_center_holds_the_picks_and_a_few_blocks_of_features() -> None:
    """The features of all 10,000 points are 156 MB, a block is 4 MB, 30 picks are .5 MB."""
    done = subprocess.run([sys.executable, "-c", CHOOSE, "30"], check=True, stdout=subprocess.PIPE, text=True)
    assert max(map(int, done.stdout.split())) < 50e6


def test_labelled_pairs_are_centres_and_skipped_ones_are_not() -> None:
    model, strategy = table(), KCenterQuery(large_batch=20)
    candidates = POOL.pairs(60, rng(5))
    answered = POOL.pairs(20, rng(9)).start
    features = model.observations(candidates).flatten(1)
    centres = model.observations(Query("pair", answered, LENGTH)).flatten(1)
    assert features.shape == (60, 2 * LENGTH * 4)
    expected = candidates.start[slow_k_center(features, centres, 3)]
    # The very pairs that should be chosen were skipped before: as centres they would be the last to be chosen.
    status = torch.tensor([int(Status.ANSWERED)] * 20 + [int(Status.SKIPPED)] * 3)
    labels = Labels(torch.cat([answered, expected]), LENGTH, torch.zeros(23), status)
    assert torch.equal(strategy.propose(POOL, 3, model, labels, rng(5)).start, expected)


@pytest.mark.parametrize("kind", [KCenterDisagreementQuery, KCenterEntropyQuery])
def test_hybrid_keeps_the_best_half_and_covers_it(kind: type[QueryStrategy]) -> None:
    model, candidates = table(), POOL.pairs(40, rng(5))
    score = {KCenterDisagreementQuery: disagreement, KCenterEntropyQuery: entropy}[kind](model.returns(candidates))
    kept = sorted(range(40), key=lambda i: -float(score[i]))[:20]
    features = model.observations(candidates).flatten(1)[kept]
    # Without labels the first centre is the best candidate; the slow loop starts from it.
    picks = [kept[0], *(kept[i] for i in slow_k_center(features, features[:1], 3))]
    assert torch.equal(kind().propose(POOL, 4, model, Labels.empty(), rng(5)).start, candidates.start[picks])


def test_labels_of_another_length_are_refused() -> None:
    labels = Labels(torch.zeros(1, 2, dtype=torch.int64), 7, torch.zeros(1), torch.tensor([int(Status.ANSWERED)]))
    with pytest.raises(UserError, match="The labels so far are of segments of 7 steps and the questions of 3"):
        KCenterQuery().propose(POOL, 2, table(), labels, rng())


def test_settings_out_of_range() -> None:
    with pytest.raises(UserError, match="EntropyQuery got large_batch=0: give a number of at least 1"):
        EntropyQuery(large_batch=0)
    with pytest.raises(UserError, match=r"KCenterEntropyQuery got keep=0\.0: give a number above 0 and at most 1"):
        KCenterEntropyQuery(keep=0.0)
