"""Asking without a Trainer: by a teacher or by hand, read once a round, the same after a crash."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from synthetic import synthetic_transitions
from torch.utils._python_dispatch import TorchDispatchMode
from toys import assert_same

from benchmarks.asking import FEW, PER_ROUND, Reads, session_after
from lightning_pbrl.asking.feedback import Feedback
from lightning_pbrl.asking.plan import AskingPlan
from lightning_pbrl.asking.schedule import Constant
from lightning_pbrl.asking.session import AskingSession
from lightning_pbrl.data.feedback import Answer, AskKey, Labels, Query, Status
from lightning_pbrl.data.store import LabelStore
from lightning_pbrl.errors import UserError
from lightning_pbrl.queries.base import QueryStrategy
from lightning_pbrl.queries.mixed import MixedQuery
from lightning_pbrl.queries.quota import FixedShare
from lightning_pbrl.queries.uniform import UniformQuery
from lightning_pbrl.rng import question_keys
from lightning_pbrl.teachers.base import Teacher
from lightning_pbrl.teachers.mixed import MixedTeacher
from lightning_pbrl.teachers.person import Person
from lightning_pbrl.teachers.simulated import SimulatedTeacher


class Learner:
    """Learns from both kinds, and does not act."""

    kinds = frozenset({"pair", "rating"})
    context = env_steps = 0
    planned_env_steps = planned_round_steps = None
    hparams: ClassVar[dict[str, Any]] = {}

    def round_starts(self) -> None: ...


SOURCE = synthetic_transitions()


def session(
    folder: Path, teacher: Teacher | None = None, query: QueryStrategy | None = None, budget: int = 30, **settings: Any
) -> AskingSession:
    """A run "ada" of rounds of 10 about segments of 10 steps, its store in ``folder``."""
    plan = AskingPlan(teacher or SimulatedTeacher(), query or UniformQuery(), budget, Constant(10))
    asking = AskingSession(Learner(), SOURCE, 10, plan, run="ada", **settings)
    asking.open(LabelStore(folder / "labels.sqlite", SOURCE.fingerprint))
    return asking


def records(folder: Path) -> list[dict[str, Any]]:
    """What the store holds, without the time of day."""
    LabelStore(folder / "labels.sqlite", SOURCE.fingerprint).export_jsonl(folder / "labels.jsonl")
    found = [json.loads(line) for line in (folder / "labels.jsonl").read_text().splitlines()]
    return [{name: value for name, value in record.items() if name != "time"} for record in found]


def test_asking_needs_neither_lightning_nor_a_method() -> None:
    above = "'pytorch_lightning', 'rich', 'lightning_pbrl.methods', 'lightning_pbrl.callbacks'"
    code = f"import sys, lightning_pbrl.asking.session; print(sorted({{{above}}} & {{*sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# By hand ---------------------------------------------------------------------------------------------------------------


def test_answers_by_hand_are_those_of_the_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of 4: the same questions, keys, records and labels as when the teacher answers the round at once."""
    monkeypatch.setattr("lightning_pbrl.asking.session.ANSWERED", 4)
    at_once, by_hand = (
        session(tmp_path / name, MixedTeacher(), MixedQuery(UniformQuery("pair"), UniformQuery("rating"), FixedShare(0.6)))
        for name in ("one", "two")
    )
    expected = [  # pairs are 5, then 12, then 18 of the questions so far: the first round is half and half
        [("pair", 4), ("pair", 1), ("rating", 4), ("rating", 1)],
        [("pair", 4), ("pair", 3), ("rating", 3)],
        [("pair", 4), ("pair", 2), ("rating", 4)],
    ]
    for number in range(3):
        feedback = at_once.round(number)
        by_hand.begin(number)
        sizes, numbers, keys = [], list[int](), list[int]()
        while (due := by_hand.due()) is not None:
            assert by_hand.due() is due  # until it is answered
            sizes.append((due.query.kind, len(due.query)))
            numbers += due.numbers.tolist()
            keys += due.keys.tolist()
            by_hand.answer(by_hand.teacher.answer(due.query, due.clips, due.keys))
        assert sizes == expected[number] and numbers == list(range(10 * number, 10 * number + 10))
        assert keys == question_keys(0, 10 * number, 10).tolist()
        assert_same(list(by_hand.end()), list(feedback))
    assert records(tmp_path / "one") == records(tmp_path / "two")


