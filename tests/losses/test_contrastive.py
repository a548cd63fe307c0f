"""CLARIFY's losses: numbers by hand and by slow loops, for three mixes of labels and two similarities."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lightning_pbrl.losses.contrastive import (
    AmbiguityLoss,
    Pairing,
    Similarity,
    ambiguity_loss,
    anchor_loss,
    norm_loss,
    quadrilateral_loss,
    reconstruction_loss,
    similarity,
)

# Status of five pairs: "0" first preferred, "1" second preferred, "s" skipped.
MIXES = {"both": "01s1s", "clear": "01011", "skipped": "sssss"}
each_mix = pytest.mark.parametrize("mix", MIXES)
each_kind = pytest.mark.parametrize("kind", ["l2", "cosine"])


def sig(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def batch(mix: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Embeddings (5, 2, 3), labels (NaN where skipped, as the label store has it), clear, ambiguous."""
    z = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0))
    code = MIXES[mix]
    label = torch.tensor([float("nan") if c == "s" else float(c) for c in code])
    skipped = torch.tensor([c == "s" for c in code])
    return z, label, ~skipped, skipped


def slow_similarity(x: Tensor, y: Tensor, kind: Similarity) -> float:
    x_, y_ = x.tolist(), y.tolist()
    if kind == "l2":
        return -sum((a - b) ** 2 for a, b in zip(x_, y_, strict=True)) / len(x_)
    dot = sum(a * b for a, b in zip(x_, y_, strict=True))
    return dot / math.sqrt(sum(a * a for a in x_) * sum(b * b for b in y_))


def test_similarities_by_hand() -> None:
    x, y = torch.tensor([[1.0, 2.0], [0.0, 2.0]]), torch.tensor([[4.0, 6.0], [0.0, -1.0]])
    assert similarity(x, y, "l2").tolist() == [-(9 + 16) / 2, -9 / 2]
    torch.testing.assert_close(similarity(x, y, "cosine"), torch.tensor([16 / math.sqrt(5 * 52), -1.0]))


def test_reconstruction_counts_valid_steps_only() -> None:
    predicted = torch.tensor([[[1.0, 0.0], [0.5, 0.5]], [[9.0, 9.0], [0.0, 1.0]]])
    action = torch.zeros(2, 2, 2)
    valid = torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    # Squared errors per step: (1 + 0) / 2, (.25 + .25) / 2, padding, (0 + 1) / 2.
    torch.testing.assert_close(reconstruction_loss(predicted, action, valid), torch.tensor((0.5 + 0.25 + 0.5) / 3))


def test_norm_by_hand() -> None:
    z = torch.tensor([[[3.0, 4.0], [0.0, 1.0]], [[0.0, 0.0], [0.6, 0.8]]])
    torch.testing.assert_close(norm_loss(z), torch.tensor((16 + 0 + 1 + 0) / 4))


def test_ambiguity_by_hand() -> None:
    # One clear pair with S = -(4 + 0) / 2 = -2, one ambiguous pair with S = 0.
    z = torch.tensor([[[2.0, 1.0], [0.0, 1.0]], [[1.0, 1.0], [1.0, 1.0]]])
    clear, ambiguous = torch.tensor([True, False]), torch.tensor([False, True])
    none = torch.zeros(2, dtype=torch.bool)
    one, half = sig(-2.0), 0.5
    cases: list[tuple[AmbiguityLoss, Tensor, Tensor, float]] = [
        ("paper", clear, ambiguous, one - half),
        ("paper", clear, none, one),
        ("paper", none, ambiguous, -half),
        ("paper", none, none, 0.0),
        ("reference", clear, ambiguous, one),
        ("reference", clear, none, 0.0),
        ("reference", none, ambiguous, half),
        ("reference", none, none, 0.0),
    ]
    for form, c, a, expected in cases:
        assert ambiguity_loss(z, c, a, form).item() == pytest.approx(expected), (form, c, a)


@each_mix
@each_kind
def test_ambiguity_against_a_slow_loop(mix: str, kind: Similarity) -> None:
    z, _, clear, ambiguous = batch(mix)
    alike = [sig(slow_similarity(z[i, 0], z[i, 1], kind)) for i in range(5)]
    groups = [[a for a, c in zip(alike, mask.tolist(), strict=True) if c] for mask in (clear, ambiguous)]
    of_clear, of_ambiguous = (sum(group) / len(group) if group else 0.0 for group in groups)
    assert ambiguity_loss(z, clear, ambiguous, "paper", kind).item() == pytest.approx(of_clear - of_ambiguous, abs=1e-6)
    released = {"both": of_clear, "clear": 0.0, "skipped": of_ambiguous}[mix]
    assert ambiguity_loss(z, clear, ambiguous, "reference", kind).item() == pytest.approx(released, abs=1e-6)


def test_ambiguity_gradients_have_the_paper_s_direction() -> None:
    z, _, clear, ambiguous = batch("both")
    z.requires_grad_()
    (grad,) = torch.autograd.grad(ambiguity_loss(z, clear, ambiguous, "paper"), z)
    closer = ((z[:, 0] - z[:, 1]) * (-grad[:, 0] + grad[:, 1])).sum(-1)  # change of |z_0 - z_1|^2 / 2 by descent
    assert (closer[clear] > 0).all() and (closer[ambiguous] < 0).all()
    (grad,) = torch.autograd.grad(ambiguity_loss(z, clear, ambiguous, "reference"), z)
    assert grad[ambiguous].abs().max() == 0  # never pulled together


