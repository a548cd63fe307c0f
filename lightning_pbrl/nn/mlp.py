"""Multi-layer perceptrons, alone or as a population (twin critics, reward ensembles) on a leading axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from lightning_pbrl.nn.linear import linear


class MLP(nn.Module):
    """A perceptron, or ``members`` independent ones that share a forward call.

    Layout: on CUDA all members are one ``baddbmm`` per layer; on CPU whole members run one after another, which is what
    is fastest there (measured in ``benchmarks/``). Both give the same numbers to rounding.

    Args:
        in_dim: input size.
        out_dim: output size.
        hidden: sizes of the hidden layers.
        members: size E of the population; None for a single network without that axis.
        activation: module class between layers.
        output: module class after the last layer; None for a linear output.
        layout: "auto", "loop" or "batched"; see above.

    Initialisation: weights and biases U(-1/sqrt(fan_in), 1/sqrt(fan_in)), as ``torch.nn.Linear``.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        hidden: Sequence[int] = (256, 256),
        members: int | None = None,
        activation: type[nn.Module] = nn.ReLU,
        output: type[nn.Module] | None = None,
        layout: str = "auto",
    ) -> None:
        super().__init__()
        self.members, self.layout = members, layout
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for fan_in, fan_out in pairwise([in_dim, *hidden, out_dim]):
            bound = 1.0 / math.sqrt(fan_in)
            lead = () if members is None else (members,)
            self.weights.append(torch.empty(*lead, fan_out, fan_in).uniform_(-bound, bound))
            self.biases.append(torch.empty(*lead, fan_out).uniform_(-bound, bound))
        self.activation = activation()
        self.output = nn.Identity() if output is None else output()

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out); with members (B, in) or (E, B, in) -> (E, B, out)."""
        if self.members is None:
            return self._net(x, list(self.weights), list(self.biases))
        if self.layout == "batched" or (self.layout == "auto" and x.is_cuda):
            return self._batched(x)
        inputs = x.unbind(0) if x.dim() == 3 else (x,) * self.members
        weights = [w.unbind(0) for w in self.weights]
        biases = [b.unbind(0) for b in self.biases]
        return torch.stack(
            [self._net(inputs[e], [w[e] for w in weights], [b[e] for b in biases]) for e in range(self.members)]
        )

    def _net(self, x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
        last = len(weights) - 1
        for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            x = linear(x, weight, bias)
            if layer < last:
                x = self.activation(x)
        return self.output(x)

    def _batched(self, x: Tensor) -> Tensor:
        if x.dim() == 2:
            x = x.expand(self.members or 1, -1, -1)
        last = len(self.weights) - 1
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))
            if layer < last:
                x = self.activation(x)
        return self.output(x)
