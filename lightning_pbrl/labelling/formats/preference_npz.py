"""Labelled pairs of segments in one npz file, the layout of :mod:`lightning_pbrl.data.preference_npz`.

The file holds segments in place of row ids. Reading it therefore gives questions about the data set that the file itself is
(``PreferenceNPZDataModule``), and writing one needs the data, or the segments that the label store of a method that acts keeps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import torch

from lightning_pbrl.data.feedback import Labels, Status
from lightning_pbrl.data.given_labels import check_labels
from lightning_pbrl.data.guard import listed
from lightning_pbrl.data.preference_npz import read_preference_npz, write_pairs, write_preference_npz
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.errors import UserError
from lightning_pbrl.labelling.formats.records import Context, Record, gather


def read(path: Path, context: Context) -> list[Record]:
    """Read the pairs of a file as questions of one round, answered by the file's name; 0.5 is equal.

    Raises:
        UserError: as :func:`~lightning_pbrl.data.preference_npz.read_preference_npz`; for a store about other data.
    """
    source, labels = read_preference_npz(path)
    return gather(path, entries(path, labels, source.fingerprint, context.run, {"from": "preference_npz"}, path.name), context)


def entries(
    path: Path, labels: Labels, fingerprint: str, run: str, strategy: dict[str, str], answered_by: str
) -> Iterator[tuple[str, Record]]:
    """Yield place and record of labels that come without names: numbered from 0, all of round 0."""
    time = datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="milliseconds")
    for number, (start, value, status) in enumerate(
        zip(labels.start.tolist(), labels.value.tolist(), labels.status.tolist(), strict=True)
    ):
        yield (
            f"pair {number}",
            {
                "run": run,
                "round": 0,
                "number": number,
                "kind": "pair",
                "length": labels.length,
                "start_0": start[0],
                "start_1": start[1],
                "value": None if value != value else value,
                "status": Status(status).name.lower(),
                "strategy": strategy,
                "teacher": {"from": path.name},
                "seed": 0,
                "fingerprint": fingerprint,
                "time": time,
                "answered_by": answered_by,
            },
        )


def write(records: Iterable[Record], path: Path, context: Context) -> None:
    """Write the answers to pairs with their segments; skipped and pending questions have no place in the format.

    Without data the segments are those that come with the records.

    Raises:
        UserError: without the data where a record has no segments, or with others than were asked about; for several lengths; if
            nothing is left to write.
    """
    every = list(records)
    rows = comparisons(every)
    if context.source is None and rows and all("content" in row for row in rows):
        _one_length(rows, path)
        obs, action = (torch.stack([row["content"][name] for row in rows]) for name in ("obs", "action"))
        write_pairs(path, obs, action, torch.tensor([row["value"] for row in rows]))
        return
    source, labels = pairs(every, path, context)
    write_preference_npz(path, source, labels)


def comparisons(records: Iterable[Record]) -> list[Record]:
    """Return the pairs that were answered or called equal."""
    return [row for row in records if row["kind"] == "pair" and row["status"] in (Status.ANSWERED, Status.EQUAL)]


def _one_length(rows: Iterable[Record], path: Path) -> int:
    """Return the length of the segments.

    Raises:
        UserError: if there are several, or none.
    """
    lengths = sorted({row["length"] for row in rows})
    if len(lengths) != 1:
        raise UserError(
            f"{path} would hold pairs of {listed(lengths)} steps: the format has one length, export the runs of each from stores "
            "of their own."
        )
    return int(lengths[0])


def pairs(records: Iterable[Record], path: Path, context: Context) -> tuple[Transitions, Labels]:
    """Return the data, and the pairs with an answer as labels about them.

    Raises:
        UserError: as :func:`write`.
    """
    source = context.source
    if source is None:
        raise UserError(
            f"{path} would hold segments or rows of the data: name the data that were asked about, with -c DATA.yaml."
        )
    chosen = comparisons(records)
    if other := [row["fingerprint"] for row in chosen if row["fingerprint"] != source.fingerprint]:
        raise UserError(
            f"The labels are about the data set {other[0]} and the data are {source.fingerprint}: name the data that were asked "
            "about."
        )
    length = _one_length(chosen, path)
    start = torch.tensor([[row["start_0"], row["start_1"]] for row in chosen], dtype=torch.int64)
    value = torch.tensor([row["value"] for row in chosen], dtype=torch.float32)
    labels = Labels(start, length, value, torch.tensor([row["status"] for row in chosen], dtype=torch.int64))
    check_labels(labels, source, "the label store")
    return source, labels
