"""``python -m benchmarks.mutations [--files N] [--only FORMAT]``: damaged files; a table and ``results/mutations.json``.

Every file is a sound one with some bytes or some of its structure changed; seeds are fixed. Reading it must end in one of four
ways: a ``UserError`` (refused), what the sound file gives (equal), that with some numbers changed, as many as were touched at
most and in the same places and shapes (value), or, where each line of a text is a record by itself and nothing tells how many
there were, whole lines fewer or more (lines). Everything else is a fault: another exception, other content (rows, columns or
episodes that are not the file's), more than 10 s, 2 GiB or more, the end of the process, a sentence without the file's name. The
exit code is 1 when there is a fault.

A reader runs in a process of its own, which is ended when it takes too long. Times are wall times, memory is what the process's
peak rises by while it reads, or the most that a process which it started held.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.growth import status
from benchmarks.mutation_formats import FORMATS, Format, flat
from benchmarks.mutation_kinds import mutate_bytes
from benchmarks.readme import RESULTS
from lightning_pbrl.data import hdf5_process
from lightning_pbrl.errors import UserError

FILES, SECONDS, MEMORY = 25_000, 10.0, 2 * 2**30
START_SECONDS, WAIT_SECONDS = 300.0, 60.0
"""How long to wait for a process to start, and for it to make, read and compare one file, twice on a busy machine."""
BATCH = 500
"""Files per process."""
PROCESSES = multiprocessing.get_context("forkserver")
"""Processes start from one that has imported everything once."""
SOUND = ("refused", "equal", "value", "lines")
FAULTS = ("exception", "other content", "too slow", "too large", "process ended", "poor sentence")
STRUCTURE = 0.3
"""Share of the files whose structure is changed; the others' bytes are."""


class Bench:
    """One format in a folder of its own: its sound file, and what became of mutated ones.

    Args:
        kind: the format.
        folder: an empty folder.
    """

    def __init__(self, kind: Format, folder: Path) -> None:
        self.kind, self.path = kind, folder / kind.file
        os.environ["MINARI_DATASETS_PATH"] = str(folder)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if kind.needs != "minari":
            kind.write(self.path)
        else:
            shutil.rmtree(folder / "mutations")
            kind.write(folder)
        self.sound = self.path.read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.read, self.stored = flat(kind.read(self.path)), kind.stored and dict(kind.stored(self.path))

    def one(self, number: int, again: bool = False) -> dict[str, Any]:
        """The outcome of the mutated file of this number, and what was said."""
        rng = random.Random(f"{self.kind.name}/{number}")
        for path in self.path.parent.glob(f"{self.path.name}-*"):
            path.unlink()
        self.path.write_bytes(self.sound)
        if self.kind.structure and rng.random() < STRUCTURE:
            touched = rng.choice(self.kind.structure)(self.path, rng)
        else:
            content, touched = mutate_bytes(self.sound, rng)
            self.path.write_bytes(content)
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew: what came before is not this file's
        before, ended, began = status("VmRSS"), largest_ended(), time.monotonic()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outcome, said = self._outcome(touched)
        seconds = time.monotonic() - began
        if seconds > SECONDS and not again:  # on a busy machine the quicker of two tries tells
            return self.one(number, again=True)
        peak = peak_memory(before, ended)
        if seconds > SECONDS:
            outcome = "too slow"
        elif peak >= MEMORY:
            outcome = "too large"
        return {"number": number, "outcome": outcome, "said": said, "seconds": seconds, "peak": peak}

    def _outcome(self, touched: int) -> tuple[str, str]:
        try:
            found = flat(self.kind.read(self.path))
        except UserError as error:
            text = str(error)
            named = (
                self.path.name in text
                or self.kind.file.split("/")[0] in text
                or self.path.parent.parent.name in text
                or self.kind.stored is None
            )
            good = named and "\n" not in text and len(text) < 1000 and text.isprintable()
            return "refused" if good else "poor sentence", text
        except Exception as error:  # noqa: BLE001 - this is what is counted
            return "exception", f"{type(error).__name__}: {error}"[:500]
        if same(found, self.read) is None:
            return "equal", ""
        if self.kind.stored is None:
            return "value", "another text"
        try:
            difference = same(dict(self.kind.stored(self.path)), self.stored or {}, touched)
        except UserError as error:
            difference = f"accepted, but {error}"
        if difference and self.kind.lines and lines_only(_lines(self.path.read_bytes()), _lines(self.sound), touched):
            return "lines", ""
        return ("other content", f"{difference}; {touched} touched") if difference else ("value", "")


def lines_only(found: list[str], sound: list[str], touched: int) -> bool:
    """Whether whole lines are missing or double, beside at most ``touched`` lines that changed."""
    return len(found) != len(sound) and sum(line not in sound for line in found) <= touched


def _lines(content: bytes) -> list[str]:
    return [line.strip() for line in content.decode(errors="replace").splitlines() if line.strip()]


