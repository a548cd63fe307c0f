"""LiRE's human labels: answers of people about segments of Meta-World tasks.

::

    human_feedback/metaworld_<task>-v2/
        _Independent.txt            "i j y" per line, blank between
        _SeqRank.txt                "i j y" per line, tab between; each i is the j of the line before
        _RLT_0.txt, _RLT_1.txt      "rank [i, j, ...]" per line, least preferred rank first
        dataset.pkl                 the rows that i and j count in, a dict of lists with a key "dones"

i and j are flat start rows of segments of 25 steps; y is 1 (the first is better), 2 (equal) or 3 (the second is better). People
could skip a pair that they could not compare; such pairs are not in the files.

A ranked list is stored as its result alone, without the comparisons behind it. It is read as a chain of neighbours, from
which ``pairs: chain`` (:func:`lightning_pbrl.data.ranking.derived_pairs`) derives exactly the list's pairs. The number of
records of a list is therefore not the number of answers that it took (100 each in the published files).

Source: Choi et al. 2024 (arXiv 2408.04190), released data.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from lightning_pbrl.data import continuity, jsonl
from lightning_pbrl.data.feedback import Labels, Status
from lightning_pbrl.data.given_labels import check_labels
from lightning_pbrl.data.guard import reading
from lightning_pbrl.data.lire import KEYS, ends, load_arrays, split_episodes
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.data.validate import check_columns
from lightning_pbrl.errors import UserError

SEGMENT_LENGTH = 25
VALUES = {1: 0.0, 2: 0.5, 3: 1.0}
"""P(second preferred) by the files' answer y."""
ROW = r"[0-9]{1,12}"
"""Pattern of a row number."""
_LIST_LINE = re.compile(r"\s*(-?[0-9]{1,12})\s*\[([0-9,\s]*)\]\s*")


def read_human_data(path: str | Path, max_episode_steps: int = 500) -> Transitions:
    """Read the rows that the answers refer to.

    Args:
        path: the ``dataset.pkl``: a dict of arrays or lists, observations, actions, next_observations, rewards, dones.
        max_episode_steps: largest number of steps per episode; longer stretches are cut there. A done ends an episode
            earlier, and so does a reset without a done, which raises a warning.

    Raises:
        UserError: if the file is missing, damaged, tries to run code, or lacks a key.
    """
    arrays = load_arrays(path)
    columns = {name: torch.tensor(values) for name, values in check_columns(arrays, path, KEYS).items()}
    tolerance = continuity.rounding(arrays["obs"].dtype, arrays["next_obs"].dtype)
    done, resets = ends(columns, max_episode_steps, tolerance, path)
    offsets, _ = split_episodes(done, [len(done)], max_episode_steps)
    truncated = torch.zeros(len(columns["obs"]))
    truncated[offsets[1:] - 1] = 1.0
    return Transitions.from_columns(
        columns["obs"],
        columns["action"],
        columns["next_obs"],
        offsets,
        reward=columns["reward"],
        truncated=truncated,
        about={"format": "lire_human", "file": Path(path).name, "horizon": max_episode_steps, "unmarked_resets": resets},
    )


def read_answers(path: str | Path, length: int = SEGMENT_LENGTH) -> Labels:
    """Read the lines "i j y" of an ``_Independent.txt`` or ``_SeqRank.txt``, in order.

    Raises:
        UserError: if the file cannot be read, naming the first line that is wrong.
    """
    rows: list[tuple[int, int, float]] = []
    for number, line in _lines(path):
        words = line.split()
        if len(words) != 3 or not all(re.fullmatch(ROW, word) for word in words) or int(words[2]) not in VALUES:
            raise UserError(f"{path} line {number} is {line!r:.100}: write two start rows and 1, 2 or 3.")
        if int(words[0]) == int(words[1]):
            raise UserError(f"{path} line {number} is {line!r:.100}: it compares a segment with itself, leave it out.")
        rows.append((int(words[0]), int(words[1]), VALUES[int(words[2])]))
    return _labels(rows, length)


def read_list(path: str | Path, length: int = SEGMENT_LENGTH) -> Labels:
    """Read a ``_RLT_*.txt`` as a chain of neighbours, from the least preferred segment up; equal within a rank.

    Raises:
        UserError: if the file cannot be read, naming the first line that is wrong.
    """
    groups: list[tuple[int, list[int]]] = []
    for number, line in _lines(path):
        match = _LIST_LINE.fullmatch(line)
        members = re.split(r"[,\s]+", match[2].strip()) if match else []
        if not match or not all(re.fullmatch(ROW, member) for member in members):
            raise UserError(f"{path} line {number} is {line!r:.100}: write a rank and its segments, such as 0 [1200, 55].")
        if groups and int(match[1]) <= groups[-1][0]:
            raise UserError(f"{path} line {number} has rank {match[1]} after {groups[-1][0]}: sort the ranks upwards.")
        groups.append((int(match[1]), [int(member) for member in members]))
    flat = [(rank, segment) for rank, members in groups for segment in members]
    if len({segment for _, segment in flat}) < len(flat):
        raise UserError(f"{path} names a segment twice: keep one place for each.")
    return _labels([(a, b, 0.5 if low == high else 1.0) for (low, a), (high, b) in pairwise(flat)], length)


def join(parts: Sequence[Labels]) -> Labels:
    """Concatenate the answers of several files.

    Raises:
        UserError: if there are none, or their segments differ in length.
    """
    if not parts or len({part.length for part in parts}) > 1:
        raise UserError("Files of answers can be joined when there is at least one and all have one segment length.")
    return Labels(
        torch.cat([part.start for part in parts]),
        parts[0].length,
        torch.cat([part.value for part in parts]),
        torch.cat([part.status for part in parts]),
    )


def write_jsonl(labels: Labels, source: Transitions, path: str | Path, run: str = "lire_human") -> None:
    """Write the answers as records for ``LabelStore.import_jsonl``, bound to the data set ``source``.

    Raises:
        UserError: if an answer does not compare two segments of ``source``, each within one episode, or the file cannot be
            written.
    """
    check_labels(labels, source, f"the answers for {path}")
    now = datetime.now(UTC).isoformat(timespec="seconds")
    rows: list[dict[str, Any]] = [
        {
            "run": run,
            "round": 0,
            "number": number,
            "kind": "pair",
            "length": labels.length,
            "start_0": first,
            "start_1": second,
            "value": value,
            "status": status,
            "strategy": {"class": "imported", "format": "lire_human"},
            "teacher": {"class": "person"},
            "seed": 0,
            "fingerprint": source.fingerprint,
            "time": now,
            "answered_by": "person",
        }
        for number, ((first, second), value, status) in enumerate(
            zip(labels.start.tolist(), labels.value.tolist(), labels.status.tolist(), strict=True)
        )
    ]
    jsonl.write(rows, path)


def _lines(path: str | Path) -> list[tuple[int, str]]:
    """Read the numbered lines of a text file without the empty ones, at least one."""
    with reading(path, "cannot be read", "give one of LiRE's text files of answers"):
        text = Path(path).read_text(encoding="utf-8")
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if not lines:
        raise UserError(f"{path} holds no answer: give one of LiRE's text files of answers.")
    return lines


def _labels(rows: list[tuple[int, int, float]], length: int) -> Labels:
    start = torch.tensor([row[:2] for row in rows], dtype=torch.int64).reshape(-1, 2)
    value = torch.tensor([row[2] for row in rows])
    return Labels(start, length, value, torch.where(value == 0.5, int(Status.EQUAL), int(Status.ANSWERED)))
