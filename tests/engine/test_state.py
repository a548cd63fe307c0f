"""One state for all programs of a method and all its replicas: weights, optimisers, targets, what stands still."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_pbrl.engine import FlatState, Follows, Frozen, Group
from lightning_pbrl.engine.program import cosine

OPTIMIZERS: list[tuple[type[torch.optim.Optimizer], dict[str, Any]]] = [
    (torch.optim.Adam, {}),
    (torch.optim.Adam, {"amsgrad": True, "weight_decay": 0.1}),
    (torch.optim.AdamW, {"weight_decay": 0.1}),
    (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.1}),
    (torch.optim.RMSprop, {"momentum": 0.5}),
]
R, STEPS = 3, 7


class Nets(nn.Module):
    """Two groups of several parameters, a target of the first and a network that stands still."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.f = nn.ModuleList([nn.Linear(3, 4), nn.Linear(4, 1), nn.Linear(4, 2)])
        self.g = nn.Linear(3, 2)
        self.f_target = copy.deepcopy(self.f).requires_grad_(False)
        self.fixed = nn.Linear(3, 2)


def flat_state(together: bool, **group: Any) -> FlatState:
    """R replicas of :class:`Nets`, replica k with the weights of seed k."""
    settings = {"lr": 0.05, **group}
    parts = {"f": Group(**settings), "g": Group(**settings), "f_target": Follows("f", 0.25), "fixed": Frozen()}
    state = FlatState(Nets(), parts, R, together)
    for k in range(R):
        state.set_weights(k, Nets(k).state_dict())
    return state


def gradients(step: int, group: str, width: int, reached: Sequence[bool] | None = None) -> Tensor:
    """(R, P), on another scale in every replica; as the engine gives it, 0 where there is none."""
    rng = torch.Generator().manual_seed(100 * step + len(group) + ord(group[0]))
    found = torch.randn(R, width, generator=rng) * torch.tensor([[0.1], [1.0], [10.0]])
    if reached is not None:
        sizes = [p.numel() for p in Nets().f.parameters()]
        found *= torch.cat([torch.full((n,), float(there)) for n, there in zip(sizes, reached, strict=True)])
    return found


def reached_in(step: int) -> tuple[bool, ...]:
    """The six parameters of f: the last head has a gradient in every third step, the bias of the first in every second."""
    return True, True, True, step % 2 == 0, step % 3 == 2, step % 3 == 2


def take_steps(state: FlatState, first: int, last: int, absent: bool = False) -> None:
    """The same gradients for every replica, whether these step together or apart."""
    for step in range(first, last):
        reached = reached_in(step) if absent else None
        for block, rows in enumerate(state.rows):
            grads = {
                "f": gradients(step, "f", state.storage["f"].shape[1], reached)[rows],
                "g": gradients(step, "g", state.storage["g"].shape[1])[rows],
            }
            for group, grad in state.clipped(grads).items():
                state.step(group, grad, step - first, block, reached if group == "f" else None)
            state.follow(["f"], block)
    for group in state.groups:
        state.updates[group] += last - first


def one_by_one(
    replica: int,
    optimizer: type[torch.optim.Optimizer],
    options: dict[str, Any],
    absent: bool,
    scale: Callable[..., Any] | None = None,
) -> dict[str, Tensor]:
    """The slow loop: ordinary modules and optimisers of one replica, with ``grad = None`` where there is no gradient."""
    nets, make = Nets(replica), optimizer
    groups: dict[str, list[nn.Parameter]] = {"f": list(nets.f.parameters()), "g": list(nets.g.parameters())}
    others: dict[str, Any] = {name: make(held, lr=0.05, **options) for name, held in groups.items()}  # type: ignore[call-arg]
    for step in range(STEPS):
        reached = reached_in(step) if absent else (True,) * 6
        for name, held in groups.items():
            flat = gradients(step, name, sum(p.numel() for p in held), reached if name == "f" else None)[replica]
            for p, part, there in zip(held, flat.split([p.numel() for p in held]), reached, strict=False):
                p.grad = part.view(p.shape).clone() if there or name == "g" else None
        if scale is not None:
            scale(step, groups, others)
        for other in others.values():
            other.step()
        with torch.no_grad():
            for source, target in zip(nets.f.parameters(), nets.f_target.parameters(), strict=True):
                target += 0.25 * (source - target)
    return dict(nets.state_dict())


