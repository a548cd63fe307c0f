"""A script that takes over from a behaviour that is stuck: when, for how long, and what is recorded."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lightning_pbrl.data.interventions import preferences, who_acted
from lightning_pbrl.envs.base import Array
from lightning_pbrl.envs.behaviour import Behaviour
from lightning_pbrl.envs.collect import collect
from lightning_pbrl.envs.metaworld import MetaWorld
from lightning_pbrl.envs.take_over import Supervisor, TakeOver
from lightning_pbrl.errors import UserError


class Constant:
    """Acts by one number."""

    def __init__(self, value: float) -> None:
        self.value = value

    def act(self, seen: Any) -> Array:
        return np.array([self.value])


def watched(rewards: list[float], success: list[float] | None = None, **rule: Any) -> tuple[list[float], list[Any]]:
    """The action of each step (0 of the behaviour, 0.5 of the script), and the spans."""
    supervisor: Any = Supervisor(TakeOver(**rule), Constant(0.5))  # type: ignore[arg-type]
    actions = []
    for at, reward in enumerate(rewards):
        actions.append(float(supervisor.act(Constant(0.0), {"full_obs": None})[0]))
        supervisor.see(reward, 0.0 if success is None else success[at])
    return actions, supervisor.spans


def test_when_and_for_how_long_by_hand() -> None:
    """Patience 2: the best is step 1's; steps 2 and 3 bring nothing, so 4 to 6 are the script's. Two more, and it acts again."""
    actions, spans = watched([0, 1, 1, 0.5, 0, 0, 0, 0, 0, 0, 0], patience=2, margin=0.1, steps=3)
    assert actions == [0, 0, 0, 0, 0.5, 0.5, 0.5, 0, 0, 0.5, 0.5]
    assert spans == [[4, 7, "script"], [9, 11, "script"]]


def test_progress_counts_from_the_margin_on() -> None:
    rising = [0.2 * k for k in range(9)]
    assert watched(rising, patience=2, margin=0.1, steps=3)[1] == []
    assert watched(rising, patience=2, margin=0.3, steps=3)[1] == [[3, 6, "script"], [8, 9, "script"]]


def test_nobody_interrupts_a_success() -> None:
    assert watched([0.0] * 5, [0, 0, 1, 1, 1], patience=2, steps=3)[1] == []


def test_collected_data_say_who_acted(tmp_path: Path) -> None:
    """The expert of another task never slides the plate: the expert of this one takes over and does."""
    simulator, rule = MetaWorld("plate-slide", 120), TakeOver(patience=20, margin=0.1, steps=60)
    mixture = [Behaviour(expert="reach")]
    data = collect(simulator, mixture, 3, tmp_path / "a.safetensors", take_over=rule)
    acted = who_acted(data)
    assert set(acted.tolist()) == {0, 2} and data.about["take_over"] == rule.describe()
    assert all(spans and spans[0][1] - spans[0][0] == 60 for spans in data.about["interventions"])
    alone = collect(simulator, mixture, 3, tmp_path / "b.safetensors")
    assert "interventions" not in alone.about and "take_over" not in alone.about
    for first, spans in zip(data.episodes.first.tolist(), data.about["interventions"], strict=True):  # the same until then
        same = slice(first, first + spans[0][0])
        assert torch.equal(data.column("action")[same], alone.column("action")[same])
        assert not torch.equal(data.column("action")[same.stop], alone.column("action")[same.stop])
    gain = data.true_returns(SimpleNamespace(start=preferences(data, 20).start, length=20))  # type: ignore[arg-type]
    assert len(gain) == 3 and float((gain[:, 1] - gain[:, 0]).mean()) > 0  # as the pairs say
    with pytest.raises(UserError, match=r"holds another collection \(take_over differ"):
        collect(simulator, mixture, 3, tmp_path / "b.safetensors", take_over=rule)


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"take_over\.patience is 0: give at least 1 step"):
        TakeOver(patience=0)
    with pytest.raises(UserError, match=r"take_over\.margin is -1"):
        TakeOver(margin=-1)
    with pytest.raises(UserError, match=r"take_over\.expert is false"):
        TakeOver(expert=False)
    with pytest.raises(UserError, match="needs every action of its episode"):
        collect(MetaWorld("reach", 50), [Behaviour(twin="goal")], 1, tmp_path / "x.safetensors", take_over=TakeOver())
