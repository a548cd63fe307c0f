"""Rows that may not be drawn as single transitions: no policy learner ever reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from toys import SPEC, ToyData, assert_same, callbacks_for, make_trainer

from lightning_pbrl.callbacks.relabel_rewards import RelabelRewards
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.base import Method
from lightning_pbrl.methods.bc import BC
from lightning_pbrl.methods.iql import IQL
from lightning_pbrl.methods.td3_bc import TD3BC

each = pytest.mark.parametrize("cls", [IQL, TD3BC, BC])
SOME = torch.arange(600)[torch.arange(600) % 30 != 29]  # all rows but the last of each episode


class PartlyDrawn(ToyData):
    """The toy data with some rows drawable; ``poisoned``: what no learner may read of the others is NaN."""

    def __init__(self, drawable: torch.Tensor | None, poisoned: bool = False) -> None:
        super().__init__()
        self.drawable, self.poisoned = drawable, poisoned

    def load(self) -> Transitions:
        data = super().load()
        data.drawable = self.drawable
        return data

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if self.poisoned and self.drawable is not None:  # after the table was checked
            rest = torch.ones(len(self.source), dtype=torch.bool)
            rest[self.drawable] = False
            self.source.reward[rest] = float("nan")
            for column in ("action", "next_obs", "terminated"):
                self.source.column(column)[rest] = float("nan")


def fit(cls: type[Method], folder: Path, data: PartlyDrawn, **settings: Any) -> Method:
    method = cls(SPEC, **{"hidden": (16,), "updates": 40, "eval_interval": 40, "batch_size": 32, **settings})
    make_trainer(folder, callbacks_for(cls)).fit(method, data)
    return method


@each
def test_other_rows_are_never_drawn(cls: type[Method], tmp_path: Path) -> None:
    method = fit(cls, tmp_path, PartlyDrawn(SOME, poisoned=True))
    assert all(torch.isfinite(value).all() for value in method.state_dict().values())
    ids = torch.cat([one["rows"] for one in method.running.drawn("policy", 300, 0)])
    assert set(ids.tolist()) == set(SOME.tolist())  # 9,600 draws of 580 rows: each of them


@each
def test_all_rows_by_name_are_all_rows(cls: type[Method], tmp_path: Path) -> None:
    methods = [fit(cls, tmp_path / str(i), PartlyDrawn(rows)) for i, rows in enumerate((None, torch.arange(600)))]
    assert_same(methods[0].state_dict(), methods[1].state_dict())


def test_replicas_draw_the_same_rows(tmp_path: Path) -> None:
    one = fit(IQL, tmp_path / "one", PartlyDrawn(SOME), seed=1)
    two = fit(IQL, tmp_path / "two", PartlyDrawn(SOME), seed=0, replicas=2, layout="batched")
    for key, value in two.running.state.weights(1).items():
        torch.testing.assert_close(value, one.state_dict()[key], rtol=0, atol=2e-4)


def test_rewards_are_scaled_by_the_rows_that_are_drawn(tmp_path: Path) -> None:
    """An extreme reward where nobody draws does not squeeze the others."""
    data = PartlyDrawn(SOME)
    data.setup("fit")
    data.source.reward[29] = 1e6
    method = IQL(SPEC, hidden=(8,), updates=1, eval_interval=1)
    make_trainer(tmp_path, [RelabelRewards("true")]).fit(method, data)
    drawn = data.source.column("learned_reward")[SOME]
    assert drawn.min() == 0 and drawn.max() == 1
    true = data.source.reward[SOME]
    torch.testing.assert_close(drawn, (true - true.min()) / (true.max() - true.min()))


def test_an_unknown_reward_is_refused_where_it_would_be_drawn(tmp_path: Path) -> None:
    data = PartlyDrawn(SOME, poisoned=True)
    data.setup("fit")
    data.source.reward[3] = float("nan")
    with pytest.raises(UserError, match="The control 'true' needs the true reward, and these data carry none"):
        make_trainer(tmp_path, [RelabelRewards("true")]).fit(IQL(SPEC, hidden=(8,), updates=1), data)