def check_equal(one: dict[str, Tensor], two: dict[str, Tensor], atol: float = 0.0) -> None:
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=atol, msg=lambda text, name=name: f"{name}: {text}")


# Replicas together and apart ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("absent", [False, True])
@pytest.mark.parametrize(("optimizer", "options"), OPTIMIZERS)
def test_together_and_apart_are_ordinary_loops(optimizer: Any, options: dict[str, Any], absent: bool) -> None:
    """One optimiser call for all replicas, one for each, and torch's own loop: equal to rounding, absent gradients included."""
    together, apart = (flat_state(each, optimizer=optimizer, options=options) for each in (True, False))
    for state in (together, apart):
        take_steps(state, 0, STEPS, absent)
    assert (len(together.rows), len(apart.rows)) == (1, R)
    for k in range(R):
        expected = one_by_one(k, optimizer, options, absent)
        check_equal(expected, together.weights(k), atol=2e-6)
        check_equal(expected, apart.weights(k), atol=2e-6)
        assert (apart.weights(k)["f.2.weight"] - Nets(k).f[2].weight).abs().max() > 1e-2


def clip_one_by_one(clip: float, jointly: bool) -> Callable[..., None]:
    """Clipping of the slow loop, by the norm of each group or of both together."""

    def scale(step: int, groups: dict[str, list[nn.Parameter]], others: Any) -> None:
        for held in [groups["f"] + groups["g"]] if jointly else groups.values():
            norm = sum(float(p.grad.double().square().sum()) for p in held if p.grad is not None) ** 0.5
            for p in held:
                if p.grad is not None and norm > clip:
                    p.grad *= clip / norm

    return scale


@pytest.mark.parametrize("absent", [False, True])
@pytest.mark.parametrize("jointly", [False, True])
@pytest.mark.parametrize("clip", [1.5, 6.0, 1e3])
def test_every_replica_is_clipped_by_its_own_norm(clip: float, jointly: bool, absent: bool) -> None:
    """Under plain gradient descent a clipped step shows: scales are 0.1, 1 and 10, so that some are clipped and some are not."""
    sgd: dict[str, Any] = {"optimizer": torch.optim.SGD, "clip": clip, "clip_jointly": jointly}
    together, apart = (flat_state(each, **sgd) for each in (True, False))
    for state in (together, apart):
        take_steps(state, 0, STEPS, absent)
    for k in range(R):
        expected = one_by_one(k, torch.optim.SGD, {}, absent, clip_one_by_one(clip, jointly))
        check_equal(expected, together.weights(k), atol=1e-5)
        check_equal(expected, apart.weights(k), atol=1e-5)


def test_a_schedule_is_that_of_the_loop() -> None:
    def scale(step: int, groups: Any, others: dict[str, torch.optim.Optimizer]) -> None:
        for other in others.values():
            other.param_groups[0]["lr"] = 0.05 * cosine(5)(step)

    together, apart = (flat_state(each, schedule=cosine(5)) for each in (True, False))
    for state in (together, apart):
        take_steps(state, 0, 3)  # a block counts its own steps
        take_steps(state, 3, STEPS)
        assert state.updates == {"f": STEPS, "g": STEPS}
    for k in range(R):
        expected = one_by_one(k, torch.optim.Adam, {}, False, scale)
        check_equal(expected, together.weights(k), atol=2e-6)
        check_equal(expected, apart.weights(k), atol=2e-6)


