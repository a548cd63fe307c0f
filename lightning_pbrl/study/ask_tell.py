"""Search with Optuna: ask it for values, report what their runs have measured, end runs without prospects, tell how all ended.

What is finished or pruned say the run folders, so a search that was killed goes on: draws that Optuna has been told of are not
run again, open ones resume. A draw depends on the search's seed, its number and the draws that have ended before it.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lightning_pbrl import run_folder
from lightning_pbrl.data.atomic import replacing
from lightning_pbrl.errors import UserError, nearest
from lightning_pbrl.job import Job
from lightning_pbrl.reports.metrics import read_metrics
from lightning_pbrl.study.file import Study
from lightning_pbrl.study.plan import Planned, Trial
from lightning_pbrl.study.search import Search
from lightning_pbrl.study.values import Distribution

FILE = "optuna.sqlite"
"""Optuna's storage in a study's folder."""


def with_draws(study: Study, draws: Mapping[str, Sequence[Any]]) -> Study:
    """Return a study whose searched keys have the values of these draws; :meth:`Search.axis` says how they are given."""
    assert study.search is not None  # noqa: S101
    fixed = [axis for axis in study.axes if not axis.folders]
    return dataclasses.replace(study, axes=(*fixed, study.search.axis(draws)))


def asked(study: Study, search: Search, out: Path) -> dict[str, list[Any]]:
    """Return all draws of a search so far, as :meth:`Search.axis` takes them.

    Raises:
        UserError: as :func:`open_study`.
    """
    if search.storage is None and not (out / FILE).is_file():
        return {}
    return _draws(search, open_study(study, search, out).trials)


def open_study(study: Study, search: Search, out: Path) -> Any:
    """Return Optuna's study, which is made when there is none.

    Raises:
        UserError: if the extra ``optuna`` is not installed, a class does not exist, or the stored values have another meaning.
    """
    try:
        import optuna
    except ImportError as error:
        raise UserError("A search needs Optuna: pip install 'lightning-pbrl[optuna]'.") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruner = _built("pruner", search.pruner, optuna.pruners, optuna.pruners.BasePruner)
    _built("sampler", search.sampler, optuna.samplers, optuna.samplers.BaseSampler, 0)  # a mistake is told before anything runs
    out.mkdir(parents=True, exist_ok=True)
    try:
        found = optuna.create_study(
            storage=search.storage or f"sqlite:///{out / FILE}",
            study_name=study.name,
            direction=search.direction,
            pruner=pruner,
            load_if_exists=True,
        )
    except Exception as error:
        raise UserError(
            f"Optuna's storage in {out} cannot be used ({error}): mend `storage`, or choose another --out."
        ) from error
    meaning = json.loads(json.dumps(search.meaning))
    stored = found.user_attrs.get("meaning", meaning)
    if changed := [key for key in meaning if stored.get(key) != meaning[key]]:
        was = ", ".join(f"{key} {stored.get(key)}" for key in changed)
        raise UserError(
            f"The search in {out} was begun with another {was}; set it back in {study.path}, or choose another --out."
        )
    found.set_user_attr("meaning", meaning)
    return found


@dataclass
class Draw:
    """Hold a draw that has not ended.

    Attributes:
        trials: its runs, one for each base, seed and value of a list.
        trial: Optuna's.
        reported: evaluations that Optuna has been told of.
    """

    trials: list[Trial]
    trial: Any
    reported: int

    @property
    def jobs(self) -> list[Job]:
        return [job for trial in self.trials for job in trial.jobs]


class OptunaSearch:
    """Give a launcher the jobs of one draw after another.

    Args:
        each: the study and its folder; its trials do not matter.
        trials: plans the trials of a study with draws.
        record: called with all trials so far, whenever there is a new draw.
    """

    def __init__(self, each: Planned, trials: Callable[[Study], list[Trial]], record: Callable[[Planned], None]) -> None:
        assert each.study.search is not None  # noqa: S101
        self.search, self.each, self.trials, self.record = each.study.search, each, trials, record
        self.optuna = open_study(each.study, self.search, each.out)
        stored = self.optuna.trials
        self.draws = _draws(self.search, stored)
        self.waiting = [trial for trial in stored if trial.state.name == "RUNNING" and _folder(trial.number) in self.draws]
        self.left = self.search.n_trials - len(self.waiting) - sum(trial.state.name in ("COMPLETE", "PRUNED") for trial in stored)
        self.open: dict[int, Draw] = {}
        self.seen: dict[Path, tuple[Any, list[float]]] = {}
        self.record(self.planned())

    def planned(self) -> Planned:
        """Return the study with all trials so far."""
        return self._plan(self.draws)

    def _plan(self, draws: Mapping[str, Sequence[Any]]) -> Planned:
        study = with_draws(self.each.study, draws)
        return Planned(study, self.each.out, self.trials(study) if draws else [])

    def more(self, idle: int) -> list[Job]:
        """Look at what runs, and return the jobs of a further draw if ``idle`` is above 0 and there is one."""
        self._look()
        while idle > 0 and (self.waiting or self.left > 0):
            draw = self._stored() if self.waiting else self._ask()
            if jobs := [job for job in draw.jobs if job.state not in ("finished", "pruned")]:
                return jobs
            self._look()  # it had ended, and Optuna was not told
        return []

    def _stored(self) -> Draw:
        """Open a draw that an earlier call has begun."""
        import optuna

        frozen = self.waiting.pop(0)
        trial = optuna.trial.Trial(self.optuna, frozen._trial_id)
        return self._opened(trial, len(frozen.intermediate_values))

    def _ask(self) -> Draw:
        """Ask for a draw, with a sampler whose seed belongs to the draw: one for all would repeat itself after a restart."""
        import optuna

        seed = random.Random(f"{self.search.seed}/{len(self.optuna.trials)}").getrandbits(32)
        self.optuna.sampler = _built("sampler", self.search.sampler, optuna.samplers, optuna.samplers.BaseSampler, seed)
        try:
            trial = self.optuna.ask(_distributions(self.search))
        except (ImportError, ValueError) as error:
            raise UserError(f"optuna's sampler {self.search.sampler} cannot draw: {' '.join(str(error).split())}") from error
        self.left -= 1
        self.draws[_folder(trial.number)] = _values(self.search, trial.params)
        self.record(self.planned())
        return self._opened(trial, 0)

    def _opened(self, trial: Any, reported: int) -> Draw:
        name = _folder(trial.number)
        draw = self.open[trial.number] = Draw(self._plan({name: self.draws[name]}).trials, trial, reported)
        return draw

    def _look(self) -> None:
        """Report the evaluations of all open draws, and close those that have ended or are to end."""
        for number, draw in list(self.open.items()):
            finished, pruned = all(job.finished() for job in draw.jobs), any(job.pruned() for job in draw.jobs)
            values = self._measured(draw)
            for step in range(draw.reported, len(values)):
                draw.trial.report(values[step], step)
                draw.reported = step + 1
                if not finished and not pruned and draw.trial.should_prune():
                    _prune(draw.jobs, {"evaluation": step + 1, "value": values[step]})
                    pruned = True
                    break
            if pruned or finished:
                del self.open[number]
                self._tell(draw, None if pruned else values[-1])

    def _tell(self, draw: Draw, value: float | None) -> None:
        from optuna.trial import TrialState

        try:
            self.optuna.tell(draw.trial.number, value, TrialState.PRUNED if value is None else TrialState.COMPLETE)
        except RuntimeError:  # from Study.stop, when a sampler has drawn all there is: the draw is stored by then
            self.left = 0
        what = "pruned" if value is None else f"{self.search.metric} {value:.6g}"
        print(f"{_folder(draw.trial.number)}: {what} after {draw.reported} evaluations", flush=True)

    def _measured(self, draw: Draw) -> list[float]:
        """Return the value after each evaluation that all runs of a draw have come to, a mean over runs and the window.

        Raises:
            UserError: when a run has finished without the metric.
        """
        jobs = []
        for trial in draw.trials:
            stages = list(self.each.study.bases[trial.point.base].stages)
            jobs.append(trial.jobs[stages.index(self.search.stage) if self.search.stage in stages else -1])
        means = [float(np.mean(values)) for values in zip(*map(self._series, jobs), strict=False)]
        return [float(np.mean(means[max(0, k - self.search.window) : k])) for k in range(1, len(means) + 1)]

    def _series(self, job: Job) -> list[float]:
        """Return the metric's evaluations in a run so far; they are read again when its files have changed."""
        files = [(path, path.stat()) for path in job.folder.glob("csv/version_*/metrics.csv")]
        mark = sorted((str(path), stat.st_size, stat.st_mtime_ns) for path, stat in files), job.finished()
        before, values = self.seen.get(job.folder, (None, []))
        if mark != before:
            metrics, name = read_metrics(job.folder), self.search.metric
            names = [name] if "/" in name else [f"eval/{name}", f"pref/{name}"]
            found = next((metrics[each] for each in names if each in metrics), None)
            values = [] if found is None else [float(value) for value in found.value]
            if found is None and job.finished():
                known = [each for each in metrics if each.split("/")[0] in ("eval", "pref")]
                raise UserError(f"{job.label} has finished without {name}, optuna's metric: {nearest(name, known or ['none'])}")
            self.seen[job.folder] = mark, values
        return values

    def best(self) -> str:
        """Return a sentence about the draw with the best value."""
        states = [trial.state.name for trial in self.optuna.trials]
        counts = f"{states.count('COMPLETE')} draws have a value, {states.count('PRUNED')} were pruned"
        if "COMPLETE" not in states:
            return f"{counts}."
        best = self.optuna.best_trial
        values = zip(self.search.distributions, self.draws[_folder(best.number)], strict=True)
        said = " ".join(f"{key}={json.dumps(value)}" for key, value in values)
        return f"{counts}; the best is {_folder(best.number)}: {self.search.metric} {best.value:.6g} with {said}"


