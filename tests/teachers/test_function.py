"""A Python function as teacher: what it is shown, what it may return, and how its errors are told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from asking_clips import questions

from lightning_pbrl.asking.plan import AskingPlan
from lightning_pbrl.asking.schedule import Constant
from lightning_pbrl.asking.session import AskingSession
from lightning_pbrl.data.feedback import Query, Status
from lightning_pbrl.data.store import LabelStore
from lightning_pbrl.describe import settings_of
from lightning_pbrl.errors import UserError
from lightning_pbrl.queries.uniform import UniformQuery
from lightning_pbrl.registry import seeing_working_folder
from lightning_pbrl.teachers.function import Clip, FunctionTeacher, Opinion
from lightning_pbrl.testing import check_teacher
from lightning_pbrl.testing.toys import synthetic_transitions


def faster(first: Clip, second: Clip) -> float:
    return float(second.obs[:, 0].sum() > first.obs[:, 0].sum())


def mean(clip: Clip) -> float:
    return float(np.clip(clip.obs.mean() + 2, 0, 4).round())


@pytest.mark.parametrize(
    "teacher",
    [FunctionTeacher(faster), FunctionTeacher(mean, kind="rating", bins=5), FunctionTeacher(faster, workers=3)],
)
def test_it_is_a_teacher(teacher: FunctionTeacher) -> None:
    check_teacher(teacher)


def test_what_a_function_is_shown() -> None:
    seen: list[Clip] = []
    query, clips, keys = questions(2, frames=True)
    FunctionTeacher(lambda *both: seen.extend(both) or 1, frames=True, task="walk").answer(query, clips, keys)
    assert [(clip.obs[0, 0], int(clip.frames[4, 7, 7, 2]), clip.task, clip.key) for clip in seen] == [
        (0.0, 0, "walk", int(keys[0])),
        (10.0, 10, "walk", int(keys[0])),
        (1.0, 1, "walk", int(keys[1])),
        (11.0, 11, "walk", int(keys[1])),
    ]
    assert seen[0].obs.shape == (5, 3) and seen[0].action.shape == (5, 2) and seen[0].frames.shape == (5, 8, 8, 3)
    assert not hasattr(seen[0], "reward")
    FunctionTeacher(lambda *both: seen.extend(both)).answer(query, clips, keys)
    assert seen[-1].frames is None  # drawn, but not wanted


@pytest.mark.parametrize(
    ("returned", "value", "status", "confidence"),
    [
        (0, 0.0, Status.ANSWERED, 1.0),
        (1.0, 1.0, Status.ANSWERED, 1.0),
        (np.True_, 1.0, Status.ANSWERED, 1.0),
        (torch.tensor(1), 1.0, Status.ANSWERED, 1.0),
        (0.5, 0.5, Status.EQUAL, 1.0),
        (None, None, Status.SKIPPED, 0.0),
        (Status.SKIPPED, None, Status.SKIPPED, 0.0),
        (Status.PENDING, None, Status.PENDING, 0.0),
        (Opinion(1, 0.25), 1.0, Status.ANSWERED, 0.25),
        (Opinion(None, 0.9), None, Status.SKIPPED, 0.0),
    ],
)
def test_what_a_function_may_return(returned: Any, value: float | None, status: Status, confidence: float) -> None:
    answer, sure = FunctionTeacher(lambda first, second: returned).confident(*questions(1))
    assert (answer.status[0], float(sure[0])) == (status, confidence)
    assert answer.value.isnan().all() if value is None else answer.value[0] == value


@pytest.mark.parametrize(
    "returned", [0.3, 2, -1, "1", float("nan"), [0], Status.EQUAL, Opinion(1, 2), Opinion(1, "sure"), object()]
)
def test_what_a_function_may_not_return(returned: Any) -> None:
    with pytest.raises(UserError) as error:
        FunctionTeacher(lambda first, second: returned if first.obs[0, 0] == 1 else 0).answer(*questions(3))
    assert "at question 1 of 3, about the segments from row 100 and 1100: return 0, 1, 0.5 (equal) or None" in str(error.value)


def test_ratings_stay_on_their_scale() -> None:
    query, clips, keys = questions(3, clips=1)
    answer = FunctionTeacher(lambda clip: clip.obs[0, 0], kind="rating", bins=3).answer(query, clips, keys)
    assert answer.value.tolist() == [0, 1, 2] and (answer.status == Status.ANSWERED).all()
    with pytest.raises(UserError, match=r"returned .*3\.0.* at question 0 of 1, .*: return a number 0 \.\. 2 or None"):
        FunctionTeacher(lambda clip: np.float32(3), kind="rating", bins=3).answer(*questions(1, clips=1))
    half = FunctionTeacher(lambda clip: 0.5, kind="rating").answer(*questions(1, clips=1))
    assert half.status[0] == Status.ANSWERED  # a rating is never equal


def test_a_failing_function_is_told_with_its_question() -> None:
    def broken(first: Clip, second: Clip) -> float:
        return 1 / abs(int(first.obs[0, 0]) - 2) > 0

    with pytest.raises(UserError) as error:
        FunctionTeacher(broken).answer(*questions(4))
    assert "broken failed at question 2 of 4, about the segments from row 200 and 1200 (ZeroDivisionError: " in str(error.value)
    assert isinstance(error.value.__cause__, ZeroDivisionError)


def test_wanted_frames_that_nobody_has_drawn() -> None:
    with pytest.raises(UserError, match="FunctionTeacher looks at frames and these clips have none: set frames to false"):
        FunctionTeacher(faster, frames=True).answer(*questions(1))


# Named in a config ------------------------------------------------------------------------------------------------------


def test_a_function_of_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pbrl_test_mine.py").write_text(
        "SIZE = 3\nclass A:\n    @staticmethod\n    def second(a, b):\n        return 1\n"
    )
    with seeing_working_folder():
        teacher = FunctionTeacher("pbrl_test_mine:A.second")
        assert teacher.answer(*questions(1)).value.tolist() == [1.0]
        assert teacher.describe()["fn"] == "pbrl_test_mine:A.second"
        with pytest.raises(UserError, match="pbrl_test_mine:SIZE is a int: name a function"):
            FunctionTeacher("pbrl_test_mine:SIZE")
        for name in ("pbrl_test_mine:third", "pbrl_test_absent:f", "no_colon", ":f", ""):
            with pytest.raises(UserError, match=f"There is no function '{name}' .*: name it as module:function"):
                FunctionTeacher(name)


@pytest.mark.parametrize("fn", [faster, "test_function:faster"])
def test_records_and_configs_name_the_function(fn: str | Callable) -> None:
    teacher = FunctionTeacher(fn)
    name = "test_function:faster" if isinstance(fn, str) else f"{__name__}:faster"
    assert teacher.describe() == json.loads(json.dumps(teacher.describe())) and teacher.describe()["fn"] == name
    assert settings_of(teacher)["init_args"]["fn"] == name


class Learner:
    kinds = frozenset({"pair", "rating"})
    context = env_steps = 0
    planned_env_steps = planned_round_steps = None
    hparams: dict[str, Any] = {}

    def round_starts(self) -> None: ...


def test_a_session_draws_the_frames_that_a_teacher_wants(tmp_path: Path) -> None:
    source, drawn = synthetic_transitions(), []

    def frames(query: Query) -> torch.Tensor:
        drawn.append(len(query))
        return (query.start[:, :, None, None, None, None] % 256).to(torch.uint8).expand(-1, -1, 10, 4, 4, 3)

    def look(first: Clip, second: Clip) -> float:
        assert first.frames.shape == (10, 4, 4, 3)
        return float(second.frames[0, 0, 0, 0] > first.frames[0, 0, 0, 0])

    plan = AskingPlan(FunctionTeacher(look, frames=True), UniformQuery(), 10, Constant(10))
    asking = AskingSession(Learner(), source, 10, plan, run="ada", frames=frames)
    store = LabelStore(tmp_path / "labels.sqlite", source.fingerprint)
    asking.open(store)
    labels = asking.round(0).labels
    assert drawn == [10] and labels.value.tolist() == (labels.start[:, 1] % 256 > labels.start[:, 0] % 256).float().tolist()
    assert {row["answered_by"] for row in store.records()} == {"FunctionTeacher"}
