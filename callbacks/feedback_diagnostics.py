"""Diagnostics of feedback per round: agreement of learned and true reward, the questions asked, and a sheet of figures."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_pbrl.callbacks.ask_teacher import AskTeacher
from lightning_pbrl.data.feedback import Kind, Labels, Query
from lightning_pbrl.data.kinds import ChoiceKind, of
from lightning_pbrl.data.segments import SegmentPool, segment_rows
from lightning_pbrl.errors import UserError
from lightning_pbrl.losses.information import bald
from lightning_pbrl.methods.base import Method
from lightning_pbrl.ranges import COUNT_OR_NONE
from lightning_pbrl.reports.embedding import run_name
from lightning_pbrl.reports.feedback_numbers import pearson, spearman
from lightning_pbrl.reports.feedback_record import (
    CORRECTION,
    FILE,
    NO_QUESTIONS,
    NO_STEPS,
    PAIR,
    PAIRS,
    RATING,
    Questions,
    Record,
    Sample,
    Steps,
    read_records,
    write_records,
)
from lightning_pbrl.reports.feedback_sheet import write_sheet
from lightning_pbrl.reports.metrics import read_metrics, run_at
from lightning_pbrl.reports.panels import write_tables
from lightning_pbrl.rewards.base import RewardModel
from lightning_pbrl.rng import stream
from lightning_pbrl.settings import Checked
from lightning_pbrl.teachers.correcting import CorrectingTeacher

Array = npt.NDArray[Any]
STEPS, KEPT_STEPS = 2_000, 500
"""Largest number of sampled steps that are compared, and of those that are kept for a figure."""
DRAWS = 20
"""Number of functions drawn from the posterior, for models that have one."""


class FeedbackDiagnostics(Checked, pl.Callback, ranges={"clips": COUNT_OR_NONE}):
    """Keep a record of every round with questions, and of the end (:mod:`lightning_pbrl.reports.feedback_record`).

    A round is recorded after its questions are answered and before anything is learned from them. The run folder gets
    ``feedback.npz`` and ``feedback.png``. The log gets one row with ``reward/pearson`` and ``reward/spearman`` (of true and
    predicted returns of random segments), ``reward/pearson_step`` and ``query/true_gap_mean`` (mean difference of the true
    returns of the asked pairs). ``labels`` and ``env_steps`` of that row are those that the model had seen. Without true rewards
    these numbers are left out. True rewards are read for this purpose only, and no random stream of the run is touched.

    Methods that do not learn from answers, or predict no returns, are skipped. The cost of a record does not depend on the data.
    It is one scoring of ``clips`` segments, of the round's questions and of at most 2,000 single steps. Models with a posterior
    add a second scoring under 20 draws.

    Args:
        clips: number of random segments per record; 0 records and draws nothing.
        every_seconds: shortest time between two drawings of ``feedback.png``; the end of a fit always draws.

    Raises:
        UserError: for a single segment or a negative number.
    """

    def __init__(self, clips: int = 500, every_seconds: float = 30.0) -> None:
        if clips < 0 or clips == 1:
            raise UserError(f"feedback.clips is {clips}: give at least 2 clips, or 0 to record nothing.")
        self.clips, self.every_seconds = clips - clips % 2, every_seconds
        self.records: list[Record] = []
        self.seen: dict[str, int] | None = None  # answers of each kind before this round's
        self._drawn = float("-inf")

    def on_train_start(self, trainer: pl.Trainer, pl_module: Method) -> None:  # type: ignore[override]
        """Continue with the records of a resumed run's finished rounds; a new run starts without any."""
        path, number = Path(trainer.default_root_dir) / FILE, trainer.current_epoch
        kept = read_records(path) if self.clips and number > 0 and path.is_file() else []
        self.records = [record for record in kept if record.round <= number]
        if number == 0 or self.seen is None:
            given = trainer.datamodule.labels  # type: ignore[attr-defined]
            self.seen = {PAIR: 0 if given is None else len(given)}

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Method, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        if batch_idx or not self._concerns(pl_module):
            return
        labels, before = _labels(pl_module), dict(self.seen or {})
        self.seen = {kind: len(found) for kind, found in labels.items()}
        asked, now = {}, pl_module.asked
        if not now.this_round:
            return
        most = {PAIR: now.pairs, RATING: now.ratings or now.this_round}  # each may have several labels
        for kind, found in labels.items():
            count = min(len(found) - before.get(kind, 0), most.get(kind, now.others))
            asked[kind] = found.take(torch.arange(len(found) - count, len(found), device=found.value.device))
        self._keep(trainer, pl_module, before, asked)
        if time.monotonic() - self._drawn >= self.every_seconds:
            self._draw(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Method) -> None:  # type: ignore[override]
        if self._concerns(pl_module):
            learned = {kind: len(found) for kind, found in _labels(pl_module).items()}
            self._keep(trainer, pl_module, learned, {})

    def on_fit_end(self, trainer: pl.Trainer, pl_module: Method) -> None:  # type: ignore[override]
        if self.records:
            self._draw(trainer, tables=True)

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seen = state_dict["seen"]

    def _concerns(self, method: Any) -> bool:
        """Return True if there is something to record: a method that learns from answers and predicts returns."""
        return self.clips > 0 and "labels" in method.needs and hasattr(method.scorer, "returns")

    # A record ----------------------------------------------------------------------------------------------------------

    def _keep(self, trainer: pl.Trainer, method: Method, learned: dict[str, int], asked: dict[Kind, Labels]) -> None:
        """Record this round, and write and log it on rank 0; do nothing if the method predicts no returns."""
        number = trainer.current_epoch
        try:
            with untouched(method):
                found = self._record(trainer, method, learned, asked)
        except UserError:  # no segment is stored yet, or the method scores none
            return
        self.records = [record for record in self.records if record.round < number] + [found]
        if not trainer.is_global_zero:
            return
        write_records(trainer.default_root_dir, self.records)
        row = {"labels": float(found.answers), **scalars(found)}
        if method.collector is not None:
            row["env_steps"] = float(found.env_steps)
        for logger in trainer.loggers:  # a separate row: a hook's log would join the row of the next block
            logger.log_metrics(row, step=trainer.global_step)

    def _record(self, trainer: pl.Trainer, method: Any, learned: dict[str, int], asked: dict[Kind, Labels]) -> Record:
        source, number = method.source, trainer.current_epoch
        pool = source.pool(trainer.datamodule.segment_length, context=method.context)  # type: ignore[attr-defined]
        rng = stream(method.seed, "feedback", number)
        before = self.records[-1].env_steps if self.records and self.records[-1].round < number else 0
        sample, steps = self._sample(method, pool, rng, before)
        r = pearson(steps.true, steps.learned)
        parts = [questions(method, labels, kind) for kind, labels in asked.items() if len(labels)]
        callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        if any(isinstance(each, AskTeacher) and isinstance(each.teacher, CorrectingTeacher) for each in callbacks):
            parts = [part.but(kind=np.full(len(part), CORRECTION)) for part in parts]
        return Record(
            round=number,
            updates=trainer.global_step,
            env_steps=method.env_steps,
            pairs=learned.get(PAIR, 0),
            ratings=learned.get(RATING, 0),
            others=sum(count for kind, count in learned.items() if kind not in (PAIR, RATING)),
            pearson_step=r,
            sample=sample,
            questions=Questions.join(parts) if parts else NO_QUESTIONS,
            steps=Steps(*(_column(values[:KEPT_STEPS]) for values in steps)),
        )

    def _sample(self, method: Any, pool: SegmentPool, rng: torch.Generator, before: int) -> tuple[Sample, Steps]:
        """Draw random segments, and some of their steps in random order."""
        source = method.source
        query = Query("pair", pool.draw(self.clips, rng).view(-1, 2), pool.length)
        true, predicted = _numpy(source.true_returns(query)), predictions(method, query).mean(0)
        new = torch.zeros(self.clips, dtype=torch.bool)
        if source.forgets:
            new = (source.steps - source.age(query.start.flatten())) * source.num_envs > before
        rows = segment_rows(query.start.flatten(), pool.length).flatten()
        some = rows[torch.randperm(len(rows), generator=rng)[:STEPS]].to(source.device)
        returns, bits = draws(method, query)
        spread = returns.std(0) if len(returns) > 1 else np.full(true.shape, np.nan)
        likely, information = opinion(returns)
        sample = Sample(
            true=_column(true),
            predicted=_column(predicted),
            spread=_column(spread),
            new=new.numpy(),
            rating_score=_column(np.full(true.shape, np.nan) if bits is None else bits),
            probability=_column(likely),
            score=_column(information),
        )
        return sample, self._steps(method, some)

    def _steps(self, method: Any, rows: Tensor) -> Steps:
        """Return true and learned reward of single rows, float64; none if a reward depends on more than its row."""
        if not method.rewards or type(method.scorer).relabel not in (Method.relabel, RewardModel.relabel):
            return NO_STEPS
        learned = method.scorer.relabel(method.source, rows)
        return Steps(_numpy(method.source.reward[rows]), _numpy(learned))

    def _draw(self, trainer: pl.Trainer, tables: bool = False) -> None:
        """Draw the current sheet on rank 0, and write the numbers behind it if ``tables``."""
        if not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            logger.save()
        run = run_at(trainer.default_root_dir)
        out = run.path / "feedback.png"
        try:
            panels = write_sheet(self.records, read_metrics(run.path), out, run_name(run))
            if tables:
                write_tables(panels, out)
        except UserError as error:  # a failed figure must not end a run
            warnings.warn(str(error), stacklevel=2)
        self._drawn = time.monotonic()


