"""Losses of graded pairs and of the best of several, by hand and by slow loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lightning_pbrl.data import kinds
from lightning_pbrl.data.feedback import Labels, Status
from lightning_pbrl.data.kinds.mixed import Mixed, accuracy, likelihood, mixed
from lightning_pbrl.losses.best_of import choice_cross_entropy, choice_lead
from lightning_pbrl.losses.graded import level_log_probability, ordinal_cross_entropy, soft_cross_entropy
from lightning_pbrl.losses.preference import preference_accuracy, preference_cross_entropy
from lightning_pbrl.nn.cut_points import CutPoints


def pair(gap: float) -> Tensor:
    return torch.tensor([[1.0, 1.0 + gap]], dtype=torch.float64)


def test_soft_labels_by_hand() -> None:
    # A gap of log 3 is P(second) = 3/4, which "the second is better" (.75) takes for true: its loss is the entropy of 3/4.
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    gap = torch.tensor(math.log(3), requires_grad=True, dtype=torch.float64)
    loss = soft_cross_entropy(torch.stack([torch.zeros_like(gap), gap]).unsqueeze(0), torch.tensor([0.75]))
    loss.sum().backward()
    assert loss.item() == pytest.approx(entropy) and gap.grad.item() == pytest.approx(0.0, abs=1e-7)
    assert soft_cross_entropy(pair(math.log(3)), torch.tensor([1.0])).item() == pytest.approx(-math.log(0.75))
    assert soft_cross_entropy(pair(0.0), torch.tensor([0.5])).item() == pytest.approx(math.log(2))


def test_levels_by_hand() -> None:
    """Cut points log 2 and log 5, gap 0: P(level <= j) = 1/6, 1/3, 2/3, 5/6, 1."""
    cuts = torch.tensor([math.log(2), math.log(5)], dtype=torch.float64)
    levels = level_log_probability(torch.zeros(1, dtype=torch.float64), cuts).exp()
    torch.testing.assert_close(levels, torch.tensor([[1 / 6, 1 / 6, 1 / 3, 1 / 6, 1 / 6]], dtype=torch.float64))
    # a gap of log 2 (odds of 2): P(level <= j) = odds / (1 + odds) with odds 1/10, 1/4, 1, 5/2
    moved = level_log_probability(torch.tensor([math.log(2)], dtype=torch.float64), cuts).exp()
    below = torch.tensor([1 / 11, 1 / 5, 1 / 2, 5 / 7, 1.0], dtype=torch.float64)
    torch.testing.assert_close(moved[0].cumsum(0), below)
    loss = ordinal_cross_entropy(pair(math.log(2)), torch.tensor([0.75]), cuts)
    assert loss.item() == pytest.approx(-math.log(5 / 7 - 1 / 2))
    reverse = ordinal_cross_entropy(pair(-math.log(2)), torch.tensor([0.25]), cuts)
    assert reverse.item() == pytest.approx(loss.item())  # the order of the clips carries no information


def test_levels_are_finite_far_away_and_sum_to_one() -> None:
    gap = torch.tensor([-200.0, -3.0, 0.0, 3.0, 200.0], requires_grad=True)
    cuts = torch.tensor([[0.5, 2.0], [0.01, 0.02]], requires_grad=True)  # two members
    found = level_log_probability(gap.expand(2, 5), cuts)
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(2, 5))
    found.sum().backward()
    assert found.isfinite().all() and gap.grad.isfinite().all() and cuts.grad.isfinite().all()
    begin = CutPoints(3)()
    torch.testing.assert_close(begin, torch.tensor([[0.501, 2.002]]).repeat(3, 1))


def test_best_of_by_hand() -> None:
    """Worths 1, 2, 3, 4 (their logarithms are the scores): the third is chosen with probability 3 in 10."""
    scores = torch.tensor([[1.0, 2.0, 3.0, 4.0]]).log()
    assert choice_cross_entropy(scores, torch.tensor([2.0])).item() == pytest.approx(-math.log(0.3), rel=1e-6)
    assert choice_lead(scores, torch.tensor([2.0])).item() == pytest.approx(math.log(3 / 4), rel=1e-6)
    assert choice_lead(scores, torch.tensor([3.0])).item() == pytest.approx(math.log(4 / 3), rel=1e-6)
    two = torch.randn(3, 7, 2, generator=torch.Generator().manual_seed(0))
    value = torch.tensor([0.0, 1, 1, 0, 1, 0, 0])
    torch.testing.assert_close(choice_cross_entropy(two, value).mean(-1), preference_cross_entropy(two, value))


def test_kinds_side_by_side_count_each_answer_once() -> None:
    rng = torch.Generator().manual_seed(1)
    kind = torch.tensor([0, 2, 1, 2, 0, 1])
    value = torch.tensor([1.0, 3.0, 0.25, 0.0, 0.5, 0.5])
    scores = torch.randn(2, 6, 4, generator=rng)
    cuts = torch.tensor([[0.4, 1.0], [0.5, 3.0]])
    names = "pair", "graded", "best"
    found = likelihood(scores, value, kind, names, cuts)
    for e in range(2):
        for i in range(6):
            row, said = scores[e, i : i + 1], value[i : i + 1]
            own = {
                0: lambda r, v, e: preference_cross_entropy(r[:, :2], v),
                1: lambda r, v, e: ordinal_cross_entropy(r[:, :2], v, cuts[e])[0],
                2: lambda r, v, e: choice_cross_entropy(r, v)[0],
            }[int(kind[i])](row, said, e)
            torch.testing.assert_close(found[e, i], own)
    right = [
        float(scores[e, 0, 1] > scores[e, 0, 0])
        + float(scores[e, 1].argmax() == 3)
        + float(scores[e, 2, 0] > scores[e, 2, 1])
        + float(scores[e, 3].argmax() == 0)
        for e in range(2)
    ]
    torch.testing.assert_close(accuracy(scores, value, kind, names), torch.tensor(right) / 4)  # equal ones are not counted
    pairs, zeros = scores[..., :2], torch.zeros(6, dtype=torch.int64)
    label = torch.tensor([1.0, 0.0, 0.5, 1.0, 0.0, 1.0])
    torch.testing.assert_close(
        accuracy(pairs, label, zeros, ("pair",), 0.1), preference_accuracy(pairs, label, 0.1), check_dtype=False
    )


def test_answers_of_several_kinds_become_one_set() -> None:
    status = torch.tensor([Status.ANSWERED, Status.SKIPPED])
    pairs = Labels(torch.tensor([[1, 2], [3, 4]]), 5, torch.tensor([1.0, math.nan]), status)
    best = Labels(torch.tensor([[5, 6, 7], [8, 9, 10]]), 5, torch.tensor([2.0, math.nan]), status)
    assert mixed(pairs.preferences(), {"best": best.take(torch.tensor([1])), "rating": best}) is not None
    assert isinstance(mixed(pairs.preferences(), {"best": best.take(torch.tensor([1]))}), Labels)  # nothing usable
    both = mixed(pairs.preferences(), {"best": best})
    assert isinstance(both, Mixed) and both.kinds == ("pair", "best") and len(both) == 2 and both.length == 5
    assert both.start.tolist() == [[1, 2, 1], [5, 6, 7]] and both.value.tolist() == [1.0, 2.0] and both.kind.tolist() == [0, 1]
    alone = mixed(Labels.empty(5), {"best": best})
    assert isinstance(alone, Mixed) and alone.kinds == ("best",) and alone.start.tolist() == [[5, 6, 7]]


@pytest.mark.parametrize(
    ("kind", "values", "label"),
    [
        ("pair", [0.0, 1.0], (0.5, Status.EQUAL)),
        ("pair", [0.0, 1.0, 1.0], (1.0, Status.ANSWERED)),
        ("rating", [2.0, 5.0], (3.5, Status.ANSWERED)),
        ("graded", [0.0, 0.75, 1.0], (0.75, Status.ANSWERED)),
        ("graded", [0.75, 1.0], (0.75, Status.ANSWERED)),  # between two levels the one closer to equal
        ("graded", [0.0, 0.25], (0.25, Status.ANSWERED)),
        ("graded", [0.25, 0.75], (0.5, Status.EQUAL)),
        ("best", [3.0, 1.0, 3.0], (3.0, Status.ANSWERED)),
        ("best", [3.0, 1.0], (None, Status.SKIPPED)),
        ("pair:safety", [1.0], (1.0, Status.ANSWERED)),
    ],
)
def test_several_answers_become_one_label(kind: str, values: list[float], label: tuple[float | None, Status]) -> None:
    assert kinds.of(kind).settle(values) == label


def test_answers_in_words() -> None:
    told = [
        kinds.of(kind).words(value)
        for kind, value in (("pair", 1), ("graded", 0), ("graded", 0.75), ("graded", 0.5), ("best", 2))
    ]
    assert told == ["second is better", "first is much better", "second is better", "equal", "clip 3 is best"]
    assert kinds.axis_of("pair:safety") == "safety" and kinds.axis_of("pair") == "" and kinds.base_of("pair:safety") == "pair"


def test_the_kind_of_the_page_is_one_class() -> None:
    """The example of docs/answers.md: the worst of k, learned by an ensemble that has never heard of it."""
    import re
    from pathlib import Path

    from lightning_pbrl.data.kinds.base import REGISTRY
    from lightning_pbrl.rewards.ensemble import RewardEnsemble
    from lightning_pbrl.rewards.semi_supervised import SemiSupervisedEnsemble

    page = Path(__file__).resolve().parents[2] / "docs" / "answers.md"
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.S) if "class Worst" in block]
    try:
        exec(compile(code, str(page), "exec"), {"__name__": "my_package"})
        worst = kinds.of("worst")
        assert isinstance(worst, kinds.ChoiceKind) and worst.about(3) and not worst.about(1) and worst.settle([1.0])[0] == 1.0
        scores = -torch.tensor([[1.0, 2.0, 3.0, 4.0]]).log()  # worths of being the worst: 1, 2, 3, 4
        assert worst.loss(scores, torch.tensor([2.0])).item() == pytest.approx(-math.log(0.3), rel=1e-6)
        assert worst.lead(scores, torch.tensor([3.0])).item() == pytest.approx(math.log(4 / 3), rel=1e-6)
        assert "worst" in RewardEnsemble().kinds and SemiSupervisedEnsemble().kinds == {"pair"}
    finally:
        REGISTRY.pop("worst", None)
