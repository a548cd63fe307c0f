"""How the learned reward agrees with the true one, and what was asked: a record per round, a sheet of pictures on the way."""

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

from lightning_pbrl.data.feedback import Labels, Query
from lightning_pbrl.data.segments import SegmentPool, segment_rows
from lightning_pbrl.errors import UserError
from lightning_pbrl.losses.information import bald, pair_probability
from lightning_pbrl.methods.base import Method
from lightning_pbrl.ranges import COUNT_OR_NONE
from lightning_pbrl.reports.embedding import run_name
from lightning_pbrl.reports.feedback_numbers import pearson, spearman
from lightning_pbrl.reports.feedback_record import (
    FILE,
    NO_QUESTIONS,
    NO_STEPS,
    PAIR,
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
from lightning_pbrl.rng import stream
from lightning_pbrl.settings import Checked

Array = npt.NDArray[Any]
STEPS, KEPT_STEPS = 2_000, 500
"""Most steps of the sample that are compared one by one, and most of these that are kept for a picture."""
DRAWS = 20
"""Functions drawn from the posterior of a model that has one."""


class FeedbackDiagnostics(Checked, pl.Callback, ranges={"clips": COUNT_OR_NONE}):
    """Keeps a record of every round that asks, and of the end (:mod:`lightning_pbrl.reports.feedback_record`).

    A round is recorded when its questions are answered and nothing has been learned from them yet. The run folder gets
    ``feedback.npz`` and ``feedback.png``, one row of the log ``reward/pearson`` and ``reward/spearman`` (of true and predicted
    returns of random clips), ``reward/pearson_step`` and ``query/true_gap_mean`` (mean difference of the true returns of the
    pairs asked). ``labels`` and ``env_steps`` of that row are those the model had seen. Without true rewards these numbers are
    left out. True rewards are read for this and for nothing else, and no random stream of the run is touched.

    Methods that do not learn from answers, or predict no returns, are passed over. The cost of a record does not depend on the
    data: one scoring of ``clips`` clips and of the round's questions (a second one under 20 draws, for models with a posterior),
    and of at most 2,000 single steps.

    Args:
        clips: random clips per record; 0 records and draws nothing.
        every_seconds: shortest time between two drawings of ``feedback.png``; the end of a fit always draws.

    Raises:
        UserError: for a single clip or a negative number.
    """

    def __init__(self, clips: int = 500, every_seconds: float = 30.0) -> None:
        if clips < 0 or clips == 1:
            raise UserError(f"feedback.clips is {clips}: give at least 2 clips, or 0 to record nothing.")
        self.clips, self.every_seconds = clips - clips % 2, every_seconds
        self.records: list[Record] = []
        self.seen: dict[str, int] | None = None  # answers of each kind before this round's
        self._drawn = float("-inf")

    def on_train_start(self, trainer: pl.Trainer, pl_module: Method) -> None:  # type: ignore[override]
        """A resumed run goes on with the records of the rounds it has finished, a new one begins without any."""
        path, number = Path(trainer.default_root_dir) / FILE, trainer.current_epoch
        kept = read_records(path) if self.clips and number > 0 and path.is_file() else []
        self.records = [record for record in kept if record.round <= number]
        if number == 0 or self.seen is None:
            given = trainer.datamodule.labels  # type: ignore[attr-defined]
            self.seen = {"pair": 0 if given is None else len(given), "rating": 0}

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Method, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        if batch_idx or not self._concerns(pl_module):
            return
        labels, before = _labels(pl_module), dict(self.seen or {})
        self.seen = {kind: len(found) for kind, found in labels.items()}
        if not pl_module.asked.this_round:
            return
        asked = []
        for kind, found in labels.items():
            count = min(len(found) - before.get(kind, 0), pl_module.asked.this_round)
            asked.append(found.take(torch.arange(len(found) - count, len(found), device=found.value.device)))
        self._keep(trainer, pl_module, before, *asked)
        if time.monotonic() - self._drawn >= self.every_seconds:
            self._draw(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Method) -> None:  # type: ignore[override]
        if self._concerns(pl_module):
            learned = {kind: len(found) for kind, found in _labels(pl_module).items()}
            self._keep(trainer, pl_module, learned)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: Method) -> None:  # type: ignore[override]
        if self.records:
            self._draw(trainer, tables=True)

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seen = state_dict["seen"]

    def _concerns(self, method: Any) -> bool:
        """Whether there is something to record: a method that learns from answers and predicts returns."""
        return self.clips > 0 and "labels" in method.needs and hasattr(method, "returns")

    # A record ----------------------------------------------------------------------------------------------------------

    def _keep(self, trainer: pl.Trainer, method: Method, learned: dict[str, int], *asked: Labels) -> None:
        """Record this round edge, and write and log it on rank 0; nothing where the method predicts no returns."""
        number = trainer.current_epoch
        try:
            with untouched(method):
                found = self._record(trainer, method, learned, asked)
        except UserError:  # nothing that could be shown is stored yet, or it scores no segments
            return
        self.records = [record for record in self.records if record.round < number] + [found]
        if not trainer.is_global_zero:
            return
        write_records(trainer.default_root_dir, self.records)
        row = {"labels": float(found.pairs + found.ratings), **scalars(found)}
        if method.collector is not None:
            row["env_steps"] = float(found.env_steps)
        for logger in trainer.loggers:  # a row of its own: what a hook logs joins the row of the block that follows
            logger.log_metrics(row, step=trainer.global_step)

    def _record(self, trainer: pl.Trainer, method: Any, learned: dict[str, int], asked: tuple[Labels, ...]) -> Record:
        source, number = method.source, trainer.current_epoch
        pool = source.pool(trainer.datamodule.segment_length, context=method.context)  # type: ignore[attr-defined]
        rng = stream(method.seed, "feedback", number)
        before = self.records[-1].env_steps if self.records and self.records[-1].round < number else 0
        sample, steps = self._sample(method, pool, rng, before)
        r = pearson(steps.true, steps.learned)
        parts = [questions(method, labels) for labels in asked if len(labels)]
        return Record(
            round=number,
            updates=trainer.global_step,
            env_steps=method.env_steps,
            pairs=learned.get("pair", 0),
            ratings=learned.get("rating", 0),
            pearson_step=r,
            sample=sample,
            questions=Questions.join(parts) if parts else NO_QUESTIONS,
            steps=Steps(*(_column(values[:KEPT_STEPS]) for values in steps)),
        )

    def _sample(self, method: Any, pool: SegmentPool, rng: torch.Generator, before: int) -> tuple[Sample, Steps]:
        """Random clips, and some of their steps in random order."""
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
        """True and learned reward of single rows, float64; none where a reward depends on more than its row."""
        if type(method).reward is Method.reward or type(method).relabel is not Method.relabel:
            return NO_STEPS
        learned = method.combine(method.reward(method.source.features()[rows]))
        return Steps(_numpy(method.source.reward[rows]), _numpy(learned))

    def _draw(self, trainer: pl.Trainer, tables: bool = False) -> None:
        """Draw the sheet as of now on rank 0, and write the numbers behind it if ``tables``."""
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
        except UserError as error:  # a picture is not worth a run
            warnings.warn(str(error), stacklevel=2)
        self._drawn = time.monotonic()


