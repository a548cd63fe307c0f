"""Twin Q critics on states or images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_pbrl.nn.mlp import MLP


class TwinValue(nn.Module):
    """Twin Q functions of state and action.

    Args:
        obs_dim: observation size O.
        action_dim: action size A.
        hidden: hidden layers (ReLU).
        torso: encoder of observations with ``features`` outputs, shared by the twins; None passes states through unchanged.

    Initialisation: variance scaling 1.0, fan_avg, uniform; biases 0 (as the critic of contrastive RL).
    """

    def __init__(self, obs_dim: int, action_dim: int, hidden: Sequence[int], torso: nn.Module | None = None) -> None:
        super().__init__()
        self.torso = torso
        width = int(torso.features) if torso is not None else obs_dim  # type: ignore[arg-type]
        self.net = MLP(width + action_dim, 1, hidden, members=2, uniform_init="fan_avg")

    def encode(self, obs: Tensor) -> Tensor:
        """Encode observations for the twins: (B, O) -> (B, F)."""
        return obs if self.torso is None else self.torso(obs)

    def forward(self, features: Tensor, action: Tensor, frozen: bool = False) -> Tensor:
        """Return the values of encoded observations: (B, F), (B, A) -> (2, B).

        ``frozen`` sends no gradient to the weights.
        """
        return self.net(torch.cat([features, action], dim=-1), frozen=frozen).squeeze(-1)
