"""Losses of contrastive example-based control: a critic that classifies true futures, and a policy that maximises it.

Source: LAEO (Hatch et al. 2023, "Contrastive example-based control", arXiv 2307.13101); the critic is that of contrastive RL
(Eysenbach et al. 2022, arXiv 2206.07568).

Throughout: ``logits`` of the critic are (E, B, B), with E twins. Entry [e, i, j] is f_e(s_i, a_i, g_j), where g_j is a future of
(s_j, a_j). The diagonal therefore holds the true pairs.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

ContrastiveLoss = Literal["nce", "cpc"]
Aggregate = Literal["sample_logit", "sample_exp", "mean_exp", "max", "logsumexp"]
LOGSUMEXP_PENALTY = 0.01
"""Weight of the squared logsumexp added to the softmax loss (contrastive RL, released code)."""
EXP_LIMIT = 20.0
"""Upper limit of logits that are exponentiated: e^20 is 5e8, and float32 overflows at e^88."""


def diagonal(logits: Tensor) -> Tensor:
    """Return the logits of the true pairs, (..., B, B) -> (..., B).

    It is a slice because compiling ``torch.diagonal`` raises a deprecation warning.
    """
    return logits.flatten(-2)[..., :: logits.shape[-1] + 1]


def nce_loss(logits: Tensor) -> Tensor:
    """Return the binary noise contrastive estimation loss: mean of BCE(f, 1[i = j]) over all entries and twins, (E, B, B) -> ().

    BCE(x, y) = softplus(x) - y x, so the mean of the true pairs, divided by B, enters a second time. The optimum is f* = log d(g
    | s, a) - log p(g) - log(B - 1), with d the discounted future and p the goals of the batch.
    """
    true = diagonal(logits)
    return F.softplus(logits).mean() - true.mean() / logits.shape[-1]


def cpc_loss(logits: Tensor, penalty: float = LOGSUMEXP_PENALTY) -> Tensor:
    """Return the InfoNCE loss: mean over rows of -log softmax_j(f_ij)[j = i] + penalty (logsumexp_j f_ij)^2, (E, B, B) -> ().

    The softmax leaves a constant per row undetermined; the penalty fixes it.
    """
    total = torch.logsumexp(logits, dim=-1)
    true = diagonal(logits)
    return (total - true + penalty * total.square()).mean()


def contrastive_metrics(logits: Tensor) -> dict[str, Tensor]:
    """Return accuracies and mean logits of the classification of true futures, over twins: (E, B, B) -> scalars.

    ``binary_accuracy`` is that of sign(f), ``categorical_accuracy`` that of each row's largest logit. The others are the means
    ``logits_pos`` and ``logits_neg`` and the rows' mean ``logsumexp``.
    """
    size = logits.shape[-1]
    true = diagonal(logits)
    above, true_above = (logits > 0).sum(dtype=torch.float32), (true > 0).sum(dtype=torch.float32)
    right = logits.numel() - above + 2.0 * true_above - true.numel()  # others below 0, and true ones above it
    return {
        "binary_accuracy": right / logits.numel(),
        "categorical_accuracy": (true >= logits.amax(-1)).float().mean(),
        "logits_pos": true.mean(),
        "logits_neg": (logits.sum() - true.sum()) / (logits.numel() - true.numel()) if size > 1 else logits.sum() * 0.0,
        "logsumexp": torch.logsumexp(logits, dim=-1).mean(),
    }


def example_value(logits: Tensor, aggregate: Aggregate) -> Tensor:
    """Return the value of an action, from the likelihood of each example in its future: (E, B, N) -> (B,).

    Each twin aggregates over its N examples; the minimum over twins is the value.

    Args:
        logits: f_e(s_i, a_i, s*_j).
        aggregate: mean_exp is the theory, E_j[exp f] (proportional to Q with the reward p*(s) / p(s)). sample_logit and
            sample_exp are for examples drawn at random, usually one per row (N = 1): the mean over them of f (a lower bound of
            log Q, by Jensen) or of exp f. max is the nearest example; logsumexp, not divided by N, is its soft form.
            sample_exp and mean_exp clip f at :data:`EXP_LIMIT`; above it their gradient is 0.
    """
    if aggregate == "sample_logit":
        value = logits.mean(-1)
    elif aggregate == "max":
        value = logits.amax(-1)
    elif aggregate == "logsumexp":
        value = torch.logsumexp(logits, dim=-1)
    else:
        value = logits.clamp(max=EXP_LIMIT).exp().mean(-1)
    return value.amin(0)


def mixed_actor_loss(value: Tensor, cloning: Tensor, bc_coef: float, entropy_cost: Tensor | float = 0.0) -> Tensor:
    """Return the mean of c (-log pi(a_data | s)) + (1 - c) (alpha log pi(a | s) - Q(s, a)): (B,), (B,) -> ().

    A convex combination of behaviour cloning and policy improvement.

    Args:
        value: Q of the policy's own actions.
        cloning: -log pi of the data's actions.
        bc_coef: c in [0, 1]; 1 is behaviour cloning.
        entropy_cost: alpha log pi of the policy's own actions, (B,) or 0.
    """
    return (bc_coef * cloning + (1.0 - bc_coef) * (entropy_cost - value)).mean()