def test_a_person_answers_some_now_and_some_later(tmp_path: Path) -> None:
    """Two of ten at once, three more from elsewhere before the next round, which asks ten others."""
    asking = session(tmp_path, Person())
    asking.begin(0)
    due = asking.due()
    assert due is not None and len(due.query) == 10 and due.clips.obs.shape == (10, 2, 10, 5)
    value, status = torch.full((10,), torch.nan), torch.zeros(10, dtype=torch.int64)
    value[:2], status[:2] = 1.0, int(Status.ANSWERED)
    asking.answer(Answer(value, status), answered_by="Ada")
    assert asking.due() is None
    feedback = asking.end()
    assert feedback.pending == 8 and feedback.asked[:3] == (10, 10, 20) and len(feedback.labels.preferences()) == 2
    late = Answer(torch.zeros(3), torch.full((3,), int(Status.ANSWERED)))
    who: dict[str, Any] = {"strategy": {}, "teacher": {}, "seed": 0, "answered_by": "Bob"}
    page = LabelStore(tmp_path / "labels.sqlite", SOURCE.fingerprint)
    page.put(AskKey("ada", 0, 4), Query("pair", due.query.start[4:7], 10), late, **who)
    feedback = asking.round(1)
    assert feedback.pending == 15 and feedback.labels.value[:8].nan_to_num(nan=9).tolist() == [1, 1, 9, 9, 0, 0, 0, 9]
    by = [record["answered_by"] for record in records(tmp_path)]
    assert by == ["Ada"] * 4 + ["Bob"] * 3 + ["Ada"] * 3 + ["Person"] * 10


def test_a_round_may_end_before_all_is_answered(tmp_path: Path) -> None:
    asking = session(tmp_path)
    asking.begin(0)
    assert asking.due() is not None
    feedback = asking.end()
    assert feedback.asked[:3] == (0, 0, 30) and len(feedback.labels) == 0 and records(tmp_path) == []
    assert session(tmp_path).round(0).asked[:3] == (10, 10, 20)


def test_answers_that_do_not_fit_the_questions(tmp_path: Path) -> None:
    """A refused batch leaves nothing in the store, and the round can be begun again."""
    asking = session(tmp_path)
    with pytest.raises(UserError, match="No question waits for an answer: begin a round that asks"):
        asking.answer(Answer(torch.ones(10), torch.ones(10, dtype=torch.int64)))
    asking.begin(0)
    with pytest.raises(UserError, match="10 questions got 2 answers: give one per question, pending where there is none yet"):
        asking.answer(Answer(torch.ones(2), torch.ones(2, dtype=torch.int64)))
    with pytest.raises(UserError, match=r"Question 0 of run 'ada' has value 0\.69.*: a pair's label is 0, 0\.5 or 1"):
        asking.answer(Answer(torch.full((10,), 0.7), torch.ones(10, dtype=torch.int64)))
    assert asking.due() is None and records(tmp_path) == []
    with pytest.raises(UserError, match="begin this one again after an error"):
        asking.answer(Answer(torch.ones(10), torch.ones(10, dtype=torch.int64)))
    assert asking.round(0).asked.this_round == 10


