"""What authors test their own classes with: right ones pass, and each planted fault is told in a sentence of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import outside_methods as outside
import outside_rewards  # noqa: F401 - its classes can then be named
import pytest
import torch
from torch import Tensor

from lightning_pbrl.data.feedback import Answer, Clips, Labels, Query, Status
from lightning_pbrl.data.segments import SegmentPool
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.base import Method
from lightning_pbrl.methods.learn_reward import LearnReward
from lightning_pbrl.methods.pebble import PEBBLE
from lightning_pbrl.queries.base import QueryStrategy, Scorer
from lightning_pbrl.registry import classes
from lightning_pbrl.rng import uniform
from lightning_pbrl.teachers.base import Teacher
from lightning_pbrl.testing import MethodCheck, check_datamodule, check_method, check_query, check_teacher
from lightning_pbrl.testing.toys import AnsweredToy, ToyData

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")


@pytest.mark.parametrize("cls", [outside.ReBRAC, outside.DPO])
def test_a_right_method_from_outside_passes(cls: type[Method]) -> None:
    """Replicas, draws in tuples, any size of block; tests/methods/test_contract.py has those of the library."""
    check_method(cls)


@pytest.mark.parametrize(
    ("cls", "check", "sentence"),
    [
        (
            outside.SharedReference,
            "learns",
            r"SharedReference's parameter reference\.\S+ is in none of its groups\(\), so that no update moves it",
        ),
        (
            outside.MirroredNoise,
            "learns",
            "MirroredNoise's program .policy. draws other numbers for .noise. when two updates are drawn",
        ),
        (outside.OwnNoise, "does_not_depend_on_the_block", "OwnNoise's weights depend on the setting block"),
        (outside.Counts, "does_not_wait_for_the_device", "Counts asks for the value of a tensor in an update"),
        (outside.ReadsTheTruth, "reads_no_true_reward", "ReadsTheTruth reads the true reward of the data: read the column"),
        (outside.TooFar, "acts_or_rewards", r"TooFar\.act leaves \[-1, 1\]"),
        (outside.Unseeded, "is_built_from_its_seed", r"Unseeded's actor\.\S+ differs between two builds with one seed"),
        (outside.Idle, "moves_what_it_says", "Idle's program 'policy' does not move 'idle'"),
        (outside.Remembers, "resumes", "Remembers's weights are others when a fit stops after a round and goes on"),
    ],
)
def test_a_planted_fault_is_told(cls: type[Method], check: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises((AssertionError, UserError), match=sentence):
        getattr(MethodCheck(cls, tmp_path), check)()


@pytest.mark.parametrize("cls", [LearnReward, PEBBLE])
def test_a_right_reward_model_from_outside_passes(cls: type[Method]) -> None:
    """Alone, and held by a learner that acts."""
    check_method(cls, reward_model={"class_path": "LinearReward"})


def test_a_reward_models_fault_is_told(tmp_path: Path) -> None:
    check = MethodCheck(LearnReward, tmp_path, reward_model={"class_path": "outside_rewards.OwnDraws"})
    with pytest.raises(AssertionError, match="LearnReward's weights depend on the setting block"):
        check.does_not_depend_on_the_block()


# Teachers ---------------------------------------------------------------------------------------------------------------------


TEACHERS = [cls for cls in classes("teachers").values() if cls.__module__.startswith("lightning_pbrl.") and cls.simulated]


@pytest.mark.parametrize("cls", TEACHERS)
def test_the_librarys_teachers_pass(cls: type[Teacher]) -> None:
    check_teacher(cls())


class Moody(Teacher):
    """Draws from PyTorch's own generator."""

    def answer(self, query: Query, clips: Clips, keys: Tensor) -> Answer:
        return Answer(torch.rand(len(query)), torch.full((len(query),), int(Status.ANSWERED)))


class Comparing(Teacher):
    """Ranks the questions of a batch against each other."""

    def answer(self, query: Query, clips: Clips, keys: Tensor) -> Answer:
        gap = clips.reward.sum(-1).diff(dim=1).squeeze(1)
        return Answer((gap > gap.median()).float(), torch.full((len(query),), int(Status.ANSWERED)))


class Eager(Teacher):
    """Says equal and means second."""

    def answer(self, query: Query, clips: Clips, keys: Tensor) -> Answer:
        return Answer((uniform(keys, 0) > 0.5).float(), torch.full((len(query),), int(Status.EQUAL)))


