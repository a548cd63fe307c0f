"""NCE, CPC and what makes a value of examples, against numbers worked out by hand and slow loops."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_pbrl.losses.contrastive_control import (
    EXP_LIMIT,
    contrastive_metrics,
    cpc_loss,
    example_value,
    mixed_actor_loss,
    nce_loss,
)

MODES = ("sample_logit", "sample_exp", "mean_exp", "max", "logsumexp")
LN3 = math.log(3.0)
SMALL = torch.tensor([[[LN3, 0.0], [-LN3, 0.0]]])  # sigmoids 3/4, 1/2, 1/4, 1/2


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_nce_by_hand() -> None:
    # diagonal ln 3 (-ln 3/4) and 0 (-ln 1/2), off it 0 (-ln 1/2) and -ln 3 (-ln(1 - 1/4))
    expected = -(math.log(0.75) + math.log(0.5) + math.log(0.5) + math.log(0.75)) / 4
    assert nce_loss(SMALL).item() == pytest.approx(expected)


def test_nce_gradient_is_probability_minus_label_over_all_entries() -> None:
    logits = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(nce_loss(logits), logits)
    for e in range(2):
        for i in range(4):
            for j in range(4):
                assert gradient[e, i, j].item() == pytest.approx((sigmoid(logits[e, i, j].item()) - (i == j)) / 32)


def test_nce_is_binary_cross_entropy_and_the_twins_are_averaged() -> None:
    logits = 5 * torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(1))
    expected = F.binary_cross_entropy_with_logits(logits, torch.eye(6).expand(2, -1, -1))
    torch.testing.assert_close(nce_loss(logits), expected)
    torch.testing.assert_close(nce_loss(logits), (nce_loss(logits[:1]) + nce_loss(logits[1:])) / 2)


def test_cpc_by_hand() -> None:
    # row 0: ln(3 + 1) = ln 4, minus ln 3; row 1: ln(1/3 + 1) = ln(4/3), minus 0; penalties .01 of the squares
    a, b = math.log(4.0), math.log(4.0 / 3.0)
    assert cpc_loss(SMALL).item() == pytest.approx(((a - LN3 + 0.01 * a * a) + (b + 0.01 * b * b)) / 2)


def test_cpc_gradient_against_a_loop() -> None:
    logits = torch.randn(1, 3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(cpc_loss(logits), logits)
    rows = logits.detach()[0].tolist()
    for i, row in enumerate(rows):
        total = sum(math.exp(x) for x in row)
        for j, x in enumerate(row):
            softmax = math.exp(x) / total
            expected = (softmax - (i == j) + 0.02 * math.log(total) * softmax) / 3
            assert gradient[0, i, j].item() == pytest.approx(expected)


def test_metrics_by_hand() -> None:
    logits = torch.tensor([[[2.0, 3.0, -1.0], [-1.0, 1.0, 0.5], [-2.0, -3.0, -1.0]]])
    # right of sign: row 0 true 2 > 0 yes, 3 no, -1 yes; row 1 yes, yes, .5 no; row 2 yes, yes, true -1 no: 6 of 9
    found = contrastive_metrics(logits)
    assert found["binary_accuracy"].item() == pytest.approx(6 / 9)
    assert found["categorical_accuracy"].item() == pytest.approx(2 / 3)
    assert found["logits_pos"].item() == pytest.approx(2 / 3)
    assert found["logits_neg"].item() == pytest.approx((3 - 1 - 1 + 0.5 - 2 - 3) / 6)
    totals = [math.log(sum(math.exp(x) for x in row)) for row in logits[0].tolist()]
    assert found["logsumexp"].item() == pytest.approx(sum(totals) / 3)


LOGITS = torch.tensor([[[0.0, math.log(3.0)]], [[math.log(2.0), math.log(2.0)]]])  # twins, one action, two examples


@pytest.mark.parametrize(
    ("mode", "value"),
    [
        ("sample_logit", LN3 / 2),  # means ln 3 / 2 and ln 2
        ("sample_exp", 2.0),  # means of exp: 2 and 2
        ("mean_exp", 2.0),
        ("max", math.log(2.0)),  # each twin's largest, ln 3 and ln 2; then the smaller
        ("logsumexp", math.log(4.0)),  # ln(1 + 3) and ln(2 + 2), not divided by 2
    ],
)
def test_modes_aggregate_within_a_twin_first(mode: str, value: float) -> None:
    assert example_value(LOGITS, mode).tolist() == pytest.approx([value])  # type: ignore[arg-type]


def test_with_one_example_all_modes_agree_up_to_the_exponential() -> None:
    logits = torch.randn(2, 5, 1, generator=torch.Generator().manual_seed(3))
    smaller = logits.amin(0).squeeze(-1)
    for mode in MODES:
        expected = smaller.exp() if mode.endswith("exp") and mode != "logsumexp" else smaller
        torch.testing.assert_close(example_value(logits, mode), expected)


@pytest.mark.parametrize("mode", ["sample_exp", "mean_exp"])
def test_exponentiated_logits_stay_finite_and_are_flat_above_the_limit(mode: str) -> None:
    logits = torch.tensor([[[19.0, 1.0], [100.0, 1.0], [1e4, 1e4]]], requires_grad=True)
    value = example_value(logits, mode)  # type: ignore[arg-type]
    e = math.exp(1.0)
    expected = [(math.exp(19) + e) / 2, (math.exp(EXP_LIMIT) + e) / 2, math.exp(EXP_LIMIT)]
    assert value.tolist() == pytest.approx(expected)
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    assert gradient[0, 0].tolist() == pytest.approx([math.exp(19) / 2, e / 2])
    assert gradient[0, 1].tolist() == pytest.approx([0.0, e / 2]) and gradient[0, 2].tolist() == [0.0, 0.0]


def test_actor_loss_is_a_convex_combination() -> None:
    value, cloning = torch.tensor([1.0, -3.0]), torch.tensor([2.0, 6.0])
    assert mixed_actor_loss(value, cloning, 0.25).item() == pytest.approx(0.25 * 4 + 0.75 * 1)
    assert mixed_actor_loss(value, cloning, 1.0).item() == pytest.approx(4.0)
    assert mixed_actor_loss(value, cloning, 0.0).item() == pytest.approx(1.0)
    cost = 0.5 * torch.tensor([4.0, 2.0])
    assert mixed_actor_loss(value, cloning, 0.25, cost).item() == pytest.approx(0.25 * 4 + 0.75 * (1 + 1.5))


@pytest.mark.parametrize("mode", MODES)
def test_actor_gradient_of_each_mode_against_finite_differences(mode: str) -> None:
    logits = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64, requires_grad=True)

    def loss(x: Tensor) -> Tensor:
        return mixed_actor_loss(example_value(x, mode), torch.ones(3, dtype=torch.float64), 0.5)  # type: ignore[arg-type]

    assert torch.autograd.gradcheck(loss, logits)
