"""The desk: several people, revisions, labels by majority, what rounds have seen, and many at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from desks import ASKED, EQUAL, SKIPPED, A, asked, desk, key, labels
from warm import CONTEXT

from lightning_pbrl.data.feedback import Answer, AskKey, Query, Status
from lightning_pbrl.errors import UserError
from lightning_pbrl.labelling.desk import Desk
from lightning_pbrl.labelling.settling import majority


def test_an_answer_is_a_label_once_it_is_given(tmp_path: Path) -> None:
    store, here = asked(tmp_path, 3, 1), desk(tmp_path)
    assert [each.key.number for each in here.next("Ada", 9)] == [0, 1, 2, 3]
    assert here.answer("Ada", key(0), 1.0, A, seconds=3.0).how == "kept"
    assert here.answer("Ada", key(1), 0.5, EQUAL).how == here.answer("Ada", key(2), None, SKIPPED).how == "kept"
    assert here.answer("Ada", key(3), 7.0, A).how == "kept"
    assert labels(store) == [(1.0, A), (0.5, EQUAL), (None, SKIPPED)] and store.labels("rating").value.tolist() == [7.0]
    assert here.next("Ada") == [] and here.progress("Ada") == (4, 4, 0, 0)
    question = here.question(key(0), "Ada")
    assert question is not None and question.answer == (1.0, A) and question.start == (0, 200) and question.length == 10
    assert here.question(key(9), "Ada") is None


def test_a_double_click_changes_nothing_and_a_stale_tab_is_told(tmp_path: Path) -> None:
    store, here = asked(tmp_path), desk(tmp_path)
    assert here.answer("Ada", key(0), 1.0, A) == ("kept", 0)
    assert here.answer("Ada", key(0), 1.0, A) == ("again", 0)
    assert here.answer("Ada", key(0), 0.0, A) == ("late", 0)  # another tab that has not seen the answer
    assert labels(store)[0] == (1.0, A)
    assert here.answer("Ada", key(0), 0.0, A, revision=1) == ("kept", 1)
    assert labels(store)[0] == (0.0, A) and [row["revision"] for row in here.answers()] == [0, 1]
    last = here.last("Ada")
    assert last is not None and last.key == key(0) and last.revision == 2 and here.last("Bob") is None
    assert here.answer("Ada", key(77), 0.0, A).how == "unknown"


@pytest.mark.parametrize(
    ("number", "value", "status", "told"),
    [
        (0, 0.7, A, r"has value 0\.7: a pair's label is 0, 0\.5 or 1"),
        (0, 0.5, A, r"0\.5 goes with equal"),
        (0, 1.0, SKIPPED, "leave the value out"),
        (0, None, Status.PENDING, "is pending: give an answer"),
        (6, 10.0, A, "has the rating 10: give 0 to 9"),
        (6, -1.0, A, "has the rating -1: give 0 to 9"),
        (6, 0.5, EQUAL, "only pairs can be equal"),
    ],
)
def test_answers_out_of_range(number: int, value: Any, status: Status, told: str, tmp_path: Path) -> None:
    asked(tmp_path, 6, 1)
    with pytest.raises(UserError, match=told):
        desk(tmp_path).answer("Ada", key(number), value, status)
    assert desk(tmp_path).answers() == []


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_strengths_out_of_range(strength: float, tmp_path: Path) -> None:
    asked(tmp_path)
    with pytest.raises(UserError, match=r"question 0 of run 'ada' has the strength .*: give a number from 0 to 1, or none"):
        desk(tmp_path).answer("Ada", key(0), 1.0, A, strength=strength)
    assert desk(tmp_path).answers() == []


def test_a_strength_is_kept_and_changed(tmp_path: Path) -> None:
    store, here = asked(tmp_path), desk(tmp_path)
    assert here.answer("Ada", key(0), 1.0, A, strength=0.5) == ("kept", 0)
    assert here.answer("Ada", key(0), 1.0, A, strength=0.5) == ("again", 0)
    assert here.answer("Ada", key(0), 1.0, A, strength=1.0) == ("late", 0)  # another tab
    assert here.answer("Ada", key(0), 1.0, A, strength=1.0, revision=1) == ("kept", 1)
    last = here.last("Ada")
    assert last is not None and last.strength == 1.0 and [row["strength"] for row in here.answers()] == [0.5, 1.0]
    assert labels(store)[0] == (1.0, A) and store.newest("ada") == 1


def test_two_people_answer_each_question(tmp_path: Path) -> None:
    store, here = asked(tmp_path, 2), desk(tmp_path, overlap=2)
    here.answer("Ada", key(0), 1.0, A)
    assert labels(store)[0] == (None, ASKED) and [each.key.number for each in here.next("Ada")] == [1]
    here.answer("Bob", key(0), 0.0, A)
    assert labels(store)[0] == (0.5, EQUAL)  # one for either side
    here.answer("Cy", key(0), 1.0, A)
    assert labels(store)[0] == (1.0, A)
    here.answer("Ada", key(1), None, SKIPPED)
    here.answer("Bob", key(1), 1.0, A)
    assert labels(store)[1] == (1.0, A)
    seen = here.overview()
    assert [(each.name, each.answers) for each in seen.people] == [("Ada", 2), ("Bob", 2), ("Cy", 1)]
    assert (seen.open, seen.closed, seen.total, seen.paused) == (0, 2, 2, False)
    assert seen.people[0].skipped == 0.5 and seen.alpha is not None and seen.alpha <= 0


def test_majorities() -> None:
    yes, no, equal, skip = (1.0, A), (0.0, A), (0.5, EQUAL), (None, SKIPPED)
    assert majority("pair", [yes, yes, no]) == yes and majority("pair", [yes, no]) == equal
    assert majority("pair", [skip, skip, no]) == no and majority("pair", [skip]) == skip
    assert majority("pair", [equal, equal, yes]) == equal
    assert majority("rating", [(0.0, A), (1.0, A), (5.0, A), skip]) == (2.0, A)


def test_a_question_is_not_handed_to_two_people_at_a_time(tmp_path: Path) -> None:
    """Nobody takes it for the time that is allowed: somebody else gets it."""
    asked(tmp_path, 4)
    here = desk(tmp_path)
    assert [each.key.number for each in here.next("Ada", 2)] == [0, 1]
    assert [each.key.number for each in here.next("Bob", 3)] == [2, 3]
    assert [each.key.number for each in here.next("Ada", 2)] == [0, 1]
    assert [each.key.number for each in here.next("Ada", 2, without=[key(0)])] == [1]
    here.timeout = 0.0
    assert [each.key.number for each in here.next("Ada", 4)] == [0, 1]  # those of Bob are still held back
    late = desk(tmp_path, timeout=-1.0)
    assert [each.key.number for each in late.next("Ada", 4)] == [each.key.number for each in late.next("Bob", 4)] == [0, 1, 2, 3]


def test_questions_that_many_people_hold_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those before the last that was handed out are read again after half a second only, and nobody misses one."""
    asked(tmp_path, 60)
    here, shown, moment = desk(tmp_path), {}, [0.0]
    monkeypatch.setattr("lightning_pbrl.labelling.desk.time.monotonic", lambda: moment[0])
    people = [f"P{n}" for n in range(10)]
    for place, person in enumerate(people):
        shown[person] = here.next(person, 2)
        assert [each.key.number for each in shown[person]] == [2 * place, 2 * place + 1]
    for person in people:  # the page asks for what follows the question on the screen; a reload asks for the same again
        first, second = (each.key for each in shown[person])
        ahead = here.next(person, 2, without=[first])
        assert ahead[0].key == second and ahead[1].key.number >= 20
        assert [each.key for each in here.next(person, 2)] == [first, second]
        assert here.answer(person, first, 1.0, A) == ("kept", 0)
        assert here.next(person, 1)[0].key == second
    assert sorted({each.key.number for person in people for each in here.next(person, 60)}) == list(range(1, 60)[:1]) + [
        number for number in range(2, 60) if number % 2 or number >= 20
    ]
    moment[0] += here.timeout + 1.0
    assert [each.key.number for each in here.next("late", 3)] == [1, 3, 5]  # nobody took them: somebody else gets them


