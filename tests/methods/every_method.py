"""Every method of the library, with the settings of a fit of about a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from toys import SPEC, ToyData, callbacks_for, data_for, make_trainer

from lightning_pbrl.methods.base import Method
from lightning_pbrl.registry import classes
from lightning_pbrl.settings import kinds_of
from lightning_pbrl.testing import method as testing

WRAPPERS = {"LearnReward", "LearnRewardFromExamples"}
"""Methods of whatever model they are given: tests/methods/test_learn_reward.py."""
METHODS = {
    name: cls for name, cls in classes("methods").items() if cls.__module__.startswith("lightning_pbrl.") and name not in WRAPPERS
}
SMALL = {
    **testing.SMALL,
    "updates": 60,
    "eval_interval": 24,
    "lr": 3e-3,
    "width": 16,
    "layers": 1,
    "heads": 2,
    "max_episode_steps": 30,
    "encoder_batch_size": 8,
    "encoder_lr": 1e-2,
    "lr_floor": 3e-3,
    "warmup_fraction": 0.0,
    "warmup": 1,
    "n_init": 20,
    "n_emb": 15,
    "meta_every": 16,
    "repr_dim": 8,
    "n_steps": 10,
    "n_epochs": 4,
    "explore_epochs": 4,
    "reward_model": {"hidden": [16, 16], "epochs": 6, "batch_size": 16, "stop_accuracy": 1.0},
}
"""Settings of a fit of about a second; a method takes those it has."""
REWARD_MODELS: dict[str, dict[str, Any]] = {
    "QPA": {"crop": [1, 3]},
    "SURF": {"context": 0, "crop": [1, 3]},
    "ActiveRLHF": {"first_epochs": 6},
    "ActiveSAC": {"first_epochs": 6},
}
"""What else a reward model needs for segments of three steps."""

LARGER: dict[str, dict[str, Any]] = {"CPL": {"batch_size": 48}, "SFT": {"batch_size": 48}}
"""Settings of methods whose losses are soon as low as noise lets them be."""

each = pytest.mark.parametrize("name", METHODS)


def small(name: str, spec: dict[str, Any] = SPEC, **changes: Any) -> Method:
    return METHODS[name](spec, **small_settings(name, **changes))


def small_settings(name: str, **changes: Any) -> dict[str, Any]:
    cls = METHODS[name]
    reward = accepted(getattr(cls, "reward_class", Method), {**SMALL["reward_model"], **REWARD_MODELS.get(name, {})})
    return accepted(cls, {**SMALL, **LARGER.get(name, {}), "reward_model": reward, **changes})


def accepted(cls: type, settings: dict[str, Any]) -> dict[str, Any]:
    """Those settings that a class and its bases know."""
    return {key: value for key, value in settings.items() if key in kinds_of(cls)}


def fit(name: str, folder: Path, ckpt_path: Path | None = None, data: ToyData | None = None, **settings: Any) -> Method:
    method = small(name, **settings.pop("method", {}))
    callbacks = settings.pop("around", None) or callbacks_for(type(method))
    trainer = make_trainer(folder, callbacks, **settings)
    trainer.fit(method, data or data_for(type(method)), ckpt_path=ckpt_path)
    return method
