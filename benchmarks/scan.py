"""``python -m benchmarks.scan``: the compiled IQL update beside a JAX scan, and with either library for matrix products.

One thread; short turns in a rotating order, because on a busy machine turns differ more than contestants do.
JAX is no dependency of this project: ``pip install jax`` first.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from statistics import quantiles
from typing import Any

import torch

from benchmarks.engine import Size, columns, engine, transitions
from benchmarks.measure import Claim, Contestant, interleave, judge, machine, per_unit, summary, with_library
from benchmarks.readme import RESULTS, rewrite
from lightning_pbrl.compute import products

MARKER = "scan: written by python -m benchmarks.scan"
TURN = 16
CLAIMS = [
    Claim("IQL engine compiled / JAX scan", 1.05, "scan", "compiled"),
    Claim("IQL engine compiled, measured library / the other library", 1.0, "the other library", "compiled"),
]


def contestants(size: Size) -> dict[str, Contestant]:
    """The scan, our update by the library that the measurement chose, and by the other one."""
    from benchmarks.jax_iql import scan

    source = transitions(size.rows, size.obs_dim, size.action_dim)
    many = scan([column.numpy() for column in columns(source)], size.hidden, size.batch_size, TURN)
    chosen, other = engine(source, size, size.compile), engine(source, size, size.compile)

    def ours() -> None:
        chosen.run("policy", TURN)

    ours()  # compiled, and measured
    wide = products.Size(size.batch_size, size.hidden[0], size.hidden[-1])
    onednn = products.by_onednn(*wide)
    return {
        "scan": per_unit(lambda: many(TURN), TURN),
        "compiled": per_unit(ours, TURN),
        "the other library": with_library(per_unit(lambda: other.run("policy", TURN), TURN), onednn=not onednn),
    }


def measured(size: Size) -> dict[str, Any]:
    """Measure everything; plain JSON."""
    seen = interleave(contestants(size), size.rounds)
    rows = []
    for claim in CLAIMS:
        ratios = [other / ours for other, ours in zip(seen[claim.other], seen[claim.ours], strict=True)]
        low, _, high = quantiles(ratios, n=4)
        rows.append({**judge(claim, seen), "quartiles": [low, high]})
    return {
        "size": size._asdict(),
        "unit": "CPU seconds per update",
        "claims": rows,
        "seconds": summary(seen),
        "products": products.kept(),
    }


def in_readme(result: dict[str, Any]) -> str:
    """The README's block: a line on the run and a row per claim."""
    about = result["machine"]
    versions = ", ".join(f"{key} {about[key]}" for key in ("torch", "jax", "python"))
    lines = [
        f"`{about['command']}`: {about['cpu']} ({about['cpu_capability']}), {about['threads']} thread, {versions}; "
        f"{result['claims'][0]['rounds']} turns of {TURN} updates each.",
        "",
        "| claim | goal | measured | middle half of the turns | range |",
        "|---|---|---|---|---|",
    ]
    for row in result["claims"]:
        low, high = row["quartiles"]
        numbers = f"{row['ratio']:.3g} | {low:.3g} .. {high:.3g} | {row['min']:.3g} .. {row['max']:.3g}"
        lines.append(f"| {row['claim']} | {row['goal']:g} | {numbers} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scan", description=__doc__)
    parser.add_argument("--turns", type=int, default=60, help="turns of each contestant (default: %(default)s)")
    options = parser.parse_args(arguments)
    if importlib.util.find_spec("jax") is None:
        print("benchmarks.scan compares with JAX, which is not installed: pip install jax.", file=sys.stderr)
        return 2
    import jax

    torch.set_num_threads(1)
    about = {**machine("python -m benchmarks.scan"), "jax": jax.__version__}
    result = {"machine": about, **measured(Size(rounds=options.turns))}
    (RESULTS / "scan.json").write_text(json.dumps(result, indent=2) + "\n")
    rewrite(MARKER, in_readme(result))
    print(in_readme(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
