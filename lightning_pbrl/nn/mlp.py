"""Multi-layer perceptrons, single or as a population (twin critics, reward ensembles) on a leading axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_pbrl.nn.linear import linear


class MLP(nn.Module):
    """Multi-layer perceptron, or ``members`` independent ones that share a forward call.

    Layout: on CUDA, all members are one ``baddbmm`` per layer. On CPU, members run one after another, which is fastest there
    (measured in ``benchmarks/``). Both give the same numbers up to rounding.

    Args:
        in_dim: input size.
        out_dim: output size.
        hidden: sizes of the hidden layers.
        members: size E of the population; None for a single network without that axis.
        activation: module class between layers.
        output: module class after the last layer; None for a linear output.
        layout: "auto", "loop" or "batched"; see above.
        dropout: probability of dropping a hidden unit during training, in [0, 1).
        ortho_init: use orthogonal weights (drawn for each member) and zero biases.
        gains: gains of these weights: of the hidden layers and of the last layer.
        uniform_init: weights U(-l, l) with l = sqrt(3 / fan) and zero biases: variance scaling 1.0 of JAX libraries. fan is the
            number of the layer's inputs (fan_in) or the mean of inputs and outputs (fan_avg).
        layer_norm: standardise each hidden layer over its units before the activation, without further parameters.
        hold_output_bias: never move the last bias. Use it for outputs of which only differences are trained: the gradient of
            their common constant is pure rounding error, which Adam would scale up to full steps.

    Initialisation: by default, weights and biases U(-1/sqrt(fan_in), 1/sqrt(fan_in)), as ``torch.nn.Linear``.
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
        dropout: float = 0.0,
        ortho_init: bool = False,
        hold_output_bias: bool = False,
        gains: tuple[float, float] = (1.0, 1.0),
        uniform_init: Literal["fan_in", "fan_avg"] | None = None,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        self.members, self.layout, self.dropout, self.hold_output_bias = members, layout, dropout, hold_output_bias
        self.layer_norm = layer_norm
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for fan_in, fan_out in pairwise([in_dim, *hidden, out_dim]):
            bound = 1.0 / math.sqrt(fan_in)
            lead = () if members is None else (members,)
            self.weights.append(torch.empty(*lead, fan_out, fan_in).uniform_(-bound, bound))
            self.biases.append(torch.empty(*lead, fan_out).uniform_(-bound, bound))
        if ortho_init:
            for layer in range(len(self.weights)):
                self.ortho_init(layer, gains[layer == len(self.weights) - 1])
        if uniform_init is not None:
            for weight, bias in zip(self.weights, self.biases, strict=True):
                fan_out, fan_in = weight.shape[-2:]
                limit = math.sqrt(3.0 / (fan_in if uniform_init == "fan_in" else 0.5 * (fan_in + fan_out)))
                nn.init.uniform_(weight, -limit, limit)
                nn.init.zeros_(bias)
        self.activation = activation()
        self.output = nn.Identity() if output is None else output()

    def ortho_init(self, layer: int, gain: float = 1.0) -> None:
        """Reinitialise one layer (-1: the last) with orthogonal weights times ``gain`` and zero biases."""
        weight = self.weights[layer].detach()
        for matrix in weight.view(-1, *weight.shape[-2:]):
            nn.init.orthogonal_(matrix, gain)
        nn.init.zeros_(self.biases[layer])

    def forward(self, x: Tensor, dropout: bool = True, frozen: bool = False) -> Tensor:
        """Evaluate (..., in) -> (..., out); with members (B, in) or (E, B, in) -> (E, B, out).

        ``dropout=False`` switches dropout off during training, too, for acting and for comparisons. ``frozen=True`` lets
        gradients flow to ``x`` alone. That saves the gradients of the weights when a policy's loss passes through a critic.
        """
        rate = self.dropout if self.training and dropout else 0.0
        all_weights, all_biases = _entries(self.weights), _entries(self.biases)
        if frozen:
            all_weights, all_biases = [w.detach() for w in all_weights], [b.detach() for b in all_biases]
        if self.hold_output_bias:
            all_biases[-1] = all_biases[-1].detach() + 0.0 * all_biases[-1]  # its gradient is zero, not absent
        if self.members is None:
            return self._net(x, all_weights, all_biases, rate)
        if self.layout == "batched" or (self.layout == "auto" and x.is_cuda):
            return self._batched(x, all_weights, all_biases, rate)
        inputs = x.unbind(0) if x.dim() == 3 else (x,) * self.members
        weights = [w.unbind(0) for w in all_weights]
        biases = [b.unbind(0) for b in all_biases]
        return torch.stack(
            [self._net(inputs[e], [w[e] for w in weights], [b[e] for b in biases], rate) for e in range(self.members)]
        )

    def _net(self, x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], rate: float) -> Tensor:
        last = len(weights) - 1
        for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            x = linear(x, weight, bias)
            if layer < last:
                x = self._hidden(x, rate)
        return self.output(x.to(weights[-1].dtype))  # of products in bf16

    def _batched(self, x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], rate: float) -> Tensor:
        if x.dim() == 2:
            x = x.expand(self.members or 1, -1, -1)
        last = len(weights) - 1
        for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            x = torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))
            if layer < last:
                x = self._hidden(x, rate)
        return self.output(x.to(weights[-1].dtype))

    def _hidden(self, x: Tensor, rate: float) -> Tensor:
        x = self.activation(F.layer_norm(x, x.shape[-1:]) if self.layer_norm else x)
        return F.dropout(x, rate) if rate > 0.0 else x


def _entries(parameters: nn.ParameterList) -> list[Tensor]:
    """Return a list's parameters; iterating over it formats and looks up a name for each, which acting at every step feels."""
    return list(parameters._parameters.values())  # type: ignore[arg-type]
