"""Load of the labelling page: many people answer as fast as they can, on SQLite and on PostgreSQL, alone and beside a training.

    python -m benchmarks.people_load [--seconds 60] [--people 64] [--store sqlite|postgresql|both]

For each store a page is started as ``lightning-pbrl label`` starts it, over several thousand open questions with films. One
more process is the people (``people_clients.py``). They answer for ``--seconds`` while nothing else runs. Then a training
starts, IQL by the library's Trainer on one thread, and in each of ``--rounds`` rounds it is alone for a while and beside the
people for as long. Afterwards every answer that the page has acknowledged is looked up in the store.

All processes share one machine, and what the people cost is told: real ones bring their own. People and page have the page's
low priority. ``--pause 0`` answers without the 350 ms that the page's script waits before it takes an answer.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import re
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np
import torch

from benchmarks.engine import InMemory, Size, iql, transitions
from benchmarks.measure import machine
from benchmarks.people_clients import PAUSE, Acknowledged, Seen, digests, people_work
from benchmarks.people_postgres import postgres, why_not
from benchmarks.readme import RESULTS, rewrite
from lightning_pbrl.clips.cache import ClipCache
from lightning_pbrl.clips.encode import write_clip
from lightning_pbrl.clips.worker import stem
from lightning_pbrl.data.feedback import Answer, AskKey, Query, Status
from lightning_pbrl.data.store import LabelStore
from lightning_pbrl.labelling.desk import Desk
from lightning_pbrl.labelling.films import QuestionFilms

MARKER = "people: written by python -m benchmarks.people_load"
RUN, DATA, LENGTH, SEGMENTS, ROUND = "people", "data", 50, 200, 1000
GOAL_MS, GOAL_SHARE = 200.0, 0.7
PROCESSES = multiprocessing.get_context("forkserver")
WARM_UP = 5.0
"""Seconds of the training that are not counted."""


# Inputs ----------------------------------------------------------------------------------------------------------------


def ask_questions(where: str, count: int) -> None:
    """Fill a store with open questions about pairs of segments, in rounds."""
    store = LabelStore(where, DATA, RUN)
    who: dict[str, Any] = {"strategy": {}, "teacher": {}, "seed": 0, "answered_by": "HumanTeacher"}
    for first in range(0, count, ROUND):
        size = min(ROUND, count - first)
        left = torch.arange(first, first + size)
        start = torch.stack([left % SEGMENTS, (left + 1 + left // SEGMENTS) % SEGMENTS], 1) * LENGTH
        nothing = Answer(torch.full((size,), torch.nan), torch.full((size,), int(Status.PENDING)))
        store.put(AskKey(RUN, first // ROUND, first), Query("pair", start, LENGTH), nothing, **who)


def make_films(cache: ClipCache) -> None:
    """Write two films, a block that moves on a rough ground, and give every segment one of them."""
    cache.folder.mkdir(parents=True)
    ground = np.random.default_rng(0).integers(150, 180, (256, 256, 3), np.uint8)
    for which in range(2):
        frames = np.repeat(ground[None], LENGTH, 0)
        for step, frame in enumerate(frames):
            at = slice(20 + 4 * step, 44 + 4 * step)
            frame[(at, slice(116, 140)) if which else (slice(116, 140), at)] = (31, 78, 140)
        files = write_clip(cache.folder.parent / f"film-{which}", frames)
        for segment in range(which, SEGMENTS, 2):
            for codec, path in files.items():
                os.link(path, cache.folder / f"{stem(LENGTH * segment, LENGTH)}.{codec}")


def films(folder: Path) -> ClipCache:
    """Return the cache of the films of a folder; all of them are made before."""
    return ClipCache(folder / "clips", make_nothing, DATA)


def make_nothing() -> Any:
    """Stand where the films would be drawn."""
    raise AssertionError("a film is missing")


# Processes -------------------------------------------------------------------------------------------------------------


def serve(where: str, folder: str, people: int) -> None:
    """Be the page, as ``lightning-pbrl label`` is one."""
    from lightning_pbrl.labelling.serve import give_way, label_command

    def opened(store: str) -> tuple[Desk, QuestionFilms]:
        give_way()
        desk = Desk(store)
        return desk, QuestionFilms(desk, films(Path(folder)))

    label_command([where, "--port", "0", "--people", *(f"P{n}" for n in range(people))], opened)


def started(work: Callable[..., None], log: Path, *about: Any) -> Any:
    """Return a process that does some work and prints to a file."""
    process = PROCESSES.Process(target=logged, args=(work, log, *about))
    process.start()
    return process


def logged(work: Callable[..., None], log: Path, *about: Any) -> None:
    """Work, and print to a file."""
    with log.open("w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    work(*about)


@contextmanager
def page(where: str, folder: Path, people: int) -> Iterator[tuple[int, dict[str, str]]]:
    """Start the page; give its process id and the links."""
    log = folder / "page.txt"
    process = started(serve, log, where, str(folder), people)
    try:
        while (
            len(links := re.findall(r"^(\S+): (\S+/join/\S+)\n", log.read_text() if log.exists() else "", re.MULTILINE)) < people
        ):
            if not process.is_alive():
                raise SystemExit(log.read_text()[-2000:])
            time.sleep(0.05)
        yield process.pid, dict(links)
    finally:
        process.terminate()
        process.join()


def train(stamps: str, folder: str) -> None:
    """Be a training that goes on until it is ended; write time and number of updates after each block."""
    import pytorch_lightning as pl

    from lightning_pbrl.trainer import Trainer

    class Stamps(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            file.write(f"{time.monotonic()} {trainer.global_step}\n")

    torch.set_num_threads(1)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    size = Size(rows=20_000, hidden=(64, 64), batch_size=64)  # a block of updates is short
    source = transitions(size.rows, size.obs_dim, size.action_dim)
    with Path(stamps).open("w", buffering=1) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        method = iql(source, size, compile=False)
        Trainer(folder, accelerator="cpu", callbacks=[Stamps()], enable_progress_bar=False).fit(method, InMemory(source))


class Training:
    """The training, in a process of its own, and its speed."""

    def __init__(self, folder: Path) -> None:
        self.stamps = folder / "updates.txt"
        self.process = started(train, folder / "training.txt", str(self.stamps), str(folder / "training"))
        while not self.stamps.is_file() or not self.stamps.read_text():
            if not self.process.is_alive():
                raise SystemExit((folder / "training.txt").read_text()[-2000:])
            time.sleep(0.1)

    def updates_per_second(self, began: float, ended: float) -> float:
        """Return the speed between two moments of ``time.monotonic``."""
        rows = [line.split() for line in self.stamps.read_text().splitlines()]
        seen = [(float(at), int(count)) for at, count in rows[:-1] if began <= float(at) <= ended]
        if len(seen) < 2:
            raise SystemExit(f"{ended - began:.0f} s are too short to measure the training here: give more --seconds.")
        return (seen[-1][1] - seen[0][1]) / (seen[-1][0] - seen[0][0])

    def stop(self) -> None:
        """End the training."""
        self.process.kill()
        self.process.join()


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and its children, those that have ended included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK") + sum(cpu_seconds(int(child)) for child in below)


def _people(pipe: Any, nice: int, *work: Any) -> None:
    os.nice(nice)
    while seconds := pipe.recv():
        people_work(*work, seconds, pipe.send)


# Measuring -------------------------------------------------------------------------------------------------------------


class Load:
    """People at a page, for a while and again; they begin once all of them have opened their links."""

    def __init__(self, pid: int, links: dict[str, str], pause: float, clips: set[str]) -> None:
        self.pid, self.nice = pid, os.getpriority(os.PRIO_PROCESS, pid) - os.getpriority(os.PRIO_PROCESS, 0)
        self.all = Seen()
        self.pipe, theirs = PROCESSES.Pipe()
        self.process = PROCESSES.Process(target=_people, args=(theirs, self.nice, links, pause, clips))
        self.process.start()
        theirs.close()

    def run(self, seconds: float) -> dict[str, Any]:
        """Let everybody answer; return what it took, and when it began."""
        self.pipe.send(seconds)
        self.pipe.recv()
        began, before = time.monotonic(), [cpu_seconds(pid) for pid in (self.pid, self.process.pid or 0)]
        seen = self.pipe.recv()
        page, people = (cpu_seconds(pid) - used for pid, used in zip((self.pid, self.process.pid or 0), before, strict=True))
        self.all.add(seen)
        return {"seen": seen, "people_cpu": people, "page_cpu": page, "began": began}

    def stop(self) -> None:
        """End the process of the people."""
        self.pipe.send(0)
        self.process.join()


def told(parts: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """Return the numbers of one or several stretches of load, ``seconds`` in all."""
    seen = Seen()
    for part in parts:
        seen.add(part["seen"])
    cuts = quantiles(seen.seconds, n=100)
    return {
        "seconds": seconds,
        "answers_per_s": len(seen.acknowledged) / seconds,
        "submission_ms": {"p50": 1e3 * cuts[49], "p95": 1e3 * cuts[94], "p99": 1e3 * cuts[98], "max": 1e3 * max(seen.seconds)},
        "page_cpu_share": sum(part["page_cpu"] for part in parts) / seconds,
        "people_cpu_share": sum(part["people_cpu"] for part in parts) / seconds,
        "responses": dict(sorted(seen.counts.items())),
    }


def beside(load: Load, folder: Path, seconds: float, rounds: int) -> dict[str, Any]:
    """Measure load and training beside each other, and the training alone, in turns."""
    training, each = Training(folder), seconds / rounds
    parts, alone, together = [], [], []
    try:
        time.sleep(min(WARM_UP, each))
        for _ in range(rounds):
            began = time.monotonic()
            time.sleep(each)
            alone.append(training.updates_per_second(began, time.monotonic()))
            parts.append(load.run(each))
            together.append(training.updates_per_second(parts[-1]["began"], time.monotonic()))
    finally:
        training.stop()
    shares = [one / other for one, other in zip(together, alone, strict=True)]
    speed = {"alone": median(alone), "beside": median(together)}
    return told(parts, seconds) | {"updates_per_s": speed, "share": median(shares), "share_range": [min(shares), max(shares)]}


def check(where: str, acknowledged: list[Acknowledged]) -> dict[str, int]:
    """Look every acknowledged answer up in the store."""
    desk, store = Desk(where), LabelStore(where, DATA, RUN)
    rows = desk.answers()
    stored = {(row["person"], f"{row['run']}/{row['round']}/{row['number']}"): row for row in rows}
    labels = {(row["round"], row["number"]): (row["value"], row["status"]) for row in store.records()}

    persons = Counter(key for _, key in stored)

    def kept(given: Acknowledged) -> bool:
        row = stored.get((given.person, given.key))
        if row is None:
            return False
        if persons[given.key] == 1 and labels[row["round"], row["number"]] != (row["value"], row["status"]):
            return False
        if given.choice in ("equal", "skip"):
            return bool(row["status"] == (Status.EQUAL if given.choice == "equal" else Status.SKIPPED))
        return bool(row["value"] == float((given.choice == "right") != row["swapped"]))

    return {
        "acknowledged": len(acknowledged),
        "lost": sum(not kept(given) for given in acknowledged),
        "double": len(rows) - len(stored) + len(acknowledged) - len({(given.person, given.key) for given in acknowledged}),
        "asked_of_two": len(stored) - len(persons),
    }


def measure(where: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure one store."""
    per_second = options.people / max(options.pause, 0.15) + 10
    count = int(per_second * options.seconds * (1 if options.alone else 2)) + 4 * options.people
    ask_questions(where, count)
    with page(where, folder, options.people) as (pid, links):
        load = Load(pid, links, options.pause, digests(folder / "clips"))
        found: dict[str, Any] = {"questions": count, "nice": load.nice}
        found["alone"] = told([load.run(options.seconds)], options.seconds)
        if not options.alone:
            found["beside"] = beside(load, folder, options.seconds, options.rounds)
        load.stop()
        found["check"] = check(where, load.all.acknowledged)
    return found


