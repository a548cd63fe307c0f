"""Draws against plain loops and exact laws: what an update gets depends on its number alone."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.engine import Among, Below, Draw, Group, Normal, Passes, Program, Rows, Uniform, UpdateEngine
from lightning_pbrl.engine.draws import Drawn, Place, Streams, block_dependent, updates_of
from lightning_pbrl.rng import derive, stream

TABLE = torch.tensor([3, 5, 8, 13, 21])
OBS = torch.zeros(22, 1)
SOURCE = Transitions.from_columns(OBS, OBS, OBS, torch.tensor([0, 22]), drawable=TABLE)


def letters(rng: torch.Generator) -> Tensor:
    """Ten things in a random order, and the negative of each below it, (2, 10)."""
    order = 100 + torch.randperm(10, generator=rng)
    return torch.stack([order, -order])


class Nested(Draw):
    """A tuple and a mapping."""

    width = 2

    def __call__(self, u: Tensor, place: Place) -> tuple[Tensor, dict[str, Tensor]]:
        return u[:, 0], {"second": u[:, 1] * 2, "number": place.first + torch.arange(len(u))}


DRAWS: dict[str, Draw] = {
    "uniform": Uniform(3, 2),
    "scalar": Uniform(),
    "of a size that is asked": Uniform(lambda: 3, 2),
    "normal": Normal(4, 5),
    "below": Below(7, 5),
    "below, asked": Below(lambda: 9, 2),
    "rows": Rows(SOURCE, 6),
    "among": Among(TABLE, 2, 3),
    "nested": Nested(),
    "passes, short": Passes(lambda: 10, 4),
    "passes, one batch": Passes(lambda: 3, 8),
    "passes, full": Passes(lambda: 10, 4, "full"),
    "passes, full and wide": Passes(lambda: 3, 8, "full"),
    "passes, parts": Passes(lambda: 10, 4, lambda: 3),
    "passes of members, short": Passes(lambda: 10, 4, members=3),
    "passes of members, full": Passes(lambda: 10, 4, "full", members=3),
    "passes of members, parts": Passes(lambda: 10, 4, lambda: 3, members=3),
    "things in passes": Passes(lambda: 10, 4, "full", order=letters),
}


def draw(draws: dict[str, Draw], seed: int, blocks: Sequence[int]) -> list[Drawn]:
    """The updates of a phase, drawn in blocks of these sizes."""
    streams, found = Streams(seed), []
    for updates in blocks:
        found += updates_of(streams.block(draws, updates, len(found)), updates)
    return found


def same(one: Any, two: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(tree_leaves(one), tree_leaves(two), strict=True))


# Blocks -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DRAWS)
def test_the_size_of_a_block_does_not_matter(name: str) -> None:
    draws = {"x": DRAWS[name]}
    whole = draw(draws, 5, [14])
    assert len(whole) == 14 and not same(whole[0], whole[1])
    for blocks in ([1] * 14, [2] * 7, [7, 7], [3, 1, 8, 2]):
        assert same(whole, draw(draws, 5, blocks)), blocks
    assert block_dependent(draws) is None


@pytest.mark.parametrize("name", DRAWS)
def test_another_seed_draws_other_numbers(name: str) -> None:
    """That of another replica, or another phase; and equal seeds draw equal ones."""
    draws = {"x": DRAWS[name]}
    one, two, again = (tree_leaves(draw(draws, seed, [4])) for seed in (5, 6, 5))
    drawn = [torch.equal(a, b) for a, b in zip(one, two, strict=True)]
    assert not all(drawn) and same(one, again)


def test_one_more_draw_moves_no_other() -> None:
    alone = draw({"rows": Below(50, 8), "order": Passes(lambda: 10, 4)}, 3, [5, 2])
    more = draw({"first": Uniform(3), "rows": Below(50, 8), "noise": Normal(7), "order": Passes(lambda: 10, 4)}, 3, [2, 5])
    assert same(alone, [{"rows": each["rows"], "order": each["order"]} for each in more])


def test_draws_of_one_kind_have_numbers_of_their_own() -> None:
    (found,) = draw(
        {"one": Uniform(50), "two": Uniform(50), "order": Passes(lambda: 50, 50), "other": Passes(lambda: 50, 50)}, 0, [1]
    )
    assert not torch.equal(found["one"], found["two"]) and not torch.equal(found["order"], found["other"])
    assert abs(float(torch.corrcoef(torch.stack([found["one"], found["two"]]))[0, 1])) < 0.5


def test_a_draw_that_depends_on_the_block_is_named() -> None:
    class Jittered(Uniform):
        def __call__(self, u: Tensor, place: Place) -> Tensor:
            return super().__call__(u, place) + len(u)

    assert block_dependent({"fine": Uniform(2), "jitter": Jittered(2), "also fine": Normal(1)}) == "jitter"


def test_no_draws_are_updates_all_the_same() -> None:
    assert updates_of(Streams(0).block({}, 3), 3) == [{}, {}, {}]


def test_replicas_are_stacked() -> None:
    """What an engine draws for all replicas at once is what it draws for each of them, and what its seed draws alone."""

    class Owner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(1))

    def engine() -> UpdateEngine:
        return UpdateEngine(owner, {"w": Group(1.0)}, {"main": Program([], DRAWS)}, [4, 9, 6], compile=False)

    owner = Owner()
    first, second = engine(), engine()
    together = first.drawn("main", 5)
    assert len(together) == 5
    for replica, seed in enumerate((4, 9, 6)):
        alone = second.drawn("main", 5, replica)
        assert same(alone, draw(DRAWS, seed, [5]))
        assert all(torch.equal(a[replica], b) for a, b in zip(tree_leaves(together), tree_leaves(alone), strict=True))


# Laws -------------------------------------------------------------------------------------------------------------------


def test_uniform_numbers_come_one_after_the_other() -> None:
    rng = stream(5, "x")
    expected = [[torch.rand(1, generator=rng, dtype=torch.float64).item() for _ in range(6)] for _ in range(20)]
    found = draw({"x": Uniform(3, 2)}, 5, [20])
    assert [each["x"].flatten().tolist() for each in found] == expected
    assert found[0]["x"].shape == (3, 2) and found[0]["x"].dtype == torch.float64


def test_normal_numbers_are_the_quantiles_of_uniform_ones() -> None:
    law = statistics.NormalDist()
    uniform = draw({"x": Uniform(3, 2)}, 5, [20])
    normal = draw({"x": Normal(3, 2)}, 5, [20])
    for one, two in zip(uniform, normal, strict=True):
        assert two["x"].shape == (3, 2) and two["x"].dtype == torch.float32
        expected = [law.inv_cdf(u) for u in one["x"].flatten().tolist()]
        torch.testing.assert_close(two["x"].flatten(), torch.tensor(expected), rtol=1e-6, atol=1e-6)


def test_normal_numbers_have_the_laws_moments() -> None:
    """Bounds of four standard deviations of each estimate."""
    n = 200_000
    (found,) = draw({"x": Normal(n)}, 0, [1])
    x = found["x"].double()
    for power, moment, spread in ((1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)):
        assert abs(float((x**power).mean()) - moment) < 4 * (spread / n) ** 0.5
    ends = Normal(2)(torch.tensor([[0.0, 1 - 2**-53]], dtype=torch.float64), Place(0, 0))
    assert -9 < ends[0, 0] < -8 and 8 < ends[0, 1] < 9


def test_normal_numbers_are_those_of_the_inverse_distribution_function() -> None:
    """Also near both ends, where 2 u - 1 has the fewest digits left; uniform numbers stay as they are."""
    ends = torch.tensor([2.0**-k for k in range(1, 54)], dtype=torch.float64)
    u = torch.cat([ends, 1 - ends, torch.rand(10_000, dtype=torch.float64)])[None]
    before = u.clone()
    torch.testing.assert_close(Normal(u.shape[1])(u, Place(0, 0)), torch.special.ndtri(u).float(), rtol=2e-7, atol=0.0)
    assert torch.equal(u, before)


@pytest.mark.parametrize("count", [1, 2, 7, 1_000_003])
def test_whole_numbers_below(count: int) -> None:
    uniform, whole = (draw({"x": each}, 5, [50]) for each in (Uniform(4), Below(count, 4)))
    for one, two in zip(uniform, whole, strict=True):
        assert two["x"].tolist() == [int(u * count) for u in one["x"].tolist()] and two["x"].dtype == torch.int64


def test_the_largest_uniform_number_stays_below() -> None:
    counts = [*range(1, 2_000), 2**31 - 1, 2**31, 10**9 + 7]
    ends = [Below(count, 1)(torch.tensor([[1 - 2**-53]], dtype=torch.float64), Place(0, 0)).item() for count in counts]
    assert ends == [count - 1 for count in counts]


@pytest.mark.parametrize(
    ("law", "values"), [(Below(5, 20_000), range(5)), (Rows(SOURCE, 20_000), TABLE), (Among(TABLE, 20_000), TABLE)]
)
def test_all_are_equally_likely(law: Draw, values: Sequence[int] | Tensor) -> None:
    """Chi-square of four degrees of freedom; 23.5 is its 99.99 % quantile."""
    (found,) = draw({"x": law}, 1, [1])
    seen = torch.tensor([(found["x"] == value).sum() for value in values]).double()
    assert seen.sum() == 20_000
    assert float(((seen - 4_000) ** 2 / 4_000).sum()) < 23.5


def test_what_there_is_is_asked_when_a_block_is_drawn() -> None:
    things = [10]
    streams, draws = Streams(2), {"x": Below(lambda: things[0], 200)}
    first = streams.block(draws, 1)["x"]
    things[0] = 1_000
    second = streams.block(draws, 1, 1)["x"]
    assert first.max() < 10 and 900 < second.max() < 1_000


# Passes -----------------------------------------------------------------------------------------------------------------


def orders(seed: int, passes: int, count: int, members: int | None) -> list[Tensor]:
    """The orders of passes of the draw "x", (members, n) each; (1, n) for a single one."""
    found = []
    for number in range(passes):
        rng = stream(derive(seed, "x"), "pass", number)
        found.append(torch.stack([torch.randperm(count, generator=rng) for _ in range(members or 1)]))
    return found


@pytest.mark.parametrize("members", [None, 3])
@pytest.mark.parametrize(("count", "size"), [(10, 4), (12, 4), (3, 8), (1, 1), (50, 7)])
def test_short_passes_are_a_plain_loop(count: int, size: int, members: int | None) -> None:
    expected = []
    for order in orders(5, 4, count, members):
        expected += [order[:, at : at + size].tolist() for at in range(0, count, size)]
    found = [each["x"] for each in draw({"x": Passes(lambda: count, size, members=members)}, 5, [len(expected)])]
    assert all(x.dim() == (1 if members is None else 2) for x in found)
    assert [x.view(members or 1, -1).tolist() for x in found] == expected


@pytest.mark.parametrize("members", [None, 3])
@pytest.mark.parametrize(("count", "size"), [(10, 4), (12, 4), (3, 8), (1, 1), (50, 7)])
def test_full_passes_are_a_plain_loop(count: int, size: int, members: int | None) -> None:
    """One endless row of passes, cut into minibatches of one size."""
    row = torch.cat(orders(5, 40, count, members), dim=1)
    updates = row.shape[1] // size
    found = [each["x"] for each in draw({"x": Passes(lambda: count, size, "full", members=members)}, 5, [updates])]
    expected = [row[:, at * size : (at + 1) * size].tolist() for at in range(updates)]
    assert [x.view(members or 1, -1).tolist() for x in found] == expected


@pytest.mark.parametrize("members", [None, 3])
@pytest.mark.parametrize(("count", "number"), [(10, 3), (12, 4), (7, 1), (5, 5), (3, 5)])
def test_passes_of_a_given_number_of_minibatches(count: int, number: int, members: int | None) -> None:
    """Of nearly equal size, the larger ones first; some are empty where there are more of them than things."""
    draws = {"x": Passes(lambda: count, 99, lambda: number, members=members)}
    found = [each["x"].view(members or 1, -1) for each in draw(draws, 5, [3 * number])]
    sizes = [x.shape[1] for x in found]
    assert sizes == [count // number + (place < count % number) for place in range(number)] * 3
    for place, order in enumerate(orders(5, 3, count, members)):
        assert torch.cat(found[place * number : (place + 1) * number], dim=1).tolist() == order.tolist()


@pytest.mark.parametrize("members", [None, 3])
@pytest.mark.parametrize("ends", ["short", "full", lambda: 5])
def test_every_pass_is_a_permutation(ends: Any, members: int | None) -> None:
    """Twenty things in five minibatches, four passes: no two orders are the same, those of members included."""
    found = [each["x"].view(members or 1, 4) for each in draw({"x": Passes(lambda: 20, 4, ends, members)}, 5, [20])]
    passes = torch.cat(found, dim=1).view(-1, 4, 20).flatten(0, 1)
    assert all(sorted(order.tolist()) == list(range(20)) for order in passes)
    assert len({tuple(order.tolist()) for order in passes}) == 4 * (members or 1)


def test_the_first_place_of_a_pass_is_taken_by_all_equally_often() -> None:
    """Chi-square of nine degrees of freedom; 33.7 is its 99.99 % quantile."""
    found = draw({"x": Passes(lambda: 10, 10)}, 0, [3_000])
    seen = torch.bincount(torch.stack([each["x"][0] for each in found]), minlength=10).double()
    assert float(((seen - 300) ** 2 / 300).sum()) < 33.7


def test_things_can_stand_for_their_numbers() -> None:
    found = [each["x"] for each in draw({"x": Passes(lambda: 10, 4, "full", order=letters)}, 5, [5])]
    row = torch.cat(found, dim=-1)
    assert all(x.shape == (2, 4) for x in found) and torch.equal(row[0], -row[1])
    assert all(sorted(row[0, at:end].tolist()) == list(range(100, 110)) for at, end in pairwise((0, 10, 20)))


def test_a_phase_begins_with_what_there_is_then() -> None:
    """The same seed again, with more things: nothing of the earlier passes is left."""
    things = [3]
    for ends in ("short", "full", lambda: 1):
        draws: dict[str, Draw] = {"x": Passes(lambda: things[0], 6, ends)}  # type: ignore[arg-type]
        things[0] = 3
        draw(draws, 5, [1])
        things[0] = 6
        (found,) = draw(draws, 5, [1])
        assert sorted(found["x"].tolist()) == list(range(6))
