"""Answers of several people combined by their error rates: against a slow loop, and where the majority is wrong."""

from __future__ import annotations

import math
from pathlib import Path
from random import Random

import numpy as np
import pytest
from desks import asked, labels

from lightning_pbrl.data.feedback import Status
from lightning_pbrl.errors import UserError
from lightning_pbrl.labelling.dawid_skene import dawid_skene
from lightning_pbrl.labelling.desk import Desk
from lightning_pbrl.labelling.interface import Key
from lightning_pbrl.labelling.settling import likeliest, set_label
from lightning_pbrl.teachers.human import HumanTeacher


def slow(answers: list[list[int]], classes: int, steps: int) -> list[list[float]]:
    """The equations of the paper, one number at a time."""
    people, small = range(len(answers[0])), 1e-10
    given = [[sum(each == j for each in row) for j in range(classes)] for row in answers]
    right = [[count / sum(row) for count in row] for row in given]
    for _ in range(steps):
        prior = [sum(row[j] for row in right) / len(right) + small for j in range(classes)]
        prior = [each / sum(prior) for each in prior]
        rate = {}
        for k in people:
            for j in range(classes):
                counts = [sum(t[j] for t, row in zip(right, answers, strict=True) if row[k] == c) + small for c in range(classes)]
                rate.update({(k, j, c): counts[c] / sum(counts) for c in range(classes)})
        right = []
        for row in answers:
            likely = [prior[j] * math.prod(rate[k, j, row[k]] for k in people if row[k] >= 0) for j in range(classes)]
            right.append([each / sum(likely) for each in likely])
    return right


def test_it_computes_what_the_equations_say() -> None:
    rng = Random(3)
    answers = [[rng.choice([0, 1, 2, -1]) for _ in range(4)] for _ in range(12)]
    answers = [row if max(row) >= 0 else [0, *row[1:]] for row in answers]
    for steps in (1, 5):
        found, rates = dawid_skene(np.array(answers), 3, iterations=steps)
        np.testing.assert_allclose(found, slow(answers, 3, steps), atol=1e-9)
        np.testing.assert_allclose(rates.sum(2), 1.0)


def test_two_who_are_right_outvote_three_who_guess() -> None:
    """The majority is wrong wherever two of three guess wrong; error rates tell who guesses."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 200)
    good = [np.where(rng.random(200) < 0.95, truth, 1 - truth) for _ in range(2)]
    answers = np.stack([*good, *(rng.integers(0, 2, 200) for _ in range(3))], 1)
    majority = (answers.mean(1) > 0.5).astype(int)
    found, rates = dawid_skene(answers, 2)
    assert (majority == truth).mean() < 0.85 and (found.argmax(1) == truth).mean() > 0.9
    assert rates[0, 0, 0] > 0.8 and 0.3 < rates[2, 0, 0] < 0.7


def test_labels_by_hand() -> None:
    first, second, both = (0.0, Status.ANSWERED), (1.0, Status.ANSWERED), (0.5, Status.EQUAL)
    nobody = (None, Status.SKIPPED)
    one, two, three = (Key("run", 0, number) for number in range(3))
    said = {one: {"Ada": first, "Bob": first}, two: {"Ada": nobody, "Bob": nobody}, three: {"Ada": second, "Bob": nobody}}
    assert likeliest("pair", said) == {one: first, two: nobody, three: second}
    assert likeliest("pair", {one: {"Ada": first, "Bob": second}}) == {one: both}  # equally probable
    assert likeliest("pair", {one: {"Ada": both, "Bob": both}}) == {one: both}
    three_stars = (3.0, Status.ANSWERED)
    assert likeliest("rating", {one: {"Ada": three_stars, "Bob": three_stars}}) == {one: three_stars}


def test_a_desk_combines_and_a_later_answer_may_change_an_earlier_label(tmp_path: Path) -> None:
    """Ada and Bob disagree once, before anybody knows whom to trust; then Cy is always on Ada's side."""
    asked(tmp_path, 12)
    desk = Desk(tmp_path / "labels.sqlite", overlap=2, combine="dawid-skene")
    keys = [question.key for question in desk.waiting(12)]

    def say(person: str, key: Key, value: float) -> None:
        assert desk.answer(person, key, value, Status.ANSWERED).how == "kept"

    def label(key: Key) -> tuple[float | None, Status]:
        found = desk.reviewed(key)
        assert found is not None and found.question.answer is not None
        return found.question.answer

    say("Ada", keys[0], 1.0)
    say("Bob", keys[0], 0.0)
    assert label(keys[0]) == (0.5, Status.EQUAL)
    for number, key in enumerate(keys[1:]):
        say("Ada", key, float(number % 2))
        say("Cy", key, float(number % 2))
        if number % 3 == 0:
            say("Bob", key, float(1 - number % 2))
    assert label(keys[0]) == (1.0, Status.ANSWERED)  # Bob is wrong wherever he can be compared
    assert [label(key)[0] for key in keys[1:]] == [float(number % 2) for number in range(11)]


def test_a_label_of_the_expert_stands_also_where_it_was_imported(tmp_path: Path) -> None:
    """Cy's label came in a file, before Ada and Bob were asked: what they say of other questions does not change it."""
    store = asked(tmp_path, 3)
    early = Desk(tmp_path / "labels.sqlite", overlap=2)
    for person in ("Ada", "Bob"):
        early.answer(person, Key("ada", 0, 0), 1.0, Status.ANSWERED)
    with store._writing() as db:
        set_label(db, Key("ada", 0, 0), 0.0, Status.ANSWERED, "Cy")
    late = Desk(tmp_path / "labels.sqlite", overlap=2, combine="dawid-skene", gold="Cy")
    for person in ("Ada", "Bob"):
        late.answer(person, Key("ada", 0, 1), 1.0, Status.ANSWERED)
    assert labels(store)[:2] == [(0.0, Status.ANSWERED), (1.0, Status.ANSWERED)]


def test_one_person_is_not_combined() -> None:
    with pytest.raises(UserError, match=r"combine=dawid-skene and overlap=1: let 2 or more answer each"):
        HumanTeacher(combine="dawid-skene")