def in_readme(result: dict[str, Any]) -> str:
    """Return the README's block of results."""
    about = result["machine"]
    lines = [
        f"`{about['command']}`: {about['cpu']}, {about['cores']} cores, python {about['python']}, load average before "
        f"{about['load_average'][0]}; {result['people']} people.",
        "",
        "| store | training | answers/s | p50, ms | p95, ms | p99, ms | page, cores | people, cores | training's speed |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for store, found in result["stores"].items():
        for name in ("alone", "beside"):
            if name not in found:
                continue
            row, share = found[name], "" if name == "alone" else f"{found[name]['share']:.2f}"
            times = " | ".join(f"{row['submission_ms'][each]:.0f}" for each in ("p50", "p95", "p99"))
            cores = f"{row['page_cpu_share']:.2f} | {row['people_cpu_share']:.2f}"
            lines.append(
                f"| {store} | {'no' if name == 'alone' else 'yes'} | {row['answers_per_s']:.0f} | {times} | {cores} | {share} |"
            )
    checks = [found["check"] for found in result["stores"].values()]
    sums = {name: sum(each[name] for each in checks) for name in ("acknowledged", "lost", "double")}
    return "\n".join(
        [*lines, "", f"{sums['acknowledged']:,} answers acknowledged: {sums['lost']} lost, {sums['double']} double."]
    )


def reached(found: dict[str, Any]) -> bool:
    """Return True if a store's numbers are as good as the goals."""
    rows = [found[name] for name in ("alone", "beside") if name in found]
    quick = all(row["submission_ms"]["p95"] < GOAL_MS and row.get("share", 1.0) >= GOAL_SHARE for row in rows)
    films_right = all(not name.startswith("clips") or name == "clips 206" for row in rows for name in row["responses"])
    return quick and films_right and not any(found["check"][name] for name in ("lost", "double", "asked_of_two"))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.people_load", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of load, alone and beside the training each (default 60)")
    parser.add_argument("--people", type=int, default=64, help="how many (default 64)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of the training, alone and beside the people (default 3)")
    parser.add_argument("--pause", type=float, default=PAUSE, help="seconds from a question to its answer (default %(default)s)")
    parser.add_argument("--store", choices=("sqlite", "postgresql", "both"), default="both", help="which stores (default both)")
    parser.add_argument("--alone", action="store_true", help="without a training")
    parser.add_argument("--out", type=Path, default=RESULTS / "people-load.json", help="file of the results")
    options = parser.parse_args(arguments)
    result: dict[str, Any] = {"machine": machine("python -m benchmarks.people_load"), "people": options.people}
    result |= {"pause": options.pause, "stores": {}, "skipped": {}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_films(films(folder))
        if options.store != "postgresql":
            result["stores"]["sqlite"] = measure(str(folder / "labels.sqlite"), folder, options)
        if options.store != "sqlite" and (sentence := why_not()):
            print(sentence)
            result["skipped"]["postgresql"] = sentence
        elif options.store != "sqlite":
            with postgres() as url:
                result["stores"]["postgresql"] = measure(url, folder, options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    if options.out == RESULTS / "people-load.json":
        rewrite(MARKER, in_readme(result))
    print(in_readme(result))
    return 0 if all(map(reached, result["stores"].values())) else 1


if __name__ == "__main__":
    PROCESSES.set_forkserver_preload(["benchmarks.people_load", "lightning_pbrl.trainer"])
    sys.exit(main())
