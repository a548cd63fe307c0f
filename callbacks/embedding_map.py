"""Quality of a segment embedding: its separation of clear and ambiguous pairs, logged per evaluation and drawn at the end."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any

import pytorch_lightning as pl

from lightning_pbrl.asking.statistics import round_stats
from lightning_pbrl.callbacks.ask_teacher import AskTeacher
from lightning_pbrl.data.feedback import Query, Status
from lightning_pbrl.errors import UserError
from lightning_pbrl.finite import check_finite
from lightning_pbrl.methods.base import Method
from lightning_pbrl.queries.embedding import EmbeddingQuery
from lightning_pbrl.reports.embedding import Array, EmbeddedPairs, Reduction, embedding_pictures, find_tsne, run_name
from lightning_pbrl.reports.metrics import run_at
from lightning_pbrl.rng import derive, question_keys, stream
from lightning_pbrl.settings import Checked
from lightning_pbrl.teachers.base import Teacher


class EmbeddingMap(Checked, pl.Callback):
    """Log the AUC of embedding distances after every evaluation and test, and draw the embedding at the end of both.

    ``embedding/auc`` is the probability that the distance of a clear pair exceeds that of an ambiguous one. It uses random pairs
    whose answers no learner sees. The run's simulated teacher classifies them, at no cost. Nothing is stored, and its answers to
    the run's own questions do not change. Without such a teacher or without true rewards, the answered pairs are used instead, on
    which the encoder was trained. The metric is then called ``embedding/auc_asked``. If all pairs are of one kind, nothing is
    logged.

    The run folder gets ``embedding_map.png``, ``embedding_distance.png`` and ``embedding.npz``
    (:mod:`lightning_pbrl.reports.embedding`). Methods without an encoder are skipped.

    Args:
        pairs: number of random pairs, the same at every evaluation; others for tests. 0 measures and draws nothing.
        projection: projection of the map: pca, or tsne, which needs scikit-learn.

    Raises:
        UserError: for a negative number of pairs; at the start of a fit or test, for t-SNE without scikit-learn.
    """

    def __init__(self, pairs: int = 500, projection: Reduction = "pca") -> None:
        self.pairs, self.projection = pairs, projection
        self._latest: tuple[int, EmbeddedPairs] | None = None  # updates of the weights measured last, and their pairs

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._latest = None
        if self._concerns(pl_module) and self.projection == "tsne":
            find_tsne()

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: Method) -> None:  # type: ignore[override]
        self._log(trainer, pl_module, self._measure(trainer, pl_module, "validation"))

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: Method) -> None:  # type: ignore[override]
        self._log(trainer, pl_module, self._measure(trainer, pl_module, "test"))

    def on_fit_end(self, trainer: pl.Trainer, pl_module: Method) -> None:  # type: ignore[override]
        if self._latest is None or self._latest[0] != trainer.global_step:  # the last rounds were not evaluated
            self._measure(trainer, pl_module, "validation")
        self._draw(trainer, pl_module)

    def on_test_end(self, trainer: pl.Trainer, pl_module: Method) -> None:  # type: ignore[override]
        self._draw(trainer, pl_module)

    def _concerns(self, method: Any) -> bool:
        """Return True if the method embeds segments and predicts their returns."""
        return self.pairs > 0 and all(hasattr(method.scorer, need) for need in EmbeddingQuery.needs)

    def _measure(self, trainer: pl.Trainer, method: Method, purpose: str) -> EmbeddedPairs | None:
        """Embed and compare pairs, with the same result on every rank; return None if there is nothing to embed."""
        if not self._concerns(method):
            return None
        method.source.to(method.device)
        teacher = self._teacher(trainer, method)
        query, status = self._answered(method) if teacher is None else self._fresh(trainer, method, teacher, purpose)
        if not len(query):
            return None
        found = embedded(method, query, status, held_out=teacher is not None)
        self._latest = trainer.global_step, found
        return found

    def _log(self, trainer: pl.Trainer, method: Method, found: EmbeddedPairs | None) -> None:
        if found is not None and not math.isnan(found.auc):
            name = "embedding/auc" if found.held_out else "embedding/auc_asked"
            method.log_dict({name: found.auc, "step": float(trainer.global_step)}, batch_size=1)

    def _teacher(self, trainer: pl.Trainer, method: Method) -> Teacher | None:
        """Return the run's simulated teacher, if there is one and the data have the true rewards that it compares."""
        callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        teacher = next((callback.teacher for callback in callbacks if isinstance(callback, AskTeacher)), None)
        usable = teacher is not None and teacher.simulated and "pair" in teacher.kinds
        return teacher if usable and not method.source.reward.isnan().any() else None

    def _fresh(self, trainer: pl.Trainer, method: Method, teacher: Teacher, purpose: str) -> tuple[Query, Array]:
        """Draw random pairs for this purpose, and the answers of a copy of the teacher under this round's thresholds."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        pool = method.source.pool(data.segment_length)
        query = pool.pairs(self.pairs, stream(data.evaluation_seed, purpose, "embedding"))
        teacher = copy.deepcopy(teacher)
        rng = stream(data.evaluation_seed, purpose, "embedding", "teacher")
        teacher.start_round(round_stats(trainer.current_epoch, method.source, pool, rng))
        keys = question_keys(derive(data.evaluation_seed, purpose, "embedding"), 0, len(query))
        return query, teacher.answer(query, method.source.clips(query), keys).status.numpy()

    def _answered(self, method: Method) -> tuple[Query, Array]:
        """Return the answered questions."""
        labels = method.labels.to("cpu")
        known = labels.status != Status.PENDING
        return Query("pair", labels.start[known], labels.length), labels.status[known].numpy()

    def _draw(self, trainer: pl.Trainer, method: Method) -> None:
        if self._latest is None or not trainer.is_global_zero:
            return
        run = run_at(trainer.default_root_dir)
        updates = trainer.global_step or method.updates_loaded  # tested after a fit, or from a checkpoint
        try:
            embedding_pictures(run.path, self._latest[1], self.projection, f"{run_name(run)}, {updates:,} updates")
        except UserError as error:  # a failed figure must not end a run
            warnings.warn(str(error), stacklevel=2)


def embedded(method: Any, query: Query, status: Array, held_out: bool) -> EmbeddedPairs:
    """Return embeddings and returns of pairs: the true returns if the data have them, else the members' mean."""
    returns = method.source.true_returns(query).double()
    known = not returns.isnan().any()
    if not known:
        returns = method.scorer.returns(query).mean(0).double()
    z = method.scorer.embed(query).float()
    what = f"The embedding that {type(method).__name__} gives of a pair"
    check_finite(z, what, "its encoder has diverged, so lower its lr", "pair")
    return EmbeddedPairs(z.cpu().numpy(), returns.cpu().numpy(), status, known, held_out)
