"""The label store: what is put is read, a repetition changes nothing, and every mistake is told."""

from __future__ import annotations

import json
import time
from datetime import datetime
from pathlib import Path

import pytest
import torch
from store_questions import NAN, WHO, answer, filled, pairs, pending
from synthetic import synthetic_transitions

from lightning_pbrl.data.feedback import Answer, AskKey, Query, Status
from lightning_pbrl.data.store import LabelStore
from lightning_pbrl.errors import UserError


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    return LabelStore(tmp_path / "labels.db", "data-a")


def test_what_is_put_is_read(store: LabelStore):
    filled(store)
    numbers, query, given = store.stored("run", 0)
    assert numbers.tolist() == [0, 1, 2]
    assert query.kind == "pair"
    assert query.length == 5
    assert query.start.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert given.value[:2].tolist() == [0, 0.5]
    assert given.value[2].isnan()
    assert given.status.tolist() == [Status.ANSWERED, Status.EQUAL, Status.SKIPPED]
    labels = store.labels("pair")
    assert labels.start.tolist() == [[9, 10], [1, 2], [3, 4], [5, 6], [7, 8]]  # by run, then number
    assert labels.preferences().value.tolist() == [1, 0, 0.5, 1]
    assert store.labels("pair", run="run").start[:, 0].tolist() == [1, 3, 5, 7]
    assert store.spent("run") == store.spent() == 4  # the skipped one is paid for
    assert store.spent("other") == 1
    assert store.count == 5


def test_every_record_keeps_its_origin(store: LabelStore, tmp_path: Path):
    store.put(AskKey("run", 2, 7), pairs((1, 2)), answer(1), **WHO)
    store.export_jsonl(tmp_path / "l.jsonl")
    record = json.loads((tmp_path / "l.jsonl").read_text())
    moment = datetime.fromisoformat(record.pop("time"))
    assert moment.utcoffset().total_seconds() == 0
    assert abs(time.time() - moment.timestamp()) < 60
    assert record == {
        "run": "run",
        "round": 2,
        "number": 7,
        "kind": "pair",
        "length": 5,
        "start_0": 1,
        "start_1": 2,
        "value": 1.0,
        "status": "answered",
        "fingerprint": "data-a",
        **WHO,
    }


def test_an_empty_store(store: LabelStore):
    numbers, query, given = store.stored("run", 0)
    assert len(numbers) == len(query) == len(given.value) == 0
    assert query.start.shape == (0, 2)
    assert store.stored("run", 0, kind="rating")[1].start.shape == (0, 1)
    assert store.labels("pair", length=7).start.shape == (0, 2)
    assert store.spent() == store.count == 0


def test_the_same_key_is_the_same_row(store: LabelStore):
    """A batch that is put again, as after a crash, changes nothing, and what is new in it is stored."""
    filled(store)
    before = store.stored("run", 0)
    same = Answer(torch.tensor([NAN, 0.0]), torch.tensor([Status.SKIPPED, Status.ANSWERED]))
    store.put(AskKey("run", 0, 2), pairs((5, 6), (20, 21)), same, **WHO)  # one stored, one new
    store.put(AskKey("run", 0, 0), pairs((1, 2), (3, 4)), pending(2), **WHO)  # asked again
    assert store.stored("run", 0)[0].tolist() == [0, 1, 2, 3]
    assert store.count == 6
    for was, now in zip(before[2], store.stored("run", 0)[2], strict=True):
        assert torch.equal(was.nan_to_num(), now[:3].nan_to_num())


def test_a_pending_question_takes_one_answer(store: LabelStore):
    key, query = AskKey("run", 0, 0), pairs((1, 2), (3, 4))
    store.put(key, query, pending(2), **WHO)
    assert store.stored("run", 0)[2].status.tolist() == [Status.PENDING, Status.PENDING]
    assert len(store.labels("pair").preferences()) == 0
    assert store.spent() == 2
    late = Answer(torch.tensor([0.0, NAN]), torch.tensor([Status.ANSWERED, Status.PENDING]))
    store.put(key, query, late, **{**WHO, "answered_by": "Ada"})
    store.put(AskKey("run", 0, 1), pairs((3, 4)), answer(1), **{**WHO, "answered_by": "Bob"})
    assert store.stored("run", 0)[2].value.tolist() == [0, 1]
    assert store.count == 2