def opinion(returns: Array) -> tuple[Array, Array]:
    """Return what members or draws say about choices: mean P(second preferred), and the answer's information (BALD).

    Args:
        returns: predicted, (E, B, C).

    Returns:
        Two of (B,): in [0, 1], of more than two segments the largest P(preferred); bits in [0, log2 C], NaN for E = 1.
    """
    probability = torch.from_numpy(np.asarray(returns)).softmax(-1)
    information = bald(probability) if len(returns) > 1 else torch.full(returns.shape[1:2], torch.nan)
    likely = probability.mean(0)
    return (likely[:, 1] if likely.shape[-1] == 2 else likely.amax(-1)).numpy(), information.numpy()


def questions(method: Any, labels: Labels, kind: Kind) -> Questions:
    """Return these answered questions of a kind with their true returns and the model's current predictions."""
    about, rating = of(kind), labels.start.shape[1] == 1
    query = Query(kind, labels.start, labels.length)
    true, predicted = _numpy(method.source.true_returns(query)), predictions(method, query).mean(0)
    returns, bits = draws(method, query)
    nothing = guess = np.full(len(labels), np.nan)
    if rating:
        rates = hasattr(method.scorer, "predicted_ratings")
        guess = _numpy(method.scorer.predicted_ratings(query)) if rates else nothing
        spread = returns[..., 0].std(0) if len(returns) > 1 else nothing
        likely, score = nothing, spread if bits is None else bits[:, 0]
    else:
        likely, score = opinion(returns)

    def two(values: Array) -> Array:
        beside = np.concatenate([values, nothing[:, None]], 1) if rating else values
        return np.asarray(beside, np.float32)

    value = labels.value.cpu()
    lead = nothing
    if isinstance(about, ChoiceKind):
        lead = _numpy(about.lead(torch.from_numpy(predicted), value).masked_fill(value.isnan(), torch.nan))
    return Questions(
        kind=np.full(len(labels), kind),
        true=two(true),
        predicted=two(predicted),
        probability=_column(likely),
        score=_column(score),
        rating=_column(guess),
        value=_column(_numpy(value)),
        status=labels.status.cpu().numpy(),
        lead=_column(lead),
    )


