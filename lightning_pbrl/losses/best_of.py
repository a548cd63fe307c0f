"""Best of k: the chosen one of several clips given predicted returns."""

from __future__ import annotations

from torch import Tensor


def choice_cross_entropy(scores: Tensor, chosen: Tensor) -> Tensor:
    """Return the negative log-likelihood of each choice by Plackett and Luce: (..., B, k) -> (..., B), nats.

    P(i) = exp s_i / sum_j exp s_j, Luce's choice axiom (Luce 1959, "Individual Choice Behavior"), the first stage of Plackett's
    ranking (Plackett 1975, "The analysis of permutations"). With k = 2 it is the Bradley-Terry cross entropy.

    Args:
        scores: logarithm of each clip's weight, such as its return, (..., B, k).
        chosen: number of the best clip, 0 .. k - 1, (B,) or (..., B).
    """
    index = chosen.long().clamp(0, scores.shape[-1] - 1).expand(scores.shape[:-1]).unsqueeze(-1)
    return -scores.log_softmax(-1).gather(-1, index).squeeze(-1)


def choice_lead(scores: Tensor, chosen: Tensor) -> Tensor:
    """Return the score of each chosen clip above the best of the others: (..., B, k) -> (..., B), 0 at a tie."""
    index = chosen.long().clamp(0, scores.shape[-1] - 1).expand(scores.shape[:-1]).unsqueeze(-1)
    return (scores.gather(-1, index) - scores.scatter(-1, index, -float("inf")).amax(-1, keepdim=True)).squeeze(-1)
