"""Origin of a learned reward, for its model card: read from the run folder of the method that has learned it."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from lightning_pbrl import registry
from lightning_pbrl.data.feedback import Kind, Status
from lightning_pbrl.data.guard import reading
from lightning_pbrl.envs.collect import versions
from lightning_pbrl.labelling.agreement import agreement
from lightning_pbrl.labelling.exchange import given, location, open_store, records_of
from lightning_pbrl.reports.metrics import Series, read_metrics

ACCURACY, PAIRS = "pref/accuracy", "pref/decisive"
"""Metrics of held-out pairs: accuracy, and the number of pairs that it is of."""
NORMAL_95 = 1.959964
"""Quantile of the standard normal distribution for two-sided intervals of 95 %."""
NAMES = ("task", "dataset", "dataset_id", "env_id", "name")
"""Settings of a data module that say which data it reads, where they are no path."""
PEOPLE = ("HumanTeacher", "Person")
"""Teachers for whom people answer."""


def collected(method: Any) -> dict[str, Any]:
    """Return how a method's reward was made, as plain JSON types.

    It holds no name of a person and no path. What the run folder does not tell is left out.

    Raises:
        UserError: if the label store or the config of the run is damaged.
    """
    facts: dict[str, Any] = {
        "method": type(method).__name__,
        "updates": int(method.updates_loaded or getattr(method._trainer, "global_step", 0)),
        "learned_from": method.learned_from,
        "versions": versions(("pytorch-lightning", "gymnasium", "mujoco")),
    }
    if method.run_dir is None:
        return facts
    config = _config(method.run_dir / "config.yaml")
    data, ask = config.get("data") or {}, config.get("ask") or {}
    settings = data.get("init_args") or {}
    named = [settings[name] for name in NAMES if isinstance(settings.get(name), str) and "/" not in settings[name]]
    if data:
        facts["data"] = {"class": str(data.get("class_path", "")).rpartition(".")[2], "names": named}
    shared = ask.get("store") and ask.get("budget")  # a store beside the run, which learns from its own questions there
    facts |= asked(ask.get("store") or method.run_dir, (ask.get("run") or f"seed{method.seed}") if shared else None)
    measured = read_metrics(method.run_dir)
    accuracy, pairs = (_at(measured.get(name), facts["updates"]) for name in (ACCURACY, PAIRS))
    if accuracy is not None:
        facts["held_out"] = {"accuracy": accuracy}
        if pairs:  # older runs do not tell
            low, high = wilson(accuracy, int(pairs))
            facts["held_out"] |= {"pairs": int(pairs), "low": low, "high": high}
    return facts


def _config(path: Path) -> dict[str, Any]:
    """Return the resolved config of a run; empty if it has none."""
    if not path.is_file():
        return {}
    with reading(path, "is damaged", "restore it, or remove it to leave the data out of the model card"):
        return dict(yaml.safe_load(path.read_text(encoding="utf-8")) or {})


def asked(store: str | Path, run: str | None = None) -> dict[str, Any]:
    """Return what a run has asked, whom, and how far several people agreed; empty for a run without a label store.

    Args:
        store: the label store, or the run folder that it lies in.
        run: name of the run within the store; None for all questions.
    """
    where = str(store) if "://" in str(store) or not Path(store).is_dir() else str(Path(store) / "labels.sqlite")
    if "://" not in where and not Path(where).is_file():
        return {}
    opened = open_store(location(where))
    rows = [row for row in records_of(opened) if run in (None, row["run"])]
    if not rows:
        return {}
    statuses = Counter(Status(row["status"]).name.lower() for row in rows)
    found: dict[str, Any] = {
        "questions": dict(Counter(row["kind"] for row in rows)),
        "segment_lengths": sorted({row["length"] for row in rows}),
        "answers": {name: statuses[name] for name in ("answered", "equal", "skipped", "pending") if statuses[name]},
        "strategies": _classes(row["strategy"] for row in rows),
        "teachers": [name for name in _classes(row["teacher"] for row in rows) if name not in PEOPLE],
    }
    machines = registry.classes("teachers")  # their answers are signed by the class
    answers = [each for each in given(opened) if run in (None, each.key[0]) and each.person not in machines]
    if answers:
        found["people"] = len({each.person for each in answers})
        kinds = sorted({each.kind for each in answers})
        found["agreement"] = {kind: told for kind in kinds if (told := _agreed(answers, kind))}
    return found


def _classes(described: Any) -> list[str]:
    """Return the class names of descriptions, each once, sorted."""
    return sorted({str(each["class"]) for each in described if isinstance(each, dict) and "class" in each})


def _agreed(answers: Any, kind: Kind) -> dict[str, Any] | None:
    """Return the agreement about questions of one kind; None where no two people have answered one."""
    measured = agreement(answers, kind)
    if not measured.shared:
        return None
    return {
        "shared": measured.shared,
        "equal": measured.equal,
        "alpha": None if math.isnan(measured.alpha) else measured.alpha,
    }


def _at(series: Series | None, step: int) -> float | None:
    """Return a metric's value after so many updates; None if it was not logged there."""
    found = [] if series is None else series.value[series.step == step].tolist()
    return found[-1] if found else None


def wilson(share: float, of: int) -> tuple[float, float]:
    """Return the 95 % score interval of a share of ``of`` independent cases (Wilson 1927)."""
    z2 = NORMAL_95**2
    centre = (share + z2 / (2 * of)) / (1 + z2 / of)
    half = NORMAL_95 / (1 + z2 / of) * math.sqrt(share * (1 - share) / of + z2 / (4 * of * of))
    return max(centre - half, 0.0), min(centre + half, 1.0)
