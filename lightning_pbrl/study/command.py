"""Plan, check, run or report a study: ``lightning-pbrl run STUDY``, and ``sweep STUDY``, which uses every core."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import yaml

from lightning_pbrl import run_folder
from lightning_pbrl.arguments import Arguments
from lightning_pbrl.configs import read_yaml
from lightning_pbrl.data.atomic import replacing
from lightning_pbrl.errors import UserError
from lightning_pbrl.job import check
from lightning_pbrl.jobs import Failure
from lightning_pbrl.study.file import MOST_SEEDS, OWN_KEYS, Study, parse_seeds, read_studies
from lightning_pbrl.study.launch import LAUNCHERS, Launcher, find_launcher
from lightning_pbrl.study.plan import Planned, Trial, check_keys, only, plan
from lightning_pbrl.study.replicas import in_process


def run_command(args: list[str], verb: str = "run") -> None:
    """Do what ``lightning-pbrl run STUDY`` or ``lightning-pbrl sweep STUDY`` asks for."""
    if "--resume" in args:
        raise UserError(f"{verb} goes on where it was by itself: leave --resume out.")
    options, launcher = _options(args, verb)
    if not 0 <= options.replicas <= MOST_SEEDS:
        raise UserError(f"--replicas {options.replicas}: give 0 to {MOST_SEEDS:,} replicas.")
    launch = launcher(options)
    plans = _plans(options)
    check(job for each in plans for trial in each.trials for job in trial.jobs)
    command = f"lightning-pbrl {verb} {' '.join(args)}"
    if options.report:
        from lightning_pbrl.study.report import report_values

        for each in plans:
            report_values(each.study, each.trials, each.out, options.metric)
    elif options.dry_run:
        from lightning_pbrl.study.show import dry_run

        dry_run(plans)
    else:
        _run(plans, launch, command, options.films)


def _plans(options: argparse.Namespace) -> list[Planned]:
    studies = read_studies(options.study, options.task, _changes(options.set))
    plans = []
    for study in studies if options.stages is None else [only(each, options.stages.split(",")) for each in studies]:
        seeds = tuple(parse_seeds(options.seeds)) if options.seeds else study.seeds
        if options.replicas:
            seeds = tuple(range(seeds[0], seeds[0] + options.replicas))
        out = Path(options.out or f"runs/{study.name}")
        out = out / study.row if options.out and len(studies) > 1 else out
        study = dataclasses.replace(study, seeds=seeds)
        if study.search:
            from lightning_pbrl.study.ask_tell import asked, with_draws

            study = with_draws(study, asked(study, study.search, out) or study.search.corners())
        plans.append(Planned(study, out, _trials(study, out, len(studies) > 1, options.films)))
    if options.replicas:
        if any(study.search for study in studies):
            raise UserError("--replicas: optuna ends the runs of a draw one by one; leave --replicas out.")
        in_process([trial for each in plans for trial in each.trials], options.replicas)
        plans = [each._replace(trials=[trial for trial in each.trials if trial.jobs]) for each in plans]
    return plans


def _trials(study: Study, out: Path, beside: bool, films: str) -> list[Trial]:
    """Return the trials of a study.

    Args:
        study: a row of a table of tasks, if ``beside`` others.
        out: its folder.
        beside: whether labels name the row.
        films: seeds that are filmed, first or all.
    """
    trials = plan(study, out, f"{study.row}/" if beside else "")
    for trial in trials:
        for job in trial.jobs:
            job.films = films == "all" or job.seed == study.seeds[0]
    return trials


def _options(args: list[str], verb: str) -> tuple[argparse.Namespace, type[Launcher]]:
    """Return the command's options and the launcher that runs its trials, whose own options are among them."""
    chooser = Arguments(f"lightning-pbrl {verb}", add_help=False)
    chooser.add_argument("--launcher", default="local")
    launcher = find_launcher(chooser.parse_known_args(args)[0].launcher)
    about = f"Run all trials of a study. Options of --launcher shown: {launcher.description or launcher.__name__}."
    parser = Arguments(f"lightning-pbrl {verb}", description=about)
    parser.add_argument("study", help="study file (YAML or JSON), or its name below conf/")
    parser.add_argument("--task", metavar="ROWS", help="rows of the file's tasks, such as hammer,box-close (default: all)")
    parser.add_argument("--seeds", help="0-4, or 0,3, in place of the file's (0 where it names none)")
    parser.add_argument(
        "--stages", metavar="STAGES", help="only these stages and those they need, such as laeo,bc (default: all)"
    )
    how = "KEY's values in place of the file's, such as model.init_args.lr=[1e-3,1e-4]; may be given again"
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUES", help=how)
    parser.add_argument("--replicas", type=int, default=0, help="this many seeds inside one process where the method allows it")
    films = "which seeds are filmed where a stage asks for films (default: the first)"
    parser.add_argument("--films", choices=("first", "all"), default="first", help=films)
    parser.add_argument("--out", help="folder of the run folders (default runs/<name>); of several tasks, one each below it")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--dry-run", action="store_true", help="print the plan as a table, check every value, train nothing")
    what.add_argument("--report", action="store_true", help="what has come out so far: the mean for each value of each key")
    parser.add_argument("--metric", help="metric of --report (default: success rate, else return, else accuracy)")
    parser.add_argument("--launcher", default="local", help=f"{', '.join(LAUNCHERS)}, or a class in full (default local)")
    launcher.add_arguments(parser)
    parser.set_defaults(jobs=1 if verb == "run" else None)
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


