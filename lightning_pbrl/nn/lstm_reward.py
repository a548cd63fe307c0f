"""Recurrent (LSTM) reward network, the non-Markovian baseline of Preference Transformer (NMR).

Sources: rewards with a hidden state are from Early et al. 2022, "Non-Markovian reward modelling from trajectory labels via
interpretable multiple instance learning" (arXiv 2205.15367). Sizes are from the released code of Preference Transformer.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from lightning_pbrl.nn.transformer import Dense, lecun


def layers(sizes: list[int], dropout: float) -> nn.Sequential:
    """Build Linear, ReLU and dropout for each pair of neighbouring sizes."""
    return nn.Sequential(*(part for a, b in pairwise(sizes) for part in (Dense(a, b), nn.ReLU(), nn.Dropout(dropout))))


def rolled(x: Tensor, by: Tensor) -> Tensor:
    """Roll every sequence to the left by its own number of steps: (B, T, W), (B,) -> (B, T, W)."""
    length = x.shape[1]
    index = (torch.arange(length, device=x.device) + by.unsqueeze(1)) % length
    return x.gather(1, index.unsqueeze(-1).expand_as(x))


class LSTMReward(nn.Module):
    """LSTM that gives each step of a segment a reward, conditioned on the steps before it.

    u_t = MLP(s_t, a_t) of sizes W, W/2, W/2; h_t from an LSTM of size W/2; r_t = MLP(u_t, h_t) of sizes W/2, W/4, W/4, 1.

    Args:
        obs_dim: size of a state.
        action_dim: size of an action.
        width: size W of the first layer.
        dropout: dropout rate after each hidden layer.

    Initialisation: Flax's for linear layers, as released; PyTorch's for the LSTM.
    """

    def __init__(self, obs_dim: int, action_dim: int, width: int = 256, dropout: float = 0.1) -> None:
        super().__init__()
        half, quarter = width // 2, width // 4
        self.step = layers([obs_dim + action_dim, width, half, half], dropout)
        self.memory = nn.LSTM(half, half, batch_first=True)
        self.head = nn.Sequential(layers([2 * half, half, quarter, quarter], dropout), Dense(quarter, 1))
        lecun(self)

    def forward(self, features: Tensor, time: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the rewards, and the values that a segment's score sums: here the same.

        Args:
            features: states and actions side by side, (B, T, O + A).
            time: positive on real steps and 0 on the padding before them, (B, T), int64; None when all are real. The
                memory starts at the first real step.

        Returns:
            Rewards r, twice, (B, T).
        """
        u = self.step(features)
        if time is None:
            h, _ = self.memory(u)
        else:
            padding = (time == 0).sum(1)
            h = rolled(self.memory(rolled(u, padding))[0], -padding)
        reward = self.head(torch.cat([u, h], dim=-1)).squeeze(-1)
        return reward, reward

    def last(self, features: Tensor, time: Tensor | None = None) -> Tensor:
        """Return the reward of the last step: (B, T, O + A), (B, T) -> (B,)."""
        return self(features, time)[0][:, -1]
