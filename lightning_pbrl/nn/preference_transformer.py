"""Preference Transformer's network: rewards that depend on the past, and a weighted sum of them.

Source: Kim et al., "Preference Transformer: Modeling human preferences using transformers for RL" (ICLR 2023, arXiv
2303.00957), sec. 3, and its released code for sizes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_pbrl.nn.transformer import CausalTransformer, Dense, lecun


def weighted_sum(query: Tensor, key: Tensor, reward: Tensor, valid: Tensor | None = None, scale: bool = False) -> Tensor:
    """Preference attention: z_t = sum_i softmax_i(q_t k_i) r_i, where every step looks at all steps.

    The mean of z over t is sum_i w_i r_i with w_i = mean_t softmax_i(q_t k_i), weights that sum to 1 (paper, eq. 5 and 6).

    Args:
        query: (B, T, D).
        key: (B, T, D).
        reward: (B, T).
        valid: true for real steps, (B, T); None when all are real. Padding gets no weight.
        scale: divide the inner products by sqrt(D). False is the paper's formula and the released code.

    Returns:
        z, (B, T).
    """
    score = query @ key.transpose(1, 2)
    if scale:
        score = score / query.shape[-1] ** 0.5
    if valid is not None:
        score = score.masked_fill(~valid.unsqueeze(1), float("-inf"))
    return (torch.softmax(score, dim=-1) @ reward.unsqueeze(-1)).squeeze(-1)


class TransformerReward(nn.Module):
    """Segments -> a reward of each step given the steps before it.

    Every step is two tokens, Linear(a_t) then Linear(s_t), each plus Embedding(t), under a LayerNorm. A causal stack
    runs over the 2 T tokens; x_t is what it says at the token of s_t. The head gives r_t: one Linear together with the
    query and the key of the weighted sum, or a hidden layer of half the width.

    Args:
        obs_dim: size of a state.
        action_dim: size of an action.
        width: size of a token.
        layers: blocks of the stack.
        heads: attention heads of a block.
        dropout: of tokens and stack; the weighted sum has none.
        max_steps: longest segment; time runs from 1, index 0 of its table stands for padding.
        weighted: add the weighted sum.
        attention_dim: size D of its queries and keys.
        scale: divide its inner products by sqrt(D).

    Initialisation: Flax's, as released: linear layers and the time table N(0, 1 / width of the input, of the table).
    """

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        width: int = 256,
        layers: int = 1,
        heads: int = 4,
        dropout: float = 0.1,
        max_steps: int = 1_000,
        weighted: bool = True,
        attention_dim: int = 256,
        scale: bool = False,
    ) -> None:
        super().__init__()
        self.sizes, self.weighted, self.scale = [obs_dim, action_dim], weighted, scale
        self.attention_dim = attention_dim
        self.state, self.action = Dense(obs_dim, width), Dense(action_dim, width)
        self.time, self.norm = nn.Embedding(max_steps + 1, width), nn.LayerNorm(width)
        nn.init.normal_(self.time.weight, std=width**-0.5)
        self.stack = CausalTransformer(width, layers, heads, dropout)
        self.head: nn.Module = Dense(width, 2 * attention_dim + 1)
        if not weighted:
            self.head = nn.Sequential(Dense(width, width // 2), nn.ReLU(), Dense(width // 2, 1))
        lecun(self)

    def forward(self, features: Tensor, time: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Rewards, and the values that a segment's score is made of.

        Args:
            features: states and actions side by side, (B, T, O + A).
            time: 1, 2, ... on real steps and 0 on the padding before them, (B, T), int64; None when all are real.

        Returns:
            Rewards r, (B, T), and z of :func:`weighted_sum`, (B, T); without the weighted sum r itself.
        """
        out = self.head(self._read(features, time))
        reward = out[..., -1]
        if not self.weighted:
            return reward, reward
        query, key = out[..., :-1].split(self.attention_dim, dim=-1)
        return reward, weighted_sum(query, key, reward, None if time is None else time > 0, self.scale)

    def last(self, features: Tensor, time: Tensor | None = None) -> Tensor:
        """The reward of the last step, without the work for the others (in evaluation): (B, T, O + A), (B, T) -> (B,)."""
        return self.head(self._read(features, time, last=True))[:, 0, -1]

    def _read(self, features: Tensor, time: Tensor | None, last: bool = False) -> Tensor:
        """x_t: (B, T, W), or (B, 1, W) of the last step."""
        obs, action = features.split(self.sizes, dim=-1)
        if time is None:
            when = self.time.weight[1 : features.shape[1] + 1]
        else:
            when = self.time(time)
        tokens = torch.stack([self.action(action) + when, self.state(obs) + when], dim=2).flatten(1, 2)  # (B, 2 T, W)
        valid = None if time is None else (time > 0).repeat_interleave(2, dim=1)
        out = self.stack(self.norm(tokens), valid, last)
        return out if last else out[:, 1::2]
