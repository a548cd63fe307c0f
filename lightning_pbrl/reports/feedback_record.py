"""Feedback records of a run: predictions and true values at every round with questions.

They are one file of plain tables, ``feedback.npz``. Its rows carry the number of their round, so each table can be read alone:

- ``round``, ``updates``, ``env_steps``, ``pairs``, ``ratings``, ``others``, ``pearson_step``, (K,): one row per :class:`Record`;
- ``clip_true``, ``clip_predicted``, ``clip_spread``, ``clip_new``, ``clip_rating_score``, (M,): the segments of every
  :class:`Sample`;
- ``pair_probability``, ``pair_score``, (M / 2,): the pairs that those segments form;
- ``step_true``, ``step_learned``, (S,): the single :class:`Steps`;
- ``question_kind``, ``question_true`` ..., (Q, ...): the :class:`Questions` of every round.

All predictions were made before the round's answers were learned from: they test the model's generalisation.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lightning_pbrl.data.atomic import replacing
from lightning_pbrl.data.guard import reading

Array = npt.NDArray[Any]

FILE = "feedback.npz"
"""File in the run folder that holds its records."""
PAIR, RATING = "pair", "rating"
"""Kinds of question; files of older versions have their numbers, 0 and 1."""
CORRECTION = "correction"
"""Pairs whose second segment is preferred where it corrects the first."""
PAIRS = (PAIR, "graded", CORRECTION)
"""Kinds of question about two segments on the one axis of the reward."""


class Questions(NamedTuple):
    """Questions of one or several rounds, Q in all.

    Attributes:
        kind: kind of answer, such as "pair", "rating", "best", "pair:safety", or :data:`CORRECTION`, (Q,), str.
        true: undiscounted true returns of the segments, environment units, (Q, C) with C of at least 2; NaN where unknown or
            without a segment.
        predicted: predicted returns before the answer, mean over members, (Q, C); on an axis those on this axis.
        probability: predicted P(second preferred) of two segments, of more the largest P(preferred), mean over members or draws,
            (Q,); NaN for ratings.
        score: information of the answer, bits, (Q,). For ratings by a model that predicts no distribution over ratings, the
            standard deviation of the predicted return. NaN for a single member without draws.
        rating: predicted rating before the answer, rating units, (Q,); NaN for pairs, and for a model without a rating scale.
        value: the answer: P(second preferred), the number of the best, or the rating, (Q,); NaN where there is none.
        status: values of :class:`~lightning_pbrl.data.feedback.Status`, (Q,), int64.
        lead: predicted return of the preferred segment above the best of the others, (Q,); NaN where none is preferred.
    """

    kind: Array
    true: Array
    predicted: Array
    probability: Array
    score: Array
    rating: Array
    value: Array
    status: Array
    lead: Array

    def __len__(self) -> int:  # the number of questions, not of fields
        return len(self.kind)

    def take(self, index: Array) -> Questions:
        """Return the questions ``index``, row numbers or (Q,) bool."""
        return Questions(*(column[index] for column in self))

    def but(self, **columns: Array) -> Questions:
        """Return these questions with other columns."""
        return Questions(**{**self._asdict(), **columns})

    def of(self, *kinds: str) -> Questions:
        """Return the questions of these kinds, with as many columns of returns as they have segments, at least 2."""
        found = self.take(np.isin(self.kind, kinds))
        most = int(np.isfinite(found.predicted).sum(1).max(initial=2))
        return found.but(true=found.true[:, :most], predicted=found.predicted[:, :most])

    @staticmethod
    def join(parts: Sequence[Questions]) -> Questions:
        """Concatenate the questions of all parts, in order; returns of fewer segments are filled up with NaN."""
        return Questions(*(np.concatenate(columns) for columns in zip(*_alike([NO_QUESTIONS, *parts]), strict=True)))


def _alike(parts: Sequence[Questions]) -> list[Questions]:
    """Return the same with returns of one width, (Q, C), filled up with NaN."""
    most = max(part.true.shape[1] for part in parts)

    def wide(returns: Array) -> Array:
        return np.pad(returns, ((0, 0), (0, most - returns.shape[1])), constant_values=np.nan)

    return [part.but(true=wide(part.true), predicted=wide(part.predicted)) for part in parts]


_NONE, _NO_PAIR, _NO_NUMBER = np.zeros(0, np.int64), np.zeros((0, 2), np.float32), np.zeros(0, np.float32)
NO_QUESTIONS = Questions(
    np.zeros(0, "<U1"), _NO_PAIR, _NO_PAIR, _NO_NUMBER, _NO_NUMBER, _NO_NUMBER, _NO_NUMBER, _NONE, _NO_NUMBER
)


class Sample(NamedTuple):
    """Random segments, n of them (an even number), and the n / 2 pairs that they form.

    Attributes:
        true: undiscounted true return, environment units, (n,); NaN where unknown.
        predicted: predicted return, mean over members, (n,).
        spread: its standard deviation over members or draws (divisor their number), (n,); NaN for a single one.
        new: True if the segment began after the previous record, (n,), bool.
        rating_score: information of a rating of the segment, bits, (n,); NaN for a model that predicts no distribution over
            ratings.
        probability: predicted P(second preferred) of the segments 2i and 2i + 1, mean over members or draws, (n / 2,).
        score: information of that question, bits, (n / 2,); NaN for a single member without draws.
    """

    true: Array
    predicted: Array
    spread: Array
    new: Array
    rating_score: Array
    probability: Array
    score: Array

    @staticmethod
    def join(parts: Sequence[Sample]) -> Sample:
        """Concatenate the segments and pairs of all parts, at least one, in order."""
        return Sample(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


class Steps(NamedTuple):
    """Random single steps, s of them.

    Attributes:
        true: true reward, environment units, (s,); NaN where unknown.
        learned: the reward that policies receive, (s,).
    """

    true: Array
    learned: Array


NO_STEPS = Steps(_NO_NUMBER, _NO_NUMBER)


class Record(NamedTuple):
    """Feedback record of one round of a run.

    Attributes:
        round: the round that begins here.
        updates: gradient updates so far.
        env_steps: env steps so far; 0 for methods that do not act.
        pairs: number of pairs that the model has been trained on.
        ratings: number of ratings that the model has been trained on.
        others: number of answers of other kinds that the model has been trained on.
        pearson_step: correlation of true and learned reward over steps of the sample; NaN if unknown.
        sample: random segments.
        questions: questions of the round.
        steps: some of the steps behind ``pearson_step``; none if a reward depends on more than its step.
    """

    round: int
    updates: int
    env_steps: int
    pairs: int
    ratings: int
    pearson_step: float
    sample: Sample
    questions: Questions = NO_QUESTIONS
    steps: Steps = NO_STEPS
    others: int = 0

    @property
    def answers(self) -> int:
        """Number of answers that the model has been trained on."""
        return self.pairs + self.ratings + self.others


COUNTS = ("round", "updates", "env_steps", "pairs", "ratings", "others")
"""Integer fields of a record."""
CLIP, PAIRED = Sample._fields[:5], Sample._fields[5:]
"""Fields of a sample that have a row per segment, and per pair of segments."""
LATER = (("question", "rating"), ("question", "lead"), ("clip", "rating_score"))
"""Columns that older files lack; they are read as NaN."""


def write_records(folder: str | Path, records: Sequence[Record]) -> Path:
    """Write ``feedback.npz``, whole or not at all.

    Raises:
        UserError: if the folder cannot be written.
    """
    arrays = {name: np.array([getattr(record, name) for record in records], np.int64) for name in COUNTS}
    arrays["pearson_step"] = np.array([record.pearson_step for record in records], np.float64)
    number = arrays["round"]
    for prefix, fields, tables in (
        ("clip", CLIP, [record.sample for record in records]),
        ("pair", PAIRED, [record.sample for record in records]),
        ("question", Questions._fields, _alike([record.questions for record in records])),
        ("step", Steps._fields, [record.steps for record in records]),
    ):
        sizes = [len(getattr(table, fields[0])) for table in tables]
        arrays[f"{prefix}_round"] = np.repeat(number, sizes)
        for name in fields:
            arrays[f"{prefix}_{name}"] = np.concatenate([getattr(table, name) for table in tables])
    path = Path(folder) / FILE
    with replacing(path) as part, part.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    return path


def read_records(path: str | Path) -> list[Record]:
    """Read the file of :func:`write_records`, by round.

    Raises:
        UserError: if the file is damaged.
    """
    with reading(path, "is damaged", "remove it, a further fit writes it anew"):
        with Path(path).open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        rounds = arrays["round"]
        if (np.diff(rounds) <= 0).any():
            raise ValueError("rounds are not in order")
        for prefix, name in LATER:
            arrays.setdefault(f"{prefix}_{name}", np.full(len(arrays[f"{prefix}_round"]), np.nan, np.float32))
        arrays.setdefault("others", np.zeros_like(rounds))
        if arrays["question_kind"].dtype.kind != "U":
            arrays["question_kind"] = np.array([PAIR, RATING])[arrays["question_kind"]]
        if "step_round" not in arrays:
            arrays |= {"step_round": _NONE, **{f"step_{name}": column for name, column in NO_STEPS._asdict().items()}}
        tables = (("clip", CLIP), ("pair", PAIRED), ("question", Questions._fields), ("step", Steps._fields))
        clips, pairs, questions, steps = (
            zip(*(_split(arrays, prefix, name, rounds) for name in fields), strict=True) for prefix, fields in tables
        )
        return [
            Record(
                **{name: int(arrays[name][i]) for name in COUNTS},
                pearson_step=float(arrays["pearson_step"][i]),
                sample=Sample(*clip, *pair),
                questions=Questions(*asked),
                steps=Steps(*some),
            )
            for i, (clip, pair, asked, some) in enumerate(zip(clips, pairs, questions, steps, strict=True))
        ]


def _split(arrays: dict[str, Array], prefix: str, name: str, rounds: Array) -> list[Array]:
    """Split one column of a table by round."""
    column, at = arrays[f"{prefix}_{name}"], arrays[f"{prefix}_round"]
    if len(column) != len(at):
        raise ValueError(f"{prefix}_{name} and {prefix}_round differ in length")
    return np.split(column, np.searchsorted(at, rounds[1:]))
