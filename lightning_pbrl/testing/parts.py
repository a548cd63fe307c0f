"""Checks of a teacher, a query strategy and a data module."""

from __future__ import annotations

import copy
import json
import pickle
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from lightning_pbrl.data import kinds
from lightning_pbrl.data.feedback import Answer, Kind, Labels, Query, Status
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.datamodules.base import FeedbackDataModule
from lightning_pbrl.queries.base import QueryStrategy
from lightning_pbrl.queries.best_of import different
from lightning_pbrl.rng import question_keys, stream
from lightning_pbrl.teachers.base import RoundStats, Teacher
from lightning_pbrl.testing.method import expect
from lightning_pbrl.testing.toys import synthetic_transitions

LENGTH = 10
"""Steps of the segments that are asked about."""


def check_teacher(teacher: Teacher, data: Transitions | None = None, questions: int = 40) -> None:
    """Check a teacher.

    Its answers must depend on the questions alone, neither on their batch nor on earlier questions, because a resumed run asks
    again. ``describe`` must return its settings as plain JSON.

    Args:
        teacher: the teacher.
        data: source of the segments; a toy data set by default.
        questions: number of questions of each kind.

    Raises:
        AssertionError: for the first failed check, in one sentence.
    """
    name, data = type(teacher).__name__, data or synthetic_transitions()
    expect(bool(teacher.kinds), f"{name} understands no kind of question: set kinds.")
    json_of(teacher, name)
    pool = data.pool(LENGTH)
    shown = data.reward[: 50 * LENGTH].view(50, LENGTH)
    for kind in sorted(teacher.kinds):
        query = questions_of(pool, kind, questions)
        clips, keys = data.clips(query), question_keys(0, 0, questions)

        def answers(rows: Tensor) -> Answer:
            teacher.start_round(RoundStats(0, data.mean_reward(), shown))
            some = Query(query.kind, query.start[rows], query.length)  # noqa: B023
            return teacher.answer(some, clips.take(rows), keys[rows])  # noqa: B023

        whole = answers(torch.arange(questions))
        expect(
            len(whole.value) == len(whole.status) == questions, f"{name} gives {len(whole.value)} answers to {questions} {kind}s."
        )
        known = torch.isin(whole.status, torch.tensor([int(status) for status in Status]))
        expect(bool(known.all()), f"{name} gives a status that is none of Status.")
        given = (whole.status == Status.ANSWERED) | (whole.status == Status.EQUAL)
        expect(not whole.value[given].isnan().any(), f"{name} gives no value to a {kind} that it says is answered.")
        if isinstance(choice := kinds.of(kind), kinds.ChoiceKind):
            sure, ties = whole.value[given], whole.value[whole.status == Status.EQUAL]
            expect(kind != "pair" or bool(((sure >= 0) & (sure <= 1)).all()), f"{name} gives a preference outside [0, 1].")
            expect(bool((ties == 0.5).all()), f"{name} says equal with a value other than 0.5.")
            odd = [value for value in sure.tolist() if kind != "pair" and not choice.takes(value, query.start.shape[1])]
            expect(not odd, f"{name} answers a {kind} with {odd[:1]}: it is {choice.values}.")
        order = torch.randperm(questions, generator=torch.Generator().manual_seed(0))
        shuffled = answers(order)
        same = _same(Answer(whole.value[order], whole.status[order]), shuffled)
        for k in range(questions):
            same &= _same(Answer(whole.value[k : k + 1], whole.status[k : k + 1]), answers(torch.tensor([k])))
        cure = "draw what is random from the keys (lightning_pbrl.rng.uniform)"
        expect(same, f"{name} answers a {kind} otherwise in another batch: {cure}.")


