"""Evaluation as Lightning's validation: an item is an episode seed, a batch some episodes, the result exact over ranks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import pytorch_lightning as pl
import torch
from torch import Tensor
from torchmetrics.aggregation import CatMetric


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
        """Log mean and spread over all episodes of all ranks, per replica and over replicas."""
        row: dict[str, Tensor] = {}
        for name in ("return", "success"):
            means = []
            for replica in range(self.replicas):
                values = self._episodes(f"{name}/{replica}").compute()
                gathered = torch.as_tensor(values, dtype=torch.float32).reshape(-1)
                means.append((gathered.mean(), gathered.std(correction=0)))
            metric = "return_mean" if name == "return" else "success_rate"
            mean = torch.stack([m for m, _ in means]).nanmean()
            if torch.isnan(mean):  # the task has no notion of success
                continue
            row[f"{prefix}/{metric}"] = mean
            if name == "return":
                row[f"{prefix}/return_std"] = torch.stack([s for _, s in means]).mean()
            if self.replicas > 1:
                row.update({f"{prefix}/{metric}/replica_{k}": m for k, (m, _) in enumerate(means)})
        self._results.clear()
        self.log_dict({**row, "step": float(self.trainer.global_step)}, batch_size=1)
