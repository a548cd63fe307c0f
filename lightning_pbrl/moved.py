"""Former names of modules, which can be imported until the next version, with a warning that names the present one."""

from __future__ import annotations

import importlib
import sys
import warnings
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MOVED = {
    "lightning_pbrl.methods.reward_ensemble": "lightning_pbrl.methods.learn_reward",
    "lightning_pbrl.methods.unified_reward": "lightning_pbrl.methods.learn_reward",
    "lightning_pbrl.methods.preference_transformer": "lightning_pbrl.methods.learn_reward",
    "lightning_pbrl.methods.nmr": "lightning_pbrl.methods.learn_reward",
    "lightning_pbrl.methods.oril": "lightning_pbrl.methods.learn_reward_from_examples",
    "lightning_pbrl.methods.purl": "lightning_pbrl.methods.learn_reward_from_examples",
    "lightning_pbrl.methods.vice": "lightning_pbrl.methods.learn_reward_from_examples",
    "lightning_pbrl.methods.reward_model": "lightning_pbrl.rewards.base",
    "lightning_pbrl.methods.reward_posterior": "lightning_pbrl.rewards.posterior",
    "lightning_pbrl.methods.history_reward": "lightning_pbrl.rewards.history",
    "lightning_pbrl.methods.example_reward": "lightning_pbrl.rewards.examples",
    "lightning_pbrl.queries.scoring": "lightning_pbrl.rewards.scoring",
    **{
        f"lightning_pbrl.methods.{name}": f"lightning_pbrl.fitting.{name}"
        for name in ("answers", "evaluation", "lightning_glue", "rounds", "saving", "trainer_arguments")
    },
    **{f"lightning_pbrl.nn.{name}": f"lightning_pbrl.compute.{name}" for name in ("fused_adam", "precision", "products")},
    **{f"lightning_pbrl.engine.{name}": f"lightning_pbrl.compute.{name}" for name in ("compiling", "graphs", "summing_adam")},
}
"""Former module -> the one that has its public names."""


class _Moved:
    """Finder and loader: a former module is an empty one, filled with the names of the present one.

    It has no base, since ``importlib.abc`` would import ``random`` and others before the working folder is last on the path.
    """

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name in MOVED else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        """Let Python make an ordinary module."""

    def exec_module(self, module: ModuleType) -> None:
        now = MOVED[module.__name__]
        warnings.warn(f"{module.__name__} is now {now}: import from there.", FutureWarning, stacklevel=2)
        names = vars(importlib.import_module(now)).items()
        vars(module).update({name: value for name, value in names if not name.startswith("__")})


sys.meta_path.append(_Moved())
