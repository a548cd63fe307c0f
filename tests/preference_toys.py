"""Labelled segments without a Trainer, an engine on them, and plain networks to compare with."""

from __future__ import annotations

from typing import Any

import torch
from synthetic import synthetic_transitions
from torch import Tensor, nn
from toys import ToyData

from lightning_pbrl.data.feedback import Labels
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.engine import UpdateEngine
from lightning_pbrl.engine.draws import Streams, updates_of
from lightning_pbrl.fitting.starting import attach
from lightning_pbrl.methods.preference_policy import PreferencePolicy
from lightning_pbrl.nn import MLP
from lightning_pbrl.testing.toys import AnsweredToy, labels_of

SEED = 3
__all__ = ["AnsweredToy", "labels_of"]
"""Of the toys that ship with the library, for tests that import them from here."""


class OneSided(ToyData):
    """Nine held-out answers, of which the second rank's share (every second one) are ties: nothing there is decisive."""

    def load(self) -> Transitions:
        data = super().load()
        query = data.pool(self.segment_length).pairs(9, torch.Generator().manual_seed(0))
        self.held_out_labels = labels_of(data, query, equal=torch.arange(9) % 2 == 1)
        return data


def labelled(count: int = 40, length: int = 6, seed: int = 0) -> tuple[Transitions, Labels]:
    """The synthetic data with some terminal rows, and pairs labelled by true return; every fifth answer is "equal"."""
    data = synthetic_transitions(seed=seed)
    data.column("terminated")[::7] = 1.0
    query = data.pool(length).pairs(count, torch.Generator().manual_seed(seed))
    return data, labels_of(data, query, equal=torch.arange(count) % 5 == 0)


def corridor(pairs: int = 300, length: int = 8) -> tuple[Transitions, Labels]:
    """A point on [-1, 1] that walks 0.3 a per step, actions uniform; segments that stay nearer to 0.6 are preferred."""
    rng = torch.Generator().manual_seed(0)
    episodes, steps = 150, 20
    position = torch.rand(episodes, generator=rng) * 2 - 1
    action = torch.rand(episodes, steps, generator=rng) * 2 - 1
    path = [position]
    for t in range(steps):
        path.append((path[-1] + 0.3 * action[:, t]).clamp(-1, 1))
    states = torch.stack(path, 1)
    columns = [part.reshape(-1, 1) for part in (states[:, :-1], action, states[:, 1:])]
    reward = -(states[:, 1:] - 0.6).abs().reshape(-1)
    data = Transitions.from_columns(*columns, torch.arange(episodes + 1) * steps, reward=reward)
    return data, labels_of(data, data.pool(length).pairs(pairs, rng))


def ready(cls: type[PreferencePolicy], data: Transitions, labels: Labels, double: bool = True, **settings: Any) -> Any:
    """A method with data and labels, and its engine; in float64 unless told otherwise: (method, engine)."""
    spec = {"obs_dim": data.obs_dim, "action_dim": data.action_dim, "horizon": 30}
    method = cls(spec, **{"seed": SEED, "updates": 1_000, **settings})
    method.configure_model()
    if double:
        method.double()
        data.packed = data.packed.double()
    method.source = data
    method.on_data()
    method.use_labels(labels)
    engine = UpdateEngine(method, method.groups(), method.programs(), [SEED], compile=False)
    attach(method, engine)
    return method, engine


def batches(method: PreferencePolicy, count: int) -> list[dict[str, Tensor]]:
    """The first ``count`` minibatches that the engine of :func:`ready` will see, as they are gathered."""
    return [method.gather(drawn) for drawn in draws(method, count)]


def draws(method: PreferencePolicy, count: int, seed: int = SEED) -> list[dict[str, Any]]:
    """Random input of the first ``count`` updates."""
    return updates_of(Streams(seed).block(method.minibatches()["draws"], count), count)


def plain(mlp: MLP, member: int | None = None) -> nn.Sequential:
    """A stack of ``nn.Linear``s with the weights of one network."""
    layers: list[nn.Module] = []
    for weight, bias in zip(mlp.weights, mlp.biases, strict=True):
        w, b = (weight, bias) if member is None else (weight[member], bias[member])
        linear = nn.Linear(w.shape[1], w.shape[0], dtype=w.dtype)
        linear.weight.data.copy_(w)
        linear.bias.data.copy_(b)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1], nn.Tanh() if isinstance(mlp.output, nn.Tanh) else nn.Identity())


def difference(mlp: MLP, nets: list[nn.Sequential]) -> float:
    """Largest difference between a network's weights and those of plain networks, one per member."""
    found = []
    for e, net in enumerate(nets):
        linears = [layer for layer in net if isinstance(layer, nn.Linear)]
        for weight, bias, linear in zip(mlp.weights, mlp.biases, linears, strict=True):
            w, b = (weight, bias) if mlp.members is None else (weight[e], bias[e])
            found += [(w - linear.weight).abs().max(), (b - linear.bias).abs().max()]
    return float(torch.stack(found).max().detach())


def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step of one optimiser."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def follow(targets: list[nn.Sequential], sources: list[nn.Sequential], polyak: float) -> None:
    """Polyak averages."""
    with torch.no_grad():
        for target, source in zip(targets, sources, strict=True):
            for p, q in zip(target.parameters(), source.parameters(), strict=True):
                p.mul_(1 - polyak).add_(polyak * q)
