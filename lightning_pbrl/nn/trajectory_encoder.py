"""The bi-directional decision transformer of CLARIFY: an encoder of states and a decoder of actions.

Source: generalised decision transformer (Furuta et al. 2022, arXiv 2111.10364), as CLARIFY (arXiv 2506.00388) uses it to embed
segments.

Differences: the encoder reads the states in reversed order, and the released code passes its output on still reversed. The
embedding of a segment is output 0, so it depends on the *last* state alone. ``readout="full"`` (the paper: an embedding of the
whole segment) restores the order; ``readout="reference"`` does as released.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from lightning_pbrl.nn.transformer import CausalTransformer, Dense

Readout = Literal["full", "reference"]


class AntiCausalEncoder(nn.Module):
    """Anti-causal transformer that embeds each step from the states that follow it.

    Token t is Linear(s_t) + Embedding(t), under a LayerNorm; a causal stack runs over the tokens in reversed order.

    Args:
        obs_dim: size of a state.
        z_dim: size of an embedding (paper: 16).
        width: size of a token.
        layers: blocks of the stack.
        heads: attention heads.
        dropout: dropout rate of the stack.
        max_steps: number of time steps that have an embedding, 0 .. max_steps - 1.
        readout: "full" returns embedding t at index t: it has seen s_t .. s_T, so index 0 has seen the whole segment.
            "reference" leaves the order reversed: index 0 has seen the last state only.
    """

    def __init__(
        self,
        obs_dim: int,
        z_dim: int,
        width: int,
        layers: int,
        heads: int,
        dropout: float,
        max_steps: int,
        readout: Readout = "full",
    ) -> None:
        super().__init__()
        self.readout = readout
        self.state, self.time = Dense(obs_dim, width), nn.Embedding(max_steps, width)
        self.norm = nn.LayerNorm(width)
        self.stack = CausalTransformer(width, layers, heads, dropout)
        self.head = Dense(width, z_dim)

    def forward(self, obs: Tensor, time: Tensor, valid: Tensor | None = None) -> Tensor:
        """Embed every step.

        Args:
            obs: states, (B, T, O).
            time: step within the episode, (B, T), int64.
            valid: 1 for real steps, 0 for padding, (B, T); None when all are real.

        Returns:
            Embeddings, (B, T, Z); see ``readout`` for the order.
        """
        tokens = self.norm(self.state(obs) + self.time(time)).flip(1)
        z = self.head(self.stack(tokens, None if valid is None else valid.flip(1)))
        return z.flip(1) if self.readout == "full" else z

    def segment(self, obs: Tensor, time: Tensor) -> Tensor:
        """Return the embedding of each segment, the one at index 0: (B, T, O), (B, T) -> (B, Z)."""
        return self(obs, time)[:, 0]


class ActionDecoder(nn.Module):
    """Transformer decoder that predicts actions from embeddings and states.

    Every step is three tokens (z_t, s_t, a_t), each a Linear plus Embedding(t), under a shared LayerNorm. A causal stack runs
    over the 3 T tokens. The action is read from the token of s_t: Linear, then tanh.

    Args:
        obs_dim: size of a state.
        action_dim: size of an action.
        z_dim: size of an embedding.
        width: size of a token.
        layers: blocks of the stack.
        heads: attention heads.
        dropout: dropout rate of the stack.
        max_steps: number of time steps that have an embedding (the decoder has its own table).
    """

    def __init__(
        self, obs_dim: int, action_dim: int, z_dim: int, width: int, layers: int, heads: int, dropout: float, max_steps: int
    ) -> None:
        super().__init__()
        self.z, self.state, self.action = Dense(z_dim, width), Dense(obs_dim, width), Dense(action_dim, width)
        self.time, self.norm = nn.Embedding(max_steps, width), nn.LayerNorm(width)
        self.stack = CausalTransformer(width, layers, heads, dropout)
        self.head = Dense(width, action_dim)

    def forward(self, z: Tensor, obs: Tensor, action: Tensor, time: Tensor, valid: Tensor | None = None) -> Tensor:
        """Predict actions.

        Args:
            z: embeddings, (B, T, Z).
            obs: states, (B, T, O).
            action: actions, (B, T, A); the prediction of step t sees the actions before t only.
            time: step within the episode, (B, T), int64.
            valid: 1 for real steps, 0 for padding, (B, T); None when all are real.

        Returns:
            Predicted actions, (B, T, A), in (-1, 1).
        """
        when = self.time(time)
        tokens = torch.stack([self.z(z), self.state(obs), self.action(action)], dim=2) + when.unsqueeze(2)  # (B, T, 3, W)
        three = None if valid is None else valid.repeat_interleave(3, dim=1)
        out = self.stack(self.norm(tokens).flatten(1, 2), three)
        return torch.tanh(self.head(out[:, 1::3]))
