"""Classifiers of examples and values without rewards: numbers by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from lightning_pbrl.losses.example_reward import binary_loss, positive_unlabelled_loss
from lightning_pbrl.losses.example_value import rce_loss, rce_ratio, sqil_loss, sqil_target

LN3 = math.log(3.0)
EXAMPLE, OTHER = torch.tensor([LN3, 0.0]), torch.tensor([-LN3, LN3])  # sigmoids 3/4, 1/2 and 1/4, 3/4
POSITIVE = -(math.log(0.75) + math.log(0.5)) / 2  # examples as successes
BLAMED = -(math.log(0.25) + math.log(0.5)) / 2  # examples as failures
NEGATIVE = -(math.log(0.75) + math.log(0.25)) / 2  # data as failures


def test_binary_loss_by_hand_and_as_a_mean_over_both_batches() -> None:
    assert binary_loss(EXAMPLE, OTHER).item() == pytest.approx((POSITIVE + NEGATIVE) / 2)
    both, labels = torch.cat([EXAMPLE, OTHER]), torch.tensor([1.0, 1.0, 0.0, 0.0])
    torch.testing.assert_close(binary_loss(EXAMPLE, OTHER), F.binary_cross_entropy_with_logits(both, labels))


@pytest.mark.parametrize("eta", [0.5, 1.0, 0.1])
def test_positive_unlabelled_loss_by_hand(eta: float) -> None:
    expected = (eta * POSITIVE + NEGATIVE - eta * BLAMED) / 2
    assert positive_unlabelled_loss(EXAMPLE, OTHER, eta).item() == pytest.approx(expected)


def test_at_eta_1_it_is_the_binary_loss_minus_the_blame() -> None:
    """And since -log s(x) + log(1 - s(x)) = -x, it is linear in the examples' logits: they are pushed up without end."""
    loss = positive_unlabelled_loss(EXAMPLE, OTHER, 1.0)
    torch.testing.assert_close(loss, binary_loss(EXAMPLE, OTHER) - 0.5 * F.softplus(EXAMPLE).mean())
    torch.testing.assert_close(loss, 0.5 * (F.softplus(OTHER).mean() - EXAMPLE.mean()))


def test_the_clamp_holds_the_failures_loss_at_zero() -> None:
    example, other = torch.tensor([4.0], requires_grad=True), torch.tensor([-4.0], requires_grad=True)
    free, held = (positive_unlabelled_loss(example, other, 0.5, clamp=c) for c in (False, True))
    good, bad = math.log1p(math.exp(-4)), math.log1p(math.exp(4))  # softplus(-4), softplus(4)
    assert free.item() == pytest.approx((0.5 * good + good - 0.5 * bad) / 2, rel=1e-5) and free.item() < 0
    assert held.item() == pytest.approx(0.25 * good, rel=1e-5)
    gradients = torch.autograd.grad(held, [example, other])
    assert gradients[1].item() == 0 and gradients[0].item() < 0
    torch.testing.assert_close(  # above zero the clamp does nothing
        positive_unlabelled_loss(EXAMPLE, OTHER, 0.5, clamp=True), positive_unlabelled_loss(EXAMPLE, OTHER, 0.5)
    )


def test_sqil_targets_and_loss_by_hand() -> None:
    # the data are paid nothing: .9 min(4, 3), and 0 after the end
    target = sqil_target(0.9, torch.tensor([0.0, 1.0]), torch.tensor([[4.0, 9.0], [3.0, 9.0]]))
    assert target.tolist() == pytest.approx([2.7, 0.0])
    # examples are worth 1 / (1 - .9) = 10: errors (0, 1)^2 and (-2, .3)^2 of the data, (-1, 0) and (2, 0) of the examples
    q, success = torch.tensor([[2.7, 1.0], [0.7, 0.3]]), torch.tensor([[9.0, 10.0], [12.0, 10.0]])
    assert sqil_loss(q, target, success, 0.9).item() == pytest.approx(0.5 + (4 + 0.09) / 2 + 0.5 + 2, rel=1e-5)


def test_rce_ratio_by_hand() -> None:
    # C = 3/4 and 1/2: the smaller twin, w = 1; limited to 5; 0 after the end
    logits = torch.tensor([[LN3, 10.0, 0.0], [0.0, 11.0, 2.0]])
    assert rce_ratio(logits, torch.tensor([0.0, 0.0, 1.0]), 5.0).tolist() == pytest.approx([1.0, 5.0, 0.0])


def test_rce_loss_is_its_weighted_cross_entropies() -> None:
    rng, g = torch.Generator().manual_seed(0), 0.9
    logits, success = (3 * torch.randn(2, 4, generator=rng) for _ in range(2))
    w = 4 * torch.rand(4, generator=rng)
    expected = torch.zeros(())
    for e in range(2):
        for i in range(4):
            c, y = torch.sigmoid(logits[e, i]), g * w[i] / (1 + g * w[i])
            expected = expected - (1 + g * w[i]) * (y * c.log() + (1 - y) * (1 - c).log()) / 4
            expected = expected - (1 - g) * torch.sigmoid(success[e, i]).log() / 4
    torch.testing.assert_close(rce_loss(logits, success, w, g), expected)


def test_the_minimum_of_rce_is_its_target() -> None:
    """One state: the gradient vanishes where C = g w / (1 + g w)."""
    g, w = 0.8, torch.tensor([2.5])
    at = (g * w).log()[None].requires_grad_()  # logit of g w / (1 + g w)
    (gradient,) = torch.autograd.grad(rce_loss(at, torch.full((1, 1), 30.0), w, g), at)
    assert gradient.abs().item() < 1e-6
