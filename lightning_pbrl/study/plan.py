"""Plan a study: trials, which are jobs with config files, settings and run folders; and check what they say."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from lightning_pbrl.configs import as_argument, set_key, spread, stage_keys
from lightning_pbrl.errors import UserError, mistake_behind, nearest
from lightning_pbrl.job import Job
from lightning_pbrl.run_folder import LAST
from lightning_pbrl.study.file import Base, Point, Study, config_file
from lightning_pbrl.study.naming import group_folders

if TYPE_CHECKING:
    from rich.table import Table

OF_A_VERB = ("ckpt_path", "return_predictions")
"""Keys that validate, test and predict have and a fit has not."""

REFERENCE = re.compile(r"\$\{stages\.([\w-]+)\.(checkpoint|run_dir)\}")


@dataclass(eq=False)
class Trial:
    """Hold the jobs of one configuration with one seed.

    Attributes:
        label: configuration and seed, for people.
        point: what was chosen.
        folder: of the configuration; its seeds, or its stages with their seeds, are below.
        jobs: one for a config, one per stage otherwise, in order.
    """

    label: str
    point: Point
    folder: Path
    jobs: list[Job]

    @property
    def state(self) -> str:
        """One of finished, pruned, failed (why), started (cut off, or running now) and missing."""
        states = [job.state for job in self.jobs]
        if len(set(states)) == 1 or "pruned" in states:
            return "pruned" if "pruned" in states else states[0]
        return next((state for state in states if state.startswith("failed")), "started")


class Planned(NamedTuple):
    """Hold a study with its folder and its trials."""

    study: Study
    out: Path
    trials: list[Trial]


def plan(study: Study, out: Path, within: str = "") -> list[Trial]:
    """Return all trials of a study, in the order of :meth:`Study.points`.

    Args:
        study: from :func:`~lightning_pbrl.study.file.read_study`.
        out: folder of the study.
        within: put in front of all labels, where several studies run together.
    """
    points = study.points()
    trials = []
    for point, place in zip(points, group_folders(study, points), strict=True):
        folder, base = out / place, study.bases[point.base]
        jobs = plan_jobs(_with_values(base, point.values, study), point.seed, folder, base.origin, base.imports)
        for job in jobs:
            path = job.folder.parent.relative_to(out)
            job.stage = f"{within}{path if path.parts else out.name}"
        trials.append(Trial(f"{within}{place if place.parts else out.name}/seed{point.seed}", point, folder, jobs))
    return trials


def plan_jobs(
    stages: Mapping[str, Mapping[str, Any]], seed: int, out: Path, origin: Path, imports: Iterable[str] = ()
) -> list[Job]:
    """Return a job per stage, each after those it needs.

    Args:
        stages: stage name -> mapping with the keys ``command``, ``config`` and ``with``.
        seed: of all jobs.
        out: folder of the stages' folders.
        origin: the study's file; config files are looked up beside it, then in ``conf/``.
        imports: modules that every job imports first.

    Raises:
        UserError: for a reference to a stage that does not come before.
    """
    jobs: dict[str, Job] = {}
    for name, stage in stages.items():
        job = Job(name, seed, out / name / f"seed{seed}", stage.get("command", "fit"), [], {})
        job.files = [config_file(file, origin) for file in stage.get("config", [])]
        job.own = _resolve(stage.get("with", {}), job, jobs)
        if modules := [*imports, *job.own.get("imports", [])]:
            job.own["imports"] = modules
        jobs[name] = job
    return list(jobs.values())


def _resolve(value: Any, job: Job, jobs: Mapping[str, Job]) -> Any:
    """Replace ``${stages.NAME.checkpoint}`` and ``${stages.NAME.run_dir}`` by paths of the same trial."""
    if isinstance(value, dict):
        return {key: _resolve(item, job, jobs) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolve(item, job, jobs) for item in value]
    if not isinstance(value, str):
        return value

    def path(match: re.Match[str]) -> str:
        needed = jobs.get(match[1])
        if needed is None:
            raise UserError(
                f"Stage {job.stage!r} refers to stage {match[1]!r}, which does not come before it: "
                f"{nearest(match[1], jobs or ['(none)'])}"
            )
        if needed not in job.after:
            job.after.append(needed)
        return str(needed.folder / LAST) if match[2] == "checkpoint" else str(needed.folder)

    return REFERENCE.sub(path, value)


def _with_values(base: Base, values: Mapping[str, Any], study: Study) -> dict[str, dict[str, Any]]:
    """Return the base's stages with the values of a trial set."""
    stages = {name: {**stage, "with": spread(stage.get("with") or {})} for name, stage in base.stages.items()}
    for key, value in values.items():
        for name, inner in stage_keys(key, stages, f"The study {study.path} with {base.origin}"):
            set_key(stages[name]["with"], inner, value)
    return stages


