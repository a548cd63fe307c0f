"""Label folders of Uni-RLHF, as published for D4RL's data (:mod:`lightning_pbrl.data.uni_rlhf`), as answers of a label store.

Reading and writing need the data, to find the rows that the files count.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterable
from pathlib import Path

import torch

from lightning_pbrl.data.atomic import replacing
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.data.uni_rlhf import NAME, read_uni_rlhf, row_ids
from lightning_pbrl.errors import UserError
from lightning_pbrl.labelling.formats.preference_npz import entries, pairs
from lightning_pbrl.labelling.formats.records import Context, Record, gather


def read(path: Path, context: Context) -> list[Record]:
    """Read the pairs of a folder as questions of one round; no pickle runs code.

    Raises:
        UserError: without the data; otherwise as :func:`lightning_pbrl.data.uni_rlhf.read_uni_rlhf`.
    """
    source = _data(path, context)
    found = read_uni_rlhf(path, source)
    strategy = {"from": "uni_rlhf", "domain": found.domain, "env": found.env}
    asked = entries(found.files["label"], found.labels, source.fingerprint, context.run, strategy, path.name)
    return gather(path, asked, context)


def write(records: Iterable[Record], path: Path, context: Context) -> None:
    """Write the answers to pairs as a folder; skipped and pending questions have no place in the format.

    Raises:
        UserError: without the data; for several lengths, rows that the format does not count, a folder that holds labels
            already, and one that cannot be written.
    """
    _data(path, context)
    source, labels = pairs(records, path, context)
    rows = row_ids(source)
    place = torch.full((len(source),), -1, dtype=torch.int64)
    place[rows] = torch.arange(len(rows))
    start = place[labels.start]
    if bool((start < 0).any()):
        row = int(labels.start[start < 0][0])
        raise UserError(f"{path} cannot hold the segment from row {row}, a step at a timeout, which the format leaves out.")
    if path.is_file() or any(NAME.fullmatch(file.name) for file in path.glob("*.pkl")):
        raise UserError(f"{path} is a file or holds labels already: choose another folder.")
    env = path.name.removesuffix("_human_labels")
    human = torch.where(labels.value == 0.5, -1.0, labels.value).long().tolist()
    columns = [human, start[:, 0].tolist(), start[:, 1].tolist()]
    digest = hashlib.md5(repr(columns).encode(), usedforsecurity=False).hexdigest()
    for part, column in zip(("human_label", "indices_1", "indices_2"), columns, strict=True):
        name = f"{part}_domain_mujoco_env_{env}_num_{len(human)}_len_{labels.length}_{digest}.pkl"
        with replacing(path / name) as temporary, temporary.open("wb") as file:
            pickle.dump(column, file, protocol=4)


def _data(path: Path, context: Context) -> Transitions:
    if context.source is None:
        raise UserError(f"{path} names rows of a data set: name that, with -c DATA.yaml.")
    return context.source
