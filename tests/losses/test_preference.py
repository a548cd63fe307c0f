"""Losses and accuracies of pairs, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_pbrl.losses.preference import linear_cross_entropy, preference_accuracy, preference_cross_entropy, strict_share


def test_cross_entropy_by_hand() -> None:
    # exp(R) = (1, 3): P(second) = 3/4.
    returns = torch.tensor([[0.0, math.log(3)]]).repeat(3, 1)
    for label, loss in [(1.0, -math.log(0.75)), (0.0, -math.log(0.25)), (0.5, -0.5 * math.log(0.75 * 0.25))]:
        assert preference_cross_entropy(returns[:1], torch.tensor([label])).item() == pytest.approx(loss, rel=1e-6)
    mixed = preference_cross_entropy(returns, torch.tensor([1.0, 0.0, 0.5])).item()
    assert mixed == pytest.approx(-(1.5 * math.log(0.75) + 1.5 * math.log(0.25)) / 3, rel=1e-6)


def test_cross_entropy_is_per_member_and_finite_at_saturation() -> None:
    returns = torch.tensor([[[50.0, -50.0]], [[-50.0, 50.0]]])  # two members, one pair
    loss = preference_cross_entropy(returns, torch.tensor([1.0]))
    torch.testing.assert_close(loss, torch.tensor([100.0, 0.0]))
    own = preference_cross_entropy(returns, torch.tensor([[0.0], [1.0]]))  # members may see different batches
    torch.testing.assert_close(own, torch.zeros(2))


def test_cross_entropy_gradient_is_probability_minus_label() -> None:
    returns = torch.tensor([[0.0, math.log(3)]], requires_grad=True)
    preference_cross_entropy(returns, torch.tensor([0.0])).backward()
    torch.testing.assert_close(returns.grad, torch.tensor([[-0.75, 0.75]]))


def test_empty_batches_give_zero() -> None:
    returns, label = torch.empty(3, 0, 2), torch.empty(0)
    for value in (
        preference_cross_entropy(returns, label),
        linear_cross_entropy(returns, label, 5),
        preference_accuracy(returns, label),
    ):
        torch.testing.assert_close(value, torch.zeros(3))


def test_linear_score_by_hand() -> None:
    # T = 4, R = (-2, 2): s = (2, 6) + 1e-5, P(second) = 3/4 up to 1e-5.
    returns = torch.tensor([[-2.0, 2.0]], dtype=torch.float64)
    second = linear_cross_entropy(returns, torch.tensor([1.0]), 4).item()
    first = linear_cross_entropy(returns, torch.tensor([0.0]), 4).item()
    equal = linear_cross_entropy(returns, torch.tensor([0.5]), 4).item()
    assert second == pytest.approx(-math.log(6.00001 / 8.00002), abs=1e-12)
    assert first == pytest.approx(-math.log(2.00001 / 8.00002), abs=1e-12)
    assert equal == pytest.approx((first + second) / 2, abs=1e-12)


def test_linear_score_is_finite_at_the_lower_bound_and_leaves_its_input() -> None:
    returns = torch.tensor([[-50.0, 50.0]])  # all tanh outputs at -1, at 1
    loss = linear_cross_entropy(returns, torch.tensor([0.0]), 50).item()
    assert loss == pytest.approx(math.log(100 / 1e-5), rel=1e-3)
    torch.testing.assert_close(returns, torch.tensor([[-50.0, 50.0]]))


def test_accuracy_counts_strict_labels_only() -> None:
    # Right, wrong, right, equal (never counted).
    returns = torch.tensor([[0.0, 1.0], [0.0, 1.0], [2.0, 1.0], [0.0, 9.0]])
    label = torch.tensor([1.0, 0.0, 0.0, 0.5])
    assert preference_accuracy(returns, label).item() == pytest.approx(2 / 3)
    both = preference_accuracy(torch.stack([returns, -returns]), label)
    torch.testing.assert_close(both, torch.tensor([2 / 3, 1 / 3]))


def test_accuracy_margin_is_a_probability() -> None:
    logit = math.log(0.6 / 0.4)
    returns = torch.tensor([[0.0, logit + 1e-3], [0.0, logit - 1e-3], [logit + 1e-3, 0.0], [logit - 1e-3, 0.0]])
    label = torch.tensor([1.0, 1.0, 0.0, 0.0])
    assert preference_accuracy(returns, label, margin=0.1).item() == 0.5
    assert preference_accuracy(returns, label).item() == 1.0


def test_a_constant_model_is_never_right() -> None:
    assert preference_accuracy(torch.zeros(4, 2), torch.tensor([0.0, 1.0, 0.0, 1.0])).item() == 0.0
    assert preference_accuracy(torch.ones(2, 2), torch.tensor([0.5, 0.5])).item() == 0.0


def test_minibatches_of_a_pass_add_up_to_its_accuracy() -> None:
    """3 of 5 strict ones right, in minibatches of 4, 2 and 1, the last an equal pair alone."""
    label = torch.tensor([1.0, 0.0, 0.5, 1.0, 1.0, 0.0, 0.5])
    lead = torch.tensor([1.0, 1.0, 1.0, 1.0, -1.0, -1.0, 1.0])  # right, wrong, -, right, wrong, right, -
    returns = torch.stack([torch.zeros(7), lead], -1)
    total, strict = torch.zeros(()), label.ne(0.5).float().mean()
    for part in (slice(0, 4), slice(4, 6), slice(6, 7)):
        share = strict_share(label[part], strict)
        total += len(label[part]) * share * preference_accuracy(returns[part], label[part])
    assert (total / 7).item() == pytest.approx(3 / 5)
    assert strict_share(label[:4], strict).item() == pytest.approx((3 / 4) / (5 / 7))
    assert strict_share(label[2:3], torch.zeros(())).item() == 0.0  # no strict one at all
