"""What every method must do with several seeds in one process: each replica is its seed, and they resume like one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from every_method import METHODS, each, fit, small
from preference_toys import AnsweredToy
from toys import assert_same, read_csv

from lightning_pbrl.callbacks.ask_teacher import AskTeacher
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.base import Method
from lightning_pbrl.methods.loading import load_method

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),  # a resumed run
    pytest.mark.filterwarnings("ignore:The dirpath has changed from"),  # ... in a copy of its folder
]


def unasked(name: str) -> dict[str, Any]:
    """What seeds in one process learn answers from: they cannot ask, so these come with the data."""
    return {"data": AnsweredToy(), "around": [AskTeacher()]} if "labels" in METHODS[name].needs else {}


TWO: dict[str, Any] = {"replicas": 2, "seed": 4, "dropout": 0.0}


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two replicas of each method in the looped layout after one round, done once: (method, folder)."""
    done: dict[str, tuple[Method, Path]] = {}

    def get(name: str) -> tuple[Method, Path]:
        if name not in done:
            folder = tmp_path_factory.mktemp(name)
            done[name] = fit(name, folder, method={**TWO, "layout": "loop"}, max_epochs=1, **unasked(name)), folder
        return done[name]

    return get


@each
def test_replicas_are_their_seeds(name: str, loop: Any, tmp_path: Path) -> None:
    """Replica k of a population is seed + k alone, bit for bit in the looped layout, to rounding in the batched one."""
    if not METHODS[name].population:
        with pytest.raises(UserError, match=f"{name} asks or acts while it trains, so its seeds run as processes"):
            small(name, replicas=2)
        return
    looped, folder = loop(name)
    once: dict[str, Any] = {"max_epochs": 1, **unasked(name)}
    batched = fit(name, tmp_path / "batched", method={**TWO, "layout": "batched"}, **once)
    for k in range(2):
        alone = fit(name, tmp_path / f"alone{k}", method={"seed": 4 + k, "dropout": 0.0}, **once)
        expected = dict(alone.state_dict())
        loaded = load_method(folder / "checkpoints" / "last.ckpt", replica=k)
        assert_same(expected, dict(loaded.state_dict()))
        assert_same(alone.running.state.weights(0), looped.running.state.weights(k))
        for parameter, value in batched.running.state.weights(k).items():
            torch.testing.assert_close(value, expected[parameter], rtol=0, atol=2e-4)
    rows = read_csv(folder)
    losses = [key for key in rows[0] if key.endswith("_loss")]
    assert losses
    for key in losses:
        assert rows[0][key] == pytest.approx((rows[0][f"{key}/replica_0"] + rows[0][f"{key}/replica_1"]) / 2, rel=1e-5)
    evaluated = next(row for row in rows if "eval/return_mean" in row)
    assert evaluated["eval/return_mean/replica_0"] == evaluated["eval/return_mean/replica_1"]


@pytest.mark.parametrize("name", {cls.__base__: name for name, cls in METHODS.items() if cls.population}.values())
def test_a_population_resumes_like_one_seed(name: str, loop: Any, tmp_path: Path) -> None:
    """One method of each base; each method alone resumes above, and a population of each is compared with its seeds."""
    stopped = shutil.copytree(loop(name)[1], tmp_path / "stopped")
    settings: dict[str, Any] = {"method": {**TWO, "layout": "loop"}, "max_epochs": 2, **unasked(name)}
    straight = fit(name, tmp_path / "straight", **settings)
    resumed = fit(name, stopped, ckpt_path=stopped / "checkpoints" / "last.ckpt", **settings)
    assert_same(straight.running.state_dict(), resumed.running.state_dict())
    assert read_csv(tmp_path / "straight") == read_csv(stopped)
