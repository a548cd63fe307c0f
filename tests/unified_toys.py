"""The reward of both kinds of answer on data whose true reward is linear: alone, with an engine, and in a Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from toys import SPEC, ToyData, make_trainer

from lightning_pbrl.callbacks.ask_teacher import AskTeacher
from lightning_pbrl.data.feedback import Labels, Status
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.engine import UpdateEngine
from lightning_pbrl.methods.learn_reward import UnifiedReward
from lightning_pbrl.queries.mixed import MixedQuery
from lightning_pbrl.rewards import unified
from lightning_pbrl.rng import derive
from lightning_pbrl.teachers.mixed import MixedTeacher

T = 10


def linear_data(episodes: int = 20, horizon: int = 30) -> Transitions:
    """Random states and actions; the true reward is linear in both."""
    rng = torch.Generator().manual_seed(0)
    n = episodes * horizon
    obs, action = torch.randn(n, 5, generator=rng), torch.rand(n, 2, generator=rng) * 2 - 1
    reward = torch.cat([obs, action], 1) @ torch.tensor([1.0, -0.5, 0.3, 0.0, 0.2, 0.7, -1.0])
    return Transitions.from_columns(obs, action, obs, torch.arange(0, n + 1, horizon), reward)


def alone(source: Transitions | None = None, spec: dict[str, int] = SPEC, **settings: Any) -> unified.UnifiedReward:
    """The reward model with data and without a method, with the first weights of one of seed 0."""
    model = unified.UnifiedReward(**{"hidden": (16, 16), "dropout": 0.4, **settings})
    model.spec, model.source = spec, source or linear_data()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(0, "init"))
        model.build()
    return model


def engine_of(model: unified.UnifiedReward, pairs: int = 12, ratings: int = 8) -> UpdateEngine:
    """Its engine, on random answers."""
    rng, source = torch.Generator().manual_seed(1), model.source
    start = source.pool(T).pairs(pairs, rng).start
    answered = torch.full((pairs + ratings,), int(Status.ANSWERED))
    model.pairs = Labels(start, T, (torch.rand(pairs, generator=rng) > 0.5).float(), answered[:pairs])
    start = source.pool(T).draw(ratings, rng).unsqueeze(1)
    model.rated = Labels(start, T, torch.randint(10, (ratings,), generator=rng).float(), answered[:ratings])
    model.one_pass = 1
    engine = UpdateEngine(model, model.groups(), model.programs(), [0], compile=False)
    model.attach(engine)
    return engine


def fit(folder: Path, ask: dict[str, Any] | None = None, ckpt_path: Path | None = None, **settings: Any) -> UnifiedReward:
    trainer = {name: settings.pop(name) for name in ("max_epochs",) if name in settings}
    usual: dict[str, Any] = {"teacher": MixedTeacher(), "query": MixedQuery(), "budget": 40, "per_round": 20}
    method = UnifiedReward(SPEC, **{"hidden": (16, 16), "first_epochs": 5, "epochs": 4, "batch_size": 8, **settings})
    make_trainer(folder, [AskTeacher(**{**usual, **(ask or {})})], **trainer).fit(method, Linear(), ckpt_path=ckpt_path)
    return method


class Linear(ToyData):
    def load(self) -> Transitions:
        return linear_data()