@pytest.mark.parametrize(
    ("second", "told"),
    [
        (answer(1, 1), "is now answered 1 by Bob"),
        (Answer(torch.tensor([0.5, 1.0]), torch.tensor([Status.EQUAL, Status.ANSWERED])), "is now answered 0.5 by Bob"),
        (Answer(torch.tensor([NAN, 1.0]), torch.tensor([Status.SKIPPED, Status.ANSWERED])), "is now answered skipped by Bob"),
    ],
)
def test_a_second_answer_that_differs_is_refused(store: LabelStore, tmp_path: Path, second: Answer, told: str):
    """By put and by an import alike, and the answer to the other question of the batch is not stored either."""
    store.put(AskKey("run", 0, 0), pairs((1, 2)), answer(0), **{**WHO, "answered_by": "Ada"})
    other = LabelStore(tmp_path / "other.db", "data-a")
    other.put(AskKey("run", 0, 0), pairs((1, 2), (3, 4)), second, **{**WHO, "answered_by": "Bob"})
    other.export_jsonl(tmp_path / "bob.jsonl")
    sentence = (
        f"Question 0 of run 'run' in {store.name} has the answer 0 of Ada and {told}: leave the second answer out, or export the "
        "labels, correct them there and import them into a new store; nothing of this batch was stored."
    )
    for again in (
        lambda: store.put(AskKey("run", 0, 0), pairs((1, 2), (3, 4)), second, **{**WHO, "answered_by": "Bob"}),
        lambda: store.import_jsonl(tmp_path / "bob.jsonl"),
    ):
        with pytest.raises(UserError) as caught:
            again()
        assert str(caught.value) == sentence
    assert store.stored("run", 0)[2].value.tolist() == [0]
    assert store.count == 1


def test_an_answer_to_another_question_is_refused_as_a_whole(store: LabelStore):
    store.put(AskKey("run", 0, 0), pairs((1, 2)), pending(1), **WHO)
    with pytest.raises(UserError, match=r"Question 0 of run 'run' .* was asked about other segments"):
        store.put(AskKey("run", 0, 0), pairs((1, 3), (4, 5)), answer(1, 1), **WHO)
    assert store.count == 1
    assert store.stored("run", 0)[2].status.tolist() == [Status.PENDING]
    store.put(AskKey("run", 0, 0), pairs((1, 2)), answer(1), **WHO)
    with pytest.raises(UserError, match="was asked about other segments"):  # of an answered question as well
        store.put(AskKey("run", 0, 0), pairs((1, 3)), answer(1), **WHO)


def test_ratings_beside_pairs_and_several_lengths(store: LabelStore):
    store.put(AskKey("run", 0, 0), pairs((1, 2)), answer(1), **WHO)
    rating = Query("rating", torch.tensor([[4], [5]]), 8)
    store.put(AskKey("run", 0, 1), rating, Answer(torch.tensor([0.25, 3.0]), torch.tensor([1, 1])), **WHO)
    labels = store.labels("rating")
    assert labels.start.tolist() == [[4], [5]]
    assert labels.length == 8
    assert labels.value.tolist() == [0.25, 3.0]
    assert len(store.labels("pair")) == 1
    with pytest.raises(UserError, match="asked pair and rating: name one kind"):
        store.stored("run", 0)
    assert store.stored("run", 0, kind="rating")[0].tolist() == [1, 2]
    store.put(AskKey("run", 1, 3), pairs((1, 2), length=9), answer(0), **WHO)
    with pytest.raises(UserError, match=r"pair questions in .* have lengths \[5, 9\]: name one length"):
        store.labels("pair")
    assert store.labels("pair", length=9).value.tolist() == [0]


@pytest.mark.parametrize(
    ("value", "status", "message"),
    [
        (0.7, Status.ANSWERED, "has value 0.69.*: a pair's label is 0, 0.5 or 1"),
        (0.5, Status.ANSWERED, "0.5 goes with equal, every other value with answered"),
        (1.0, Status.EQUAL, "0.5 goes with equal"),
        (0.5, Status.SKIPPED, "is skipped and has value 0.5"),
        (1.0, Status.PENDING, "is pending and has value 1.0"),
        (NAN, Status.ANSWERED, "is answered and has no value"),
    ],
)
def test_answers_that_contradict_themselves(store: LabelStore, value: float, status: Status, message: str):
    two = Answer(torch.tensor([1.0, value]), torch.tensor([Status.ANSWERED, status]))
    with pytest.raises(UserError, match=f"Question 1 of run 'run' .*{message}"):
        store.put(AskKey("run", 0, 0), pairs((1, 2), (3, 4)), two, **WHO)
    assert store.count == 0


def test_clips_come_back_in_the_order_asked_for(store: LabelStore):
    data = synthetic_transitions(episodes=2, length=10)
    query = pairs((0, 10), (3, 12), (5, 1))
    store.put(AskKey("run", 0, 4), query, answer(0, 1, 1), clips=data.clips(query), **WHO)
    clips = store.clips([6, 4])
    assert clips.obs.shape == (2, 2, 5, 5)
    assert torch.equal(clips.obs[0, 1], data.column("obs")[1:6])
    assert torch.equal(clips.action[1, 0], data.column("action")[0:5])
    assert torch.equal(clips.reward[1, 1], data.reward[10:15])
    with pytest.raises(UserError, match="no segment content for question 7 of run 'run': put it with clips"):
        store.clips(torch.tensor([4, 7]))