@pytest.mark.parametrize("absent", [False, True])
@pytest.mark.parametrize(("optimizer", "options"), OPTIMIZERS)
@pytest.mark.parametrize("first", [True, False])
def test_a_saved_state_is_that_of_both_layouts(optimizer: Any, options: dict[str, Any], absent: bool, first: bool) -> None:
    """Four steps in one layout, a file, three in the other: as seven in one; and back into the same it is bit for bit."""
    settings = {"optimizer": optimizer, "options": options, "schedule": cosine(10)}
    straight = flat_state(first, **settings)
    take_steps(straight, 0, 4, absent)
    file = io.BytesIO()
    torch.save(straight.state_dict(), file)
    take_steps(straight, 4, STEPS, absent)
    for together, atol in ((first, 0.0), (not first, 2e-6)):
        other = flat_state(together, **settings)
        other.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
        take_steps(other, 4, STEPS, absent)
        assert other.updates == straight.updates
        for k in range(R):
            check_equal(straight.weights(k), other.weights(k), atol)
            if atol == 0.0:
                assert torch.equal(other.storage["f_target"][k], straight.storage["f_target"][k])


def test_a_state_dict_is_the_same_in_both_layouts() -> None:
    """Names, shapes and counts; a group whose parameters were not all reached is a list of slices."""
    found = []
    for together in (True, False):
        state = flat_state(together)
        take_steps(state, 0, STEPS, absent=True)
        found.append(state.state_dict())
    for one, two in zip(found[0]["moments"], found[1]["moments"], strict=True):
        for moments in (one, two):
            assert [int(part["step"]) for part in moments["f"]] == [7, 4, 2] and int(moments["g"]["step"]) == 7
        for mine, theirs in zip([one["g"], *one["f"]], [two["g"], *two["f"]], strict=True):
            check_equal(mine["exp_avg"], theirs["exp_avg"], atol=1e-5)
    assert found[0]["cuts"] == found[1]["cuts"] == {"f": [0, 3, 4, 6]} and found[0]["updates"] == found[1]["updates"] == {
        "f": STEPS,
        "g": STEPS,
    }


# What changes a state at once --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("together", [False, True])
def test_restart_reset_and_copy_reach_every_replica(together: bool) -> None:
    state = flat_state(together)
    take_steps(state, 0, 3)
    assert not torch.equal(state.storage["f"], state.storage["f_target"])
    state.copy("f_target", "f")
    assert torch.equal(state.storage["f"], state.storage["f_target"])
    assert not torch.equal(state.storage["f"][0], state.storage["f"][1])

    kept = [moments["f"]["exp_avg"] for moments in state.state_dict()["moments"]]
    state.restart("g")
    after = state.state_dict()["moments"]
    assert all(moments["g"] == {} for moments in after)
    for before, moments in zip(kept, after, strict=True):
        check_equal(before, moments["f"]["exp_avg"])

    new = {name: torch.ones_like(value) for name, value in Nets().state_dict().items() if name.startswith("f.")}
    state.reset("f", new)
    assert (state.storage["f"] == 1).all() and (state.storage["f_target"] == 1).all()
    assert all(moments["f"] == {} for moments in state.state_dict()["moments"])
    assert state.updates == {"f": 3, "g": 3}  # a schedule goes on


def test_a_copy_after_the_modules_were_rebound() -> None:
    state = flat_state(False)
    state.owner.double().float()
    assert not state.attached()
    state.copy("f_target", "f")
    assert state.attached() and torch.equal(
        state.owner.get_parameter("f_target.0.weight"), state.owner.get_parameter("f.0.weight")
    )


def test_weights_given_are_weights_read() -> None:
    state = flat_state(True)
    for k in range(R):
        check_equal(dict(Nets(k).state_dict()), state.weights(k))
        state.bind(k)
        check_equal(dict(Nets(k).state_dict()), dict(state.owner.state_dict()))
