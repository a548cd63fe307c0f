"""A label store with open questions, and the desk in front of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lightning_pbrl.data.feedback import Answer, AskKey, Query, Status
from lightning_pbrl.data.store import LabelStore
from lightning_pbrl.labelling.desk import Desk
from lightning_pbrl.labelling.interface import Key

ASKED, A, EQUAL, SKIPPED = Status.PENDING, Status.ANSWERED, Status.EQUAL, Status.SKIPPED


def asked(folder: Path, pairs: int = 6, ratings: int = 0, round_: int = 0, first: int = 0) -> LabelStore:
    """A store with open questions of one round of the run "ada"."""
    store = LabelStore(folder / "labels.sqlite", "data", "ada")
    who: dict[str, Any] = {"strategy": {}, "teacher": {}, "seed": 0, "answered_by": "HumanTeacher"}
    for kind, number, count in (("pair", first, pairs), ("rating", first + pairs, ratings)):
        start = 10 * torch.arange(count)[:, None] + torch.tensor([[0, 200]] if kind == "pair" else [[0]])
        nothing = Answer(torch.full((count,), torch.nan), torch.full((count,), int(ASKED)))
        if count:
            store.put(AskKey("ada", round_, number), Query(kind, start, 10), nothing, **who)  # type: ignore[arg-type]
    return store


def desk(folder: Path, **settings: Any) -> Desk:
    return Desk(folder / "labels.sqlite", **settings)


def key(number: int, round_: int = 0) -> Key:
    return Key("ada", round_, number)


def labels(store: LabelStore) -> list[tuple[float | None, int]]:
    found = store.labels("pair")
    return [(None if v != v else v, s) for v, s in zip(found.value.tolist(), found.status.tolist(), strict=True)]
