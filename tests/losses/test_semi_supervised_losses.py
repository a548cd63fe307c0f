"""Pseudo labels and their masked loss, and RUNE's bonus, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_pbrl.losses.exploration import bonus_weight, uncertainty
from lightning_pbrl.losses.semi_supervised import masked_preference_cross_entropy, pseudo_labels


def test_pseudo_labels_count_from_the_threshold_on() -> None:
    # sigmoid(ln 4) = 0.8, sigmoid(ln 19) = 0.95: three pairs, sure, unsure, sure the other way
    returns = torch.tensor([[0.0, math.log(19.0)], [math.log(4.0), 0.0], [math.log(19.0), 0.0]], requires_grad=True)
    label, sure = pseudo_labels(returns, 0.9)
    assert label.tolist() == [1.0, 0.0, 0.0] and sure.tolist() == [1.0, 0.0, 1.0]
    assert not label.requires_grad and not sure.requires_grad
    assert pseudo_labels(returns, 0.79)[1].tolist() == [1.0, 1.0, 1.0]


def test_masked_loss_divides_by_all_pairs() -> None:
    """Two of four pairs count: (-ln 0.8 - ln 0.25) / 4."""
    gap = [math.log(4.0), math.log(3.0), 5.0, -7.0]
    returns = torch.tensor([[0.0, g] for g in gap])
    label, mask = torch.tensor([1.0, 0.0, 1.0, 1.0]), torch.tensor([1.0, 1.0, 0.0, 0.0])
    expected = (-math.log(0.8) - math.log(0.25)) / 4
    assert float(masked_preference_cross_entropy(returns, label, mask)) == pytest.approx(expected, rel=1e-6)
    assert float(masked_preference_cross_entropy(returns, label, torch.zeros(4))) == 0.0


def test_bonus_by_hand() -> None:
    assert bonus_weight(0, 0.05, 1e-5) == 0.05
    assert bonus_weight(2, 0.05, 0.1) == pytest.approx(0.05 * 0.81)
    assert bonus_weight(100_000, 0.05, 1e-5) == pytest.approx(0.05 * math.exp(-1.0), rel=1e-4)
    # members 1, 2, 6: mean 3, population variance (4 + 1 + 9) / 3
    assert uncertainty(torch.tensor([[1.0], [2.0], [6.0]])).tolist() == pytest.approx([math.sqrt(14 / 3)])