def test_without_a_store_what_came_with_the_data_is_handed_over(tmp_path: Path) -> None:
    given = Labels(torch.tensor([[0, 20]]), 10, torch.ones(1), torch.ones(1, dtype=torch.int64))
    asking = AskingSession(Learner(), SOURCE, 10, AskingPlan(), given)
    feedback = asking.round(0)
    assert_same(feedback, Feedback(given, Labels.empty(10, clips=1), feedback.asked, 0, {}, {}))
    assert feedback.asked == (1, 0, 0, 0, False, 0) and asking.due() is None


# Reads -----------------------------------------------------------------------------------------------------------------


def test_a_round_reads_its_store_twice_at_most(tmp_path: Path) -> None:
    """Once when it begins, once to check what it writes; a round that asks nothing reads once."""
    asking = session_after(FEW, 3, tmp_path)
    assert asking.state is not None
    reads = Reads(asking.state.store)
    counts = []
    for turn in range(5):
        before = reads.count
        feedback = asking.round(FEW // PER_ROUND + turn)
        counts.append((reads.count - before, feedback.asked.this_round))
    assert counts == [(1, 50), (2, 50), (2, 50), (1, 0), (1, 0)]  # what was read at the start serves the first round


class Copied(TorchDispatchMode):
    """Counts the numbers that operators write; views and binary searches write none that grow."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor) and not func.is_view:
            self.numbers += found.numel()
        return found


def watch_reads(monkeypatch: pytest.MonkeyPatch, found: list[Any], told: Callable[[dict[str, Any], int], Any]) -> None:
    """Note what ``told`` says of the arguments and the number of rows of each read of questions."""
    questions = LabelStore.questions

    def watched(self: LabelStore, run: str, everyone: bool = False, **which: Any) -> Any:
        rows = questions(self, run, everyone, **which)
        found.append(told(which, len(rows)))
        return rows

    monkeypatch.setattr(LabelStore, "questions", watched)


def test_a_round_copies_no_old_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside 100 and beside 1,000 stored answers, a round reads as many rows and writes as many numbers in memory."""
    rows: list[int] = []
    watch_reads(monkeypatch, rows, lambda _, count: count)
    costs = []
    for stored in (FEW, 10 * FEW):
        asking = session_after(stored, 5, tmp_path)
        for turn in range(3):  # memory for more questions is taken here
            asking.round(stored // PER_ROUND + turn)
        rows.clear()
        with Copied() as copied:
            feedback = asking.round(stored // PER_ROUND + 3)
        assert len(feedback.labels) == stored + 4 * PER_ROUND
        costs.append((list(rows), copied.numbers))
    assert costs[0] == costs[1] and costs[0][0] == [0]


def test_labels_that_were_handed_out_stay_as_they_are(tmp_path: Path) -> None:
    """Also where an answer to an old question comes later; until then a round's labels are those of the next, not a copy."""
    asking = session(tmp_path, Person(), budget=60)
    found = [asking.round(number) for number in range(3)]
    assert found[0].labels.start.data_ptr() == found[1].labels.start.data_ptr()
    before = [[column.clone() for column in numbers(each.labels)] for each in found]
    page = LabelStore(tmp_path / "labels.sqlite", SOURCE.fingerprint)
    who: dict[str, Any] = {"strategy": {}, "teacher": {}, "seed": 0, "answered_by": "Bob"}
    answer = Answer(torch.ones(1), torch.ones(1, dtype=torch.int64))
    page.put(AskKey("ada", 0, 4), Query("pair", before[0][0][4:5], 10), answer, **who)
    page.put(AskKey("ada", 2, 24), Query("pair", before[2][0][24:25], 10), answer, **who)
    after = asking.round(3)
    assert_same([numbers(each.labels) for each in found], before)
    assert after.labels.status.nonzero().flatten().tolist() == [4, 24] and after.pending == 38
    assert_same(numbers(after.labels), numbers(page.labels("pair")))


def numbers(labels: Labels) -> list[torch.Tensor]:
    """Starts, values with -1 for none, and statuses."""
    return [labels.start, labels.value.nan_to_num(nan=-1.0), labels.status]


def test_settled_rounds_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read from the present round on, and round 1 while a question of it is open."""
    first: list[Any] = []
    watch_reads(monkeypatch, first, lambda which, _: which.get("rounds") or which.get("from_round", 0))

    class Slow(SimulatedTeacher):
        """Leaves the last question of round 1 open."""

        def answer(self, query: Query, clips: Any, keys: torch.Tensor) -> Answer:
            value, status = super().answer(query, clips, keys)
            if int(keys[-1]) == int(question_keys(0, 19, 1)):
                value[-1], status[-1] = torch.nan, int(Status.PENDING)
            return Answer(value, status)

    asking = session(tmp_path, Slow(), budget=60)
    found = [asking.round(number) for number in range(4)]
    assert first == [0, 1, 1, [1], 2, [1], 3] and [feedback.pending for feedback in found] == [0, 1, 1, 1]
    page = LabelStore(tmp_path / "labels.sqlite", SOURCE.fingerprint)
    numbers, query, _ = page.stored("ada", 1)
    who: dict[str, Any] = {"strategy": {}, "teacher": {}, "seed": 0, "answered_by": "Bob"}
    answer = Answer(torch.ones(1), torch.ones(1, dtype=torch.int64))
    page.put(AskKey("ada", 1, int(numbers[-1])), Query("pair", query.start[-1:], 10), answer, **who)
    first.clear()
    found = [asking.round(number) for number in (4, 5)]
    assert first == [[1], 4, 5] and [feedback.pending for feedback in found] == [0, 0]
    assert_same(found[-1].labels, page.labels("pair"))


def test_a_run_that_asks_nothing_sees_what_any_run_adds(tmp_path: Path) -> None:
    """Also the questions of runs that come before it by name, in the order of the store."""
    session(tmp_path, budget=10).round(0)
    silent = session(tmp_path, budget=0)
    assert len(silent.round(0).labels) == 10
    store = LabelStore(tmp_path / "labels.sqlite", SOURCE.fingerprint)
    who: dict[str, Any] = {"strategy": {}, "teacher": {}, "seed": 0, "answered_by": "Bob"}
    answer = Answer(torch.ones(1), torch.ones(1, dtype=torch.int64))
    store.put(AskKey("aaa", 7, 3), Query("pair", torch.tensor([[0, 20]]), 10), answer, **who)
    feedback = silent.round(1)
    assert feedback.asked == (10, 0, 0, 0, False, 0) and feedback.labels.start[0].tolist() == [0, 20]
    assert_same(feedback.labels, store.labels("pair"))
    store.put(AskKey("zzz", 0, 0), Query("pair", torch.tensor([[0, 10**6]]), 10), answer, **who)
    with pytest.raises(UserError, match=r"from row 1000000 does not lie within one episode .* as answer 11 of the label store"):
        silent.round(2)


# Crashes ---------------------------------------------------------------------------------------------------------------


class Noting(UniformQuery):
    """Notes how many rounds it has asked, by what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Mapping[str, Any]] = []

    def recall(self, notes: Mapping[str, Any]) -> None:
        self.told.append(dict(notes))

    def notes(self) -> dict[str, Any]:
        return {"rounds": (len(self.told), 1), "scale": 0.1 * len(self.told)}


def test_a_replayed_round_sees_no_later_answer(tmp_path: Path) -> None:
    """All three rounds are in the store; whoever begins again gets what each round knew, and the notes that it was told."""
    first = Noting()
    asking = session(tmp_path, query=first)
    straight = [asking.round(number) for number in range(3)]
    again = Noting()
    replayed = session(tmp_path, query=again)
    assert [replayed.round(number) for number in range(3)][-1].asked == straight[-1].asked
    assert again.told == first.told == [{}, {"rounds": [1, 1], "scale": 0.1}]  # as JSON gives it back
    late = session(tmp_path, query=Noting())
    assert_same(late.round(1).labels, straight[1].labels)
