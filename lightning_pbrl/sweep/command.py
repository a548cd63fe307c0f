"""``lightning-pbrl sweep SPEC``: plan, check, run or report."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from lightning_pbrl.arguments import Arguments
from lightning_pbrl.data.archive import replacing
from lightning_pbrl.errors import UserError
from lightning_pbrl.experiment import config_file, parse_seeds, validate
from lightning_pbrl.jobs import Failure, check
from lightning_pbrl.sweep.launch import LAUNCHERS, Launcher, find_launcher
from lightning_pbrl.sweep.spec import OWN_KEYS, SweepSpec, read_spec, read_yaml
from lightning_pbrl.sweep.trials import Trial, check_keys, distinct_values, plan


def sweep_command(args: list[str]) -> None:
    """``lightning-pbrl sweep SPEC [--launcher local] ...``."""
    options, launcher = _options(args)
    spec = read_spec(config_file(options.spec, Path(options.spec)), _changes(options.set))
    if options.seeds:
        spec = dataclasses.replace(spec, seeds=tuple(parse_seeds(options.seeds)))
    out = Path(options.out or f"runs/{spec.name}")
    trials = plan(spec, out)
    check(job for trial in trials for job in trial.jobs)
    if options.report:
        from lightning_pbrl.sweep.report import report_sweep

        report_sweep(spec, trials, out, options.metric)
    elif options.dry_run:
        _dry_run(spec, trials, out)
    else:
        _run(spec, trials, out, launcher(options), f"lightning-pbrl sweep {' '.join(args)}")


def _options(args: list[str]) -> tuple[argparse.Namespace, type[Launcher]]:
    """The command's options and those of its launcher, which ``--launcher`` chooses first."""
    chooser = Arguments("lightning-pbrl sweep", add_help=False)
    chooser.add_argument("--launcher", default="local")
    launcher = find_launcher(chooser.parse_known_args(args)[0].launcher)
    about = f"Run all trials of a sweep file. Options of --launcher shown: {launcher.description or launcher.__name__}."
    parser = Arguments("lightning-pbrl sweep", description=about)
    parser.add_argument("spec", help="sweep file (YAML or JSON), or its name below conf/")
    how = "KEY's values in place of the file's, such as model.init_args.lr=[1e-3,1e-4]; may be given again"
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUES", help=how)
    parser.add_argument("--seeds", help="0-4, or 0,3, in place of the file's")
    parser.add_argument("--out", help="folder of the run folders (default runs/<name>)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--dry-run", action="store_true", help="print all trials, check every value, train nothing")
    what.add_argument("--report", action="store_true", help="what has come out so far: the mean for each value of each key")
    parser.add_argument("--metric", help="metric of --report (default: success rate, else return, else accuracy)")
    parser.add_argument("--launcher", default="local", help=f"{', '.join(LAUNCHERS)}, or a class in full (default local)")
    launcher.add_arguments(parser)
    return parser.parse_args(args), launcher


def _changes(written: Sequence[str]) -> dict[str, Any]:
    """["ask.budget=[10,20]", "then_test=true"] -> {"ask.budget": [10, 20], "then_test": [true]}."""
    changes: dict[str, Any] = {}
    for each in written:
        key, equals, text = each.partition("=")
        try:
            value = read_yaml(text)
        except yaml.YAMLError as error:
            raise UserError(f"--set {each!r}: what follows the = is not valid YAML; write KEY=[value, value].") from error
        if not equals or text == "":
            raise UserError(f"--set {each!r} is not understood: write KEY=[value, value].")
        changes[key] = value if isinstance(value, list | dict) or key in OWN_KEYS else [value]
    return changes


def _dry_run(spec: SweepSpec, trials: Sequence[Trial], out: Path) -> None:
    console = Console(highlight=False, markup=False, soft_wrap=True)
    same = [axis for axis in spec.axes if len(axis.values) == 1]
    fixed = _pairs({key: value for axis in same for key, value in zip(axis.keys, axis.values[0], strict=True)})
    console.print(f"{out}{', all trials with ' if fixed else ''}{fixed}")
    for trial in trials:
        varied = {key: trial.point.values[key] for axis in spec.axes if axis not in same for key in axis.keys}
        console.print(f"{trial.state:9} {trial.label:40} base={trial.point.base} {_pairs(varied)}")
    check_keys(spec)
    built = distinct_values(trials)
    for trial in built:
        for job in trial.jobs:
            validate(job)
    states = ", ".join(f"{count} {state}" for state, count in Counter(trial.state.split()[0] for trial in trials).items())
    configurations = len({(trial.point.base, trial.point.place) for trial in trials})
    console.print(
        f"{len(trials)} trials of {configurations} configurations ({states}); {len(built)} were built, which between them "
        "have every value with every base. Nothing was trained."
    )


def _pairs(values: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={json.dumps(value)}" for key, value in values.items())


def _run(spec: SweepSpec, trials: Sequence[Trial], out: Path, launcher: Launcher, command: str) -> None:
    todo = [trial for trial in trials if trial.state != "finished"]
    if len(todo) < len(trials):
        print(f"{len(trials) - len(todo)} of {len(trials)} trials have finished before")
    if not todo:
        print(f"Nothing is left to do; `lightning-pbrl sweep {spec.path} --report` shows what came out.")
        return
    check_keys(spec)
    _record(spec, trials, out, command)
    failed = launcher.launch(todo, out, spec.name)
    if failed is None:
        print("The trials go on by themselves: with --dry-run this command shows where they are, with --report what they found.")
        return
    from lightning_pbrl.reports.experiment import report

    report(out, {}, command)
    if failed:
        _list(failed)
        raise UserError(
            f"{len(failed)} jobs of the sweep failed; mend what their logs say, then run the same command again: it runs what "
            "is missing and resumes what was cut off."
        )


def _record(spec: SweepSpec, trials: Sequence[Trial], out: Path, command: str) -> None:
    """``sweep.json``: which folder holds which values, for whoever analyses the runs."""
    out.mkdir(parents=True, exist_ok=True)
    rows = [{"folder": str(t.folder), "base": t.point.base, "values": t.point.values, "seed": t.point.seed} for t in trials]
    content = {"name": spec.name, "spec": str(spec.path), "command": command, "trials": rows}
    with replacing(out / "sweep.json") as part:
        part.write_text(json.dumps(content, indent=1))


def _list(failed: Sequence[Failure]) -> None:
    print("\nFailed:", file=sys.stderr)
    for job, reason in failed:
        print(f"\n{job.label}: {reason} ({job.folder / 'log.txt'})\n{job.tail()}", file=sys.stderr)
