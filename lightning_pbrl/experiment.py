"""Experiments: named stages, each a fit or a test, for several seeds, resumable.

    name: demo
    stages:
      reward:                                   # a stage: config files, then its own keys on top
        config: [data/demo.yaml, model/reward_ensemble.yaml]
        with: {ask: {budget: 100}}
      learned:
        config: [data/demo.yaml, model/iql.yaml]
        with: {relabel: {reward: "${stages.reward.checkpoint}"}, then_test: true}
    imports: [my_package]                       # modules that define what the configs name, if there are any of your own
    report: {show: [learned]}                   # stages of the final table, in this order; all tested ones if left out

Every (stage, seed) is one process with one run folder ``runs/<name>/<stage>/seed<k>``. A stage starts when those it
refers to have finished; a finished stage is skipped when the experiment is run again, a killed one resumes.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lightning_pbrl.arguments import TRAINER_VERBS, Arguments, packaged_config
from lightning_pbrl.data.guard import reading
from lightning_pbrl.errors import UserError, mistake_behind, nearest
from lightning_pbrl.jobs import Job, run_jobs, seed_slots
from lightning_pbrl.ranges import SEED
from lightning_pbrl.run_folder import LAST

if TYPE_CHECKING:
    from rich.table import Table

STAGE_KEYS = {"command", "config", "with"}
EXPERIMENT_KEYS = {"name", "imports", "stages", "report"}
MOST_SEEDS = 10_000
REFERENCE = re.compile(r"\$\{stages\.([\w-]+)\.(checkpoint|run_dir)\}")


def read_experiment(path: str | Path) -> dict[str, Any]:
    """An experiment file as a mapping, checked.

    Raises:
        UserError: for a file that is not an experiment, or a stage with unknown keys.
    """
    with reading(f"The experiment {path}", "is not valid YAML", "mend that line"):
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    if not isinstance(content, dict) or not isinstance(content.get("stages"), dict) or not content["stages"]:
        raise UserError(f"The experiment {path} has no stages: give it a mapping `stages:` of named fit or test configs.")
    for name, stage in content["stages"].items():
        if not isinstance(stage, dict):
            raise UserError(f"Stage {name!r} of {path} is {stage!r:.100}: give it a mapping with the keys {sorted(STAGE_KEYS)}.")
        unknown = sorted(map(str, set(stage) - STAGE_KEYS))
        if unknown:
            raise UserError(f"Stage {name!r} of {path} has unknown keys {unknown}; a stage knows {sorted(STAGE_KEYS)}.")
        command = stage.get("command", "fit")
        if not isinstance(command, str) or command not in TRAINER_VERBS:
            raise UserError(f"Stage {name!r} of {path} has the command {command!r}: {nearest(str(command), TRAINER_VERBS)}")
    unknown = sorted(map(str, set(content) - EXPERIMENT_KEYS))
    if unknown:
        raise UserError(f"The experiment {path} has unknown keys {unknown}; it knows {sorted(EXPERIMENT_KEYS)}.")
    content.setdefault("name", Path(path).stem)
    content["imports"] = module_names(content.get("imports"), path)
    return content


def plan_jobs(experiment: dict[str, Any], seeds: list[int], out: Path, origin: Path) -> list[Job]:
    """All jobs in an order in which each comes after those it needs.

    Args:
        experiment: from :func:`read_experiment`.
        seeds: one job per stage and seed.
        out: folder of the run folders.
        origin: the experiment file; config files are looked up beside it, then in ``conf/``.

    Raises:
        UserError: for a reference to a stage that does not come before.
    """
    jobs: dict[tuple[str, int], Job] = {}
    for seed in seeds:
        for name, stage in experiment["stages"].items():
            job = Job(name, seed, out / name / f"seed{seed}", stage.get("command", "fit"), [], {})
            job.files = [config_file(file, origin) for file in stage.get("config", [])]
            job.own = _resolve(stage.get("with", {}), job, jobs)
            if modules := [*experiment.get("imports", []), *job.own.get("imports", [])]:
                job.own["imports"] = modules
            jobs[name, seed] = job
    return list(jobs.values())


def module_names(written: Any, path: str | Path) -> list[str]:
    """What ``imports`` of an experiment or a sweep says: one module or a list of them.

    Raises:
        UserError: for anything else.
    """
    names = [written] if isinstance(written, str) else [] if written is None else written
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path}: imports is {written!r}: give a list of modules, imports: [my_package].")
    return names


def config_file(name: str, origin: Path) -> str:
    """A config file beside ``origin``, else by its path or its name below ``conf/``."""
    beside = origin.parent / name
    return str(beside) if beside.is_file() else packaged_config(name)


def _resolve(value: Any, job: Job, jobs: dict[tuple[str, int], Job]) -> Any:
    """Replace ``${stages.NAME.checkpoint}`` and ``${stages.NAME.run_dir}`` by paths of the same seed."""
    if isinstance(value, dict):
        return {key: _resolve(item, job, jobs) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolve(item, job, jobs) for item in value]
    if not isinstance(value, str):
        return value

    def path(match: re.Match[str]) -> str:
        needed = jobs.get((match[1], job.seed))
        if needed is None:
            raise UserError(
                f"Stage {job.stage!r} refers to stage {match[1]!r}, which does not come before it: "
                f"{nearest(match[1], [name for name, _ in jobs] or ['(none)'])}"
            )
        if needed not in job.after:
            job.after.append(needed)
        return str(needed.folder / LAST) if match[2] == "checkpoint" else str(needed.folder)

    return REFERENCE.sub(path, value)


def validate(job: Job) -> Table | None:
    """Build everything a job needs without training; a checkpoint that an earlier stage will make may be missing.

    Returns:
        The plan of its questions, if it is a fit that learns from answers.

    Raises:
        UserError: with the stage's name in front of what is wrong.
    """
    import tempfile

    from jsonargparse import ArgumentError

    from lightning_pbrl.callbacks.ask_teacher import asking_plan
    from lightning_pbrl.train_cli import train_cli

    with tempfile.TemporaryDirectory() as folder:
        own = {key: value for key, value in job.overlay.items() if key not in ("ckpt_path", "return_predictions")}
        overlay = Path(folder) / "overlay.yaml"
        overlay.write_text(yaml.safe_dump({**own, "run_dir": folder}))
        files = [arg for file in [*job.files, str(overlay)] for arg in ("-c", file)]
        try:
            cli = train_cli(files, run=False)
        except Exception as error:
            mistake = mistake_behind(error)
            if mistake is None and not isinstance(error, ArgumentError):
                raise
            raise UserError(f"Stage {job.stage!r}: {mistake or error}") from error
        promised = {str(needed.folder) for needed in job.after}
        relabel = getattr(cli.config_init, "relabel", None)
        for path in (job.own.get("ckpt_path"), getattr(relabel, "reward", None)):
            missing = isinstance(path, str) and path.endswith(".ckpt") and not Path(path).is_file()
            if missing and not any(str(path).startswith(folder) for folder in promised):
                raise UserError(f"Stage {job.stage!r}: there is no checkpoint at {path}, and no earlier stage makes it.")
        return asking_plan(cli.trainer, cli.model) if job.command == "fit" else None


def parse_seeds(text: str) -> list[int]:
    """"0-4" -> [0, 1, 2, 3, 4]; "0,3" -> [0, 3]; "7" -> [7].

    Raises:
        UserError: for anything else, numbers that are no seeds, and more seeds than anybody runs.
    """
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if match is None or int(match[1]) > int(match[2] or match[1]):
            raise UserError(f"--seeds {text!r} is not understood: write 0-4, or 0,3, or 7.")
        first, last = int(match[1]), int(match[2] or match[1])
        if not SEED.holds(last) or last - first >= MOST_SEEDS:
            raise UserError(f"--seeds {text!r}: give at most {MOST_SEEDS:,} whole numbers{SEED}.")
        seeds += range(first, last + 1)
    return sorted(set(seeds))


def run_command(args: list[str]) -> None:
    """``lightning-pbrl run EXPERIMENT.yaml``."""
    parser = Arguments("lightning-pbrl run", description="Run an experiment: named stages for several seeds.")
    parser.add_argument("experiment", help="experiment file, or its name below conf/")
    parser.add_argument("--seeds", default="0", help="0-4, or 0,3 (default 0)")
    parser.add_argument("--replicas", type=int, default=0, help="this many seeds inside one process where the method allows it")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time, one thread and one core each when above 1")
    parser.add_argument("--out", help="folder of the run folders (default runs/<name>)")
    parser.add_argument("--dry-run", action="store_true", help="build and validate every stage, print it, train nothing")
    options = parser.parse_args(args)
    if options.jobs < 1 or not 0 <= options.replicas <= MOST_SEEDS:
        raise UserError(
            f"--jobs {options.jobs} --replicas {options.replicas}: give at least 1 job, and 0 to {MOST_SEEDS:,} replicas."
        )
    path = Path(packaged_config(options.experiment))
    experiment = read_experiment(path)
    out = Path(options.out or f"runs/{experiment['name']}")
    seeds = parse_seeds(options.seeds)
    if options.replicas:
        seeds = list(range(seeds[0], seeds[0] + options.replicas))
    jobs = plan_jobs(experiment, seeds, out, path)
    if options.replicas:
        jobs = _in_process(jobs, options.replicas)
    if options.dry_run:
        _dry_run(jobs)
        return
    failed = [failure.job for failure in run_jobs(jobs, seed_slots(options.jobs), experiment["name"]).failed]
    from lightning_pbrl.reports.experiment import report

    report(out, experiment.get("report", {}), f"lightning-pbrl run {' '.join(args)}")
    if failed:
        labels = ", ".join(job.label for job in failed)
        raise UserError(
            f"{len(failed)} of {len(jobs)} jobs failed: {labels}; see their log.txt, then give the same command again: it runs "
            "what is missing and resumes what was cut off."
        )


def _in_process(jobs: list[Job], replicas: int) -> list[Job]:
    """Give stages whose method trains replicas in one process a single job; the rest keep a process per seed, and say so."""
    from lightning_pbrl import registry
    from lightning_pbrl.methods.base import Method

    registry.import_all()
    registry.import_named(name for job in jobs for name in job.own.get("imports", []))
    kept: list[Job] = []
    first = jobs[0].seed
    needed = {other.stage for job in jobs for other in job.after}
    for job in jobs:
        layers = [yaml.safe_load(Path(file).read_text()) or {} for file in job.files] + [job.own]
        names = [layer["model"]["class_path"] for layer in layers if "class_path" in (layer.get("model") or {})]
        method = Method.registry.get(names[-1].rsplit(".", 1)[-1]) if names else None
        shares = method is not None and method.population
        if not shares or job.after or job.stage in needed:
            links = f"{'waits for' if job.after else 'is needed by'} another stage's seed"
            why = links if shares else "asks or acts while it trains"
            if job.seed == first:
                print(f"{job.stage}: runs its seeds as processes, because it {why}.", file=sys.stderr)
            kept.append(job)
        elif job.seed == first:
            model = dict(job.own.get("model", {}))
            model["init_args"] = {**model.get("init_args", {}), "replicas": replicas}
            job.own = {**job.own, "model": model}
            kept.append(job)
    return kept


def _dry_run(jobs: list[Job]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.syntax import Syntax

    console = Console()
    for job in jobs:
        plan = validate(job)
        waits = f" (after {', '.join(needed.label for needed in job.after)})" if job.after else ""
        console.print(f"[bold]{escape(job.label)}[/bold]: {job.command} -> {escape(str(job.folder) + waits)}")
        files = "".join(f"# {file}\n" for file in job.files)
        console.print(Syntax(files + yaml.safe_dump(job.overlay, sort_keys=False), "yaml"))
        if plan is not None:
            console.print(plan)
    console.print(f"{len(jobs)} jobs are valid; nothing was trained.")
