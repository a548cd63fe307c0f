"""Losses that make a reward of examples: the classifiers of VICE, ORIL and PURL.

``example`` and ``other`` are the logits x of examples of success, (B,), and of states from the data, (B,), which may hold
successes, too. BCE with label 1 is softplus(-x), with label 0 softplus(x).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def binary_loss(example: Tensor, other: Tensor) -> Tensor:
    """Binary cross-entropy, examples 1 and data 0, mean over both (VICE, Fu et al. 2018, arXiv 1805.11686)."""
    return 0.5 * (F.softplus(-example).mean() + F.softplus(other).mean())


def positive_unlabelled_loss(example: Tensor, other: Tensor, eta: float, clamp: bool = False) -> Tensor:
    """Classification when a share ``eta`` of the data are successes as well.

    Half of eta E_example[-log s(x)] + E_other[-log(1 - s(x))] - eta E_example[-log(1 - s(x))], a mean over both batches as
    :func:`binary_loss` is. The last term takes back what the data's own successes were blamed for (ORIL, Zolna et al. 2020, arXiv
    2011.13885).

    Args:
        example: (B,).
        other: (B,).
        eta: in (0, 1].
        clamp: keep the last two terms together at 0 or above: what they estimate is a loss, and a network that remembers
            its examples makes it negative (PURL, Xu and Denil 2019, arXiv 1911.00459; Kiryo et al. 2017, arXiv 1703.00593).
    """
    negative = F.softplus(other).mean() - eta * F.softplus(example).mean()
    if clamp:
        negative = negative.clamp(min=0.0)
    return 0.5 * (eta * F.softplus(-example).mean() + negative)