def test_a_segment_is_not_compared_with_itself(store: LabelStore):
    with pytest.raises(UserError, match=r"^Question 4 of run 'run' compares the segment from row 9 with itself: leave it out\.$"):
        store.put(AskKey("run", 0, 3), pairs((1, 2), (9, 9)), pending(2), **WHO)
    assert store.count == 0
    store.put(AskKey("run", 0, 3), Query("rating", torch.tensor([[9]]), 5), answer(1), **WHO)  # no pair


def test_questions_about_several_clips_and_axes(store: LabelStore, tmp_path: Path) -> None:
    """Three clips, two and one side by side; they come back from tables, lines of JSON and rows of CSV."""
    asked = [
        (Query("best", torch.tensor([[1, 2, 3], [4, 5, 6]]), 5), Answer(torch.tensor([2.0, NAN]), torch.tensor([1, 3]))),
        (Query("graded", torch.tensor([[7, 8]]), 5), Answer(torch.tensor([0.25]), torch.tensor([1]))),
        (Query("pair:safety", torch.tensor([[7, 8]]), 5), answer(1.0)),
        (Query("rating", torch.tensor([[9]]), 5), Answer(torch.tensor([4.0]), torch.tensor([1]))),
    ]
    for number, (query, given) in zip((0, 2, 3, 4), asked, strict=True):
        store.put(AskKey("run", 0, number), query, given, **WHO)
    questions = store.questions("run")
    assert questions.kinds == ["best", "best", "graded", "pair:safety", "rating"]
    assert questions.start[:, :3].tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, -1], [7, 8, -1], [9, -1, -1]]
    for query, given in asked:
        for found in (store.labels(query.kind), store.questions("run").take(questions.of(query.kind)).labels(query.kind, 5)):
            assert torch.equal(found.start, query.start) and torch.equal(found.status, given.status)
            torch.testing.assert_close(found.value, given.value, equal_nan=True)
    assert len(store.labels("pair")) == 0  # a pair on an axis is none
    store.export_jsonl(tmp_path / "out.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line.get("others") for line in lines] == [[3], [6], None, None, None] and "others" not in lines[2]
    again = LabelStore(tmp_path / "again.db", "data-a")
    assert again.import_jsonl(tmp_path / "out.jsonl") == 5 and again.records() == store.records()
    with pytest.raises(UserError, match=r"Round 0 of run 'run' in .* asked best and graded and pair:safety and rating: name one"):
        store.stored("run", 0)
    store.put(AskKey("run", 1, 5), Query("best", torch.tensor([[1, 2]]), 5), answer(1.0), **WHO)
    with pytest.raises(UserError, match="Questions of kind 'best' are about 2 and 3 clips, and those of one fit have one number"):
        store.labels("best")


@pytest.mark.parametrize(
    ("kind", "start", "value", "status", "problem"),
    [
        ("graded", [1, 2], 0.3, 1, "has value 0.3.*: a graded's label is 0, .25, .5, .75 or 1"),
        ("graded", [1, 2], 0.5, 1, "0.5 goes with equal"),
        ("graded", [1, 2, 3], 0.75, 1, r"is a graded about 3 segment\(s\): a graded has two"),
        ("best", [1, 2, 3], 3.0, 1, "has value 3.0: a best's label is the number of the best segment, from 0"),
        ("best", [1, 2, 3], 1.0, 2, "is a best with status equal"),
        ("best", [1, 2, 1], 1.0, 1, "compares the segment from row 1 with itself"),
        ("best", [1], 0.0, 1, r"is a best about 1 segment\(s\): a best has two to ten"),
        (
            "pair:",
            [1, 2],
            1.0,
            1,
            "has kind 'pair:': write one of pair, rating, graded, best, perhaps with an axis as pair:safety",
        ),
        ("pair:" + "x" * 60, [1, 2], 1.0, 1, "has kind 'pair:x+': write one of"),
        ("worst", [1, 2], 1.0, 1, "has kind 'worst': write one of pair, rating, graded, best"),
    ],
)
def test_answers_of_other_kinds_that_contradict_themselves(
    store: LabelStore, kind: str, start: list[int], value: float, status: int, problem: str
) -> None:
    with pytest.raises(UserError, match=problem):
        store.put(
            AskKey("run", 0, 0),
            Query(kind, torch.tensor([start]), 5),
            Answer(torch.tensor([value]), torch.tensor([status])),
            **WHO,
        )
    assert store.count == 0
