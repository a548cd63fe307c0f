"""Preference Transformer: preferences as a weighted sum of rewards that depend on the past.

Source: Kim et al., "Preference Transformer: Modeling human preferences using transformers for RL" (ICLR 2023, arXiv
2303.00957) and its released code.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from lightning_pbrl.errors import UserError
from lightning_pbrl.nn.preference_transformer import TransformerReward
from lightning_pbrl.rewards.history import HistoryReward


class PreferenceTransformer(HistoryReward):
    r"""Preference Transformer: preferences as a weighted sum of non-Markovian rewards (Kim et al. 2023).

    .. math::
        z_t = \sum_i \text{softmax}_i(q_t \cdot k_i)\, r_i, \qquad
        S(\sigma) = \tfrac1T \sum_t z_t = \sum_i w_i r_i, \quad \sum_i w_i = 1

    A causal transformer outputs x_t at state t; q_t, k_t and r_t are linear in x_t (paper, eq. 5 and 6). Policies get r_t.

    Args:
        width: size of a token.
        layers: blocks.
        heads: attention heads of a block; they share the width.
        dropout: dropout of tokens and blocks in training.
        weighted_sum: weigh the rewards; false gives all steps the same weight, with a hidden layer before r (released code's
            default, although the weighted sum is the paper's contribution).
        attention_dim: size of q and k.
        scale: divide q k by the square root of ``attention_dim``; false is the paper's formula.
        max_steps: rows of the time embedding, at least the length of a segment.
        **fit: arguments of ``HistoryReward``.

    Raises:
        UserError: at the start of a fit, if segments or the window are longer than ``max_steps``.
    """

    def __init__(
        self,
        width: int = 256,
        layers: int = 1,
        heads: int = 4,
        dropout: float = 0.1,
        weighted_sum: bool = True,
        attention_dim: int = 256,
        scale: bool = False,
        max_steps: int = 1_000,
        **fit: Any,
    ) -> None:
        super().__init__(**fit)

    def member(self) -> nn.Module:
        h = self.hparams
        return TransformerReward(
            self.spec["obs_dim"],
            self.spec["action_dim"],
            width=h.width,
            layers=h.layers,
            heads=h.heads,
            dropout=h.dropout,
            max_steps=h.max_steps,
            weighted=h.weighted_sum,
            attention_dim=h.attention_dim,
            scale=h.scale,
        )

    def check_segments(self, length: int) -> None:
        longest = max(length, self.hparams.window or 0)
        if longest > self.hparams.max_steps:
            raise UserError(
                f"The transformer knows {self.hparams.max_steps} time steps, and segments or the window have {longest}: set its "
                f"max_steps to at least {longest}."
            )
