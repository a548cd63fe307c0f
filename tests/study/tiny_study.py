"""A small experiment: a reward, a policy on it, and one on the reward zero."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from command_line import DATA_ARGS


def tiny(folder: Path) -> dict[str, Any]:
    """reward -> learned, and zero beside it; shipped configs, small sizes, data in ``folder``."""
    data = {"init_args": {**DATA_ARGS, "cache_dir": str(folder / "data")}}
    common = {"data": data, "trainer": {"accelerator": "cpu"}}
    short = {"init_args": {"updates": 20, "eval_interval": 10, "hidden": [16, 16]}}
    policy = ["data/metaworld.yaml", "model/iql.yaml"]
    return {
        "name": "tiny",
        "stages": {
            "reward": {
                "config": ["data/metaworld.yaml", "model/reward_ensemble.yaml", "teacher/oracle.yaml"],
                "with": {
                    **common,
                    "model": {"init_args": {"hidden": [16, 16], "epochs": 3}},
                    "ask": {"budget": 20, "per_round": 10},
                },
            },
            "learned": {
                "config": policy,
                "with": {**common, "model": short, "relabel": {"reward": "${stages.reward.checkpoint}"}, "then_test": True},
            },
            "zero": {"config": policy, "with": {**common, "model": short, "relabel": {"reward": "zero"}, "then_test": True}},
        },
        "report": {"show": ["learned", "zero"]},
    }


def write(folder: Path, experiment: dict[str, Any]) -> str:
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(experiment, sort_keys=False))
    return str(path)
