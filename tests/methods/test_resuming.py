"""A run that goes on with other settings: more of the same where that equals a longer run, a sentence otherwise."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from toys import SPEC, ToyData, assert_same, callbacks_for, make_trainer

from lightning_pbrl.compute import products
from lightning_pbrl.errors import UserError
from lightning_pbrl.fitting.resuming import grown
from lightning_pbrl.methods.base import Method
from lightning_pbrl.methods.bc import BC
from lightning_pbrl.methods.iql import IQL
from lightning_pbrl.methods.learn_reward import RewardEnsemble
from lightning_pbrl.trainer import RoundCheckpoint

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
OTHER = "start a new run in another folder (run_dir)."


def fit(folder: Path, cls: type[Method], ask: dict[str, Any] | None = None, **settings: Any) -> Method:
    """A fit that goes on with what the folder holds."""
    sizes = {"updates": 20, "eval_interval": 10} if cls is not RewardEnsemble else {"epochs": 2}
    method = cls(SPEC, **{"hidden": (16,), "batch_size": 8, **sizes, **settings})
    trainer = make_trainer(folder, [RoundCheckpoint(), *callbacks_for(cls, **(ask or {}))], logger=False)
    last = folder / "checkpoints/last.ckpt"
    trainer.fit(method, ToyData(eval_episodes=1, held_out_pairs=10), ckpt_path=last if last.exists() else None)
    return method


def mistake(folder: Path, cls: type[Method], ask: dict[str, Any] | None = None, **settings: Any) -> str:
    with pytest.raises(UserError) as error:
        fit(folder, cls, ask, **settings)
    return str(error.value)


def test_more_updates_end_like_as_many_from_the_start(tmp_path: Path) -> None:
    fit(tmp_path / "parts", BC)
    parts, whole = fit(tmp_path / "parts", BC, updates=50), fit(tmp_path / "whole", BC, updates=50)
    assert parts.running.updates["policy"] == 50
    assert_same(whole.state_dict(), parts.state_dict())
    assert_same(whole.running.state_dict(), parts.running.state_dict())
    assert mistake(tmp_path / "parts", BC, updates=40) == (
        "The run was made with updates=50, and 40 is less: what was learned is not taken back; set updates to 50 or more, or "
        + OTHER
    )
    assert mistake(tmp_path / "parts", BC, updates=50, lr=0.01) == (
        "The run was made with lr=0.0003, and this asks for 0.01: a run goes on with the settings it has; set lr back, or "
        + OTHER
    )


@pytest.mark.skipif(not products.AVAILABLE, reason="this build of PyTorch has no oneDNN")
def test_a_run_goes_on_with_the_library_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in a process that would measure otherwise, and where the cache folder is gone."""
    wide = {"hidden": (128, 128), "batch_size": 256}
    asked = []

    def fresh_process(name: str, default: float) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
        monkeypatch.setattr(products, "_choices", {})
        monkeypatch.setattr(products, "measure", lambda size: (asked.append(name), (default, 1.0))[1])

    fresh_process("first", 2.0)
    fit(tmp_path / "parts", BC, updates=20, **wide)
    chosen = products.kept()
    assert asked == ["first"] and list(chosen["onednn"].values()) == [True]
    fresh_process("second", 0.5)
    parts = fit(tmp_path / "parts", BC, updates=50, **wide)
    assert products.kept() == chosen and asked == ["first"]
    fresh_process("third", 2.0)
    whole = fit(tmp_path / "whole", BC, updates=50, **wide)
    assert_same(whole.running.state_dict(), parts.running.state_dict())


def test_a_larger_budget_ends_like_one_that_was_so_large(tmp_path: Path) -> None:
    fit(tmp_path / "parts", RewardEnsemble, {"budget": 5, "per_round": 5})
    again = fit(tmp_path / "parts", RewardEnsemble, {"budget": 5, "per_round": 5})  # nothing is left to do
    assert len(again.labels) == again.asked.total == 5  # a test that follows tells of them
    parts = fit(tmp_path / "parts", RewardEnsemble, {"budget": 10, "per_round": 5})
    whole = fit(tmp_path / "whole", RewardEnsemble, {"budget": 10, "per_round": 5})
    assert len(parts.labels) == len(whole.labels) == 10
    assert_same([whole.labels.start, whole.labels.value], [parts.labels.start, parts.labels.value])
    assert_same(whole.state_dict(), parts.state_dict())
    assert_same(whole.running.state_dict(), parts.running.state_dict())
    assert mistake(tmp_path / "parts", RewardEnsemble, {"budget": 5, "per_round": 5}).startswith(
        "The run was made with ask.budget=10, and 5 is less: what was learned is not taken back; set ask.budget to 10 or more"
    )
    assert mistake(tmp_path / "parts", RewardEnsemble, {"budget": 15, "per_round": 5, "rounds": 3}) == (
        "The run was made with ask.budget=10, and this asks for 15: a run goes on with the settings it has; set ask.budget back, "
        "or " + OTHER
    )


def test_where_a_longer_run_would_have_been_another_one(tmp_path: Path) -> None:
    fit(tmp_path / "cosine", IQL)
    assert mistake(tmp_path / "cosine", IQL, updates=40) == (
        "The learning rate of IQL's actor falls to 0 over the run, so one that was planned shorter cannot go on as a longer one: "
        "set updates back, or " + OTHER
    )
    fit(tmp_path / "odd", BC, updates=15)
    assert mistake(tmp_path / "odd", BC, updates=30) == (
        "The run has ended with a round that is shorter than eval_interval=10, because updates was 15: it cannot go on as a run "
        "of 30 would have; " + OTHER
    )


def test_the_rule_by_hand() -> None:
    length = {"updates": "eval_interval"}
    assert not grown(length, {"updates": 20, "lr": 1.0}, {"updates": 20, "eval_interval": 10, "lr": 1.0, "new": 3}, True)
    assert grown(length, {"updates": 15}, {"updates": 20, "eval_interval": 10}, finished=False)  # killed in a whole round
    with pytest.raises(UserError, match=re.escape("was made with env_steps=10, and this asks for 20")):
        grown({}, {"env_steps": 10}, {"env_steps": 20}, True)