def slow_quadrilateral(
    z: Tensor, label: Tensor, clear: Tensor, partner: Tensor, kind: Similarity, squash: bool, pairing: Pairing
) -> float:
    first = [i for i in range(5) if clear[i] and label[i] == 0]
    second = [i for i in range(5) if clear[i] and label[i] == 1]
    good = [z[i, 0] for i in first] + [z[i, 1] for i in second]
    bad = [z[i, 1] for i in first] + [z[i, 0] for i in second]
    if pairing == "reference":
        bad = [z[i, 0] for i in second] + [z[i, 1] for i in first]
    total, n = 0.0, len(good)
    for row in partner.tolist():
        for i in range(n):
            j = int(row[i] * n)
            term = slow_similarity(good[i], bad[j], kind) + slow_similarity(good[j], bad[i], kind)
            term -= slow_similarity(good[i], good[j], kind) + slow_similarity(bad[i], bad[j], kind)
            total += sig(term) if squash else term
    return total / (n * len(partner)) if n else 0.0


@each_mix
@each_kind
@pytest.mark.parametrize("squash", [True, False])
@pytest.mark.parametrize("pairing", ["query", "reference"])
def test_quadrilateral_against_a_slow_loop(mix: str, kind: Similarity, squash: bool, pairing: Pairing) -> None:
    z, label, clear, _ = batch(mix)
    partner = torch.rand(50, 5, generator=torch.Generator().manual_seed(1))
    expected = slow_quadrilateral(z, label, clear, partner, kind, squash, pairing)
    got = quadrilateral_loss(z, label, clear, partner, kind, squash, pairing)
    assert got.item() == pytest.approx(expected, abs=1e-5)
    assert mix != "skipped" or got.item() == 0


def test_quadrilateral_by_hand() -> None:
    # Question 0: first preferred, z+ = 1, z- = 0. Question 1: second preferred, z+ = 3, z- = 0. Partner of each: the other.
    z = torch.tensor([[[1.0], [0.0]], [[0.0], [3.0]]])
    label, clear = torch.tensor([0.0, 1.0]), torch.tensor([True, True])
    partner = torch.tensor([[0.9, 0.1]])
    # S(z+_0, z-_1) + S(z+_1, z-_0) - S(z+_0, z+_1) - S(z-_0, z-_1) = -1 - 9 + 4 + 0 = -6, the same for i = 1.
    assert quadrilateral_loss(z, label, clear, partner, squash=False).item() == -6
    assert quadrilateral_loss(z, label, clear, partner).item() == pytest.approx(sig(-6.0))


def test_partner_number_just_below_one() -> None:
    z, label, clear, _ = batch("both")
    partner = torch.full((2, 5), 1 - 2**-24)  # times 3 clear pairs: float32 rounds up
    assert math.isfinite(quadrilateral_loss(z, label, clear, partner).item())
    last = slow_quadrilateral(z, label, clear, torch.full((2, 5), 0.99), "l2", True, "query")
    assert quadrilateral_loss(z, label, clear, partner).item() == pytest.approx(last, abs=1e-6)


@each_mix
@each_kind
@pytest.mark.parametrize("squash", [True, False])
@pytest.mark.parametrize("pairing", ["query", "reference"])
def test_anchor_against_a_slow_loop(mix: str, kind: Similarity, squash: bool, pairing: Pairing) -> None:
    z, label, clear, _ = batch(mix)
    star = torch.tensor([0.5, -1.0, 0.2])
    first = [i for i in range(5) if clear[i] and label[i] == 0]
    second = [i for i in range(5) if clear[i] and label[i] == 1]
    good = [z[i, 0] for i in first] + [z[i, 1] for i in second]
    bad = [z[i, 0] for i in second] + [z[i, 1] for i in first] if pairing == "reference" else None
    bad = bad or [z[i, 1] for i in first] + [z[i, 0] for i in second]
    terms = [
        max(0.0, slow_similarity(worse, star, kind) - slow_similarity(better, star, kind) + 1.0)
        for better, worse in zip(good, bad, strict=True)
    ]
    terms = [sig(term) for term in terms] if squash else terms
    expected = sum(terms) / len(terms) if terms else 0.0
    assert anchor_loss(z, label, clear, star, kind, squash, pairing).item() == pytest.approx(expected, abs=1e-6)


def test_anchor_gradient_depends_on_the_pairing() -> None:
    """Question 0: z+ = 0, z- = 2; question 1: z+ = 3, z- = 1 (second won); z* = 0, so S(z, z*) = -z^2, without squashing.

    query: hinges max(0, -4 + 0 + 1) = 0 and max(0, -1 + 9 + 1) = 9. reference pairs z+ of one with z- of the other:
    max(0, -1 + 0 + 1) = 0 and max(0, -4 + 9 + 1) = 6.
    """
    z = torch.tensor([[[0.0], [2.0]], [[1.0], [3.0]]], requires_grad=True)
    label, clear, star = torch.tensor([0.0, 1.0]), torch.tensor([True, True]), torch.zeros(1)
    losses = {pairing: anchor_loss(z, label, clear, star, "l2", False, pairing) for pairing in ("query", "reference")}
    assert {pairing: loss.item() for pairing, loss in losses.items()} == {"query": 4.5, "reference": 3.0}
    (query,), (reference,) = (torch.autograd.grad(loss, z) for loss in losses.values())
    assert query.flatten().tolist() == [0.0, 0.0, -1.0, 3.0]  # d(9/2): -z for z- = 1, z for z+ = 3
    assert reference.flatten()[[1, 3]].tolist() == [-2.0, 3.0]  # d(6/2): z- = 2 of question 0, z+ = 3 of question 1