def _run(plans: Sequence[Planned], launcher: Launcher, command: str, films: str) -> None:
    if any(each.study.search for each in plans):
        _search(plans, launcher, command, films)
        return
    trials = [trial for each in plans for trial in each.trials]
    todo = [trial for trial in trials if trial.state != "finished"]
    if len(todo) < len(trials):
        print(f"{len(trials) - len(todo)} of {len(trials)} trials have finished before")
    failed: Sequence[Failure] | None = []
    if todo:
        for each in plans:
            _apart(check_keys, each.study)
            _record(each, command)
        study, out, _ = plans[0]
        failed = launcher.launch(todo, *((out, study.name) if len(plans) == 1 else (out.parent, study.path.stem)))
        if failed is None:
            print("The trials go on by themselves: --dry-run shows where they are, --report what they have found.")
            return
    else:
        print("Nothing is left to do; with --report this command shows the mean for each value.")
    _report(plans, failed or [], sum(len(trial.jobs) for trial in todo), command)


def _apart(check: Callable[[Study], None], study: Study) -> None:
    """Check a study in a process of its own: this one, which only waits for others, need not import what they need.

    Raises:
        UserError: as the check.
    """
    if not study.axes or sys.platform != "linux" or "pytorch_lightning" in sys.modules:
        return check(study)
    context = get_context("fork")
    ours, theirs = context.Pipe(duplex=False)

    def tell() -> None:
        try:
            check(study)
            theirs.send("")
        except UserError as error:
            theirs.send(str(error))

    process = context.Process(target=tell)
    process.start()
    theirs.close()
    try:
        wrong = ours.recv()
    except EOFError as error:  # whose traceback it has printed
        raise RuntimeError(f"The check of the keys of {study.path} has failed.") from error
    finally:
        process.join()
    if wrong:
        raise UserError(wrong)


def _search(plans: Sequence[Planned], launcher: Launcher, command: str, films: str) -> None:
    """Run one search after another: those of a table of tasks are searches of their own."""
    from lightning_pbrl.study.ask_tell import OptunaSearch

    done, failed = [], []
    for each in plans:
        _apart(check_keys, each.study)
        with run_folder.held(run_folder.opened(each.out), "search"):
            trials = partial(_trials, out=each.out, beside=len(plans) > 1, films=films)
            search = OptunaSearch(each, trials, lambda planned: _record(planned, command))
            failed += launcher.search(search.more, each.out, each.study.name)
        print(search.best(), flush=True)
        done.append(search.planned())
    _report(done, failed, sum(len(trial.jobs) for each in done for trial in each.trials), command)


def _report(plans: Sequence[Planned], failed: Sequence[Failure], jobs: int, command: str) -> None:
    """Print the tables of what has come out.

    Args:
        plans: the studies.
        failed: jobs that failed.
        jobs: how many there were.
        command: the command line, for the record.

    Raises:
        UserError: names the jobs that failed.
    """
    from lightning_pbrl.reports.experiment import report

    for each in plans:
        report(each.out, each.study.report, command)
    if failed:
        _list(failed)
        labels = ", ".join(failure.job.label for failure in failed[:10]) + (" ..." if len(failed) > 10 else "")
        raise UserError(
            f"{len(failed)} of {jobs} jobs failed: {labels}; mend what their log.txt says, then give the same command again: it "
            "runs what is missing and resumes what was cut off."
        )


def _record(each: Planned, command: str) -> None:
    """Write ``sweep.json``, which folder holds which values, for whoever analyses the runs of a grid."""
    if not each.study.axes and len(each.study.bases) == 1:
        return
    each.out.mkdir(parents=True, exist_ok=True)
    rows = [{"folder": str(t.folder), "base": t.point.base, "values": t.point.values, "seed": t.point.seed} for t in each.trials]
    content = {"name": each.study.name, "spec": str(each.study.path), "command": command, "trials": rows}
    with replacing(each.out / "sweep.json") as part:
        part.write_text(json.dumps(content, indent=1))


def _list(failed: Sequence[Failure]) -> None:
    print("\nFailed:", file=sys.stderr)
    for job, reason in failed:
        print(f"\n{job.label}: {reason} ({job.folder / 'log.txt'})\n{job.tail()}", file=sys.stderr)
