"""Kappa and alpha by hand and against published examples."""

from __future__ import annotations

import math

import pytest

from lightning_pbrl.data.feedback import Status
from lightning_pbrl.labelling.agreement import agreement
from lightning_pbrl.labelling.formats.records import Given


def answers(kind: str = "pair", **by_person: list) -> list[Given]:
    """Answers of each person to the questions 0, 1, ...; None where there is no answer, "?" where it was skipped."""
    found = []
    for person, values in by_person.items():
        for number, value in enumerate(values):
            skipped = value == "?"
            status = Status.SKIPPED if skipped else Status.EQUAL if value == 0.5 else Status.ANSWERED
            if value is not None:
                found.append(Given(("run", 0, number), kind, person, None if skipped else value, status))  # type: ignore[arg-type]
    return found


def test_two_persons_by_hand() -> None:
    """Equal in 3 of 4; by chance .5 (Cohen), 17/32 (Fleiss), 26/56 (Krippendorff); the skipped question is missing."""
    found = agreement(answers(Ada=[0, 0, 1, 1, "?"], Bob=[0, 1, 1, 1, 0]), "pair")
    assert (found.shared, found.equal) == (4, 0.75)
    assert found.cohen[("Ada", "Bob")] == (pytest.approx(0.5), 4)
    assert found.fleiss == pytest.approx((0.75 - 17 / 32) / (15 / 32), abs=1e-4)
    assert found.alpha == pytest.approx(1 - 0.25 / (30 / 56))


def test_krippendorffs_example() -> None:
    """Three coders with missing values: ordinal alpha .807 (Krippendorff, "Computing Krippendorff's alpha-reliability")."""
    n = None
    a = [n, n, n, n, n, 3, 4, 1, 2, 1, 1, 3, 3, n, 3]
    b = [1, n, 2, 1, 3, 3, 4, 3, n, n, n, n, n, n, n]
    c = [n, n, 2, 1, 3, 4, 4, n, 2, 1, 1, 3, 3, n, 4]
    found = agreement(answers("rating", A=a, B=b, C=c), "rating")
    assert found.alpha == pytest.approx(0.807, abs=0.0005)
    assert found.shared == 12
    assert [common for _, common in found.cohen.values()] == [3, 8, 5]


def test_ties_are_a_category() -> None:
    found = agreement(answers(Ada=[0, 0.5, 1, 0.5], Bob=[0, 0.5, 1, 1]), "pair")
    assert found.equal == 0.75
    assert found.cohen[("Ada", "Bob")][0] == pytest.approx((0.75 - 5 / 16) / (11 / 16))


def test_no_agreement_is_defined() -> None:
    alone = agreement(answers(Ada=[0, 1]), "pair")
    assert (alone.shared, alone.cohen) == (0, {}) and math.isnan(alone.fleiss) and math.isnan(alone.alpha)
    constant = agreement(answers(Ada=[1, 1], Bob=[1, 1]), "pair")
    assert constant.equal == 1 and math.isnan(constant.alpha) and math.isnan(constant.fleiss)
    assert math.isnan(constant.cohen[("Ada", "Bob")][0])
    assert agreement(answers(Ada=[0, 1], Bob=[0, 1]), "rating").shared == 0
    apart = agreement(answers(Ada=[0, None], Bob=[None, 1]), "pair")
    assert (apart.shared, apart.cohen) == (0, {})
