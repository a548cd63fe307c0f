"""Labels of Uni-RLHF about D4RL's data: a folder of three pickles of a task.

::

    hopper-medium-v2_human_labels/                                                    crowd-sourced; ..._fake_labels: scripted
        human_label_domain_mujoco_env_hopper-medium-v2_num_2000_len_200_<hash>.pkl    (N,): 0 first, 1 second, -1 equal
        indices_1_domain_...pkl, indices_2_domain_...pkl                              (N,): rows of the first steps

Labels of a scripted teacher, ``fake_label_...``, are (N, 2) with the share of each segment. Rows count as in
``d4rl.qlearning_dataset``, which leaves out the step at every timeout.

Source: Yuan et al., "Uni-RLHF", ICLR 2024 (arXiv 2402.02423); github.com/pickxiguapi/Clean-Offline-RLHF (MIT), files
rlhf/train_reward_model.py and fast_track/generate_d4rl_fake_labels.py.

Limit: data with next observations and unmarked resets are refused, because timeouts and resets cannot be told apart there.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_pbrl.data.feedback import Labels, Status
from lightning_pbrl.data.given_labels import check_labels
from lightning_pbrl.data.guard import listed
from lightning_pbrl.data.pickles import load_pickle
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.data.validate import check_choice
from lightning_pbrl.errors import UserError

PARTS = ("label", "indices_1", "indices_2")
NAME = re.compile(r"(?:\w+_)?(label|indices_1|indices_2)_(domain_(\w+?)_env_(.+)_num_(\d+)_len_(\d+).*)\.pkl")
"""Name of a file: what it holds, the set that it belongs to, domain, env, number of pairs, steps of a segment."""

Crossing = Literal["refuse", "leave_out"]
"""Treatment of a pair with a segment that crosses the end of an episode."""


class LabelFolder(NamedTuple):
    """Labels of a folder.

    Attributes:
        labels: the labels.
        files: their three files, by part.
        domain: for instance ``mujoco``.
        env: D4RL's name of the data set.
        left_out: number of pairs that were left out.
    """

    labels: Labels
    files: dict[str, Path]
    domain: str
    env: str
    left_out: int


def files_of(path: Path) -> tuple[dict[str, Path], re.Match[str]]:
    """Return the three files of a folder by part, and what their names say.

    Raises:
        UserError: for a folder that lacks a file or holds several of a kind.
    """
    files: dict[str, Path] = {}
    names = [(match, file) for file in sorted(path.glob("*.pkl")) if (match := NAME.fullmatch(file.name))]
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
    return files, names[0][0]


def recognises(path: str | Path) -> bool:
    """Return True if this folder holds label files, by their names."""
    return Path(path).is_dir() and any(NAME.fullmatch(file.name) for file in Path(path).glob("*.pkl"))


def summary(path: str | Path) -> list[tuple[str, str]]:
    """Return what a folder says without the data that were labelled, as subject and sentence.

    Raises:
        UserError: as :func:`files_of`; also for damaged files.
    """
    files, match = files_of(Path(path))
    value, last = _values(files["label"]), max(float(_array(files[part]).max(initial=0)) for part in PARTS[1:])
    said = [("pairs", f"{len(value):,} of segments of {match[6]} steps"), ("data", f"{match[4]} ({match[3]})")]
    counts = [int((value == each).sum()) for each in (0, 1, 0.5)]
    said.append(("answers", "{:,} first, {:,} second, {:,} equal".format(*counts)))
    return [*said, ("rows", f"up to {last:,.0f}, where the last segment begins")]


def read_uni_rlhf(path: str | Path, source: Transitions, crossing: Crossing = "refuse") -> LabelFolder:
    """Read the labels of a folder; no pickle runs code.

    Args:
        path: the folder.
        source: the data set that was labelled, as :func:`lightning_pbrl.data.d4rl.read_d4rl` reads it.
        crossing: pairs with a segment that crosses the end of an episode are refused, or left out and counted. The published
            scripted labels were drawn without D4RL's timeouts, so some of them cross one.

    Raises:
        UserError: for a folder that lacks a file or has several of a kind; for damaged files, other labels, arrays of other
            lengths, rows beyond the data, and segments that cross an end, unless they are left out.
    """
    check_choice("crossing", crossing, Crossing)
    files, match = files_of(Path(path))
    value = _values(files["label"])
    rows, length = row_ids(source), max(int(match[6][:9]), 1)
    start = torch.stack([_starts(files[part], len(value), rows) for part in PARTS[1:]], 1)
    labels = Labels(start, length, value, torch.where(value == 0.5, int(Status.EQUAL), int(Status.ANSWERED)))
    left_out = 0
    if crossing == "leave_out":
        inside = _inside(labels, source)
        labels, left_out = labels.take(inside), int((~inside).sum())
        if not len(labels):
            raise UserError(f"{path} has no pair of segments within one episode each: name the data set that was labelled.")
    check_labels(labels, source, str(path))
    return LabelFolder(labels, files, match[3], match[4], left_out)


def row_ids(source: Transitions) -> Tensor:
    """Return our row ids in the order in which ``d4rl.qlearning_dataset`` counts them, (n,), int64.

    Raises:
        UserError: for data with resets that are not marked.
    """
    if source.about.get("format") != "d4rl":
        return torch.arange(len(source))
    counted = torch.ones(len(source), dtype=torch.bool)
    if source.about.get("next_obs") == "stored":
        if resets := source.about.get("unmarked_resets"):
            raise UserError(
                f"The data have {resets} resets without a mark, so that rows as Uni-RLHF counts them are not known: use a data "
                "set without."
            )
        counted = source.column("truncated").flatten() == 0
    if source.about.get("terminals") == "goal":  # only a timeout ends an episode, also one at the goal
        last = source.episodes.offsets[1:] - 1
        ended = last[source.column("terminated").flatten()[last] == 1]
        counted[ended] = False
    return counted.nonzero()[:, 0]  # of files without next observations the reader leaves out the other steps at timeouts


def _inside(labels: Labels, source: Transitions) -> Tensor:
    """Return True for pairs whose segments each lie within one episode, (N,)."""
    last = labels.start + labels.length - 1
    within = last < len(source)
    within &= source.episodes.of(labels.start) == source.episodes.of(last.clamp(max=len(source) - 1))
    return within.all(1) & (labels.start[:, 0] != labels.start[:, 1])


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
