"""Critic of contrastive RL: the inner product of two embeddings scores how likely one state is in another's future."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_pbrl.nn.linear import linear
from lightning_pbrl.nn.mlp import MLP


class ContrastiveCritic(nn.Module):
    """Contrastive critic f(s, a, g) = <phi(s, a), psi(g)>, ``members`` times.

    Source: contrastive RL (Eysenbach et al. 2022, arXiv 2206.07568).

    Args:
        obs_dim: size of a state, and of a goal.
        action_dim: size of an action.
        hidden: hidden layers of both embeddings (ReLU).
        repr_dim: size d of an embedding.
        members: number of twins E, each with its own embeddings.
        repr_norm: normalise embeddings to length 1 and divide phi by a learned temperature. It starts at 1; the twins share it.
        torso: encoder of states and goals with ``features`` outputs, shared by both and by the twins. None passes states
            through unchanged.

    Initialisation: variance scaling 1.0, fan_avg, uniform; biases 0.
    """

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        hidden: Sequence[int] = (1024, 1024),
        repr_dim: int = 256,
        members: int = 2,
        repr_norm: bool = False,
        torso: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.torso = torso
        width = int(torso.features) if torso is not None else obs_dim  # type: ignore[arg-type]
        self.state_action = MLP(width + action_dim, repr_dim, hidden, members, uniform_init="fan_avg")
        self.goal = MLP(width, repr_dim, hidden, members, uniform_init="fan_avg")
        self.log_scale = nn.Parameter(torch.zeros(())) if repr_norm else None

    def encode(self, obs: Tensor) -> Tensor:
        """Encode states or goals for both embeddings: (B, O) -> (B, F)."""
        return obs if self.torso is None else self.torso(obs)

    def phi(self, features: Tensor, action: Tensor, frozen: bool = False) -> Tensor:
        """Embed encoded states and actions: (B, F), (B, A) -> (E, B, d).

        ``frozen`` sends no gradient to the weights.
        """
        embedding = self.state_action(torch.cat([features, action], dim=-1), frozen=frozen)
        if self.log_scale is None:
            return embedding
        scale = self.log_scale.detach() if frozen else self.log_scale
        return F.normalize(embedding, dim=-1) * torch.exp(-scale)

    def psi(self, features: Tensor) -> Tensor:
        """Embed encoded goals: (N, F) -> (E, N, d)."""
        embedding = self.goal(features)
        return embedding if self.log_scale is None else F.normalize(embedding, dim=-1)

    @staticmethod
    def every_pair(phi: Tensor, psi: Tensor) -> Tensor:
        """Pair every state and action with every goal: (E, B, d), (E, N, d) -> (E, B, N)."""
        if phi.is_cuda:
            return phi @ psi.mT
        return torch.stack([linear(x, y) for x, y in zip(phi.unbind(0), psi.unbind(0), strict=True)])

    @staticmethod
    def row_by_row(phi: Tensor, psi: Tensor) -> Tensor:
        """Pair state and action i with goal i, without the other pairs: (E, B, d), (E, B, d) -> (E, B)."""
        return (phi * psi).sum(-1)
