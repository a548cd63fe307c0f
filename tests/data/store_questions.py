"""Questions and answers for the label store, made up."""

from __future__ import annotations

import math
from typing import Any

import torch

from lightning_pbrl.data.feedback import Answer, AskKey, Query, Status
from lightning_pbrl.data.store import LabelStore

NAN = float("nan")
WHO: dict[str, Any] = {
    "strategy": {"name": "UniformQuery"},
    "teacher": {"name": "SimulatedTeacher", "beta": 2.0},
    "seed": 3,
    "answered_by": "simulated",
}


def pairs(*starts: tuple[int, int], length: int = 5) -> Query:
    return Query("pair", torch.tensor(starts), length)


def answer(*values: float) -> Answer:
    """0 and 1 answered, 0.5 equal, NaN skipped."""
    status = [Status.SKIPPED if math.isnan(v) else Status.EQUAL if v == 0.5 else Status.ANSWERED for v in values]
    return Answer(torch.tensor(values), torch.tensor(status))


def pending(count: int) -> Answer:
    return Answer(torch.full((count,), NAN), torch.zeros(count, dtype=torch.int64))


def filled(store: LabelStore) -> LabelStore:
    store.put(AskKey("run", 0, 0), pairs((1, 2), (3, 4), (5, 6)), answer(0, 0.5, NAN), **WHO)
    store.put(AskKey("run", 1, 3), pairs((7, 8)), answer(1), **WHO)
    store.put(AskKey("other", 0, 0), pairs((9, 10)), answer(1), **WHO)
    return store
