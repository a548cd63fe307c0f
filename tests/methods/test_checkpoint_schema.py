"""Checkpoints of other layouts: those with one state per program are read as today's, later ones are refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from clarify_toys import LENGTH, SkippableData, tiny
from toys import SPEC, ToyData, assert_same, callbacks_for, make_trainer

from lightning_pbrl.data.feedback import Query
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.base import Method
from lightning_pbrl.methods.clarify import CLARIFY
from lightning_pbrl.methods.iql import IQL
from lightning_pbrl.methods.loading import load_method

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")


def make(cls: type[Method], **settings: Any) -> Method:
    if cls is CLARIFY:
        return tiny(**settings)
    return IQL(SPEC, updates=20, eval_interval=10, hidden=(8,), batch_size=8, replicas=2, **settings)


def fit(cls: type[Method], folder: Path, rounds: int = -1, resume: bool = False, **settings: Any) -> Method:
    method = make(cls, **settings)
    last = folder / "checkpoints" / "last.ckpt"
    trainer = make_trainer(folder, callbacks_for(cls), max_epochs=rounds)
    trainer.fit(method, SkippableData() if cls is CLARIFY else ToyData(), ckpt_path=last if resume else None)
    return method


def taken_apart(content: dict[str, Any], programs: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """A checkpoint in the layout of schema 1: by program its parts' weights and moments, its updates and its generators."""
    saved = dict(content["lightning_pbrl"])
    engine = saved.pop("engine")
    assert saved.pop("schema") == 3
    state, engines = engine["state"], {}

    def part(name: str) -> str:
        return name.removeprefix("reward_model.").split(".")[0]

    for program, parts in programs.items():
        flat = {
            "weights": [{key: value for key, value in of.items() if part(key) in parts} for of in state["weights"]],
            "moments": [{group: of[group] for group in parts if group in of} for of in state["moments"]],
            "cuts": {group: at for group, at in state["cuts"].items() if group in parts},
        }
        generators = [torch.Generator().get_state() for _ in state["weights"]]
        engines[program] = {"flat": flat, "updates": engine["updates"][program], "generators": generators}
    return {**content, "lightning_pbrl": {**saved, "engines": engines}}


OLD: list[tuple[type[Method], dict[str, Any], dict[str, Sequence[str]]]] = [
    (IQL, {"layout": "loop"}, {"policy": ("v", "q", "actor", "q_target")}),
    (IQL, {"layout": "batched"}, {"policy": ("v", "q", "actor", "q_target")}),
    (CLARIFY, {}, {"reward": ("members",), "encoder": ("encoder", "decoder")}),
]


@pytest.mark.parametrize(("cls", "settings", "programs"), OLD)
def test_schema_1_is_loaded_and_gone_on_with(
    cls: type[Method], settings: dict[str, Any], programs: dict[str, Sequence[str]], tmp_path: Path
) -> None:
    straight = fit(cls, tmp_path / "straight", rounds=2, **settings)
    fit(cls, tmp_path / "stopped", rounds=1, **settings)
    path = tmp_path / "stopped" / "checkpoints" / "last.ckpt"
    new = [load_method(path, replica=k) for k in range(straight.replicas)]
    torch.save(taken_apart(torch.load(path, weights_only=True), programs), path)
    old = [load_method(path, replica=k) for k in range(straight.replicas)]
    for one, other in zip(new, old, strict=True):
        assert_same(one.state_dict(), other.state_dict())
    if isinstance(old[0], CLARIFY) and isinstance(new[0], CLARIFY):
        query = Query("pair", torch.tensor([[3, 40]]), LENGTH)
        for one in (old[0], new[0]):
            one.source = one.reward_model.source = straight.source
        assert old[0].encoder_steps() == new[0].encoder_steps() and torch.equal(old[0].returns(query), new[0].returns(query))
    else:
        obs = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
        assert all(torch.equal(one.act(obs), other.act(obs)) for one, other in zip(new, old, strict=True))
    resumed = fit(cls, tmp_path / "stopped", rounds=2, resume=True, **settings)
    assert_same(straight.running.state_dict(), resumed.running.state_dict())
    assert_same(straight.state_dict(), resumed.state_dict())
    assert torch.load(path, weights_only=True)["lightning_pbrl"]["schema"] == 3


def test_a_later_schema_is_refused(tmp_path: Path) -> None:
    fit(IQL, tmp_path, rounds=1)
    path = tmp_path / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    content["lightning_pbrl"]["schema"] = 4
    torch.save(content, path)
    told = r"has schema 4 and this version of lightning-pbrl reads up to 3: install the version that wrote it, or a later one"
    with pytest.raises(UserError, match=told):
        load_method(path)
    with pytest.raises(UserError, match=told):
        fit(IQL, tmp_path, resume=True)
