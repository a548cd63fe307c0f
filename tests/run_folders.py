"""Run folders as a fit leaves them, for tests that read them."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path


def damaged_archives(path: Path) -> list[bytes]:
    """What may become of an .npz file: cut off, or every array in it said to be compressed or encrypted as it is not."""
    whole = path.read_bytes()
    found = [whole[: len(whole) // 2]]
    for at, value in ((10, 0), (10, 8), (10, 9), (8, 1)):  # bytes of an entry of its directory: method, and flags
        content = bytearray(whole)
        for entry in re.finditer(rb"PK\x01\x02", whole):
            content[entry.start() + at] = value
        if content != whole:
            found.append(bytes(content))
    return found


def write_version(run: Path, version: int, rows: Sequence[dict[str, float]]) -> None:
    """``csv/version_<version>/metrics.csv`` with sparse rows, as Lightning's CSV logger writes it."""
    file = run / "csv" / f"version_{version}" / "metrics.csv"
    file.parent.mkdir(parents=True)
    with file.open("w", newline="") as lines:
        writer = csv.DictWriter(lines, sorted({key for row in rows for key in row}))
        writer.writeheader()
        writer.writerows(rows)


def write_policy_run(run: Path, success: Sequence[float], every: int = 100, tested: float | None = None) -> Path:
    """A policy evaluated every ``every`` updates, with return 1000 x success."""
    rows: list[dict[str, float]] = []
    for k, value in enumerate(success, 1):
        rows.append({"step": k * every, "train/q_loss": 1.0 / k, "labels": 0})
        rows.append({"step": k * every, "eval/success_rate": value, "eval/return_mean": 1000 * value})
    write_version(run, 0, rows)
    if tested is not None:
        metrics = {"test/success_rate": tested, "test/return_mean": 1000 * tested}
        (run / "results.json").write_text(json.dumps({"metrics": metrics, "replicas": 1}))
    return run
