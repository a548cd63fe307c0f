"""Flat storage: all parameters of a method, one vector per part, the modules' parameters as views into them.

One vector per group makes the optimiser one fused call, a target average one ``lerp_`` and an all-reduce one message. Modules
remain ordinary PyTorch. With R replicas (independent seeds) the storage has R rows and :meth:`FlatState.bind` points the modules
at one of them. An operation on a vector moves all rows of a :attr:`FlatState.rows` slice at once.

A parameter that a loss does not reach has no gradient, which is not a gradient of zero: weight decay and momentum must leave
it alone. The first time that happens the optimiser gets its vector in slices that are wholly reached or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from lightning_pbrl.compute import fused_adam
from lightning_pbrl.engine.program import Follows, Group, Part
from lightning_pbrl.later import put_off

Reached = tuple[bool, ...]
"""Per parameter of a group: True if a loss depends on it."""


class FlatState:
    """Weights, targets and optimisers of a method.

    Args:
        owner: module whose attributes the parts name.
        parts: name -> group, target or frozen copy.
        replicas: rows of storage; each starts with the owner's current weights.
        together: step all replicas in one optimiser call; otherwise each in its own.
    """

    def __init__(self, owner: nn.Module, parts: Mapping[str, Part], replicas: int = 1, together: bool = False) -> None:
        self.owner, self.parts, self.replicas = owner, dict(parts), replicas
        self.groups = {name: part for name, part in parts.items() if isinstance(part, Group)}
        self.targets = {name: part for name, part in parts.items() if isinstance(part, Follows)}
        self.rows = [slice(0, replicas)] if together else [slice(k, k + 1) for k in range(replicas)]
        """Replicas that one optimiser call moves."""
        self.bound = 0
        self.updates = dict.fromkeys(self.groups, 0)
        """Updates done by programs that move a group, the argument of its schedule."""
        self.cuts: dict[str, tuple[int, ...]] = {}
        """Numbers of the parameters at which a slice of a group's optimiser begins, then the number of parameters."""
        self.leaves: dict[str, list[nn.Parameter]] = {}
        """Parameters of each group."""
        self.attach()

    def _named(self, attributes: tuple[str, ...]) -> dict[str, nn.Parameter]:
        """Return parameters of the owner's ``attributes`` by their name in the owner's ``state_dict``."""
        named: dict[str, nn.Parameter] = {}
        for attribute in attributes:
            value = attrgetter(attribute)(self.owner)
            if isinstance(value, nn.Parameter):
                named[attribute] = value
            else:
                named.update({f"{attribute}.{name}": p for name, p in value.named_parameters()})
        return named

    def _present(self) -> dict[str, dict[str, nn.Parameter]]:
        """Return the owner's present parameters, by part and name."""
        return {name: self._named(part.modules or (name,)) for name, part in self.parts.items()}

    def attach(self) -> None:
        """Move the modules' present values into the flat storage and make the parameters views of it.

        Call it after anything that re-binds ``param.data`` (a device or dtype change), as :meth:`attached` detects. Buffers stay
        in place unless device or dtype differ. :attr:`leaves` stays the same mapping unless a buffer or a Parameter does not.
        """
        kept = getattr(self, "storage", None)
        self.names = self._present()
        for name, target in self.targets.items():
            if [p.shape for p in self.names[name].values()] != [p.shape for p in self.names[target.source].values()]:
                raise ValueError(f"target {name!r} and its source {target.source!r} differ in shape")
        leaves = {g: list(self.names[g].values()) for g in self.groups}
        self.storage: dict[str, Tensor] = {}
        for key, named in self.names.items():
            flat = torch.cat([p.detach().reshape(-1) for p in named.values()])
            held = None if kept is None else kept[key]
            if held is not None and (held.device, held.dtype) == (flat.device, flat.dtype):
                rows = held  # the same buffer: whatever holds its address stays valid
            else:
                rows = (flat.expand(self.replicas, -1) if held is None else held).to(flat, copy=True)
            rows[self.bound] = flat
            self.storage[key] = rows
        same = kept is not None and all(self.storage[key] is kept[key] for key in kept)
        if not same or any(a is not b for g in leaves for a, b in zip(leaves[g], self.leaves[g], strict=True)):
            self.leaves = leaves
        if kept is None:
            self.optimizers = [{name: self._optimizer(name, rows) for name in self.groups} for rows in self.rows]
        self._rebind_optimizers()
        self.bind(self.bound)

    def _optimizer(self, name: str, rows: slice) -> torch.optim.Optimizer:
        group = self.groups[name]
        options = dict(group.options)
        if issubclass(group.optimizer, torch.optim.Adam | torch.optim.SGD):  # AdamW is an Adam
            options.setdefault("fused", True)
        self.cuts[name] = (0, len(self.leaves[name]))
        make: Any = group.optimizer
        with put_off("torch._dynamo"):
            made: torch.optim.Optimizer = make([nn.Parameter(self.storage[name][rows])], lr=group.lr, **options)
        return made

    def _slices(self, group: str) -> list[slice]:
        """Return the slices of a group's optimiser in its vector."""
        at = [0, *accumulate(p.numel() for p in self.leaves[group])]
        return [slice(at[first], at[last]) for first, last in pairwise(self.cuts[group])]

    def _cut(self, group: str, cuts: tuple[int, ...]) -> None:
        """Cut a group's optimiser into finer slices; each takes its part of the moments and its own count of steps."""
        before, self.cuts[group] = self._slices(group), cuts
        for rows, optimizers in zip(self.rows, self.optimizers, strict=True):
            optimizer, made = optimizers[group], []
            whole = dict(zip((part.start for part in before), optimizer.param_groups[0]["params"], strict=True))
            for part in self._slices(group):
                begin = max(start for start in whole if start <= part.start)
                old, new = whole[begin], nn.Parameter(self.storage[group][rows, part])
                inside = slice(part.start - begin, part.stop - begin)
                if old in optimizer.state:
                    optimizer.state[new] = {
                        key: value[:, inside].clone() if _per_parameter(key, value, old) else _copy(value)
                        for key, value in optimizer.state[old].items()
                    }
                made.append(new)
            for old in whole.values():
                optimizer.state.pop(old, None)
            optimizer.param_groups[0]["params"] = made
            # Fused SGD (torch 2.13) fails where only some slices have momentum yet; slices of several rows are not contiguous.
            if isinstance(optimizer, torch.optim.SGD) or rows.stop - rows.start > 1:
                optimizer.param_groups[0]["fused"] = False

    def _rebind_optimizers(self) -> None:
        """Let every optimiser step on its rows of the storage; moments follow to the storage's device and dtype."""
        for rows, optimizers in zip(self.rows, self.optimizers, strict=True):
            for name, optimizer in optimizers.items():
                for part, p in zip(self._slices(name), optimizer.param_groups[0]["params"], strict=True):
                    p.data = self.storage[name][rows, part]
                    state = optimizer.state.get(p, {})
                    for key, value in state.items():
                        if _per_parameter(key, value, p):
                            state[key] = value.to(p)
                        elif torch.is_tensor(value) and fused_adam.is_fused(optimizer):
                            state[key] = value.to(p.device)  # a fused step counts where its weights are

    def bind(self, replica: int) -> None:
        """Point the modules' parameters at one replica's weights; the Parameter objects stay the same."""
        self.bound = replica
        for key, named in self.names.items():
            row, at = self.storage[key][replica], 0
            for p in named.values():
                p.data = row[at : at + p.numel()].view(p.shape)
                at += p.numel()

    def attached(self) -> bool:
        """Return True if every parameter is still the view it was bound to."""
        for key, named in self._present().items():  # asks the modules: loading with assign=True replaces Parameters
            row, at = self.storage[key][self.bound], 0
            for p in named.values():
                if p.data_ptr() != row.data_ptr() + at * row.element_size() or p.dtype != row.dtype:
                    return False
                at += p.numel()
        return True

    def reattach(self) -> None:
        """Attach again if something has re-bound a parameter."""
        if not self.attached():
            self.attach()

    def clipped(self, grads: dict[str, Tensor]) -> dict[str, Tensor]:
        """Scale gradients, (n, P) by group, to the norms that their groups allow; first those that share a norm."""
        joint = [group for group in grads if self.groups[group].clip_jointly]
        bound = self.groups[joint[0]].clip if joint else None
        if bound is not None:
            norm = torch.stack([grads[group].norm(dim=-1) for group in joint]).norm(dim=0).unsqueeze(-1)
            scale = bound / norm.clamp(min=bound)
            grads = {group: grad * scale if group in joint else grad for group, grad in grads.items()}
        for group, grad in grads.items():
            clip = self.groups[group].clip
            if clip is not None:
                grads[group] = grad * (clip / grad.norm(dim=-1, keepdim=True).clamp(min=clip))
        return grads

    def keep_rates_on_device(self) -> None:
        """Keep learning rates in tensors, which a recorded step reads anew each time, where the optimiser allows it."""
        for optimizers in self.optimizers:
            for group, optimizer in optimizers.items():
                (param_group,), device = optimizer.param_groups, self.storage[group].device
                kept = torch.is_tensor(param_group["lr"]) and param_group["lr"].device == device
                if fused_adam.is_fused(optimizer) and not kept:
                    dtype = torch.float32 if device.type == "cuda" else torch.float64  # as the kernels read it
                    param_group["lr"] = torch.tensor(float(param_group["lr"]), dtype=dtype, device=device)

    def counts_on_device(self, group: str, block: int = 0) -> bool:
        """Return True if nothing of a group's step is done by Python, so that it may be recorded and replayed."""
        optimizer = self.optimizers[block][group]
        return fused_adam.is_fused(optimizer) and torch.is_tensor(optimizer.param_groups[0]["lr"])

    def schedule(self, moved: Sequence[str], number: int, block: int = 0) -> None:
        """Set the learning rates that are kept in tensors, as :meth:`step` sets the others."""
        for group in moved:
            settings, (param_group,) = self.groups[group], self.optimizers[block][group].param_groups
            if settings.schedule is not None and torch.is_tensor(param_group["lr"]):
                param_group["lr"].fill_(settings.lr * settings.schedule(self.updates[group] + number))

    def step(self, group: str, grad: Tensor, number: int = 0, block: int = 0, reached: Reached | None = None) -> None:
        """Make one optimiser step of a group for the replicas of one ``block`` of :attr:`rows`, with flat gradients, (n, P).

        ``number`` counts the updates since :attr:`updates` was counted and drives the schedule. ``reached`` marks the parameters
        with a gradient; the others stay, and keep their moments. None is all.
        """
        settings, optimizer = self.groups[group], self.optimizers[block][group]
        (param_group,) = optimizer.param_groups
        if settings.schedule is not None and not torch.is_tensor(param_group["lr"]):
            param_group["lr"] = settings.lr * settings.schedule(self.updates[group] + number)
        if reached is not None:
            cuts = tuple(sorted({*self.cuts[group], *(k for k in range(1, len(reached)) if reached[k] != reached[k - 1])}))
            if cuts != self.cuts[group]:
                self._cut(group, cuts)
        if len(param_group["params"]) == 1:
            param_group["params"][0].grad = grad if reached is None or reached[0] else None
        else:
            for first, part, p in zip(self.cuts[group], self._slices(group), param_group["params"], strict=False):
                p.grad = grad[:, part] if reached is None or reached[first] else None
        fused_adam.step(optimizer)

    def follow(self, moved: Sequence[str], block: int = 0) -> None:
        """Move the targets of the ``moved`` groups towards them, in one block of rows."""
        rows = self.rows[block]
        for name, target in self.targets.items():
            if target.source in moved:
                self.storage[name][rows].lerp_(self.storage[target.source][rows], target.polyak)

    def copy(self, name: str, source: str) -> None:
        """Give a part the present weights of another of the same shapes, in every replica."""
        self.reattach()
        self.storage[name].copy_(self.storage[source])

    def restart(self, group: str) -> None:
        """Clear the state of a group's optimiser, in every replica."""
        for optimizers in self.optimizers:
            optimizers[group].state.clear()

    def reset(self, group: str, values: Mapping[str, Tensor] | None = None) -> None:
        """Start a group anew in every replica: clear its optimiser, and set the targets that follow it to it.

        ``values`` are its new weights by their names in the owner's ``state_dict``; None keeps the present ones.
        """
        self.reattach()
        if values is not None:
            self.storage[group].copy_(self._join(group, values).expand_as(self.storage[group]))
        for name, target in self.targets.items():
            if target.source == group:
                self.copy(name, group)
        self.restart(group)

    def set_weights(self, replica: int, named: Mapping[str, Tensor]) -> None:
        """Give a replica weights by their names in the owner's ``state_dict``."""
        for key, rows in self.storage.items():
            rows[replica].copy_(self._join(key, named))

    def weights(self, replica: int) -> dict[str, Tensor]:
        """Return copies of a replica's weights by their ordinary names."""
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
        """Return weights and optimiser moments by parameter name, per replica; tensors and plain types only.

        The moments of a group are a mapping, or a list of them if its optimiser is cut into slices (``cuts``).
        """
        moments = [self._moments(block, row) for block, rows in enumerate(self.rows) for row in range(rows.stop - rows.start)]
        cuts = {group: list(at) for group, at in self.cuts.items() if len(at) > 2}
        weights = [self.weights(replica) for replica in range(self.replicas)]
        return {"weights": weights, "moments": moments, "cuts": cuts, "updates": dict(self.updates)}

    def _moments(self, block: int, row: int) -> dict[str, Any]:
        """Return the optimisers' state of one row of a block, by group."""
        per_group: dict[str, Any] = {}
        for group, optimizer in self.optimizers[block].items():
            found = [
                {
                    key: self._split({group: value[row]}, cut) if _per_parameter(key, value, p) else _copy(value)
                    for key, value in optimizer.state.get(p, {}).items()
                }
                for cut, p in zip(pairwise(self.cuts[group]), optimizer.param_groups[0]["params"], strict=True)
            ]
            per_group[group] = found[0] if len(found) == 1 else found
        return per_group

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned, in place; ``together`` may have changed."""
        for replica, named in enumerate(state["weights"]):
            self.set_weights(replica, named)
        self.updates.update(state["updates"])
        for group, at in state.get("cuts", {}).items():
            self._cut(group, tuple(at))
        for rows, optimizers in zip(self.rows, self.optimizers, strict=True):
            for group, optimizer in optimizers.items():
                saved = [moments.get(group, {}) for moments in state["moments"][rows]]
                params = zip(pairwise(self.cuts[group]), optimizer.param_groups[0]["params"], strict=True)
                for number, (cut, p) in enumerate(params):
                    found = [each[number] if isinstance(each, list) else each for each in saved]
                    optimizer.state[p] = {
                        key: torch.stack([self._join(group, each[key], cut) for each in found]).to(p)
                        if isinstance(value, Mapping)
                        else _copy(value, p.device if fused_adam.is_fused(optimizer) else None)
                        for key, value in found[0].items()
                    }
        self.bind(self.bound)


def _per_parameter(key: str, value: Any, flat: Tensor) -> bool:
    """Return True if an optimiser's entry has one number per weight; a step count has not, even in a group of one weight."""
    return key != "step" and torch.is_tensor(value) and value.numel() == flat.numel()


def _copy(value: Any, device: torch.device | None = None) -> Any:
    """Return the value, copied if it is a tensor (optimisers count steps in place), to a device if one is given."""
    return value.to(device, copy=True) if torch.is_tensor(value) else value
