"""The model answers where it is sure, the person gets the rest, and the records say who answered."""

from __future__ import annotations

import json
from pathlib import Path

import jsonargparse
import pytest
import torch
import yaml
from asking_clips import questions
from test_function import Learner

from lightning_pbrl import registry
from lightning_pbrl.asking.plan import AskingPlan
from lightning_pbrl.asking.schedule import Constant
from lightning_pbrl.asking.session import AskingSession
from lightning_pbrl.data.feedback import Answer, AskKey, Clips, Query, Status
from lightning_pbrl.data.store import LabelStore
from lightning_pbrl.describe import settings_of
from lightning_pbrl.errors import UserError
from lightning_pbrl.queries.uniform import UniformQuery
from lightning_pbrl.rng import question_keys
from lightning_pbrl.teachers.base import Teacher
from lightning_pbrl.teachers.function import Clip, FunctionTeacher, Opinion
from lightning_pbrl.teachers.mixed import MixedTeacher
from lightning_pbrl.teachers.person import Person
from lightning_pbrl.teachers.rating import RatingTeacher
from lightning_pbrl.teachers.router import RouterTeacher
from lightning_pbrl.teachers.simulated import SimulatedTeacher
from lightning_pbrl.teachers.vision import VisionTeacher
from lightning_pbrl.testing import check_teacher
from lightning_pbrl.testing.toys import synthetic_transitions

OPINIONS = [Opinion(1, 0.9), Opinion(1, 0.7), Opinion(0.5, 0.8), None, Status.PENDING, Opinion(0, 1.0)]


def opinion(first: Clip, second: Clip) -> object:
    return OPINIONS[int(first.obs[0, 0])]


def equal(first: Clip, second: Clip) -> float:
    return 0.5


def sides(first: Clip, second: Clip) -> Opinion:
    """How sure the model is depends on the clips."""
    gap = float(second.obs[:, 0].sum() - first.obs[:, 0].sum())
    return Opinion(float(gap > 0), min(abs(gap), 1.0))


@pytest.mark.parametrize(
    "teacher",
    [
        RouterTeacher(FunctionTeacher(sides), SimulatedTeacher()),
        RouterTeacher(SimulatedTeacher(beta=0.5), SimulatedTeacher(), draws=3),
        RouterTeacher(MixedTeacher(), MixedTeacher()),
    ],
)
def test_it_is_a_teacher(teacher: RouterTeacher) -> None:
    check_teacher(teacher)


def test_unsure_questions_go_to_the_person() -> None:
    teacher = RouterTeacher(FunctionTeacher(opinion), FunctionTeacher(equal), confidence=0.8)
    answer = teacher.answer(*questions(6))
    assert answer.value.tolist() == [1.0, 0.5, 0.5, 0.5, 0.5, 0.0]
    assert answer.status.tolist() == [Status.ANSWERED, *[Status.EQUAL] * 4, Status.ANSWERED]


def test_a_person_who_answers_later() -> None:
    teacher = RouterTeacher(FunctionTeacher(opinion), Person(), confidence=0.8)
    answer = teacher.answer(*questions(6))
    pending = int(Status.PENDING)
    assert answer.status.tolist() == [Status.ANSWERED, pending, Status.EQUAL, pending, pending, Status.ANSWERED]
    f, p = "FunctionTeacher", "Person"
    assert teacher.answered_by() == [f, p, f, p, p, f]


