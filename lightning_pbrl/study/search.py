"""Read what a study says about a search with Optuna: ``optuna`` in place of ``random``.

    model.init_args.lr: {log_uniform: [1e-4, 1e-2]}     # keys with a distribution are searched
    optuna:
      n_trials: 30
      metric: success_rate                    # of evaluations while the stage trains, never of its test
      direction: maximize                     # or minimize
      stage: learned                          # the last one of each base when left out
      window: 5                               # the value is the mean of that many evaluations, the last ones
      sampler: TPESampler                     # a class of optuna.samplers, or {class_path: ..., init_args: {...}}
      pruner: {class_path: MedianPruner, init_args: {n_warmup_steps: 3}}    # of optuna.pruners; a step is an evaluation
      seed: 0                                 # of the draws
      storage: null                           # an address of Optuna's storage; a file in the study's folder when left out

Every draw is combined with all the rest of the study (bases, lists, seeds), and its value is the mean over these runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_pbrl.errors import nearest
from lightning_pbrl.study.values import Axis, Distribution, mistake, read_distribution, refuse_given


@dataclass(frozen=True)
class Search:
    """Hold what ``optuna`` says, checked as far as that is possible without Optuna.

    Attributes:
        distributions: dotted key -> what it is drawn from.
        n_trials: draws in all, those of earlier calls included.
        metric: with a slash in full, ``eval/return_mean``; otherwise of ``eval/`` or ``pref/``.
        direction: maximize or minimize.
        stage: stage that is measured; None for the last one of each base.
        window: evaluations that a value is the mean of.
        sampler: name of a class, or ``class_path`` and ``init_args``.
        pruner: the same.
        seed: of the draws.
        storage: address of Optuna's storage; None for a file in the study's folder.
    """

    distributions: dict[str, Distribution]
    n_trials: int
    metric: str = "success_rate"
    direction: str = "maximize"
    stage: str | None = None
    window: int = 5
    sampler: Any = "TPESampler"
    pruner: Any = "MedianPruner"
    seed: int = 0
    storage: str | None = field(default=None, repr=False)  # it may hold a password

    @property
    def meaning(self) -> dict[str, Any]:
        """Meaning of draws and values; those of another meaning cannot be compared with them."""
        keys = {key: list(each.values) if each.kind == "choice" else "a range" for key, each in self.distributions.items()}
        return {**{name: getattr(self, name) for name in ("metric", "direction", "stage", "window")}, "keys": keys}

    def axis(self, draws: Mapping[str, Sequence[Any]]) -> Axis:
        """Return the axis of draws.

        Args:
            draws: name of a draw's folder -> a value for each key.
        """
        return Axis(tuple(self.distributions), tuple(map(tuple, draws.values())), tuple(draws))

    def corners(self) -> dict[str, list[Any]]:
        """Return draws that between them have both bounds of every range and every choice, as :meth:`axis` takes them."""
        ranges = [each.values for each in self.distributions.values()]
        return {f"corner{k}": [values[min(k, len(values) - 1)] for values in ranges] for k in range(max(map(len, ranges)))}


WRITTEN = [each.name for each in dataclasses.fields(Search) if each.name != "distributions"]
"""Keys of ``optuna``."""


def read_search(written: Any, keys: Mapping[str, Any], stages: Sequence[str], path: Path) -> Search:
    """Return what ``optuna`` says.

    Args:
        written: its mapping.
        keys: dotted key -> its distribution.
        stages: names of all stages of the study.
        path: the study's file.

    Raises:
        UserError: for what is missing, unknown or of another kind.
    """
    if not isinstance(written, dict) or "n_trials" not in written:
        raise mistake(path, f"optuna is {written!r}: give a mapping with at least n_trials, {{n_trials: 30}}")
    if unknown := sorted(str(key) for key in written if key not in WRITTEN):
        raise mistake(path, f"optuna has unknown keys {unknown}: {nearest(unknown[0], WRITTEN)}")
    if not keys:
        raise mistake(path, "optuna draws no key: give one a distribution, such as {log_uniform: [1e-4, 1e-2]}")
    for key, least in (("n_trials", 1), ("window", 1), ("seed", 0)):
        if key in written and (type(written[key]) is not int or written[key] < least):
            raise mistake(path, f"optuna's {key} is {written[key]!r}: give a whole number of at least {least}")
    if written.get("direction", "maximize") not in ("maximize", "minimize"):
        raise mistake(path, f"optuna's direction is {written['direction']!r}: give maximize or minimize")
    for key in ("metric", "stage", "storage"):
        if not isinstance(written.get(key) or "", str) or (key == "metric" and not written.get(key, "text")):
            raise mistake(path, f"optuna's {key} is {written[key]!r}: give a text")
    if (stage := written.get("stage")) is not None and stage not in stages:
        raise mistake(path, f"optuna's stage is {stage!r}, and the study has none of that name: {nearest(stage, stages)}")
    for key in keys:
        refuse_given(key, path)
    return Search({key: read_distribution(value, key, path) for key, value in keys.items()}, **written)
