"""Flat storage: all parameters of a group in one vector, the modules' parameters as views into it.

One vector per group makes the optimiser one fused call, a target average one ``lerp_`` and an all-reduce one
message. Modules keep working as ordinary PyTorch. With R replicas (independent seeds) the storage has R
rows, and :meth:`FlatState.bind` points the modules at one of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from lightning_pbrl.engine.program import Group


class FlatState:
    """The weights, targets and optimisers of one program.

    Args:
        owner: the module whose attributes the groups and targets name.
        groups: name -> group.
        targets: target attribute -> (source group, polyak rate).
        replicas: rows of storage; row 0 starts with the owner's current weights.
    """

    def __init__(
        self, owner: nn.Module, groups: Mapping[str, Group], targets: Mapping[str, tuple[str, float]], replicas: int = 1
    ) -> None:
        self.owner, self.groups, self.targets, self.replicas = owner, dict(groups), dict(targets), replicas
        self.bound = 0
        self.attach()

    def _named(self, attributes: tuple[str, ...]) -> dict[str, nn.Parameter]:
        """Parameters of the owner's ``attributes`` by their name in the owner's ``state_dict``."""
        named: dict[str, nn.Parameter] = {}
        for attribute in attributes:
            value = attrgetter(attribute)(self.owner)
            if isinstance(value, nn.Parameter):
                named[attribute] = value
            else:
                named.update({f"{attribute}.{name}": p for name, p in value.named_parameters()})
        return named

    def _present(self) -> dict[str, dict[str, nn.Parameter]]:
        """The parameters the owner has now, by group or target and name."""
        present = {group: self._named(settings.modules or (group,)) for group, settings in self.groups.items()}
        return {**present, **{target: self._named((target,)) for target in self.targets}}

    def attach(self) -> None:
        """Move the modules' present values into the flat storage and make the parameters views of it.

        Call it after anything that re-binds ``param.data`` (a device or dtype change); :meth:`attached` tells.
        """
        kept = getattr(self, "storage", None)
        self.names = self._present()
        for target, (source, _) in self.targets.items():
            if [p.shape for p in self.names[target].values()] != [p.shape for p in self.names[source].values()]:
                raise ValueError(f"target {target!r} and its source {source!r} differ in shape")
        self.leaves = {g: list(self.names[g].values()) for g in self.groups}
        self.storage: dict[str, Tensor] = {}
        for key, named in self.names.items():
            flat = torch.cat([p.detach().reshape(-1) for p in named.values()])
            rows = flat.expand(self.replicas, -1).clone()
            if kept is not None and key in kept:
                current = rows[0].clone()
                rows.copy_(kept[key])
                rows[self.bound] = current
            self.storage[key] = rows
        if kept is None:
            self.optimizers = [self._optimizers() for _ in range(self.replicas)]
            self._rebind_optimizers()
        else:
            self._rebind_optimizers()
        self.bind(self.bound)

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        made = {}
        for name, group in self.groups.items():
            options = dict(group.options)
            if issubclass(group.optimizer, torch.optim.Adam | torch.optim.SGD):  # AdamW is an Adam
                options.setdefault("fused", True)
            make: Any = group.optimizer
            made[name] = make([nn.Parameter(self.storage[name][0])], lr=group.lr, **options)
        return made

    def _rebind_optimizers(self) -> None:
        """Let every optimiser step on its row of the storage; moments follow to the storage's device and dtype."""
        for replica, optimizers in enumerate(self.optimizers):
            for name, optimizer in optimizers.items():
                (flat,) = optimizer.param_groups[0]["params"]
                flat.data = self.storage[name][replica]
                state = optimizer.state.get(flat, {})
                for key, value in state.items():
                    if _per_parameter(key, value, flat):
                        state[key] = value.to(flat)

    def bind(self, replica: int) -> None:
        """Point the modules' parameters at one replica's weights; the Parameter objects stay the same."""
        self.bound = replica
        for key, named in self.names.items():
            row, at = self.storage[key][replica], 0
            for p in named.values():
                p.data = row[at : at + p.numel()].view(p.shape)
                at += p.numel()

    def attached(self) -> bool:
        """Whether every parameter is still the view it was bound to."""
        for key, named in self._present().items():  # asks the modules: loading with assign=True replaces Parameters
            row, at = self.storage[key][self.bound], 0
            for p in named.values():
                if p.data_ptr() != row.data_ptr() + at * row.element_size() or p.dtype != row.dtype:
                    return False
                at += p.numel()
        return True

    def step(self, group: str, grad: Tensor, updates: int) -> None:
        """One optimiser step of the bound replica.

        Args:
            group: which group.
            grad: flat gradient, (P,).
            updates: updates done before this one (drives the schedule).
        """
        settings, optimizer = self.groups[group], self.optimizers[self.bound][group]
        if settings.clip is not None:
            grad = grad * (settings.clip / grad.norm().clamp(min=settings.clip))
        (param_group,) = optimizer.param_groups
        if settings.schedule is not None:
            param_group["lr"] = settings.lr * settings.schedule(updates)
        param_group["params"][0].grad = grad
        optimizer.step()

    def follow(self) -> None:
        """Move the bound replica's targets towards their sources: target <- target + polyak (source - target)."""
        for target, (source, polyak) in self.targets.items():
            self.storage[target][self.bound].lerp_(self.storage[source][self.bound], polyak)

    def reset(self, group: str, values: Mapping[str, Tensor] | None = None) -> None:
        """Start a group anew in every replica: its optimiser forgets, and targets that follow it equal it.

        Args:
            group: which group.
            values: the new weights by their names in the owner's ``state_dict``; the present ones when None.
        """
        if values is not None:
            self.storage[group].copy_(self._join(group, values).expand_as(self.storage[group]))
        for target, (source, _) in self.targets.items():
            if source == group:
                self.storage[target].copy_(self.storage[group])
        for optimizers in self.optimizers:
            optimizers[group].state.clear()

    def weights(self, replica: int) -> dict[str, Tensor]:
        """A replica's weights by their ordinary names, copies."""
        return self._split({key: row[replica] for key, row in self.storage.items()})

    def _split(self, flat: Mapping[str, Tensor]) -> dict[str, Tensor]:
        named: dict[str, Tensor] = {}
        for key, vector in flat.items():
            parts = vector.split([p.numel() for p in self.names[key].values()])
            shapes = zip(self.names[key].items(), parts, strict=True)
            named.update({name: part.view(p.shape).clone() for (name, p), part in shapes})
        return named

    def _join(self, key: str, named: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([named[name].reshape(-1) for name in self.names[key]])

    def state_dict(self) -> dict[str, Any]:
        """Weights and optimiser moments by parameter name, per replica; tensors and plain types only."""
        moments = []
        for optimizers in self.optimizers:
            per_group: dict[str, dict[str, Any]] = {}
            for group, optimizer in optimizers.items():
                (flat,) = optimizer.param_groups[0]["params"]
                per_group[group] = {
                    key: self._split({group: value}) if _per_parameter(key, value, flat) else _copy(value)
                    for key, value in optimizer.state.get(flat, {}).items()
                }
            moments.append(per_group)
        return {"weights": [self.weights(r) for r in range(self.replicas)], "moments": moments}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned, in place."""
        for replica, named in enumerate(state["weights"]):
            for key, rows in self.storage.items():
                rows[replica].copy_(self._join(key, named))
        for optimizers, per_group in zip(self.optimizers, state["moments"], strict=True):
            for group, optimizer in optimizers.items():
                (flat,) = optimizer.param_groups[0]["params"]
                optimizer.state[flat] = {
                    key: self._join(group, value).to(flat) if isinstance(value, Mapping) else _copy(value)
                    for key, value in per_group[group].items()
                }
        self.bind(self.bound)


def _per_parameter(key: str, value: Any, flat: Tensor) -> bool:
    """Whether an optimiser's entry has one number per weight; a step count has not, even in a group of one weight."""
    return key != "step" and torch.is_tensor(value) and value.numel() == flat.numel()


def _copy(value: Any) -> Any:
    """The value itself, or its own copy when it is a tensor (optimisers count steps in place)."""
    return value.clone() if torch.is_tensor(value) else value
