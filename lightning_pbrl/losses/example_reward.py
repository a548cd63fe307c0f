"""Classification losses that learn a reward from examples of success: those of VICE, ORIL and PURL.

``example`` are the logits x of examples of success, (B,). ``other`` are those of states from the data, (B,), which may include
successes. BCE with label 1 is softplus(-x), with label 0 softplus(x).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def binary_loss(example: Tensor, other: Tensor) -> Tensor:
    """Return the binary cross-entropy with examples 1 and data 0, mean over both (VICE, Fu et al. 2018, arXiv 1805.11686)."""
    return 0.5 * (F.softplus(-example).mean() + F.softplus(other).mean())


def positive_unlabelled_loss(example: Tensor, other: Tensor, eta: float, clamp: bool = False) -> Tensor:
    """Return the positive-unlabelled loss, for data of which a share ``eta`` are successes as well.

    Half of eta E_example[-log s(x)] + E_other[-log(1 - s(x))] - eta E_example[-log(1 - s(x))]; like :func:`binary_loss`, a mean
    over both batches. The last term corrects for the successes among the data (ORIL, Zolna et al. 2020, arXiv 2011.13885).

    Args:
        example: logits of the examples, (B,).
        other: logits of the data, (B,).
        eta: share of successes, in (0, 1].
        clamp: clamp the sum of the last two terms at 0. They estimate a loss, which a network that memorises its examples
            makes negative (PURL, Xu and Denil 2019, arXiv 1911.00459; Kiryo et al. 2017, arXiv 1703.00593).
    """
    negative = F.softplus(other).mean() - eta * F.softplus(example).mean()
    if clamp:
        negative = negative.clamp(min=0.0)
    return 0.5 * (eta * F.softplus(-example).mean() + negative)
