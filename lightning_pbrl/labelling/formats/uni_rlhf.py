"""Label folders of Uni-RLHF, as published for D4RL's data: three pickles of a task.

::

    hopper-medium-v2_human_labels/
        human_label_domain_mujoco_env_hopper-medium-v2_num_2000_len_200_<hash>.pkl    (N,): 0 first, 1 second, -1 equal
        indices_1_domain_...pkl, indices_2_domain_...pkl                              (N,): rows of the first steps

Labels of a scripted teacher, (N, 2) with the share of each segment, are read as well. Rows count as in
``d4rl.qlearning_dataset``, which leaves out the step at every timeout. Reading and writing need the data, to find these rows.

Source: Yuan et al., "Uni-RLHF", ICLR 2024 (arXiv 2402.02423); github.com/pickxiguapi/Clean-Offline-RLHF, file
rlhf/train_reward_model.py.

Limit: data with next observations and unmarked resets are refused, because timeouts and resets cannot be told apart there.
"""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_pbrl.data.atomic import replacing
from lightning_pbrl.data.feedback import Labels, Status
from lightning_pbrl.data.given_labels import check_labels
from lightning_pbrl.data.guard import listed
from lightning_pbrl.data.pickles import load_pickle
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.errors import UserError
from lightning_pbrl.labelling.formats.preference_npz import entries, pairs
from lightning_pbrl.labelling.formats.records import Context, Record, gather

PARTS = ("label", "indices_1", "indices_2")
_NAME = re.compile(r"(?:\w+_)?(label|indices_1|indices_2)_(domain_(\w+?)_env_(.+)_num_(\d+)_len_(\d+).*)\.pkl")


def read(path: Path, context: Context) -> list[Record]:
    """Read the pairs of a folder as questions of one round; no pickle runs code.

    Raises:
        UserError: without the data; for a folder that lacks a file or has several of a kind; for damaged files, other labels,
            arrays of other lengths, and segments that do not lie within an episode.
    """
    source = _data(path, context)
    files: dict[str, Path] = {}
    names = [(match, file) for file in sorted(path.glob("*.pkl")) if (match := _NAME.fullmatch(file.name))]
    for match, file in names:
        if match[1] in files or match[2] != names[0][0][2]:
            raise UserError(
                f"{path} holds label files of several sets ({listed([file.name])}): keep one set of three in a folder."
            )
        files[match[1]] = file
    if missing := [part for part in PARTS if part not in files]:
        raise UserError(
            f"{path} has no file {missing[0]}_domain_..._len_T.pkl: give a label folder of Uni-RLHF, such as ENV_human_labels."
        )
    match = names[0][0]
    domain, env, length = match[3], match[4], int(match[6][:9])
    value = _values(files["label"])
    rows = _rows(source)
    start = torch.stack([_starts(files[part], len(value), rows) for part in PARTS[1:]], 1)
    status = torch.where(value == 0.5, int(Status.EQUAL), int(Status.ANSWERED))
    labels = Labels(start, max(length, 1), value, status)
    check_labels(labels, source, str(path))
    strategy = {"from": "uni_rlhf", "domain": domain, "env": env}
    return gather(path, entries(files["label"], labels, source.fingerprint, context.run, strategy, path.name), context)


def write(records: Iterable[Record], path: Path, context: Context) -> None:
    """Write the answers to pairs as a folder; skipped and pending questions have no place in the format.

    Raises:
        UserError: without the data; for several lengths, rows that the format does not count, a folder that holds labels
            already, and one that cannot be written.
    """
    _data(path, context)
    source, labels = pairs(records, path, context)
    rows = _rows(source)
    place = torch.full((len(source),), -1, dtype=torch.int64)
    place[rows] = torch.arange(len(rows))
    start = place[labels.start]
    if bool((start < 0).any()):
        row = int(labels.start[start < 0][0])
        raise UserError(f"{path} cannot hold the segment from row {row}, a step at a timeout, which the format leaves out.")
    if path.is_file() or any(_NAME.fullmatch(file.name) for file in path.glob("*.pkl")):
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


def _rows(source: Transitions) -> Tensor:
    """Return our row ids in the order in which ``d4rl.qlearning_dataset`` counts them, (n,), int64."""
    rows = torch.arange(len(source))
    if source.about.get("format") != "d4rl" or source.about.get("next_obs") != "stored":
        return rows  # of D4RL's files without next observations the reader leaves out the same steps
    if resets := source.about.get("unmarked_resets"):
        raise UserError(
            f"The data have {resets} resets without a mark, so that rows as Uni-RLHF counts them are not known: use a data set "
            "without."
        )
    return rows[source.column("truncated").flatten() == 0]


def _array(path: Path) -> NDArray[Any]:
    """Return a pickled list or array of numbers."""
    content = load_pickle(path)
    try:
        array = np.asarray(content)
    except ValueError:
        array = np.asarray(None)
    if array.dtype.kind not in "biuf" or not np.isfinite(array).all():
        raise UserError(f"{path} holds {type(content).__name__} in place of finite numbers: copy it again from where it came.")
    return array


def _values(path: Path) -> Tensor:
    """Return labels as P(second preferred), (N,), float32."""
    array = _array(path)
    if array.ndim == 2 and array.shape[1] == 2 and (array.sum(1) == 1).all():
        array = np.where(array[:, 1] == 0.5, -1, array[:, 1])
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    wrong = ~np.isin(array, (-1, 0, 1)) if array.ndim == 1 else np.ones(1, dtype=bool)
    if wrong.any() or not array.size:
        found = (
            f"label {array[wrong.argmax()]} for pair {wrong.argmax()}"
            if array.ndim == 1 and array.size
            else f"shape {array.shape}"
        )
        raise UserError(f"{path} has {found}: write 0 (first preferred), 1 (second) or -1 (equal) for each pair.")
    return torch.from_numpy(np.where(array == -1, 0.5, array).astype(np.float32))


def _starts(path: Path, count: int, rows: Tensor) -> Tensor:
    """Return the row ids of the first steps, (N,), int64."""
    array = _array(path).reshape(-1)
    if len(array) != count:
        raise UserError(f"{path} has {len(array)} rows and there are {count} labels: copy the folder again from where it came.")
    wrong = (array != np.round(array)) | (array < 0) | (array >= len(rows))
    if wrong.any():
        raise UserError(
            f"{path} has row {array[wrong.argmax()]} for pair {wrong.argmax()} and the data have {len(rows)}: name the data set "
            "that was labelled."
        )
    return rows[torch.from_numpy(array.astype(np.int64))]