def same(found: Mapping[str, np.ndarray], sound: Mapping[str, np.ndarray], changed: int = 0) -> str | None:
    """How two sets of arrays differ; None when names, kinds and shapes are equal and at most ``changed`` elements differ."""
    if set(found) != set(sound):
        return f"keys {sorted(set(found) ^ set(sound))[:3]}"
    count = 0
    for name, values in sound.items():
        other = found[name]
        if other.shape != values.shape:
            return f"{name}: shape {other.shape} instead of {values.shape}"
        if other.dtype.kind != values.dtype.kind and not changed:
            return f"{name}: type {other.dtype} instead of {values.dtype}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            equal = (other == values) | ((other != other) & (values != values))
        count += int(np.size(equal) - np.count_nonzero(equal))
    return f"{count} numbers differ" if count > changed else None


def largest_ended() -> int:
    """Bytes: the most that any process held which this one started and which has ended."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


def peak_memory(before: int, ended: int) -> int:
    """Bytes: what the peak rose by above ``before``, or the most that a process of this one held, if it runs or ended since."""
    used, now = [status("VmHWM") - before], largest_ended()
    if now > ended:
        used.append(now)
    for child in hdf5_process._idle:
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            used.append(status("VmHWM", child.process.pid))
    return max(used)


def work(name: str, first: int, after: int, out: Connection) -> None:
    """The process of one format: the outcomes of the files ``first`` to ``after - 1``."""
    kind = next(kind for kind in FORMATS if kind.name == name)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(kind, Path(folder))
        for number in range(first, after):
            out.send(bench.one(number))


def outcomes(kind: Format, first: int, after: int) -> list[dict[str, Any]]:
    """The outcome of the files ``first`` to ``after - 1``; a process that ends or takes too long is started again behind it."""
    found: list[dict[str, Any]] = []
    while first + len(found) < after:
        ours, its = PROCESSES.Pipe(duplex=False)
        process = PROCESSES.Process(target=work, args=(kind.name, first + len(found), after, its))
        process.start()
        its.close()
        wait, failed = START_SECONDS, ""
        while first + len(found) < after and not failed:
            try:
                failed = "" if ours.poll(wait) else "too slow"
                if not failed:
                    found.append(ours.recv())
            except EOFError:
                failed = "process ended"
            wait = WAIT_SECONDS
        if failed:
            process.kill()
            found.append({"number": first + len(found), "outcome": failed, "said": "", "seconds": WAIT_SECONDS, "peak": 0})
        process.join()
        ours.close()
    for fault in (each for each in found if each["outcome"] in FAULTS):
        print(f"{kind.name}, file {fault['number']}: {fault['outcome']}, {fault['said'][:300]!a}", flush=True)
    return found


def row(kind: Format, found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What became of a format's files; every fault by number."""
    count = Counter(each["outcome"] for each in found)
    return {
        "format": kind.name,
        "files": len(found),
        **{name: count[name] for name in (*SOUND, *FAULTS)},
        "longest_seconds": max((each["seconds"] for each in found), default=0.0),
        "peak_bytes": max((each["peak"] for each in found), default=0),
        "faults": [dict(each) for each in found if each["outcome"] in FAULTS],
    }


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """One line per format, and all together."""
    shown = Table("format", "files", *SOUND, *FAULTS, "longest, s", "peak, MiB", title="mutated files")
    names = ("files", *SOUND, *FAULTS)
    for each in rows:
        numbers = [f"{each[name]:,}" for name in names]
        shown.add_row(each["format"], *numbers, f"{each['longest_seconds']:.2f}", f"{each['peak_bytes'] / 2**20:,.0f}")
    total = [f"{sum(each[name] for each in rows):,}" for name in names]
    longest, peak = (max(each[name] for each in rows) for name in ("longest_seconds", "peak_bytes"))
    shown.add_row("all", *total, f"{longest:.2f}", f"{peak / 2**20:,.0f}", style="bold")
    return shown


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutations", description=__doc__)
    parser.add_argument("--files", type=int, default=FILES, help=f"files of all formats together (default {FILES:,})")
    parser.add_argument("--only", action="append", help="a format by name; may be given several times")
    parser.add_argument("--out", type=Path, default=RESULTS / "mutations.json")
    parser.add_argument("--jobs", type=int, default=1, help="processes at the same time (default 1)")
    args = parser.parse_args()
    from benchmarks.measure import machine  # here, because it imports Lightning, which the readers do without

    there = [kind for kind in FORMATS if kind.needs is None or find_spec(kind.needs)]
    chosen, began = [kind for kind in there if not args.only or kind.name in args.only], time.monotonic()
    counts = [round(args.files * kind.share / sum(each.share for each in chosen)) for kind in chosen]
    console, rows = Console(width=180), []
    PROCESSES.set_forkserver_preload(["benchmarks.mutation_formats"])
    with ThreadPoolExecutor(args.jobs) as pool:
        parts = [
            [pool.submit(outcomes, kind, first, min(first + BATCH, count)) for first in range(0, count, BATCH)]
            for kind, count in zip(chosen, counts, strict=True)
        ]
        for kind, batches in zip(chosen, parts, strict=True):
            rows.append(row(kind, [each for batch in batches for each in batch.result()]))
            console.print(f"{kind.name}: {rows[-1]['files']:,} files, {len(rows[-1]['faults'])} faults")
    console.print(table(rows))
    left_out = [kind.name for kind in FORMATS if kind not in there]
    result = {"machine": machine("python -m benchmarks.mutations"), "seconds": time.monotonic() - began}
    result |= {"not_installed": left_out, "formats": rows}
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    return int(any(each["faults"] for each in rows))


if __name__ == "__main__":
    sys.exit(main())
