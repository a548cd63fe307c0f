"""Why does CLARIFY's encoder learn its answers by heart? One fit to 300 answers per setting, one setting changed at a time.

    LIRE_ROOT=<folder of LiRE data> python -m benchmarks.memorising [--seeds 0 1 2]

AUC of distances: the probability that a clear pair lies further apart than a skipped one, on the 300 answers and on 2,000 other
pairs. Besides, early stopping: the encoder with the best AUC on 100 of the 300 answers, which are then held out, tried every 50
steps. The data, the teacher and the small encoder are those of :mod:`benchmarks.choosing`.
"""

from __future__ import annotations

import copy
import json
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.choosing import ANSWERS, HELD_OUT, Classroom, auc, fitted, prepared
from benchmarks.measure import machine
from lightning_pbrl.methods.clarify import CLARIFY

LOOK, STOPPED_BY = 50, 100
TRUE: dict[str, Any] = {"start_times": "true"}
SETTINGS: dict[str, dict[str, Any]] = {
    "true start times": TRUE,
    "... last state alone read out": {**TRUE, "readout": "reference"},
    "... dropout 0.3": {**TRUE, "dropout": 0.3},
    "... dropout 0.5": {**TRUE, "dropout": 0.5},
    "... weight decay 1e-2": {**TRUE, "weight_decay": 1e-2},
    "... weight decay 1": {**TRUE, "weight_decay": 1.0},
    "random start times": {"start_times": "random"},
    "start times 0": {"start_times": "zero"},
    "... last state alone read out, start times 0": {"readout": "reference", "start_times": "zero"},
}


def stopped_early(room: Classroom, seed: int, settings: dict[str, Any]) -> dict[str, float]:
    """Fit to 200 answers; the encoder of the step that was best on the 100 others."""
    labels = room.uniform(ANSWERS, seed, "answers")
    here, held = torch.arange(ANSWERS) >= STOPPED_BY, torch.arange(ANSWERS) < STOPPED_BY
    best: dict[str, Any] = {"auc": -1.0}

    def watch(method: CLARIFY, steps: int) -> None:
        found = auc(method, labels.take(held))
        if found > best["auc"]:
            best.update(auc=found, steps=steps, encoder=copy.deepcopy(method.encoder.state_dict()))

    method = fitted(room, labels.take(here), seed, settings, watch, LOOK)
    method.encoder.load_state_dict(best["encoder"])
    return {**both(method, room, labels.take(here), seed), "steps": best["steps"]}


def both(method: CLARIFY, room: Classroom, labels: Any, seed: int) -> dict[str, float]:
    return {"fitted": auc(method, labels), "held_out": auc(method, room.uniform(HELD_OUT, seed, "held out"))}


def main() -> int:
    options, room = prepared("memorising", __doc__)
    rows: dict[str, list[dict[str, float]]] = {}
    console = Console()
    for seed in options.seeds:
        for name, settings in SETTINGS.items():
            labels = room.uniform(ANSWERS, seed, "answers")
            rows.setdefault(name, []).append(both(fitted(room, labels, seed, settings), room, labels, seed))
            console.log(name, rows[name][-1])
        for name in ("true start times", "start times 0"):
            rows.setdefault(f"{name}, stopped early", []).append(stopped_early(room, seed, SETTINGS[name]))
        about = machine("python -m benchmarks.memorising")
        options.out.write_text(json.dumps({"machine": about, "rows": rows}, indent=1) + "\n")
    table = Table("", "the 300 answers", "2,000 other pairs", title="AUC of distances: mean over seeds (range)")
    for name, runs in rows.items():
        table.add_row(name, *(_spread([run[key] for run in runs]) for key in ("fitted", "held_out")))
    console.print(table)
    return 0


def _spread(values: list[float]) -> str:
    return f"{sum(values) / len(values):.2f} ({min(values):.2f} .. {max(values):.2f})"


if __name__ == "__main__":
    raise SystemExit(main())
