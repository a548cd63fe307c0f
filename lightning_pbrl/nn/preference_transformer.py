"""Network of Preference Transformer: history-dependent rewards and a weighted sum of them.

Source: Kim et al., "Preference Transformer: Modeling human preferences using transformers for RL" (ICLR 2023, arXiv 2303.00957),
sec. 3, and its released code for sizes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_pbrl.nn.transformer import CausalTransformer, Dense, lecun


def weighted_sum(query: Tensor, key: Tensor, reward: Tensor, valid: Tensor | None = None, scale: bool = False) -> Tensor:
    """Return preference attention: z_t = sum_i softmax_i(q_t k_i) r_i, where every step attends to all steps.

    The mean of z over t is sum_i w_i r_i with w_i = mean_t softmax_i(q_t k_i). These weights sum to 1 (paper, eq. 5 and 6).

    Args:
        query: queries q, (B, T, D).
        key: keys k, (B, T, D).
        reward: rewards r, (B, T).
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
    """Transformer that gives each step of a segment a reward, conditioned on the steps before it.

    Every step is two tokens, Linear(a_t) then Linear(s_t), each plus Embedding(t), under a LayerNorm. A causal stack runs over
    the 2 T tokens; x_t is its output at the token of s_t. The head computes r_t from x_t. With the weighted sum, the head is one
    Linear that also gives query and key; without it, it has a hidden layer of half the width.

    Args:
        obs_dim: size of a state.
        action_dim: size of an action.
        width: size of a token.
        layers: blocks of the stack.
        heads: attention heads of a block.
        dropout: dropout rate of tokens and stack; the weighted sum has none.
        max_steps: length of the longest segment. Time runs from 1; index 0 of its table is padding.
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
        """Return the rewards, and the values that a segment's score sums.

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
        """Return the reward of the last step: (B, T, O + A), (B, T) -> (B,).

        In evaluation the computations of the other steps are skipped.
        """
        return self.head(self._read(features, time, last=True))[:, 0, -1]

    def _read(self, features: Tensor, time: Tensor | None, last: bool = False) -> Tensor:
        """Return x_t: (B, T, W), or (B, 1, W) of the last step."""
        obs, action = features.split(self.sizes, dim=-1)
        if time is None:
            when = self.time.weight[1 : features.shape[1] + 1]
        else:
            when = self.time(time)
        tokens = torch.stack([self.action(action) + when, self.state(obs) + when], dim=2).flatten(1, 2)  # (B, 2 T, W)
        valid = None if time is None else (time > 0).repeat_interleave(2, dim=1)
        out = self.stack(self.norm(tokens), valid, last)
        return out if last else out[:, 1::2]