class Secretive(Teacher):
    """Has settings that are no JSON."""

    def describe(self) -> dict[str, Any]:
        return {"class": "Secretive", "kinds": ("pair",)}

    def answer(self, query: Query, clips: Clips, keys: Tensor) -> Answer:
        return Answer(torch.ones(len(query)), torch.full((len(query),), int(Status.ANSWERED)))


@pytest.mark.parametrize(
    ("teacher", "sentence"),
    [
        (Moody(), "Moody answers a pair otherwise in another batch"),
        (Comparing(), "Comparing answers a pair otherwise in another batch"),
        (Eager(), "Eager says equal with a value other than 0.5"),
        (Secretive(), r"Secretive\.describe\(\) is not plain JSON"),
    ],
)
def test_a_teachers_fault_is_told(teacher: Teacher, sentence: str) -> None:
    with pytest.raises(AssertionError, match=sentence):
        check_teacher(teacher)


# Queries ----------------------------------------------------------------------------------------------------------------------


class Greedy(QueryStrategy):
    """Asks twice what it may."""

    def propose(self, pool: SegmentPool, n: int, model: Scorer, labels: Labels, rng: torch.Generator) -> Query:
        return pool.pairs(2 * n, rng)


class Anywhere(QueryStrategy):
    """Asks about rows, wherever episodes end."""

    def propose(self, pool: SegmentPool, n: int, model: Scorer, labels: Labels, rng: torch.Generator) -> Query:
        return Query("pair", torch.arange(2 * n).view(n, 2) + 25, pool.length)


class Selfish(QueryStrategy):
    """Compares segments with themselves."""

    def propose(self, pool: SegmentPool, n: int, model: Scorer, labels: Labels, rng: torch.Generator) -> Query:
        start = pool.pairs(n, rng).start[:, :1]
        return Query("pair", start.expand(-1, 2), pool.length)


class Restless(QueryStrategy):
    """Draws from PyTorch's own generator."""

    def propose(self, pool: SegmentPool, n: int, model: Scorer, labels: Labels, rng: torch.Generator) -> Query:
        return pool.pairs(n, torch.Generator().manual_seed(int(torch.randint(2**31, ()))))


@pytest.mark.parametrize(
    ("strategy", "sentence"),
    [
        (Greedy(), "Greedy proposes 20 questions where 10 are wanted"),
        (Anywhere(), "Anywhere asks about a segment that crosses the end of an episode"),
        (Selfish(), "Selfish compares a segment with itself"),
        (Restless(), "Restless proposes other questions from the same generator"),
    ],
)
def test_a_strategys_fault_is_told(strategy: QueryStrategy, sentence: str) -> None:
    with pytest.raises(AssertionError, match=sentence):
        check_query(strategy)


QUERIES = [cls for cls in classes("queries").values() if cls.__module__.startswith("lightning_pbrl.")]


@pytest.mark.parametrize("cls", QUERIES)
def test_the_librarys_strategies_pass(cls: type[QueryStrategy]) -> None:
    check_query(
        cls(),
        decode=lambda posterior: (posterior, torch.ones_like(posterior)),
        rating_probability=lambda posterior: torch.softmax(torch.stack([posterior, -posterior], -1), -1),
    )


# Data modules -----------------------------------------------------------------------------------------------------------------


class Misjudged(ToyData):
    """Says another size than its data have."""

    @property
    def spec(self) -> dict[str, Any]:
        return {**super().spec, "obs_dim": 6}


class Fickle(ToyData):
    """Loads other data each time."""

    def load(self) -> Transitions:
        self.episodes += 1
        return super().load()


class Strong(ToyData):
    """Actions beyond the action space."""

    def load(self) -> Transitions:
        data = super().load()
        data.column("action").mul_(2)
        return data


def test_data_modules() -> None:
    check_datamodule(ToyData())
    check_datamodule(AnsweredToy())
    for data, sentence in (
        (Misjudged(), "Misjudged says obs_dim 6 and its data have 5"),
        (Fickle(), r"Fickle\.load\(\) gives other data the second time"),
        (Strong(), r"The data of Strong have action beyond \[-1, 1\]"),
    ):
        with pytest.raises((AssertionError, UserError), match=sentence):
            check_datamodule(data)
