"""Adam with gradients zeroed once per pass instead of once per minibatch (a known defect of LiRE's code)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class SummingAdam(torch.optim.Adam):
    """Adam whose every step uses the sum of all gradients since the pass began.

    The sum itself is never saved: passes end before a checkpoint is written.

    Args:
        params: as Adam's.
        begins: maps the number of steps done to True if a pass begins with the next.
        options: further arguments of Adam.
    """

    def __init__(self, params: Iterable[Tensor], begins: Callable[[int], bool], **options: Any) -> None:
        super().__init__(params, **options)
        self.begins = begins
        self._sums: dict[Tensor, Tensor] = {}

    def step(self, closure: Any = None) -> Any:
        """Add each gradient to its sum, or start a new one, and step with it."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:  # the loss does not reach it
                    continue
                done = int(self.state[p]["step"]) if self.state.get(p) else 0
                self._sums[p] = p.grad.clone() if self.begins(done) else self._sums[p].add_(p.grad)
                p.grad = self._sums[p]
        return super().step(closure)
