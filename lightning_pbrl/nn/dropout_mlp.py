"""Perceptrons with dropout masks that any number of rows can share.

Ordinary dropout draws a mask for every row. A sum over the rows of a segment then averages over as many functions as there are
steps, and two evaluations of one segment differ. A mask may stand for a draw of *one function*, a sample of the posterior of MC
dropout (Gal and Ghahramani 2016, arXiv 1506.02142). Everything that is compared then has to share that mask.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_pbrl.nn.linear import linear
from lightning_pbrl.nn.mlp import MLP


class DropoutMLP(nn.Module):
    """``members`` independent perceptrons with leaky ReLU and dropout after every hidden layer.

    Dropout is applied only where a call asks for it: ``train()`` and ``eval()`` change nothing. Every output is a head with its
    own parameters. A loss on one head leaves the others without a gradient, which is not a zero gradient: weight decay must not
    move a head that receives no data.

    Args:
        in_dim: input size.
        out_dim: output size.
        hidden: sizes of the hidden layers, at least one.
        members: number of perceptrons E.
        rate: probability of dropping a hidden unit, in [0, 1).
    """

    def __init__(self, in_dim: int, out_dim: int, hidden: Sequence[int], members: int = 1, rate: float = 0.0) -> None:
        super().__init__()
        net = MLP(in_dim, out_dim, hidden, members, nn.LeakyReLU)
        self.weights, self.biases = net.weights[:-1], net.biases[:-1]
        self.head_weights = nn.ParameterList(part.detach().clone() for part in net.weights[-1].split(1, dim=1))
        self.head_biases = nn.ParameterList(part.detach().clone() for part in net.biases[-1].split(1, dim=1))
        self.hidden, self.members, self.rate = tuple(hidden), members, rate

    def layers(self, member: int, heads: int | None = None) -> list[tuple[Tensor, Tensor]]:
        """Return weight (out, in) and bias (out,) of every layer of one member.

        The last layer has the first ``heads`` outputs, or all.
        """
        weights, biases = list(self.head_weights)[:heads], list(self.head_biases)[:heads]
        last = torch.cat([w[member] for w in weights]), torch.cat([b[member] for b in biases])
        return [*((w[member], b[member]) for w, b in zip(self.weights, self.biases, strict=True)), last]

    def forward(self, x: Tensor, share: int = 0, heads: int | None = None) -> Tensor:
        """Evaluate all members: (n, in) or (E, n, in) -> (E, n, out).

        Args:
            x: rows, the same for every member or each member's own.
            share: number of consecutive rows that share a mask; 0 for no dropout.
            heads: compute only this many of the first outputs; None for all.
        """
        inputs = x.unbind(0) if x.dim() == 3 else (x,) * self.members
        return torch.stack([self._member(rows, self.layers(e, heads), share) for e, rows in enumerate(inputs)])

    def _member(self, x: Tensor, layers: Sequence[tuple[Tensor, Tensor]], share: int) -> Tensor:
        last = len(self.hidden)
        for layer, (weight, bias) in enumerate(layers):
            x = linear(x, weight, bias)
            if layer < last:
                x = F.leaky_relu(x)
                if share and self.rate > 0.0:
                    groups = x.view(-1, share, x.shape[-1])
                    x = (groups * F.dropout(groups.new_ones(len(groups), 1, x.shape[-1]), self.rate)).view(x.shape)
        return x

    def masks(self, draws: int, rng: torch.Generator) -> list[Tensor]:
        """Draw masks of ``draws`` functions, one per hidden layer, (draws, width).

        Entries are 1 / (1 - rate) where a unit is kept and 0 where it is dropped.
        """
        kept = [torch.rand(draws, width, generator=rng) >= self.rate for width in self.hidden]
        return [mask.float() / (1.0 - self.rate) for mask in kept]

    @torch.no_grad()
    def functions(self, x: Tensor, masks: Sequence[Tensor], member: int) -> Tensor:
        """Evaluate one member under each of D masks: (n, in) -> (D, n, out).

        The first hidden layer precedes every mask, so it is computed once for all draws. A mask on a layer's input is a mask on
        its weights. The second layer of all draws is therefore one product with D times as many columns.
        """
        draws, (weights, biases) = len(masks[0]), zip(*self.layers(member), strict=True)
        x = F.leaky_relu(linear(x, weights[0], biases[0]))
        masked = (weights[1] * masks[0].unsqueeze(1)).flatten(0, 1)  # (D x out, in)
        x = linear(x, masked, biases[1].repeat(draws)).view(len(x), draws, weights[1].shape[0]).transpose(0, 1)
        for weight, bias, mask in zip(weights[2:], biases[2:], masks[1:], strict=True):
            x = torch.baddbmm(bias.view(1, 1, -1), F.leaky_relu_(x), (weight * mask.unsqueeze(1)).transpose(1, 2))
        return x
