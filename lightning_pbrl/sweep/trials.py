"""From a sweep file to trials: jobs with config files, overrides and run folders, and a check of the keys."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_pbrl.errors import UserError, nearest
from lightning_pbrl.experiment import plan_jobs
from lightning_pbrl.jobs import Job
from lightning_pbrl.sweep.naming import group_folders
from lightning_pbrl.sweep.spec import Base, Point, SweepSpec

OF_A_VERB = ("ckpt_path", "return_predictions")
"""Keys that validate, test and predict have and a fit has not."""


@dataclass(eq=False)
class Trial:
    """One configuration with one seed.

    Attributes:
        label: configuration and seed, for people.
        point: what was chosen.
        folder: of the configuration; its seeds, or its stages with their seeds, are below.
        jobs: one for a config, one per stage for an experiment, in order.
    """

    label: str
    point: Point
    folder: Path
    jobs: list[Job]

    @property
    def state(self) -> str:
        """One of finished, failed (why), started (cut off, or running now) and missing."""
        if all(job.finished() for job in self.jobs):
            return "finished"
        failures = [failure for job in self.jobs if not job.finished() and (failure := job.failure())]
        if failures:
            return f"failed ({failures[0]})"
        return "started" if any(job.folder.is_dir() for job in self.jobs) else "missing"


def plan(spec: SweepSpec, out: Path) -> list[Trial]:
    """All trials of a sweep, in the order of :meth:`SweepSpec.points`.

    Args:
        spec: from :func:`read_spec`.
        out: folder of the sweep.
    """
    points = spec.points()
    trials = []
    for point, place in zip(points, group_folders(spec, points), strict=True):
        folder, base = out / place, spec.bases[point.base]
        stages, imports = _with_values(base, point.values, spec), [*spec.imports, *base.imports]
        if base.single:  # the configuration's folder is the stage's: <folder>/seed<k>
            (stage,) = stages.values()
            named = {"stages": {folder.name: stage}, "imports": imports}
            jobs = plan_jobs(named, [point.seed], folder.parent, base.origin)
        else:
            jobs = plan_jobs({"stages": stages, "imports": imports}, [point.seed], folder, base.origin)
        for job in jobs:
            path = job.folder.parent.relative_to(out)
            job.stage = str(path) if path.parts else out.name
        trials.append(Trial(f"{place if place.parts else out.name}/seed{point.seed}", point, folder, jobs))
    return trials


def _with_values(base: Base, values: Mapping[str, Any], spec: SweepSpec) -> dict[str, dict[str, Any]]:
    """The base's stages with dotted keys set: in every stage, or in the one that ``stages.NAME.with.`` names."""
    stages = {name: {**stage, "with": copy.deepcopy(stage.get("with", {}))} for name, stage in base.stages.items()}
    for key, value in values.items():
        for name, inner in _places(key, base, spec):
            node = stages[name]["with"]
            *parents, last = inner.split(".")
            for part in parents:
                if not isinstance(node.get(part), dict):
                    node[part] = {}
                node = node[part]
            node[last] = copy.deepcopy(value)
    return stages


def _places(key: str, base: Base, spec: SweepSpec) -> Iterator[tuple[str, str]]:
    """Stage and config key of a key of the sweep.

    Raises:
        UserError: for ``stages.NAME`` without such a stage.
    """
    if base.single or not key.startswith("stages."):
        yield from ((name, key) for name in base.stages)
        return
    name, _, rest = key.removeprefix("stages.").partition(".")
    if name not in base.stages or not rest.startswith("with."):
        known = [f"stages.{stage}.with.{rest.removeprefix('with.')}" for stage in base.stages]
        raise UserError(f"The sweep {spec.path}: {key} is in no stage of {base.origin}: {nearest(key, known)}")
    yield name, rest.removeprefix("with.")


def check_keys(spec: SweepSpec) -> None:
    """Build the config of every base and look each key up in it, defaults of classes included.

    Raises:
        UserError: for a key that a base does not have, with the nearest one it has.
    """
    for name, base in spec.bases.items():
        experiment = {"stages": base.stages, "imports": [*spec.imports, *base.imports]}
        configs = {job.stage: _config(job, name) for job in plan_jobs(experiment, [0], Path("runs"), base.origin)}
        for key in spec.keys:
            for stage, inner in _places(key, base, spec):
                if inner not in configs[stage]:
                    where = f"base {name!r}" if base.single else f"stage {stage!r} of base {name!r}"
                    wanted = nearest(inner, configs[stage])
                    raise UserError(f"The sweep {spec.path}: {where} has no key {inner!r}: {wanted}")


def _config(job: Job, base: str) -> set[str]:
    """All dotted keys of a job's resolved config."""
    import tempfile

    import yaml
    from jsonargparse import ArgumentError

    from lightning_pbrl.train_cli import resolved_config

    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as overlay:
        yaml.safe_dump({key: value for key, value in job.own.items() if key not in OF_A_VERB}, overlay)
        overlay.flush()
        files = [arg for file in [*job.files, overlay.name] for arg in ("-c", file)]
        try:
            config = resolved_config(files)
        except (UserError, ArgumentError) as error:
            raise UserError(f"Base {base!r}, stage {job.stage!r}: {error}") from error
    return {*_dotted(config), *OF_A_VERB}


def _dotted(config: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for key, value in config.items():
        yield f"{above}{key}"
        if isinstance(value, dict):
            yield from _dotted(value, f"{above}{key}.")


def distinct_values(trials: Iterable[Trial]) -> list[Trial]:
    """Trials that between them hold every base and, with each base, every value once: enough to find a wrong one."""
    seen: set[tuple[str, int, int]] = set()
    chosen = []
    for trial in trials:
        held = {(trial.point.base, axis, place) for axis, place in enumerate(trial.point.place)} | {(trial.point.base, -1, 0)}
        if not held <= seen:
            seen |= held
            chosen.append(trial)
    return chosen
