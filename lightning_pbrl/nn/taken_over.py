"""Networks of offline learners as those of an online one: the same function of raw observations in another layout.

Offline learners standardise observations and online ones do not, so the standardisation is folded into the first layer:
W (x - m) s + b = (W s) x + (b - W s m), exact to rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_pbrl.nn.actor import DeterministicActor, GaussianActor
from lightning_pbrl.nn.mlp import MLP
from lightning_pbrl.nn.normalizer import Normalizer
from lightning_pbrl.nn.squashed_actor import SquashedGaussianActor

DETERMINISTIC_STD = 0.1
"""Standard deviation before squashing of a policy that had none: TD3's exploration noise (arXiv 1802.09477, table 3)."""
_EDGE = 0.999  # of the tanh that bounds the log std: beyond, its gradient vanishes


@torch.no_grad()
def folded(net: MLP, normalizer: Normalizer | None) -> dict[str, Tensor]:
    """Return the weights of ``net`` for raw observations, by name; it reads standardised ones, before any other input."""
    weights = {name: value.clone() for name, value in net.state_dict().items()}
    if normalizer is not None:
        width, first = len(normalizer.mean), weights["weights.0"].double()
        first[..., :width] *= normalizer.scale.double()
        shift = first[..., :width] @ normalizer.mean.double()
        weights["biases.0"] = (weights["biases.0"].double() - shift).float()
        weights["weights.0"] = first.float()
    return weights


def mean_network(actor: nn.Module) -> MLP | None:
    """Return the network whose squashed output is an actor's deterministic action; None if it has no such network.

    A squashed Gaussian's gives the raw standard deviation, too, in the second half of its outputs.
    """
    if isinstance(actor, SquashedGaussianActor):
        return actor.net if actor.torso is None else None
    net = actor.mean if isinstance(actor, GaussianActor | DeterministicActor) else actor
    return net if isinstance(net, MLP) and isinstance(net.output, nn.Tanh) else None


@torch.no_grad()
def as_squashed(actor: nn.Module, normalizer: Normalizer | None, obs: Tensor, into: SquashedGaussianActor) -> dict[str, Tensor]:
    """Return the weights by which ``into`` acts like ``actor``: its deterministic action is the same to rounding.

    A squashed Gaussian whose standard deviation has the same form is taken over with it. Any other gets one standard deviation
    before squashing for all states: a Gaussian policy's own, :data:`DETERMINISTIC_STD` for a deterministic one, and for another
    form of squashed Gaussian the geometric mean over ``obs``.

    Args:
        actor: actor with a :func:`mean_network` of ReLU layers, of the sizes of ``into``.
        normalizer: what standardises its observations; None for nothing.
        obs: raw observations, (B, O).
        into: SAC's actor, without a torso.
    """
    net = mean_network(actor)
    assert net is not None  # noqa: S101 - the caller has checked it
    weights, last = folded(net, normalizer), len(net.weights) - 1
    if isinstance(actor, SquashedGaussianActor):
        if (actor.min_std, actor.log_std_range) == (into.min_std, into.log_std_range):
            return {f"net.{name}": value for name, value in weights.items()}
        log_std = actor(obs if normalizer is None else normalizer(obs))[1].mean(0)
    elif isinstance(actor, GaussianActor):
        log_std = actor.bounded_log_std
    else:
        log_std = torch.full((into.action_dim,), DETERMINISTIC_STD).log()
    low, high = into.log_std_range
    raw = (2.0 * (log_std.to(obs) - low) / (high - low) - 1.0).clamp(-_EDGE, _EDGE).atanh()
    mean, bias = weights[f"weights.{last}"][: into.action_dim], weights[f"biases.{last}"][: into.action_dim]
    weights[f"weights.{last}"], weights[f"biases.{last}"] = torch.cat([mean, torch.zeros_like(mean)]), torch.cat([bias, raw])
    return {f"net.{name}": value for name, value in weights.items()}