def opinion(returns: Array) -> tuple[Array, Array]:
    """What members or draws think of pairs: their mean P(second preferred), and what the answer would tell about them (BALD).

    Args:
        returns: predicted, (E, B, 2).

    Returns:
        Two of (B,): in [0, 1]; bits in [0, 1], NaN for E = 1.
    """
    probability = pair_probability(torch.from_numpy(np.asarray(returns)))
    information = bald(probability) if len(returns) > 1 else torch.full(returns.shape[1:2], torch.nan)
    return probability[..., 1].mean(0).numpy(), information.numpy()


def questions(method: Any, labels: Labels) -> Questions:
    """What these answered questions were about, and what the model thinks of them now."""
    rating = labels.start.shape[1] == 1
    query = Query("rating" if rating else "pair", labels.start, labels.length)
    true, predicted = _numpy(method.source.true_returns(query)), predictions(method, query).mean(0)
    returns, bits = draws(method, query)
    nothing = guess = np.full(len(labels), np.nan)
    if rating:
        guess = _numpy(method.predicted_ratings(query)) if hasattr(method, "predicted_ratings") else nothing
        spread = returns[..., 0].std(0) if len(returns) > 1 else nothing
        likely, score = nothing, spread if bits is None else bits[:, 0]
    else:
        likely, score = opinion(returns)

    def two(values: Array) -> Array:
        beside = np.concatenate([values, nothing[:, None]], 1) if rating else values
        return np.asarray(beside, np.float32)

    return Questions(
        kind=np.full(len(labels), RATING if rating else PAIR, np.int64),
        true=two(true),
        predicted=two(predicted),
        probability=_column(likely),
        score=_column(score),
        rating=_column(guess),
        value=_column(_numpy(labels.value)),
        status=labels.status.cpu().numpy(),
    )


def predictions(method: Any, query: Query) -> Array:
    """Predicted returns, (E, B, C), float64; those of a model that has diverged are NaN."""
    return _known(_numpy(method.returns(query)))


def draws(method: Any, query: Query) -> tuple[Array, Array | None]:
    """What to score by: draws from the posterior where the method has one, else its members.

    Returns:
        Predicted returns, (D, B, C), float64; NaN where the model has diverged. What a rating of each clip would tell about the
        draw (BALD), bits, (B, C); None where the method does not say how likely each rating is.
    """
    if not hasattr(method, "posterior"):
        return predictions(method, query), None
    drawn = method.posterior(query, DRAWS)
    returns = _known(_numpy(drawn if drawn.dim() == 3 else drawn[..., 0]))
    if not hasattr(method, "rating_probability"):
        return returns, None
    probability = method.rating_probability(drawn).flatten(1, 2)  # (D, B C, K)
    return returns, _known(_numpy(bald(probability))).reshape(returns.shape[1:])


def scalars(record: Record) -> dict[str, float]:
    """What is logged of a record, by key, without what is not known."""
    sample, asked = record.sample, record.questions
    gap = np.abs(asked.true[asked.kind == PAIR, 1] - asked.true[asked.kind == PAIR, 0])
    row = {
        "reward/pearson": pearson(sample.true, sample.predicted),
        "reward/spearman": spearman(sample.true, sample.predicted),
        "reward/pearson_step": record.pearson_step,
        "query/true_gap_mean": float(gap.mean()) if len(gap) else float("nan"),
    }
    return {key: value for key, value in row.items() if not math.isnan(value)}


def _labels(method: Any) -> dict[str, Labels]:
    """All questions so far by kind; methods that know no ratings have none."""
    return {"pair": method.labels, "rating": getattr(method, "ratings", None) or Labels.empty(clips=1)}


def _numpy(values: Tensor) -> Array:
    return np.asarray(values.detach().cpu().double().numpy())


def _known(values: Array) -> Array:
    """NaN for what is not finite."""
    return np.where(np.isfinite(values), values, np.nan)


def _column(values: Array) -> Array:
    """One number per row, as it is kept."""
    return np.asarray(values, np.float32).reshape(-1)


@contextmanager
def untouched(method: Method) -> Iterator[None]:
    """No gradients, and torch's own random streams as they were: a model may draw masks to say how sure it is."""
    devices = [method.device] if method.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices=devices):
        yield
