"""Quality of a reward where the policy goes, logged by online methods once a round.

QPA's argument (arXiv 2305.17400) is that a reward model can be right about most of what was collected and wrong about what the
policy does now. Both are measured here, on random pairs that nobody was asked about. Only this reads true rewards; without them
these numbers are left out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.regression import spearman_corrcoef

from lightning_pbrl.data.feedback import Query
from lightning_pbrl.data.relabel import CPU_TILE
from lightning_pbrl.data.replay import RECENT_EPISODES
from lightning_pbrl.data.segments import segment_rows
from lightning_pbrl.rng import stream

PAIRS = 200
"""Random pairs per window."""


@torch.no_grad()
def diagnose(method: Any) -> dict[str, Tensor]:
    """Return the agreement of learned with true returns, by key; empty before the first episode has ended.

    ``pref/accuracy_recent`` and ``_all``: fraction of pairs that both order alike, of the newest episodes and of all stored ones.
    ``pref/return_spearman_recent`` and ``_all``: rank correlation over their segments. ``train/learned_return_mean``: mean return
    of the newest finished episodes under the present reward; their true one is ``train/return_mean``.
    """
    source, length = method.source, method.labels.length
    if not source.finished:
        return {}
    rows = source.pool(1, RECENT_EPISODES)
    newest, model = rows.start(torch.arange(len(rows))).to(source.device), method.reward_model
    learned = sum(method.combine(method.reward(model.steps(source, part))).sum() for part in newest.split(CPU_TILE))
    row = {"train/learned_return_mean": torch.as_tensor(learned) / min(RECENT_EPISODES, source.finished)}
    for window, recent in (("recent", RECENT_EPISODES), ("all", None)):
        pool = source.pool(length, recent)
        if len(pool) > 1:
            rng = stream(method.seed, "diagnostics", window, method.trainer.current_epoch)
            row |= {f"{key}_{window}": value for key, value in agreement(method, pool.pairs(PAIRS, rng)).items()}
    return row


def agreement(method: Any, query: Query) -> dict[str, Tensor]:
    """Return the accuracy of the order within pairs, and the rank correlation over all their segments."""
    true = method.source.true_returns(query)
    predicted = method.scorer.returns(query)
    probability = torch.sigmoid(predicted[..., 1] - predicted[..., 0]).mean(0)
    gap = true[:, 1] - true[:, 0]
    strict = gap.abs() > 0  # false for NaN, too
    row = {"pref/accuracy": ((probability > 0.5) == (gap > 0))[strict].float().mean()}
    mean, true = predicted.mean(0).flatten().float(), true.flatten()
    if torch.isfinite(true).all() and true.std() > 0 and mean.std() > 0:
        row["pref/return_spearman"] = spearman_corrcoef(mean, true)
    return {key: value for key, value in row.items() if not value.isnan()}


@torch.no_grad()
def log_prob_of_questions(method: Any, count: int) -> dict[str, Tensor]:
    """Return mean log pi(a | s) over the segments of the ``count`` newest pairs: low where the policy no longer goes."""
    source, start = method.source, method.labels.start[-count:]
    if not len(start):
        return {}
    rows = segment_rows(start.to(source.device), method.labels.length).flatten()
    return {"query/log_prob": method.log_prob(method.observed(rows), source.column("action")[rows].to(method.device)).mean()}