def test_repeated_draws_that_disagree() -> None:
    """Of equal returns a noisy teacher draws at random: all 5 draws agree in 1 of 16 questions; of a large gap, always."""
    count = 2_000
    query, clips, _ = questions(count)
    reward = torch.zeros(count, 2, 5)
    reward[: count // 2, 1] = 100.0
    clips = clips._replace(reward=reward)
    teacher = RouterTeacher(SimulatedTeacher(beta=1.0), Person(), confidence=1.0, draws=5)
    status = teacher.answer(query, clips, question_keys(0, 0, count)).status
    assert (status[: count // 2] == Status.ANSWERED).all()
    sure = int((status[count // 2 :] == Status.ANSWERED).sum())
    assert abs(sure / 1_000 - 1 / 16) < 4 * (1 / 16 * 15 / 16 / 1_000) ** 0.5
    most = RouterTeacher(SimulatedTeacher(beta=1.0), Person(), confidence=0.6, draws=5)
    assert (most.answer(query, clips, question_keys(0, 0, count)).status == Status.ANSWERED).all()  # 3 of 5 always agree


class Sided(FunctionTeacher):
    """Answers by the first key bit: the draws of a question differ."""

    def __init__(self) -> None:
        super().__init__(lambda first, second: None if first.key % 3 == 0 else float(first.key % 3 == 1))


def test_the_most_frequent_answer_counts() -> None:
    query, clips, keys = questions(200)
    router = RouterTeacher(Sided(), Person(), confidence=0.0, draws=9)
    answer, share = router._asked(query, clips, keys)
    assert (share >= 1 / 3).all() and (share <= 1).all()
    assert {float(each) for each in (share * 9).round()} == {float(each) for each in share * 9}
    asked = router.answer(query, clips, keys).status
    assert ((answer.status == Status.SKIPPED) == (asked == Status.PENDING)).all()  # "cannot tell" is no answer, however sure


def test_who_answered_is_recorded_and_a_person_fills_the_rest(tmp_path: Path) -> None:
    source = synthetic_transitions()
    plan = AskingPlan(RouterTeacher(FunctionTeacher(sides), Person(), confidence=0.9), UniformQuery(), 40, Constant(40))
    store = LabelStore(tmp_path / "labels.sqlite", source.fingerprint)
    asking = AskingSession(Learner(), source, 10, plan, run="ada")
    asking.open(store)
    feedback = asking.round(0)
    rows = store.records()
    assert {(row["status"] == Status.PENDING, row["answered_by"]) for row in rows} == {
        (False, "FunctionTeacher"),
        (True, "Person"),
    }
    assert feedback.pending == sum(row["answered_by"] == "Person" for row in rows) and 0 < feedback.pending < 40
    waiting = next(row for row in rows if row["status"] == Status.PENDING)
    query = Query("pair", torch.tensor([[waiting["start_0"], waiting["start_1"]]]), 10)
    late = Answer(torch.tensor([1.0]), torch.tensor([1]))
    who = {"strategy": {}, "teacher": {}, "seed": 0}
    store.put(AskKey("ada", 0, waiting["number"]), query, late, answered_by="Bob", **who)
    again = AskingSession(Learner(), source, 10, plan, run="ada")
    again.open(store)
    assert again.round(0).pending == feedback.pending - 1  # what Bob has answered is not asked again
    assert [row["answered_by"] for row in store.records()].count("Bob") == 1


def test_kinds_bins_and_thresholds() -> None:
    router = RouterTeacher(RatingTeacher(bins=4, low=0, high=1), Person())
    assert (router.kinds, router.bins, router.simulated) == (frozenset({"rating"}), 4, False)
    assert router.in_force() == {"model": {"range": [0, 1], "bins": 4}}
    assert not router.wants_frames and RouterTeacher(FunctionTeacher(equal, frames=True), Person()).wants_frames
    with pytest.raises(UserError, match="RouterTeacher got RatingTeacher, which answers rating questions, and SimulatedTeacher"):
        RouterTeacher(RatingTeacher(), SimulatedTeacher())
    with pytest.raises(UserError, match=r"RouterTeacher got confidence=1\.5: give a number between 0 and 1"):
        RouterTeacher(SimulatedTeacher(), Person(), confidence=1.5)


def test_a_router_within_a_teacher_for_both_kinds() -> None:
    router = RouterTeacher(FunctionTeacher(opinion, frames=True), Person(), confidence=0.8)
    both = MixedTeacher(router, RatingTeacher(low=0, high=1))
    query, clips, keys = questions(3, frames=True)
    answer, sure = both.confident(query, clips, keys)
    assert both.wants_frames and answer.status.tolist() == [1, 0, 2] and sure.tolist() == [1.0, 0.0, 1.0]
    assert both.answered_by() == ["FunctionTeacher", "Person", "FunctionTeacher"]
    both.answer(*questions(3, clips=1))
    assert both.answered_by() == "MixedTeacher"


def test_no_question_goes_to_the_person_without_need() -> None:
    class Nobody(Person):
        def answer(self, query: Query, clips: Clips, keys: torch.Tensor) -> Answer:
            raise AssertionError

    answer = RouterTeacher(FunctionTeacher(equal), Nobody()).answer(*questions(3))
    assert (answer.status == Status.EQUAL).all()


CONFIG = """
teacher:
  class_path: RouterTeacher
  init_args:
    model:
      class_path: VisionTeacher
      init_args: {base_url: "http://localhost:8000/v1", model: m, task: walk, extra: {max_tokens: 50}}
    person: {class_path: FunctionTeacher, init_args: {fn: "test_router:equal"}}
    confidence: 0.7
"""


def test_all_three_are_named_in_a_config(tmp_path: Path) -> None:
    registry.import_all()
    (tmp_path / "a.yaml").write_text(CONFIG)
    parser = jsonargparse.ArgumentParser(parser_mode="omegaconf+", exit_on_error=False)
    parser.add_argument("-c", action="config")
    parser.add_argument("--teacher", type=Teacher)
    parsed = parser.parse_args(["-c", str(tmp_path / "a.yaml")])
    teacher = parser.instantiate(parsed).teacher
    assert isinstance(teacher, RouterTeacher) and isinstance(teacher.model, VisionTeacher)
    assert teacher.person.answer(*questions(2)).value.tolist() == [0.5, 0.5]
    assert (teacher.confidence, teacher.model.endpoint.extra, teacher.model.task) == (0.7, {"max_tokens": 50}, "walk")
    told = teacher.describe()
    assert told == json.loads(json.dumps(told)) and told["person"]["fn"] == "test_router:equal" and "fn" not in told["model"]
    (tmp_path / "b.yaml").write_text(yaml.safe_dump({"teacher": settings_of(teacher)}))  # as a run from Python writes it
    again = parser.instantiate(parser.parse_args(["-c", str(tmp_path / "b.yaml")])).teacher
    assert again.describe() == told
