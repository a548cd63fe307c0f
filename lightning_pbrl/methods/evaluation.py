"""Evaluation as Lightning's validation: an item is an episode seed or a held-out pair, the result exact over ranks."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.aggregation import CatMetric
from torchmetrics.classification import BinaryAccuracy, BinaryCalibrationError
from torchmetrics.regression import PearsonCorrCoef, SpearmanCorrCoef

from lightning_pbrl.data.d4rl_scores import normalized_score
from lightning_pbrl.data.feedback import Judgement, Query


class EpisodeEvaluation(pl.LightningModule):
    """The part of a method that rolls its policy out; what a method without a policy overrides."""

    replicas: int
    _results: dict[str, CatMetric]

    @abstractmethod
    def act(self, obs: Tensor, sample: bool = False) -> Tensor:
        """Actions in [-1, 1] for raw observations: (B, O) -> (B, A)."""

    @abstractmethod
    def use_replica(self, replica: int) -> None:
        """Let the networks hold one replica's weights."""

    def validation_step(self, seeds: list[int], batch_idx: int) -> None:
        self.evaluate_batch(seeds)

    def test_step(self, seeds: list[int], batch_idx: int) -> None:
        self.evaluate_batch(seeds)

    def on_validation_epoch_end(self) -> None:
        self.log_evaluation("eval")

    def on_test_epoch_end(self) -> None:
        self.log_evaluation("test")

    def evaluate_batch(self, seeds: Sequence[int]) -> None:
        """Roll out every replica's policy (mean action) on the episodes ``seeds`` and remember returns and successes."""
        for replica in range(self.replicas):
            self.use_replica(replica)
            if not len(seeds):
                continue
            rollouts = self.trainer.datamodule.rollout(self.act, seeds)  # type: ignore[attr-defined]
            self._episodes(f"return/{replica}").update(rollouts.episode_return.float().to(self.device))
            self._episodes(f"success/{replica}").update(rollouts.success.float().to(self.device))
        self.use_replica(0)

    def _episodes(self, key: str) -> CatMetric:
        """The values collected so far; a rank without an episode has an empty one, and takes part in the gathering."""
        if key not in self._results:
            self._results[key] = CatMetric(nan_strategy="disable").to(self.device)
        return self._results[key]

    def log_evaluation(self, prefix: str) -> None:
        """Log mean and spread over all episodes of all ranks, per replica and over replicas.

        Where the simulator names a D4RL task, the mean return is logged as ``normalized_score`` as well.
        """
        row: dict[str, Tensor] = {}
        task = getattr(getattr(getattr(self.trainer, "datamodule", None), "simulator", None), "d4rl_task", None)
        for name in ("return", "success"):
            found = [torch.as_tensor(self._episodes(f"{name}/{k}").compute(), dtype=torch.float32) for k in range(self.replicas)]
            if name == "success" and any(not values.isnan().all() for values in found):
                found = [values.nan_to_num() for values in found]  # some tasks say it only of what is solved
            means = [(values.mean(), values.std(correction=0)) for values in found]
            metrics = {"return_mean" if name == "return" else "success_rate": [m for m, _ in means]}
            if name == "return" and task is not None:
                metrics["normalized_score"] = [normalized_score(task, m) for m, _ in means]
            for metric, by_replica in metrics.items():
                mean = torch.stack(by_replica).nanmean()
                if torch.isnan(mean):  # the task has no notion of success
                    continue
                row[f"{prefix}/{metric}"] = mean
                if metric == "return_mean":
                    row[f"{prefix}/return_std"] = torch.stack([s for _, s in means]).mean()
                if self.replicas > 1:
                    row.update({f"{prefix}/{metric}/replica_{k}": m for k, m in enumerate(by_replica)})
        self._results.clear()
        self.log_dict({**row, "step": float(self.trainer.global_step)}, batch_size=1)


class PairMetrics(nn.Module):
    """How well predicted returns agree with the judgement of held-out pairs.

    ``pref/accuracy`` and ``pref/calibration_error`` of P(second preferred), the mean over members, on the decisive labels;
    ``pref/return_pearson`` and ``pref/return_spearman`` of predicted with true returns, where these are known.
    """

    def __init__(self) -> None:
        super().__init__()
        self.accuracy, self.calibration, self.pearson = BinaryAccuracy(), BinaryCalibrationError(), PearsonCorrCoef()
        with warnings.catch_warnings():  # "will save all targets in a buffer": some thousand held-out pairs fit
            warnings.simplefilter("ignore")
            self.spearman = SpearmanCorrCoef()

    def update(self, predicted: Tensor, judgement: Judgement) -> None:
        """Take in some pairs: ``predicted`` returns per member, (E, B, 2), float32."""
        decisive, known = judgement.decisive, ~judgement.true_returns.isnan()
        if decisive.any():
            probability = torch.sigmoid(predicted[..., 1] - predicted[..., 0]).mean(0)[decisive]
            label = judgement.label[decisive].long()
            self.accuracy.update(probability, label)
            self.calibration.update(probability, label)
        if known.any():
            mean, true = predicted.mean(0)[known], judgement.true_returns[known]
            self.pearson.update(mean, true)
            self.spearman.update(mean, true)

    def compute(self, everything: Judgement) -> dict[str, Tensor]:
        """The metrics over all ranks by key, without those that say nothing; then starts anew.

        Args:
            everything: the judgement of all held-out pairs: what it lacks (labels, true returns) is not measured. Every
                rank has to reach the same decision, whichever pairs were its own.
        """
        true = everything.true_returns
        metrics: dict[str, Metric] = {}
        if everything.decisive.any():
            metrics |= {"pref/accuracy": self.accuracy, "pref/calibration_error": self.calibration}
        if len(true[~true.isnan()].unique()) > 1:
            metrics |= {"pref/return_pearson": self.pearson, "pref/return_spearman": self.spearman}
        row = {key: metric.compute() for key, metric in metrics.items()}
        for metric in (self.accuracy, self.calibration, self.pearson, self.spearman):
            metric.reset()
        return {key: value for key, value in row.items() if not value.isnan()}


class PairEvaluation(pl.LightningModule, ABC):
    """The part of a reward model that compares its returns with held-out pairs; stands before ``Method`` among the bases."""

    validates_on: ClassVar[Literal["episodes", "pairs"]] = "pairs"
    pair_metrics: PairMetrics

    def build_metrics(self) -> None:
        """Called by ``build``."""
        self.pair_metrics = PairMetrics()

    @abstractmethod
    def returns(self, query: Query) -> Tensor:
        """Predicted return of every asked segment per member, (E, B, C): what the preference is a logistic function of."""

    def validation_step(self, numbers: Any, batch_idx: int) -> None:
        """Compare predictions about held-out pairs with their labels and true returns (read here, for evaluation only)."""
        if len(numbers):
            judgement = self.trainer.datamodule.judgement(numbers)  # type: ignore[attr-defined]
            self.pair_metrics.update(self.returns(judgement.query).float(), judgement)

    def on_validation_epoch_end(self) -> None:
        row = self.pair_metrics.compute(self.trainer.datamodule.judgement())  # type: ignore[attr-defined]
        self.log_dict({**row, "step": float(self.trainer.global_step)}, batch_size=1)

    def test_step(self, numbers: Any, batch_idx: int) -> None:
        self.validation_step(numbers, batch_idx)

    def on_test_epoch_end(self) -> None:
        self.on_validation_epoch_end()