def _prune(jobs: Sequence[Job], why: Mapping[str, Any]) -> None:
    """Mark a draw's unfinished jobs; whoever runs one ends it, and nobody starts another."""
    for job in jobs:
        if not job.finished():
            job.folder.mkdir(parents=True, exist_ok=True)
            with replacing(job.folder / run_folder.PRUNED) as part:
                part.write_text(json.dumps(why))


def _folder(number: int) -> str:
    return f"trial{number}"


def _draws(search: Search, stored: Sequence[Any]) -> dict[str, list[Any]]:
    """Return the stored draws; one in which a search was killed before all keys had a value is none."""
    whole = [trial for trial in stored if set(search.distributions) <= set(trial.params)]
    return {_folder(trial.number): _values(search, trial.params) for trial in whole}


# Optuna's terms -------------------------------------------------------------------------------------------------------


def _distributions(search: Search) -> dict[str, Any]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    return {
        key: CategoricalDistribution(_choices(each))
        if each.kind == "choice"
        else FloatDistribution(*each.values, log=each.kind == "log_uniform")
        for key, each in search.distributions.items()
    }


def _choices(distribution: Distribution) -> list[Any]:
    """Return the choices as Optuna stores them: lists and mappings as texts."""
    return [json.dumps(value) if isinstance(value, list | dict) else value for value in distribution.values]