def test_sides_are_shuffled_and_stay(tmp_path: Path) -> None:
    asked(tmp_path, 60)
    here = desk(tmp_path)
    sides = [each.swapped for each in here.next("Ada", 60)]
    assert 15 < sum(sides) < 45 and sides == [each.swapped for each in here.next("Ada", 60)]
    assert sides != [question.swapped for n in range(60) if (question := here.question(key(n), "Bob")) is not None]
    for number, swapped in enumerate(sides):
        here.answer("Ada", key(number), float(swapped), A)  # always the one on the left
    assert here.overview().people[0].first_side == 1.0


def test_tokens(tmp_path: Path) -> None:
    asked(tmp_path)
    here = desk(tmp_path)
    first, other = here.invite("  Ada  L. "), here.invite("Bob", "researcher")
    assert here.person(first) == ("Ada L.", "labeller") and here.person(other) == ("Bob", "researcher")
    again = here.invite("Ada L.")
    assert here.person(first) is None and len(here.people()) == 2 and here.person(again) is not None and here.person("") is None
    assert first.encode() not in (tmp_path / "labels.sqlite").read_bytes()
    for name in ("", "   ", "x" * 65, "a\x00b"):
        with pytest.raises(UserError, match="is no name for a person: give 1 to 64 printable characters"):
            here.invite(name)


