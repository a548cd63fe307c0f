"""The planner alone: it finds maxima, stays in range, asks in chunks and repeats itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.cem import CEM

PEAKS = torch.tensor([[0.3, -0.6, 0.0], [-0.9, 0.2, 0.7]])


def hill(action: Tensor) -> Tensor:
    """-|a - peak|^2 with correlated entries, for two states: (2, n, 3) -> (2, n)."""
    away = action - PEAKS[:, None]
    return -away.square().sum(-1) - 1.5 * away[..., 0] * away[..., 1]


def test_it_finds_the_maximum_of_a_known_score() -> None:
    found = CEM(candidates=500, elites=50).best(hill, states=2, action_dim=3)
    assert (found - PEAKS).abs().max() < 0.02


def test_a_maximum_on_the_border() -> None:
    found = CEM(candidates=300, elites=30).best(lambda a: a.sum(-1), states=1, action_dim=2)
    assert found.tolist() == [[1.0, 1.0]]


def test_chunks_bound_what_is_asked_at_once_and_change_nothing() -> None:
    asked: list[torch.Size] = []

    def score(action: Tensor) -> Tensor:
        asked.append(action.shape)
        return hill(action)

    whole = CEM(candidates=90, elites=10, iterations=3).best(hill, 2, 3)
    parts = CEM(candidates=90, elites=10, iterations=3, chunk=40).best(score, 2, 3)
    assert torch.equal(whole, parts)
    assert {shape[1] for shape in asked} == {20, 10} and len(asked) == 3 * 5  # 40 rows are 20 candidates of 2 states


def test_the_answer_is_the_best_candidate_of_the_last_iteration() -> None:
    seen: list[Tensor] = []

    def score(action: Tensor) -> Tensor:
        seen.append(action)
        return hill(action)

    found = CEM(candidates=30, elites=5, iterations=2).best(score, 2, 3)
    last = seen[-1]
    assert torch.equal(found, last[torch.arange(2), hill(last).argmax(1)])
    assert not torch.equal(seen[0], seen[1])


def test_it_draws_from_a_stream_of_its_own() -> None:
    one, two, other = (CEM(candidates=20, elites=5, iterations=1, seed=s) for s in (1, 1, 2))
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = one.best(hill, 2, 3)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, two.best(hill, 2, 3)) and not torch.equal(first, other.best(hill, 2, 3))
    assert torch.equal(first, one.best(hill, 2, 3))  # nothing is left over from what was planned before
    assert torch.equal(one.best(hill, 2, 3, replica=1), other.best(hill, 2, 3))


def test_a_state_is_planned_alike_whatever_else_is_in_the_batch() -> None:
    peaks = torch.tensor([[0.3, -0.6], [-0.9, 0.2], [0.1, 0.8]])
    cem = CEM(candidates=40, elites=8, iterations=3)
    together = cem.best(lambda a: -(a - peaks[:, None]).square().sum(-1), 3, 2)
    for i in range(3):
        alone = cem.best(lambda a, i=i: -(a - peaks[i]).square().sum(-1), 1, 2)  # type: ignore[misc]
        torch.testing.assert_close(alone, together[i : i + 1])
    assert (together - peaks).norm(dim=1).max() > 1e-3  # so few candidates leave an error, by which draws can be told apart


def test_no_states_no_actions() -> None:
    def never(action: Tensor) -> Tensor:
        raise AssertionError

    assert CEM().best(never, 0, 3).shape == (0, 3)


def test_no_matrix_of_candidates_by_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the critic of LAEO nothing is larger than candidates x hidden or candidates x examples."""
    from torch.utils._python_dispatch import TorchDispatchMode

    from lightning_pbrl.methods.laeo import LAEO

    largest = 0

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor):
                largest = max(largest, out.numel())
            return out

    method = LAEO({"obs_dim": 5, "action_dim": 2, "horizon": 3}, hidden=(16,), repr_dim=8, planner="cem", cem_candidates=2_000)
    method.configure_model()
    method.use_examples(torch.randn(12, 5))
    with torch.no_grad(), Sizes():
        method.act(torch.zeros(1, 5))
    assert 2_000 * 16 <= largest <= 2 * 2_000 * 16


@pytest.mark.parametrize("settings", [{"elites": 300, "candidates": 200}, {"elites": 1}, {"iterations": 0}, {"chunk": 0}])
def test_numbers_that_make_no_sense(settings: dict[str, int]) -> None:
    with pytest.raises(UserError, match="CEM got iterations="):
        CEM(**settings)