def _values(search: Search, params: Mapping[str, Any]) -> list[Any]:
    """Return the values that a draw runs with, numbers rounded as those of ``random`` are."""
    return [
        each.values[_choices(each).index(params[key])] if each.kind == "choice" else each.rounded(params[key])
        for key, each in search.distributions.items()
    ]


def _built(key: str, written: Any, module: Any, base: type, seed: int | None = None) -> Any:
    """Build the sampler or pruner that a study names.

    Args:
        key: its key, for sentences.
        written: a class by short or full name, or ``class_path`` and ``init_args``; arguments may be such mappings, too.
        module: where short names are looked up.
        base: class that it must be of.
        seed: given to a class that takes one.

    Raises:
        UserError: for what cannot be built.
    """
    said = {"class_path": written} if isinstance(written, str) else written
    if not isinstance(said, dict) or not isinstance(said.get("class_path"), str) or set(said) - {"class_path", "init_args"}:
        raise UserError(f"optuna's {key} is {written!r}: give a class, or {{class_path: ..., init_args: {{...}}}}.")
    name, arguments = said["class_path"], dict(said.get("init_args") or {})
    if seed is not None and "seed" in arguments:
        raise UserError(f"optuna's {key} has a seed: write it beside {key}, because every draw has a seed of its own.")
    place, _, short = name.rpartition(".")
    try:
        cls = getattr(importlib.import_module(place) if place else module, short, None)
    except ImportError:
        cls = None
    if not (isinstance(cls, type) and issubclass(cls, base)):
        known = [each for each in dir(module) if isinstance(found := getattr(module, each), type) and issubclass(found, base)]
        raise UserError(f"optuna's {key} is {name}, which is no {base.__name__}: {nearest(name, set(known) - {base.__name__})}")
    for argument, value in arguments.items():
        if isinstance(value, dict) and "class_path" in value:
            arguments[argument] = _built(key, value, module, base)
    if seed is not None and "seed" in inspect.signature(cls).parameters:
        arguments["seed"] = seed
    try:
        with warnings.catch_warnings(action="ignore"):  # of a class that Optuna calls experimental
            return cls(**arguments)
    except (TypeError, ValueError, ImportError) as error:
        raise UserError(f"optuna's {key} {name} cannot be built: {error}") from error
