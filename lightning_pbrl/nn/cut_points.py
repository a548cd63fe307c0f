"""Cut points of an ordered answer, one set per ensemble member."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CutPoints(nn.Module):
    """Learned cut points a < b of a cumulative logit model (:func:`~lightning_pbrl.losses.graded.level_log_probability`).

    They begin at .5 and 2 logits.

    Args:
        members: ensemble members E.
    """

    def __init__(self, members: int) -> None:
        super().__init__()
        begin = torch.tensor([0.5, 1.5]).expm1().log()  # softplus of these: a, b - a
        self.raw = nn.Parameter(begin.repeat(members, 1))

    def forward(self) -> Tensor:
        """Return a and b of each member, (E, 2), with 0 < a < b."""
        return (F.softplus(self.raw) + 1e-3).cumsum(-1)
