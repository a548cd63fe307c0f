"""``python -m benchmarks.memory [--quick]``: does asking more cost more memory? A table and ``results/memory.json``.

Each row is a whole CLARIFY fit with the small overlay's networks in a process of its own: data, questions chosen by embedding,
label store, reward ensemble, encoder, checkpoints. Its peak is ``ru_maxrss``, the most memory that the process ever held; the
data are written in place, so that making them does not hide the peak of the fit.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.engine import InMemory
from benchmarks.measure import machine
from benchmarks.readme import RESULTS, rewrite
from lightning_pbrl.callbacks.ask_teacher import AskTeacher
from lightning_pbrl.data.transitions import Transitions, row_layout
from lightning_pbrl.methods.clarify import CLARIFY
from lightning_pbrl.queries.embedding import EmbeddingQuery
from lightning_pbrl.teachers.skip import SkipTeacher
from lightning_pbrl.trainer import RoundCheckpoint

EPISODE = 500
MIB = 2**20
MARKER = "memory: written by python -m benchmarks.memory"
RESERVED_PAIRS, RESERVED_STEPS, RESERVED_FEATURES = 500_000, 50, 43
"""What the released code allocates at start: room for this many pairs of segments, as copies of float32."""


class Size(NamedTuple):
    """How much is measured.

    Attributes:
        runs: questions in all and per round.
        repeats: processes for each of them.
    """

    rows: int = 300_000
    obs_dim: int = 39
    action_dim: int = 4
    length: int = 50
    width: int = 64
    layers: int = 1
    heads: int = 2
    encoder_batch_size: int = 32
    n_init: int = 20
    n_emb: int = 2
    epochs: int = 1
    hidden: tuple[int, ...] = (256, 256, 256)
    runs: tuple[tuple[int, int], ...] = ((100, 50), (1_000, 50), (2_000, 1_000), (10_000, 1_000))
    repeats: int = 1


QUICK = Size(
    rows=2_000,
    length=10,
    width=16,
    encoder_batch_size=4,
    n_init=2,
    n_emb=1,
    hidden=(16,),
    runs=((20, 10), (40, 10)),
    repeats=1,
)


def transitions(size: Size) -> Transitions:
    """Random transitions in episodes of 500 steps; the reward is one number per episode, so that some pairs are clear."""
    rng = torch.Generator().manual_seed(0)
    layout = row_layout(size.obs_dim, size.action_dim)
    at, width = layout["truncated"]
    rows = torch.zeros(size.rows, at + width)
    for row in rows.split(EPISODE):
        row.normal_(generator=rng)
        row[:, size.obs_dim : size.obs_dim + size.action_dim].tanh_()
        row[:, at - 1 :] = 0.0  # neither terminated nor truncated
    reward = 2 * torch.rand(-(-size.rows // EPISODE), generator=rng).repeat_interleave(EPISODE)[: size.rows]
    offsets = torch.tensor([*range(0, size.rows, EPISODE), size.rows])
    return Transitions(rows, offsets, reward, None, size.obs_dim, size.action_dim)


def resident() -> int:
    """Peak memory of this process so far, bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def fit(size: Size, questions: int, per_round: int) -> dict[str, Any]:
    """One CLARIFY fit in this process: its peak before and after, what its labels take, CPU seconds."""
    source = transitions(size)
    data = InMemory(source)
    data.segment_length = size.length
    networks: dict[str, Any] = {"width": size.width, "layers": size.layers, "heads": size.heads, "hidden": size.hidden}
    steps: dict[str, Any] = {"n_init": size.n_init, "n_emb": size.n_emb, "encoder_batch_size": size.encoder_batch_size}
    method = CLARIFY(data.spec, max_episode_steps=EPISODE, epochs=size.epochs, **networks, **steps)
    before, began = resident(), time.process_time()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice about workers and devices
        ask = AskTeacher(SkipTeacher(0.5), EmbeddingQuery(), questions, per_round)
        trainer = pl.Trainer(
            default_root_dir=folder,
            accelerator="cpu",
            devices=1,
            max_epochs=-1,
            logger=False,
            callbacks=[RoundCheckpoint(), ask],
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(method, data)
        assert ask.store is not None
        store = sum(path.stat().st_size for path in Path(folder).glob("labels.sqlite*"))
    labels = [method.labels.start, method.labels.value, method.labels.status]
    return {
        "questions": len(method.labels),
        "per_round": per_round,
        "rounds": trainer.current_epoch,
        "peak_bytes": resident(),
        "peak_bytes_before_fit": before,
        "data_bytes": source.packed.nbytes,
        "label_bytes": sum(tensor.nbytes for tensor in labels),
        "store_file_bytes": store,
        "cpu_seconds": time.process_time() - began,
    }


def alone(size: Size, questions: int, per_round: int) -> dict[str, Any]:
    """:func:`fit` in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.memory", "--one", json.dumps([size._asdict(), questions, per_round])]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
    return json.loads(done.stdout.splitlines()[-1])


def reserved() -> dict[str, Any]:
    """The released code's arrays: both segments of every pair that may ever be asked."""
    pair = 2 * RESERVED_STEPS * RESERVED_FEATURES * 4
    return {"pairs": RESERVED_PAIRS, "bytes_per_pair": pair, "bytes": RESERVED_PAIRS * pair}


def growth(runs: Sequence[dict[str, Any]]) -> float | None:
    """Bytes of peak per further question, between the fewest and the most questions of runs with equal rounds."""
    last = runs[-1]
    for run in runs:
        if run["per_round"] == last["per_round"] and run["questions"] < last["questions"]:
            return (last["peak_bytes"] - run["peak_bytes"]) / (last["questions"] - run["questions"])
    return None


def main(size: Size) -> dict[str, Any]:
    """Measure every run; plain JSON."""
    turns = [[alone(size, *run) for run in size.runs] for _ in range(size.repeats)]
    runs = []
    for same in zip(*turns, strict=True):
        peaks = [run["peak_bytes"] for run in same]
        runs.append({**same[0], "peak_bytes": median(peaks), "peak_bytes_range": [min(peaks), max(peaks)]})
    return {"size": size._asdict(), "runs": runs, "bytes_per_further_question": growth(runs), "released_code": reserved()}


COLUMNS = ("questions", "per round", "peak, MiB", "range", "before the fit", "labels, KiB", "store on disk, KiB")


def cells(run: dict[str, Any]) -> list[str]:
    """A run as a row of the table."""
    lowest, highest = (f"{peak / MIB:,.0f}" for peak in run["peak_bytes_range"])
    peak, before = (f"{run[key] / MIB:,.0f}" for key in ("peak_bytes", "peak_bytes_before_fit"))
    kept = [f"{run[key] / 1024:,.1f}" for key in ("label_bytes", "store_file_bytes")]
    return [f"{run['questions']:,}", f"{run['per_round']:,}", peak, f"{lowest} .. {highest}", before, *kept]


def in_readme(result: dict[str, Any]) -> str:
    """The README's block."""
    about, reference, repeats = result["machine"], result["released_code"], result["size"]["repeats"]
    lines = [
        f"`{about['command']}`: {about['cpu']}, {about['threads']} thread, torch {about['torch']}, python {about['python']}; "
        + ("one process per row." if repeats == 1 else f"median of {repeats} processes per row."),
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + "---|" * len(COLUMNS),
        *("| " + " | ".join(cells(run)) + " |" for run in result["runs"]),
        "",
        f"Peak per further question, at equal rounds: {result['bytes_per_further_question']:,.0f} bytes. "
        f"The released code reserves {reference['bytes'] / 1e9:.1f} GB (computed: two float32 arrays of "
        f"{RESERVED_PAIRS:,} x {RESERVED_STEPS} x {RESERVED_FEATURES}, {reference['bytes_per_pair']:,} bytes a question).",
    ]
    return "\n".join(lines)


def command_line(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of memory.json (default: %(default)s)")
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)  # one run, in this process
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.one is not None:
        logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
        settings, questions, per_round = options.one
        print(json.dumps(fit(Size(**settings), questions, per_round)))
        return 0
    if options.quick and options.out == RESULTS:
        options.out = RESULTS / "quick"
    options.out.mkdir(parents=True, exist_ok=True)
    result = {"machine": machine("python -m benchmarks.memory"), **main(QUICK if options.quick else Size())}
    (options.out / "memory.json").write_text(json.dumps(result, indent=2) + "\n")
    if options.out == RESULTS and not options.quick:
        rewrite(MARKER, in_readme(result))
    shown = Table(*COLUMNS, title="peak memory of a CLARIFY fit")
    for run in result["runs"]:
        shown.add_row(*cells(run))
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(shown)
    console.print(f"Written to {options.out}.")
    return 0


if __name__ == "__main__":
    raise SystemExit(command_line())