def only(study: Study, names: Sequence[str]) -> Study:
    """Return a study of some of its stages and those that they need, in the order of the file.

    Raises:
        UserError: for a stage that it does not have, and for a study that searches, whose draws have all stages.
    """
    if study.search is not None:
        raise UserError(f"--stages: {study.path} searches with all of its stages; leave --stages out.")
    every = [name for base in study.bases.values() for name in base.stages if name]
    for name in names:
        if name not in every:
            raise UserError(
                f"--stages {name}: {study.path} has {f'no such stage, {nearest(name, every)}' if every else 'no stages.'}"
            )
    bases = {name: base._replace(stages=_needed(base.stages, names)) for name, base in study.bases.items()}
    kept = {name: base for name, base in bases.items() if base.stages}
    shown = [name for name in study.report.get("show", ()) if any(name in base.stages for base in kept.values())]
    return replace(study, bases=kept, report={**study.report, "show": shown} if "show" in study.report else study.report)


def _needed(stages: Mapping[str, dict[str, Any]], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the named stages and those that they refer to, directly or through others."""
    found = {name for name in stages if name in names}
    for name in reversed(list(stages)):  # a stage refers to earlier ones
        if name in found:
            found |= {each for each, _ in REFERENCE.findall(json.dumps(stages[name].get("with", {})))}
    return {name: stage for name, stage in stages.items() if name in found}


# Checks ---------------------------------------------------------------------------------------------------------------


def validate(job: Job) -> Table | None:
    """Build everything a job needs without training; a checkpoint that an earlier stage will make may be missing.

    Returns:
        The plan of its questions, if it is a fit that learns from answers.

    Raises:
        UserError: with the stage's name in front of what is wrong.
    """
    from jsonargparse import ArgumentError

    from lightning_pbrl.callbacks.asking_table import asking_plan
    from lightning_pbrl.train_cli import train_cli

    with tempfile.TemporaryDirectory() as folder:
        try:
            cli = train_cli(_arguments(job, {"run_dir": folder}), run=False)
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


def check_keys(study: Study) -> None:
    """Build the config of every base and look each key up in it, defaults of classes included.

    Raises:
        UserError: for a key that a base does not have, with the nearest one it has.
    """
    for name, base in study.bases.items() if study.axes else ():
        jobs = plan_jobs(base.stages, 0, Path("runs"), base.origin, base.imports)
        configs = {job.stage: _keys(job, name) for job in jobs}
        for key in study.keys:
            for stage, inner in stage_keys(key, base.stages, f"The study {study.path} with {base.origin}"):
                if inner not in configs[stage]:
                    where = f"stage {stage!r} of base {name!r}" if stage else f"base {name!r}"
                    wanted = nearest(inner, configs[stage])
                    raise UserError(f"The study {study.path}: {where} has no key {inner!r}: {wanted}")


def _keys(job: Job, base: str) -> set[str]:
    """Return all dotted keys of a job's resolved config."""
    from jsonargparse import ArgumentError

    from lightning_pbrl.train_cli import resolved_config

    try:
        config = resolved_config(_arguments(job, {}))
    except (UserError, ArgumentError) as error:
        raise UserError(f"Base {base!r}, stage {job.stage!r}: {error}") from error
    return {*_dotted(config), *OF_A_VERB}


def _arguments(job: Job, more: Mapping[str, Any]) -> list[str]:
    """Return a job's files and own settings as arguments of a fit, whatever its verb."""
    own = {key: value for key, value in job.own.items() if key not in OF_A_VERB}
    return [arg for text in [*map(as_argument, job.files), yaml.safe_dump({**own, **more})] for arg in ("-c", text)]


def _dotted(config: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for key, value in config.items():
        yield f"{above}{key}"
        if isinstance(value, dict):
            yield from _dotted(value, f"{above}{key}.")


def distinct_values(trials: Iterable[Trial]) -> list[Trial]:
    """Return trials that between them hold every base and, with each base, every value once: enough to find a wrong one."""
    seen: set[tuple[str, int, int]] = set()
    chosen = []
    for trial in trials:
        held = {(trial.point.base, axis, place) for axis, place in enumerate(trial.point.place)} | {(trial.point.base, -1, 0)}
        if not held <= seen:
            seen |= held
            chosen.append(trial)
    return chosen
