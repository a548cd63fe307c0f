"""Gold questions, practice, checks and repeats: who is asked what, what it counts for, and what is measured by it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from desks import EQUAL, SKIPPED, A, asked, desk, key, labels

from lightning_pbrl.data.feedback import Answer, AskKey, Query
from lightning_pbrl.errors import UserError
from lightning_pbrl.labelling.desk import Desk
from lightning_pbrl.labelling.interface import OpenQuestion


def with_gold(folder: Path, pairs: int, gold: int, **settings: Any) -> Desk:
    """A desk whose expert has answered the first questions: the second segment is better."""
    asked(folder, pairs)
    here = desk(folder, gold="Gina", **settings)
    for number in range(gold):
        assert here.answer("Gina", key(number), 1.0, A).how == "kept"
    return here


def give(here: Desk, person: str, question: OpenQuestion, value: float = 1.0) -> str:
    return here.answer(person, question.key, value, A, seconds=1.0, repeat=question.repeat).how


def walk(here: Desk, person: str, most: int = 999) -> list[OpenQuestion]:
    """Answer everything that a person is asked, as the page does; the question fetched ahead is the one that comes."""
    found: list[OpenQuestion] = []
    while (now := here.next(person, 2)) and len(found) < most:
        assert now == here.next(person, 2)
        ahead = here.next(person, 2, without=[now[0].key])
        assert ahead[:1] == now[1:2]
        assert [here.question(each.key, person, each.repeat) for each in now] == now
        found.append(now[0])
        assert give(here, person, now[0]) == "kept"
        if ahead:
            assert here.next(person, 1) == ahead[:1]
    return found


def test_a_new_person_practises_and_is_told(tmp_path: Path) -> None:
    here = with_gold(tmp_path, 6, 3, practice=2, check_every=0)
    first, second, *_ = here.next("Bob", 3)
    assert [each.practice for each in here.next("Bob", 3)] == [True, True, False]
    assert (first.key, first.expected, second.key) == (key(0), (1.0, A), key(1))
    before = here.answers()
    assert give(here, "Bob", first, 0.0) == give(here, "Bob", second) == "kept"  # wrong, then right
    assert here.progress("Bob") == (0, 6, 3, 3) and here.answers()[: len(before)] == before
    assert [row["purpose"] for row in here.answers()] == ["label"] * 3 + ["practice"] * 2
    assert [(each.key.number, each.purpose) for each in walk(here, "Bob")] == [(3, "label"), (4, "label"), (5, "label")]
    assert here.next("Gina", 9) == []  # the expert has nothing to practise
    (bob, _) = here.overview().people
    assert (bob.answers, bob.gold) == (3, None)  # practice is no test


def test_one_in_so_many_is_a_check(tmp_path: Path) -> None:
    here = with_gold(tmp_path, 30, 5, practice=0, check_every=4)
    purposes = [each.purpose for each in walk(here, "Bob")]
    assert Counter(purposes) == {"label": 25, "check": 5} and len(purposes) == 30
    assert [purposes[at : at + 4].count("check") for at in range(0, 20, 4)] == [1] * 5  # then the gold questions are used up
    places = [at for at, each in enumerate(purposes) if each == "check"]
    assert len({at % 4 for at in places}) > 1 and here.progress("Bob") == (25, 30, 0, 0)


def test_a_check_looks_like_any_other_question(tmp_path: Path) -> None:
    here = with_gold(tmp_path, 8, 2, practice=0, check_every=2)
    check, label = sorted(here.next("Bob", 2), key=lambda each: each.purpose)
    assert (check.purpose, label.purpose) == ("check", "label")
    assert check.expected is None and not check.practice and check.answer is None and check._fields == label._fields
    assert (check.revision, check.repeat, check.kind, check.length) == (label.revision, label.repeat, label.kind, label.length)


def test_gold_accuracy_and_what_the_others_said(tmp_path: Path) -> None:
    here = with_gold(tmp_path, 10, 4, practice=0, check_every=2)
    for at, question in enumerate(iter(lambda: next(iter(here.next("Bob", 1)), None), None)):
        assert give(here, "Bob", question, 0.0 if question.purpose == "check" and at < 2 else 1.0) == "kept"
    bob, gina = here.overview().people
    assert (bob.name, bob.gold, bob.answers) == ("Bob", 0.75, 6) and (gina.gold, gina.answers) == (None, 4)
    assert here.overview().alpha is None  # checks are no second opinion about a label


def test_a_repeat_after_ten_answers_on_a_side_drawn_anew(tmp_path: Path) -> None:
    asked(tmp_path, 120)
    here = desk(tmp_path, repeat_every=3)
    found = walk(here, "Bob")
    assert Counter(each.purpose for each in found)["label"] == 120
    repeats = [(at, each) for at, each in enumerate(found) if each.repeat]
    assert 30 <= len(repeats) <= 60 and len({each.key for _, each in repeats}) == len(repeats)
    first = {each.key: (at, each) for at, each in enumerate(found) if not each.repeat}
    assert all(at - first[each.key][0] >= 10 for at, each in repeats)
    assert {each.swapped == first[each.key][1].swapped for _, each in repeats} == {True, False}
    assert here.progress("Bob") == (120, 120, 0, 0) and here.overview().people[0].consistency == 1.0
    _, some = repeats[0]
    assert here.answer("Bob", some.key, 0.0, A, revision=1, repeat=True).how == "kept"
    assert here.overview().people[0].consistency == 1 - 1 / len(repeats)
    assert labels(asked(tmp_path, 120)) == [(1.0, A)] * 120
    last = here.last("Bob")
    assert last is not None and last.repeat and (last.key, last.answer, last.revision) == (some.key, (0.0, A), 2)


def test_what_comes_next_survives_a_restart(tmp_path: Path) -> None:
    here = with_gold(tmp_path, 40, 8, practice=2, check_every=3, repeat_every=4)
    for _ in range(30):
        question = here.next("Bob", 1)[0]
        again = desk(tmp_path, gold="Gina", practice=2, check_every=3, repeat_every=4)
        assert again.next("Bob", 1) == [question] and give(again, "Bob", question) == "kept"
    assert {row["purpose"] for row in here.answers()} == {"label", "practice", "check", "repeat"}


def test_a_forged_purpose_neither_hides_an_answer_nor_counts_twice(tmp_path: Path) -> None:
    here = with_gold(tmp_path, 30, 2, practice=0, check_every=9, repeat_every=9)
    assert here.answer("Bob", key(5), 1.0, A, repeat=True).how == "unknown"  # never answered
    assert here.answer("Bob", key(5), 1.0, A).how == "kept"
    assert here.answer("Bob", key(5), 1.0, A, repeat=True).how == "unknown"  # just now
    assert here.answer("Bob", key(5), 0.0, A).how == "late"
    assert here.answer("Bob", key(0), 0.0, A).how == "kept" and labels(asked(tmp_path, 30))[0] == (1.0, A)  # still a check
    assert [(row["number"], row["purpose"]) for row in here.answers() if row["person"] == "Bob"] == [(5, "label"), (0, "check")]
    assert here.question(key(5), "Bob", repeat=True) is None and here.question(key(7), "Bob", repeat=True) is None
    for number in range(6, 16):
        here.answer("Bob", key(number), 1.0, A)
    assert here.answer("Bob", key(5), 0.0, A, repeat=True).how == "kept"
    assert here.answer("Bob", key(5), 0.0, A, repeat=True).how == "again"
    assert here.answer("Bob", key(5), 1.0, A, repeat=True).how == "late"
    assert labels(asked(tmp_path, 30))[5] == (1.0, A) and here.progress("Bob").answered == 11


def test_the_answer_of_the_expert_stands(tmp_path: Path) -> None:
    store = asked(tmp_path, 4)
    here = desk(tmp_path, overlap=3, gold="Gina")
    assert here.answer("Ada", key(0), 0.0, A).how == here.answer("Bob", key(0), 0.0, A).how == "kept"
    assert here.answer("Gina", key(0), 1.0, A).how == "kept" and labels(store)[0] == (1.0, A)
    assert here.answer("Bob", key(0), 0.5, EQUAL, revision=1).how == "kept" and labels(store)[0] == (1.0, A)
    assert here.answer("Cy", key(0), 0.0, A).how == "kept" and labels(store)[0] == (1.0, A)
    assert store.records()[0]["answered_by"] == "Gina" and store.newest("ada") == 1
    assert key(0) not in [each.key for each in here.next("Dan", 9) if each.purpose == "label"]
    assert here.answer("Gina", key(0), 0.0, A, revision=1).how == "kept" and labels(store)[0] == (0.0, A)


def test_an_expert_is_named_afterwards(tmp_path: Path) -> None:
    store, here = asked(tmp_path, 2), desk(tmp_path, overlap=3)
    for person, value in (("Gina", 1.0), ("Bob", 0.0), ("Cy", 0.0)):
        here.answer(person, key(0), value, A)
    assert labels(store)[0] == (0.0, A)
    again = desk(tmp_path, overlap=3, gold="Gina")
    assert labels(store)[0] == (1.0, A) and store.newest("ada") == 2
    assert [each.purpose for each in again.next("Dan", 9)] == ["practice", "label"]


def test_an_imported_answer_is_gold(tmp_path: Path) -> None:
    store = asked(tmp_path, 4)
    start, given = torch.tensor([[0, 200], [10, 210]]), Answer(torch.tensor([1.0, torch.nan]), torch.tensor([A, SKIPPED]))
    who: dict[str, Any] = {"strategy": {}, "teacher": {}, "seed": 0, "answered_by": "Gina"}
    store.put(AskKey("ada", 0, 0), Query("pair", start, 10), given, **who)
    here = desk(tmp_path, gold="Gina", practice=9)
    assert [(each.key.number, each.purpose) for each in here.next("Bob", 9)] == [(0, "practice"), (2, "label"), (3, "label")]
    assert here.answer("Bob", key(0), 0.0, A).how == "kept" and labels(store)[0] == (1.0, A)


def test_nothing_but_labels_without_an_expert(tmp_path: Path) -> None:
    asked(tmp_path, 40)
    assert {each.purpose for each in walk(desk(tmp_path, practice=5, check_every=2), "Bob")} == {"label"}


def test_closed_questions_are_no_checks_and_no_repeats(tmp_path: Path) -> None:
    here = with_gold(tmp_path, 30, 3, practice=1, check_every=2, repeat_every=2)
    assert len(walk(here, "Bob", 15)) == 15
    seen = {row["number"] for row in here.answers() if row["person"] == "Bob"}
    for number in seen | {0, 1, 2}:
        here.close(key(number))
    assert {each.purpose for each in walk(here, "Bob")} <= {"label", "repeat"}
    here.close(None)
    assert here.next("Bob") == here.next("Eve") == []


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"gold": " "}, "The gold person has no name"),
        ({"practice": -1}, "practice is -1: give a number of gold questions, 0 for none"),
        ({"check_every": 1}, "check_every is 1: give 0 for none, or one in 2 questions or more"),
        ({"repeat_every": -3}, "repeat_every is -3: give 0 for none"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], told: str, tmp_path: Path) -> None:
    asked(tmp_path, 1)
    with pytest.raises(UserError, match=told):
        desk(tmp_path, **settings)