def predictions(method: Any, query: Query) -> Array:
    """Return predicted returns, (E, B, C), float64; those of a diverged model are NaN."""
    return _known(_numpy(method.scorer.returns(query)))


def draws(method: Any, query: Query) -> tuple[Array, Array | None]:
    """Return the predictions to score by: draws from the posterior if the method has one, else its members.

    Returns:
        Predicted returns, (D, B, C), float64, NaN where the model has diverged. The information of a rating of each segment
        about the draw (BALD), bits, (B, C); None if the method predicts no distribution over ratings.
    """
    model = method.scorer
    if not hasattr(model, "posterior"):
        return predictions(method, query), None
    drawn = model.posterior(query, DRAWS)
    returns = _known(_numpy(drawn if drawn.dim() == 3 else drawn[..., 0]))
    if not hasattr(model, "rating_probability"):
        return returns, None
    probability = model.rating_probability(drawn).flatten(1, 2)  # (D, B C, K)
    return returns, _known(_numpy(bald(probability))).reshape(returns.shape[1:])


def scalars(record: Record) -> dict[str, float]:
    """Return the logged numbers of a record by key, without unknown ones."""
    sample, asked = record.sample, record.questions
    pairs = asked.of(*PAIRS)
    gap = np.abs(pairs.true[:, 1] - pairs.true[:, 0])
    row = {
        "reward/pearson": pearson(sample.true, sample.predicted),
        "reward/spearman": spearman(sample.true, sample.predicted),
        "reward/pearson_step": record.pearson_step,
        "query/true_gap_mean": float(gap.mean()) if len(gap) else float("nan"),
    }
    return {key: value for key, value in row.items() if not math.isnan(value)}


def _labels(method: Any) -> dict[str, Labels]:
    """Return all questions so far by kind; methods without ratings have none of that kind."""
    return {PAIR: method.labels, RATING: getattr(method, "ratings", None) or Labels.empty(clips=1), **method.others}


def _numpy(values: Tensor) -> Array:
    return np.asarray(values.detach().cpu().double().numpy())


def _known(values: Array) -> Array:
    """Replace numbers that are not finite by NaN."""
    return np.where(np.isfinite(values), values, np.nan)


def _column(values: Array) -> Array:
    """Return one number per row, in the stored type."""
    return np.asarray(values, np.float32).reshape(-1)


@contextmanager
def untouched(method: Method) -> Iterator[None]:
    """Disable gradients and preserve torch's own random streams, from which a model may draw masks for its uncertainty."""
    devices = [method.device] if method.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices=devices):
        yield