def check_query(strategy: QueryStrategy, data: Transitions | None = None, questions: int = 10, **model: Any) -> None:
    """Check a query strategy.

    It must ask no more than it may, about segments of the pool, never about one segment twice in a pair. From the same
    generator it must ask the same.

    Args:
        strategy: the strategy.
        data: source of the segments; a toy data set by default.
        questions: most questions that it may ask.
        **model: functions of the model by name; by default those of a reward that is the first entry of the observation.

    Raises:
        AssertionError: for the first failed check, in one sentence.
    """
    name, data = type(strategy).__name__, data or synthetic_transitions()
    json_of(strategy, name)
    known = {**toy_model(data), **model}
    missing = sorted(need for need in strategy.needs if need not in known)
    expect(not missing, f"{name} asks the model for its {missing[:1]}: give check_query a function of that name.")
    pool, scorer = data.pool(LENGTH), SimpleNamespace(**known)
    labels = {kind: Labels.empty(LENGTH, clips=kinds.of(kind).clips or 2) for kind in {"pair", "rating", *strategy.kinds}}

    def proposed() -> list[Query]:
        fresh = copy.deepcopy(strategy)
        fresh.begin({})
        fresh.recall({})
        return fresh.proposals(pool, questions, scorer, labels, stream(0, "query"))

    found, again = proposed(), proposed()
    asked = sum(len(query) for query in found)
    expect(0 < asked <= questions, f"{name} proposes {asked} questions where {questions} are wanted.")
    for query, repeated in zip(found, again, strict=True):
        expect(query.kind in strategy.kinds, f"{name} asks a {query.kind}, which is none of its kinds.")
        expect(query.length == LENGTH, f"{name} asks about segments of {query.length} steps, and the pool has {LENGTH}.")
        offsets, episode = data.episodes.offsets, data.episodes.of(query.start.flatten())
        inside = (query.start.flatten() >= offsets[episode]) & (query.start.flatten() + LENGTH <= offsets[episode + 1])
        expect(bool(inside.all()), f"{name} asks about a segment that crosses the end of an episode: draw from the pool.")
        expect(
            kinds.of(query.kind).about(query.start.shape[1]),
            f"{name} asks a {query.kind} about {query.start.shape[1]} segments, which is not what it is about.",
        )
        expect(
            query.start.shape[1] <= strategy.segments,
            f"{name} asks about {query.start.shape[1]} segments and its attribute segments is {strategy.segments}: raise it.",
        )
        expect(bool(query.start.sort(1).values.diff(dim=1).all()), f"{name} compares a segment with itself.")
        expect(
            torch.equal(query.start, repeated.start),
            f"{name} proposes other questions from the same generator: draw every random number from rng.",
        )


def check_datamodule(data: FeedbackDataModule) -> None:
    """Check a data module with logged data.

    Its specification must be known before data are read, and fit them. Reading twice must give the same data. It must have
    segments of the length that it asks about, and it must pickle.

    Args:
        data: data module, not set up yet.

    Raises:
        AssertionError: for the first failed check, in one sentence.
    """
    name = type(data).__name__
    spec = dict(data.spec)
    missing = [key for key in ("obs_dim", "action_dim", "horizon") if key not in spec]
    expect(not missing, f"{name}.spec has no {missing[:1]}: a method is built from it before data are read.")
    pickle.loads(pickle.dumps(data))  # noqa: S301 - what this process has just made
    data.setup("fit")
    source = data.source
    shown = source.obs_dim if "frames" in spec else source.shown_dim
    expect(shown == spec["obs_dim"], f"{name} says obs_dim {spec['obs_dim']} and its data have {shown}.")
    expect(
        source.action_dim == spec["action_dim"],
        f"{name} says action_dim {spec['action_dim']} and its data have {source.action_dim}.",
    )
    expect(len(source.pool(data.segment_length)) > 1, f"{name} has no two segments of {data.segment_length} steps to ask about.")
    expect(source.fingerprint == data.load().fingerprint, f"{name}.load() gives other data the second time.")


def json_of(thing: Any, name: str) -> None:
    """Check that ``describe`` returns an object's settings as plain JSON, with its class's name."""
    told = thing.describe()
    expect(
        told == json.loads(json.dumps(told)), f"{name}.describe() is not plain JSON: keep settings as numbers, texts and lists."
    )
    expect(told.get("class") == name, f"{name}.describe() does not say its class.")


def questions_of(pool: Any, kind: Kind, count: int) -> Query:
    """Return uniform questions of a kind."""
    clips = kinds.of(kind).clips or 4
    return Query(kind, different(pool, count, clips, stream(0, "questions")).start, pool.length)


def toy_model(data: Transitions) -> dict[str, Any]:
    """Return the functions of a toy model whose reward is the first entry of the observation, and of a second member."""

    def observations(query: Query) -> Tensor:
        return data.segments(query.start, query.length)[..., : data.obs_dim]

    def returns(query: Query) -> Tensor:
        first = observations(query)[..., 0].sum(-1)
        return torch.stack([first, 0.5 * first + 0.1 * observations(query)[..., 1].sum(-1)])

    return {
        "returns": returns,
        "observations": observations,
        "embed": lambda query: observations(query).mean(-2),
        "posterior": lambda query, draws: torch.cat([returns(query)] * draws)[:draws].double(),
    }


def _same(one: Answer, two: Answer) -> bool:
    return torch.equal(one.status, two.status) and torch.equal(one.value.nan_to_num(-1.0), two.value.nan_to_num(-1.0))