def test_closed_questions(tmp_path: Path) -> None:
    store, here = asked(tmp_path, 3), desk(tmp_path)
    here.close(key(1))
    assert labels(store)[1] == (None, SKIPPED) and [each.key.number for each in here.next("Ada", 5)] == [0, 2]
    assert here.answer("Ada", key(1), 1.0, A).how == "closed"
    here.close(None)
    assert here.overview().paused
    assert here.next("Ada") == [] and here.answer("Ada", key(0), 1.0, A).how == "closed" and labels(store)[0][1] == ASKED
    here.close(None, closed=False)
    assert here.answer("Ada", key(0), 1.0, A).how == "kept"


def test_a_round_keeps_the_answers_that_it_has_seen(tmp_path: Path) -> None:
    store, here = asked(tmp_path, 3), desk(tmp_path)
    here.answer("Ada", key(0), 1.0, A)
    store.mark("ada", 0, store.newest("ada"))
    here.answer("Ada", key(0), 0.0, A, revision=1)
    here.answer("Ada", key(1), 1.0, A)
    store.mark("ada", 1, store.newest("ada"))
    store.mark("ada", 0, 99)  # a mark stays
    now, marks = store.questions("ada"), store.marks("ada")
    for round_, expected in ((0, [1, ASKED, ASKED]), (1, [0, 1, ASKED])):
        seen = store.as_of(now, "ada", marks[round_])
        assert [int(s) if s == ASKED else int(v) for v, s in zip(seen.value, seen.status, strict=True)] == expected
    assert now.status.tolist() == [A, A, ASKED] and store.as_of(now, "ada", marks[1]) is now


def answer_all(path: str, person: str, count: int) -> None:
    here = Desk(path)
    for number in range(count):
        assert here.answer(person, key(number), float(number % 2), A).how == "kept"
        assert here.answer(person, key(number), float(number % 2), A).how == "again"


def test_people_at_the_same_time(tmp_path: Path) -> None:
    """Four processes answer every question at once: nothing is lost, nothing counted twice, outcomes are in order."""
    store = asked(tmp_path, 15)
    people = [CONTEXT.Process(target=answer_all, args=(str(tmp_path / "labels.sqlite"), f"P{n}", 15)) for n in range(4)]
    for person in people:
        person.start()
    for person in people:
        person.join(120)
        assert person.exitcode == 0
    every = desk(tmp_path).answers()
    assert len(every) == 60 == len({(row["person"], row["number"]) for row in every})
    assert labels(store) == [(float(n % 2), A) for n in range(15)] and store.newest("ada") == 15


@pytest.mark.parametrize("version", [1, 2, 3])
def test_an_old_store_is_upgraded_and_kept(version: int, tmp_path: Path) -> None:
    """Version 1 had questions alone, 2 no answers that count each on its own and no end of a run, 3 no third clip."""
    import sqlite3

    store = asked(tmp_path, 2)
    here = desk(tmp_path)
    here.answer("Ada", key(0), 1.0, A)
    with sqlite3.connect(tmp_path / "labels.sqlite") as db:
        for table in ("counted", "ended", "answers", "outcomes", "marks", "persons", "closed")[: {1: None, 2: 2, 3: 0}[version]]:
            db.execute(f"DROP TABLE pbrl_{table}")
        db.execute("ALTER TABLE pbrl_questions DROP COLUMN others")
        db.execute(f"UPDATE pbrl_info SET value = '{version}' WHERE key = 'schema_version'")
    db.close()
    again = desk(tmp_path)
    assert labels(store) == [(1.0, A), (None, ASKED)] and len(again.answers()) == min(version - 1, 1) and again.ended() is None
    assert again.answer("Ada", key(1), 0.0, A).how == "kept" and labels(store)[1] == (0.0, A)
    best = Query("best", torch.tensor([[0, 20, 40]]), 10)
    who: dict[str, Any] = {"strategy": {}, "teacher": {}, "seed": 0, "answered_by": "HumanTeacher"}
    store.put(AskKey("ada", 1, 2), best, Answer(torch.tensor([2.0]), torch.tensor([int(A)])), **who)
    assert store.labels("best").start.tolist() == [[0, 20, 40]] and again.question(key(2, 1), "Ada").start == (0, 20, 40)
