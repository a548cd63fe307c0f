"""Questions that nobody has answered yet: a fit goes on with what it has, and says when only waiting is left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pebble_toys
import pytest
import torch
from toys import SPEC, ToyData, make_trainer

from lightning_pbrl.callbacks.ask_teacher import AskTeacher
from lightning_pbrl.data.feedback import Answer, AskKey, Clips, Query, Status
from lightning_pbrl.data.store import LabelStore
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.ipl import IPL
from lightning_pbrl.methods.learn_reward import RewardEnsemble
from lightning_pbrl.methods.pebble import PEBBLE
from lightning_pbrl.queries.ranked_list import RankedListQuery
from lightning_pbrl.rng import question_keys
from lightning_pbrl.teachers.base import Teacher

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")


class Postponing(Teacher):
    """A page in a browser: takes every question and answers none, but for those whose place in a batch is in ``at_once``."""

    def __init__(self, at_once: tuple[int, ...] = ()) -> None:
        self.at_once, self.keys = at_once, list[int]()

    def answer(self, query: Query, clips: Clips, keys: torch.Tensor) -> Answer:
        self.keys += keys.tolist()
        value, status = torch.full((len(query),), torch.nan), torch.full((len(query),), int(Status.PENDING))
        for place in self.at_once:
            value[place], status[place] = float(place % 2), int(Status.ANSWERED)
        return Answer(value, status)

    def describe(self) -> dict[str, Any]:
        return {"teacher": "Postponing"}


def fit(folder: Path, teacher: Teacher, method: Any = None, resume: bool = False, **ask: Any) -> Any:
    method = method or RewardEnsemble(SPEC, hidden=(8,), epochs=2, stop_accuracy=1.0)
    callback = AskTeacher(teacher, **{"budget": 20, "per_round": 10, **ask})
    trainer = make_trainer(folder, [callback])
    trainer.fit(method, ToyData(), ckpt_path=folder / "checkpoints" / "last.ckpt" if resume else None)
    return method


def store_of(folder: Path) -> LabelStore:
    return LabelStore(folder / "labels.sqlite", ToyData().load().fingerprint, "seed0")


def answer(store: LabelStore, numbers: range, per_round: int = 10, first: int = 0) -> None:
    """What the page does when somebody has judged: the second segment is better in questions of odd numbers."""
    for number in numbers:
        round_number = first + number // per_round
        found, query, _ = store.stored("seed0", round_number)
        at = int((found == number).nonzero())
        given = Answer(torch.tensor([float(number % 2)]), torch.tensor([int(Status.ANSWERED)]))
        who = {"strategy": {}, "teacher": {}, "seed": 0, "answered_by": "Ada"}
        store.put(AskKey("seed0", round_number, number), Query("pair", query.start[at : at + 1], query.length), given, **who)


def waits(pending: int, asked: int, folder: Path, what: str) -> str:
    return (
        f"{pending} of {asked} questions in the label store {folder / 'labels.sqlite'} have not been answered yet, and {what}: "
        "answer them, then the same command with --resume goes on."
    )


def test_a_fit_of_unanswered_questions_stops_and_goes_on_once_they_are_answered(tmp_path: Path) -> None:
    teacher = Postponing()
    with pytest.raises(UserError) as caught:
        fit(tmp_path, teacher)
    assert str(caught.value) == waits(20, 20, tmp_path, "RewardEnsemble has nothing else to learn from")
    assert teacher.keys == question_keys(0, 0, 20).tolist()

    answer(store_of(tmp_path), range(2, 14))
    teacher.keys.clear()
    with pytest.raises(UserError) as caught:
        fit(tmp_path, teacher, resume=True)
    assert str(caught.value) == waits(8, 20, tmp_path, "RewardEnsemble has learned from 12 others")
    assert teacher.keys == question_keys(0, 14, 6).tolist()  # of the round that was not finished, those still open

    waiting = RewardEnsemble(SPEC, hidden=(8,), epochs=2, stop_accuracy=1.0)
    with pytest.raises(UserError, match="8 of 20 questions"):
        fit(tmp_path, teacher, waiting, resume=True)
    assert waiting.engine.updates["reward"] == 2 and not waiting.finished  # nothing has been learned a second time

    answer(store_of(tmp_path), range(20)[:2])
    answer(store_of(tmp_path), range(14, 20))
    method = fit(tmp_path, teacher, resume=True)
    assert method.finished and method.learned_from == 20 and method.asked == (20, 0, 0, 0, False, 0) and method.pending == 0
    assert method.labels.value.tolist() == [0.0, 1.0] * 10 and store_of(tmp_path).spent() == 20


def test_answers_between_unanswered_ones_are_kept(tmp_path: Path) -> None:
    """A round that is replayed asks for what is open and for nothing else."""
    first = Postponing()
    with pytest.raises(UserError, match="10 of 10 questions"):
        fit(tmp_path, first, budget=10)
    for number in (0, 4, 7):
        answer(store_of(tmp_path), range(number, number + 1))
    second = Postponing()
    with pytest.raises(UserError, match=r"7 of 10 questions .* RewardEnsemble has learned from 3 others"):
        fit(tmp_path, second, budget=10)
    open_ones = [number for number in range(10) if number not in (0, 4, 7)]
    assert second.keys == question_keys(0, 0, 10)[open_ones].tolist()
    assert store_of(tmp_path).labels("pair").value.nan_to_num(nan=9).tolist() == [0, 9, 9, 9, 0, 9, 9, 1, 9, 9]


def test_a_question_that_depends_on_an_answer_waits_for_it(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        fit(tmp_path, Postponing(), query=RankedListQuery(), uniform_first=False)
    assert str(caught.value) == waits(1, 1, tmp_path, "RewardEnsemble has nothing else to learn from")


def test_a_policy_learner_needs_one_answer_and_tells_of_the_others(tmp_path: Path) -> None:
    def learner() -> IPL:
        return IPL(SPEC, updates=4, eval_interval=2, hidden=(8,), batch_size=4)

    with pytest.raises(UserError) as caught:
        fit(tmp_path, Postponing(), learner(), budget=10)
    assert str(caught.value) == waits(10, 10, tmp_path, "IPL has nothing else to learn from")
    answer(store_of(tmp_path), range(3))
    with pytest.warns(UserWarning, match="7 questions were never answered: IPL has learned from the others"):
        method = fit(tmp_path, Postponing(), learner(), budget=10)
    assert method.finished and len(method.pairs) == 3


def test_a_policy_that_acts_fits_its_reward_again_when_a_late_answer_comes(tmp_path: Path) -> None:
    """Six questions in round 1, of which two are answered at once; the others during round 2, in which nobody is asked."""

    fits = []

    class Watching(PEBBLE):
        def plan(self, round_number: int) -> Any:
            if round_number == 3:  # too late for this round
                answer(LabelStore(self.answers_from, self.source.fingerprint), range(2, 6), 6, first=1)
            plan = super().plan(round_number)
            if any(phase.program == "reward" for phase in plan):
                fits.append((round_number, len(self.reward_model.training_pairs())))
            return plan

    PEBBLE.registry.pop("Watching")
    method = pebble_toys.fit(Watching, tmp_path, ask={"teacher": Postponing((0, 1)), "budget": 6}, env_steps=120, round_steps=20)
    assert fits == [(1, 2), (4, 6)] and method.learned_from == 6 and method.pending == 0
