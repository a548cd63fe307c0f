"""Losses of value functions learned from examples of success instead of a reward: SQIL and RCE."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_pbrl.losses.offline import td_target


def sqil_target(discount: float, terminated: Tensor, next_q: Tensor) -> Tensor:
    """Return the target of the data's steps, whose reward is 0: discount (1 - terminated) min_i Q_i(s', a').

    Shapes: (B,), (E, B) -> (B,). Source: SQIL (Reddy et al. 2019, arXiv 1905.11108).
    """
    return td_target(torch.zeros_like(terminated), discount, terminated, next_q.amin(0))


def sqil_loss(q: Tensor, target: Tensor, success_q: Tensor, discount: float) -> Tensor:
    """Return the mean squared error on the data plus that on the examples, summed over twins: (E, B), (B,), (E, B) -> ().

    An example is a state of lasting success with a reward of 1 per step for ever. Every action in it has the value 1 / (1 -
    discount).
    """
    value = 1.0 / (1.0 - discount)
    return ((q - target).square().mean(-1) + (success_q - value).square().mean(-1)).sum()


def rce_ratio(next_logits: Tensor, terminated: Tensor, limit: float) -> Tensor:
    """Return the ratio w = C / (1 - C) = exp(logit) at the next state, at most ``limit``, 0 after termination.

    Shapes: (E, B), (B,) -> (B,). The minimum over twins is taken. Source: RCE (Eysenbach et al. 2021, arXiv 2103.12656, Eq. 8).
    """
    return next_logits.amin(0).exp().clamp(max=limit) * (1.0 - terminated)


def rce_loss(logits: Tensor, success_logits: Tensor, ratio: Tensor, discount: float) -> Tensor:
    """Return the loss of recursive classification of examples, summed over twins.

    (1 - g) CE(C(s*, a*), 1) + (1 + g w) CE(C(s, a), g w / (1 + g w)). The second term is g w softplus(-x) + softplus(x), which
    needs no division (Eq. 9).

    Args:
        logits: x of the data's steps, (E, B).
        success_logits: x of the examples with an action of the policy, (E, B).
        ratio: w of :func:`rce_ratio`, (B,).
        discount: discount factor g.
    """
    of_data = discount * ratio * F.softplus(-logits) + F.softplus(logits)
    return ((1.0 - discount) * F.softplus(-success_logits).mean(-1) + of_data.mean(-1)).sum()
