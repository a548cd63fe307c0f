"""The switches of a GPU in a fit: each acts or is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from toys import SPEC, ToyData, make_trainer

from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.bc import BC
from lightning_pbrl.methods.learn_reward import RewardEnsemble

SMALL: dict[str, Any] = {"hidden": (16,), "batch_size": 8, "updates": 20, "eval_interval": 20, "compile": False}


def fitted(folder: Path, **settings: Any) -> BC:
    method = BC(SPEC, **{**SMALL, **settings})
    make_trainer(folder).fit(method, ToyData())
    return method


def test_bf16_changes_the_updates_and_is_kept_with_the_settings(tmp_path: Path) -> None:
    exact, coarse = fitted(tmp_path / "a"), fitted(tmp_path / "b", precision="bf16")
    assert coarse.hparams.precision == "bf16" and exact.hparams.precision == "float32"
    pairs = [(value, coarse.state_dict()[name]) for name, value in exact.state_dict().items()]
    assert any(not torch.equal(a, b) for a, b in pairs) and all(torch.allclose(a, b, atol=0.01) for a, b in pairs)
    assert coarse.act(torch.zeros(2, SPEC["obs_dim"])).dtype == torch.float32


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"precision": "tf32"}, "precision=tf32 is for CUDA and the method is on the cpu device"),
        ({"compile": "graph"}, "compile=graph records CUDA graphs and BC is on the cpu device"),
    ],
)
def test_what_a_cpu_cannot_do_is_refused(settings: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        fitted(tmp_path, **settings)


def test_reward_models_have_the_switch_too() -> None:
    assert RewardEnsemble(SPEC, precision="bf16").precision == "bf16"
