"""Flat storage: all parameters of a group in one vector, the modules' parameters as views into it.

One vector per group makes the optimiser one fused call, a target average one ``lerp_`` and an all-reduce one
message. Modules keep working as ordinary PyTorch. With R replicas (independent seeds) the storage has R
rows, and :meth:`FlatState.bind` points the modules at one of them.

A parameter that a loss does not reach has no gradient, which is not a gradient of zero: weight decay and momentum must leave
it alone. The first time that happens the optimiser gets its vector in slices that are wholly reached or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate, pairwise
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from lightning_pbrl.engine.program import Group

Reached = tuple[bool, ...]
"""Whether a loss depends on each parameter of a group."""


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
        self.cuts: dict[str, tuple[int, ...]] = {}
        """Per group the numbers of the parameters at which a slice of its optimiser begins, and the number of parameters."""
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
            self.cuts[name] = (0, len(self.leaves[name]))
        return made

    def _slices(self, group: str) -> list[slice]:
        """Where the slices of a group's optimiser lie in its vector."""
        at = [0, *accumulate(p.numel() for p in self.leaves[group])]
        return [slice(at[first], at[last]) for first, last in pairwise(self.cuts[group])]

    def _cut(self, group: str, cuts: tuple[int, ...]) -> None:
        """Cut a group's optimiser into finer slices; each takes its part of the moments and its own count of steps."""
        before, self.cuts[group] = self._slices(group), cuts
        for replica, optimizers in enumerate(self.optimizers):
            optimizer, made = optimizers[group], []
            whole = dict(zip((part.start for part in before), optimizer.param_groups[0]["params"], strict=True))
            for part in self._slices(group):
                begin = max(start for start in whole if start <= part.start)
                old, new = whole[begin], nn.Parameter(self.storage[group][replica, part])
                inside = slice(part.start - begin, part.stop - begin)
                if old in optimizer.state:
                    optimizer.state[new] = {
                        key: value[inside].clone() if _per_parameter(key, value, old) else _copy(value)
                        for key, value in optimizer.state[old].items()
                    }
                made.append(new)
            for old in whole.values():
                optimizer.state.pop(old, None)
            optimizer.param_groups[0]["params"] = made
            if isinstance(optimizer, torch.optim.SGD):  # fused SGD (torch 2.13) fails where only some slices have momentum yet
                optimizer.param_groups[0]["fused"] = False

    def _rebind_optimizers(self) -> None:
        """Let every optimiser step on its row of the storage; moments follow to the storage's device and dtype."""
        for replica, optimizers in enumerate(self.optimizers):
            for name, optimizer in optimizers.items():
                for part, p in zip(self._slices(name), optimizer.param_groups[0]["params"], strict=True):
                    p.data = self.storage[name][replica, part]
                    state = optimizer.state.get(p, {})
                    for key, value in state.items():
                        if _per_parameter(key, value, p):
                            state[key] = value.to(p)

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

    def step(self, group: str, grad: Tensor, updates: int, reached: Reached | None = None) -> None:
        """One optimiser step of the bound replica.

        Args:
            group: which group.
            grad: flat gradient, (P,).
            updates: updates done before this one (drives the schedule).
            reached: which parameters have a gradient; the others are not moved, and keep their moments. None for all.
        """
        settings, optimizer = self.groups[group], self.optimizers[self.bound][group]
        if settings.clip is not None:
            grad = grad * (settings.clip / grad.norm().clamp(min=settings.clip))
        (param_group,) = optimizer.param_groups
        if settings.schedule is not None:
            param_group["lr"] = settings.lr * settings.schedule(updates)
        if reached is not None:
            cuts = tuple(sorted({*self.cuts[group], *(k for k in range(1, len(reached)) if reached[k] != reached[k - 1])}))
            if cuts != self.cuts[group]:
                self._cut(group, cuts)
        if len(param_group["params"]) == 1:
            param_group["params"][0].grad = grad if reached is None or reached[0] else None
        else:
            for first, part, p in zip(self.cuts[group], self._slices(group), param_group["params"], strict=False):
                p.grad = grad[part] if reached is None or reached[first] else None
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

    def _split(self, flat: Mapping[str, Tensor], cut: tuple[int, int] | None = None) -> dict[str, Tensor]:
        named: dict[str, Tensor] = {}
        for key, vector in flat.items():
            held = list(self.names[key].items())[slice(*cut) if cut else slice(None)]
            parts = vector.split([p.numel() for _, p in held])
            named.update({name: part.view(p.shape).clone() for (name, p), part in zip(held, parts, strict=True)})
        return named

    def _join(self, key: str, named: Mapping[str, Tensor], cut: tuple[int, int] | None = None) -> Tensor:
        held = list(self.names[key])[slice(*cut) if cut else slice(None)]
        return torch.cat([named[name].reshape(-1) for name in held])

    def state_dict(self) -> dict[str, Any]:
        """Weights and optimiser moments by parameter name, per replica; tensors and plain types only.

        The moments of a group are a mapping, or a list of them where its optimiser is cut into slices (``cuts``).
        """
        moments = []
        for optimizers in self.optimizers:
            per_group: dict[str, Any] = {}
            for group, optimizer in optimizers.items():
                found = [
                    {
                        key: self._split({group: value}, cut) if _per_parameter(key, value, p) else _copy(value)
                        for key, value in optimizer.state.get(p, {}).items()
                    }
                    for cut, p in zip(pairwise(self.cuts[group]), optimizer.param_groups[0]["params"], strict=True)
                ]
                per_group[group] = found[0] if len(found) == 1 else found
            moments.append(per_group)
        cuts = {group: list(at) for group, at in self.cuts.items() if len(at) > 2}
        return {"weights": [self.weights(r) for r in range(self.replicas)], "moments": moments, "cuts": cuts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned, in place."""
        for replica, named in enumerate(state["weights"]):
            for key, rows in self.storage.items():
                rows[replica].copy_(self._join(key, named))
        for group, at in state.get("cuts", {}).items():
            self._cut(group, tuple(at))
        for optimizers, per_group in zip(self.optimizers, state["moments"], strict=True):
            for group, optimizer in optimizers.items():
                saved = per_group[group] if isinstance(per_group[group], list) else [per_group[group]]
                for cut, p, found in zip(pairwise(self.cuts[group]), optimizer.param_groups[0]["params"], saved, strict=True):
                    optimizer.state[p] = {
                        key: self._join(group, value, cut).to(p) if isinstance(value, Mapping) else _copy(value)
                        for key, value in found.items()
                    }
        self.bind(self.bound)


def _per_parameter(key: str, value: Any, flat: Tensor) -> bool:
    """Whether an optimiser's entry has one number per weight; a step count has not, even in a group of one weight."""
    return key != "step" and torch.is_tensor(value) and value.numel() == flat.numel()


def _copy(value: Any) -> Any:
    """The value itself, or its own copy when it is a tensor (optimisers count steps in place)."""
    return value.clone() if torch.is_tensor(value) else value
