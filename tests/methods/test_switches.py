"""Every switch of every method acts: another choice makes another policy, reward or posterior of the same data."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
from every_method import METHODS, fit
from picture_toys import DotData, SeenWalk
from toys import callbacks_for

from lightning_pbrl.callbacks.relabel_rewards import RelabelRewards
from lightning_pbrl.data.feedback import Query
from lightning_pbrl.methods.base import Method
from lightning_pbrl.rewards.posterior import RewardPosterior
from lightning_pbrl.settings import constructors, kinds_of
from lightning_pbrl.teachers.tie import TieTeacher

HOW_IT_RUNS = {"compile", "layout", "precision"}
"""Switches that change nothing, or rounding alone; tests/engine compares their choices."""
ACTS_WITH: dict[tuple[str, str], dict[str, Any]] = {
    ("CPL", "bc_data"): {"bc_coeff": 1.0, "bc_updates": 10},
    ("CPL", "compare"): {"bc_updates": 10},
    ("IPL", "target_clipping"): {"chi2_coeff": 1e6},
    ("IPL", "use_min_target"): {"variant": "awac"},
    ("PreferencePolicy", "window_starts"): {"window": 2},
    ("PPO", "clip_schedule"): {"clip": 1e-3},
    ("UnifiedReward", "restore_best"): {"lr": 0.3, "epochs": 20},
}
"""What else a switch needs to act: it chooses among something that these settings ask for."""
SHOWN_BY = {("OnlinePolicy", "reward"): "SAC", ("RewardEnsemble", "score"): "RewardEnsemble"}
"""Methods that have the switch, where the first by name refuses it."""
AROUND: dict[str, Callable[[type[Method]], list[Any]]] = {
    "ties_as_skips": lambda cls: callbacks_for(cls, teacher=TieTeacher(threshold=0.1)),
    "compare": lambda cls: [*callbacks_for(cls), RelabelRewards("true")],
}
"""Callbacks of switches that need others than usual."""
ON = {"pictures": lambda: DotData(episodes=6, simulator=SeenWalk())}
"""Data of switches that act on others than usual: images beside states."""
WHOLE_RUN = {"lr_schedule", "clip_schedule", "hybrid_after_budget", "sum_gradients", "restore_best", "ties_as_skips", "reward"}
"""Switches that say what happens in later rounds; one round shows the others."""


def choices(cls: type[Method], name: str) -> list[Any]:
    """The alternatives of an argument, its default left out."""
    kinds = kinds_of(cls)[name]
    found = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    found += [True, False] if bool in kinds else []
    return [choice for choice in found if repr(choice) != repr(declared(cls, name)[1].default)]


def declared(cls: type[Method], name: str) -> tuple[str, inspect.Parameter]:
    """The class whose constructor declares an argument, the one nearest to ``cls``."""
    constructor = next(each for each in constructors(cls) if name in inspect.signature(each).parameters)
    return constructor.__qualname__.partition(".")[0], inspect.signature(constructor).parameters[name]


def switches() -> list[Any]:
    """(owner, switch, method, choice), each switch once: with the first method, by name, whose class or base declares it."""
    found = dict(SHOWN_BY)
    for method, cls in METHODS.items():
        for name in kinds_of(cls):
            if name not in HOW_IT_RUNS and choices(cls, name):
                found.setdefault((declared(cls, name)[0], name), method)
    cases = [(*switch, method, choice) for switch, method in found.items() for choice in choices(METHODS[method], switch[1])]
    return [pytest.param(*case, id=f"{case[0]}-{case[1]}-{case[3]}") for case in cases]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The run beside which another choice is seen, made once for the same other settings."""
    done: dict[str, list[torch.Tensor]] = {}

    def get(method: str, settings: dict[str, Any], name: str) -> list[torch.Tensor]:
        key = repr((method, settings, name in WHOLE_RUN, AROUND.get(name)))
        if key not in done:
            done[key] = outcome(method, tmp_path_factory.mktemp(method), settings, name)
        return done[key]

    return get


def outcome(method_name: str, folder: Path, settings: dict[str, Any], switch: str) -> list[torch.Tensor]:
    """Weights after a fit and what is made of them: actions, rewards by member and as policies get them, posterior draws."""
    around = AROUND[switch](METHODS[method_name]) if switch in AROUND else None
    torch.manual_seed(0)
    short = {} if switch in WHOLE_RUN else {"updates": 60, "eval_interval": 20}
    data = ON[switch]() if switch in ON else None
    settings = {**short, **settings, **({} if data is None else {"spec": data.spec})}
    method = fit(method_name, folder, data=data, method=settings, around=around, max_epochs=1 if short else -1)
    found = [value for _, value in sorted(method.state_dict().items())]
    if data is not None:
        return [*found, method.relabel(method.source)]
    obs = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    if method.acts:
        found.append(method.act(obs))
    if method.rewards:
        reward = method.reward(torch.cat([obs, obs[:, :2].tanh()], dim=1))
        found += [reward, method.combine(reward), method.relabel(method.source)]
    if isinstance(method.reward_model, RewardPosterior):
        found.append(method.reward_model.posterior(Query("pair", torch.tensor([[0, 20]]), 10), 4))
    return found


@pytest.mark.parametrize(("owner", "name", "method", "choice"), switches())
def test_a_switch_acts(owner: str, name: str, method: str, choice: Any, plain: Any, tmp_path: Path) -> None:
    settings = ACTS_WITH.get((owner, name), {})
    before, after = plain(method, settings, name), outcome(method, tmp_path, {**settings, name: choice}, name)
    assert len(before) != len(after) or any(
        one.shape != two.shape or not torch.equal(one, two) for one, two in zip(before, after, strict=True)
    )
