"""Evaluation as Lightning's validation; an item is an episode seed or a held-out pair, results are exact over ranks."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics.aggregation import CatMetric
from torchmetrics.functional.classification import binary_accuracy, binary_calibration_error
from torchmetrics.functional.regression import pearson_corrcoef, spearman_corrcoef
from torchmetrics.utilities.distributed import gather_all_tensors

from lightning_pbrl.data.d4rl_scores import normalized_score
from lightning_pbrl.data.feedback import Judgement
from lightning_pbrl.finite import check_finite
from lightning_pbrl.fitting.diverged import finite_actions

LOWER_LR = "training has diverged, so lower model.init_args.lr and start again"
COLUMNS = 6
"""Numbers kept of a held-out pair."""


class EpisodeEvaluation:
    """Evaluate a method's policy by rollouts.

    Args:
        method: method whose ``act`` is evaluated.
    """

    def __init__(self, method: Any) -> None:
        self.method = method
        self._found: dict[str, CatMetric] = {}

    def step(self, seeds: Sequence[int]) -> None:
        """Roll out every replica's policy (mean action) on the episodes ``seeds``; keep returns and successes."""
        method = self.method
        for replica in range(method.replicas):
            method.use_replica(replica)
            if not len(seeds):
                continue
            act = finite_actions(method, method.act, lambda: "in evaluation")
            rollouts = method.trainer.datamodule.rollout(act, seeds)
            check_finite(rollouts.episode_return, "The return of an evaluation episode", "repair the environment", "episode")
            self._episodes(f"return/{replica}").update(rollouts.episode_return.float().to(method.device))
            self._episodes(f"success/{replica}").update(rollouts.success.float().to(method.device))
        method.use_replica(0)

    def _episodes(self, key: str) -> CatMetric:
        """Return the values collected so far; a rank without an episode has an empty one, and joins the gathering."""
        if key not in self._found:
            self._found[key] = CatMetric(nan_strategy="disable").to(self.method.device)
        return self._found[key]

    def finish(self, prefix: str) -> None:
        """Log mean and standard deviation over the episodes of all ranks, per replica and over replicas; then start anew.

        If the simulator names a D4RL task, the mean return is also logged as ``normalized_score``.
        """
        row: dict[str, Tensor] = {}
        method, replicas = self.method, self.method.replicas
        task = getattr(getattr(getattr(method.trainer, "datamodule", None), "simulator", None), "d4rl_task", None)
        for name in ("return", "success"):
            found = [torch.as_tensor(self._episodes(f"{name}/{k}").compute(), dtype=torch.float32) for k in range(replicas)]
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
                if replicas > 1:
                    row.update({f"{prefix}/{metric}/replica_{k}": m for k, m in enumerate(by_replica)})
        self._found.clear()
        row |= fitted(method)
        method.log_dict({**row, "step": float(method.trainer.global_step)}, batch_size=1)


def fitted(method: Any) -> dict[str, Tensor]:
    """Return what is logged of the newest fit of the reward model that a method holds, by key."""
    return {} if method.reward_model is None else {k: torch.tensor(value) for k, value in method.reward_model.metrics().items()}


class PairMetrics:
    """Measure the agreement of predicted returns with the labels of held-out pairs, over all ranks.

    ``pref/accuracy`` and ``pref/calibration_error`` are those of P(second preferred), the mean over members, on decisive labels,
    of which there are ``pref/decisive``.
    ``pref/return_pearson`` and ``pref/return_spearman`` correlate predicted with true returns, where these are known.

    Each pair is kept as one row of numbers. The ranks exchange their rows in one call, as many as each has. Every rank computes
    the metrics from all rows. They equal those of one process, whichever rank has the decisive pairs.
    """

    def __init__(self) -> None:
        self.rows: list[Tensor] = []

    def update(self, predicted: Tensor, judgement: Judgement) -> None:
        """Add pairs with ``predicted`` returns per member, (E, B, 2), float32; raise a UserError if a return is not finite."""
        check_finite(predicted.movedim(0, 1), "The predicted return of a held-out pair", LOWER_LR, "pair")
        true = judgement.true_returns.nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf)  # NaN marks what is unknown
        check_finite(true, "The true return of a held-out pair", "repair the rewards of the data", "pair")
        probability = torch.sigmoid(predicted[..., 1] - predicted[..., 0]).mean(0).unsqueeze(1)
        columns = probability, judgement.label.unsqueeze(1), predicted.mean(0), judgement.true_returns
        self.rows.append(torch.cat([column.to(predicted) for column in columns], dim=1))

    def compute(self, everything: Judgement) -> dict[str, Tensor]:
        """Return the defined metrics over all ranks by key; start anew. ``everything``, all held-out pairs, tells the device."""
        own = torch.cat([everything.true_returns.new_zeros(0, COLUMNS, dtype=torch.float32), *self.rows])
        self.rows = []
        several = torch.distributed.is_available() and torch.distributed.is_initialized()
        return agreement(torch.cat(gather_all_tensors(own)) if several else own)


def agreement(rows: Tensor) -> dict[str, Tensor]:
    """Return metrics by key of pairs, (n, 6), float32: P(second preferred), label, two predicted and two true returns."""
    probability, label = rows[:, 0], rows[:, 1]
    decisive, known = (label == 0) | (label == 1), ~rows[:, 4:].isnan()
    found: dict[str, Tensor] = {}
    if decisive.any():
        answers = probability[decisive], label[decisive].long()
        found = {"pref/accuracy": binary_accuracy(*answers), "pref/calibration_error": binary_calibration_error(*answers)}
        found["pref/decisive"] = decisive.sum().float()
    predicted, true = rows[:, 2:4][known].double(), rows[:, 4:][known].double()
    if len(true.unique()) > 1 and len(predicted.unique()) > 1:  # a constant correlates with nothing
        found["pref/return_pearson"] = pearson_corrcoef(predicted, true).float()
        found["pref/return_spearman"] = spearman_corrcoef(predicted, true).float()
    return {key: value for key, value in found.items() if not value.isnan()}


class PairEvaluation:
    """Compare a method's predicted returns with held-out pairs.

    Args:
        method: method whose ``returns`` are compared: its preferences are a logistic function of them.
    """

    def __init__(self, method: Any) -> None:
        self.method, self.metrics = method, PairMetrics()

    def step(self, numbers: Any) -> None:
        """Compare predictions about held-out pairs with labels and true returns (read for evaluation only)."""
        if len(numbers) and self.method.learned_from != 0:  # initial weights are not evaluated
            judgement = self.method.trainer.datamodule.judgement(numbers)
            self.metrics.update(self.method.scorer.returns(judgement.query).float(), judgement)

    def finish(self, prefix: str) -> None:
        """Log the metrics over all ranks; their keys begin with "pref", whatever the prefix."""
        everything = self.method.trainer.datamodule.judgement()
        if (everything.label == 0.5).any() and not everything.decisive.any():
            warnings.warn("All held-out pairs are ties, so accuracy and calibration are not measured.", stacklevel=2)
        row = {**self.metrics.compute(everything), **fitted(self.method)}
        self.method.log_dict({**row, "step": float(self.method.trainer.global_step)}, batch_size=1)
