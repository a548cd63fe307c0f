"""Differentiable optimiser step, the inner half of a bi-level problem."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

BETAS, EPS = (0.9, 0.999), 1e-8


def adam_step(weights: Tensor, gradient: Tensor, state: Mapping[str, Tensor], lr: float) -> Tensor:
    """Return the weights after one more step of Adam, differentiable in ``gradient``: (P,), (P,) -> (P,).

    Source: Adam (arXiv 1412.6980, Algorithm 1).

    Args:
        weights: weights before the step.
        gradient: gradient of the inner loss, with its graph.
        state: Adam's ``step`` and moments ``exp_avg`` and ``exp_avg_sq``, left unchanged; empty before the first step.
        lr: learning rate.
    """
    zero = torch.zeros_like(weights)
    step = state.get("step", zero.new_zeros(())) + 1.0
    mean = BETAS[0] * state.get("exp_avg", zero) + (1.0 - BETAS[0]) * gradient
    square = BETAS[1] * state.get("exp_avg_sq", zero) + (1.0 - BETAS[1]) * gradient.square()
    size = (square / (1.0 - BETAS[1] ** step) + EPS**2).sqrt() + EPS  # the root of an exact zero has no derivative
    return weights - lr * mean / (1.0 - BETAS[0] ** step) / size
