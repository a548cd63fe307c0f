"""Reward models: plain modules that are fitted to feedback and give rewards. A method holds one; ``load`` opens a trained one."""

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    if name == "load":  # of a floor above
        return importlib.import_module("lightning_pbrl.learned_reward.loading").load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
