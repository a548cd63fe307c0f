"""Read a study: named stages, for the rows of a table of tasks, for all values of lists, for several seeds.

    name: demo-${row}                           # runs/<name>; the file's stem, and the row's name, when left out
    stages:
      reward:                                   # a stage: config files, then its own keys on top
        config: [data/demo.yaml, model/reward_ensemble.yaml]
        with: {ask: {budget: 100}}
      learned:
        config: [data/demo.yaml, model/iql.yaml]
        with: {relabel: {reward: "${stages.reward.checkpoint}"}, then_test: true}
    model.init_args.hidden: [[64], [256, 256]]  # a list of values for every stage; all combinations are run
    stages.reward.with.ask.budget: [100, 200]   # of one stage
    paired_keys: [[first, second]]              # lists that are walked through together
    model.init_args.lr: {log_uniform: [1e-4, 1e-2]}   # or uniform, choice: drawn, ...
    random: {samples: 10, seed: 0}              # ... ten points in all, each combined with all the rest; or optuna: asks for
                                                # one point after another (lightning_pbrl.study.search)
    include: [{ask.budget: 100}]                # keep trials that match one of these,
    exclude: [{ask.budget: 200}]                # drop those that match one of these
    seeds: 0-4
    tasks: {plate-slide: {}, hammer: {ask.budget: 200}}   # a row sets keys of all stages, or of one; see lightning_pbrl.configs
    imports: [my_package]                       # modules that define what the configs name
    report: {show: [learned]}                   # stages of the final table, in this order; all tested ones if left out

In place of ``stages``, ``base`` names one or several variants to compare, each with a folder of its own: a config, a list of them
that overlay each other, a stage, or a study's file. The JSON files of Inverse Preference Learning are read as they are.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from lightning_pbrl.arguments import TRAINER_VERBS
from lightning_pbrl.configs import packaged_config, read_config, rows_of, split_row, tell_moved
from lightning_pbrl.data.guard import parse_json, reading
from lightning_pbrl.errors import UserError, nearest
from lightning_pbrl.ranges import SEED
from lightning_pbrl.study.search import Search, read_search
from lightning_pbrl.study.values import Axis, Filter, mistake, read_axes, read_filters, refuse_twice

STAGE_KEYS = {"command", "config", "with"}
OWN_KEYS = {
    *("name", "imports", "stages", "base", "tasks", "report"),
    *("seeds", "seed", "paired_keys", "random", "optuna", "include", "exclude"),
}
"""Keys of a study that are no keys of a config."""

MOST_SEEDS = 10_000


class Base(NamedTuple):
    """Describe one of the variants that a study compares.

    Attributes:
        stages: stage name -> mapping with the keys ``command``, ``config`` and ``with``. The one stage of a config has no
            name, so no folder of its own.
        origin: the file beside which configs are looked up first.
        imports: modules that every job imports first.
    """

    stages: dict[str, dict[str, Any]]
    origin: Path
    imports: tuple[str, ...] = ()


class Point(NamedTuple):
    """Choose one trial of a study.

    Attributes:
        base: name of the base.
        place: its place on every axis.
        values: dotted key -> value.
        seed: the run's seed.
    """

    base: str
    place: tuple[int, ...]
    values: dict[str, Any]
    seed: int


@dataclass(frozen=True)
class Study:
    """Hold a study's file, checked; of a file with a table of tasks, one row.

    Attributes:
        name: of the study and its folder.
        path: the file.
        bases: name -> base, in order; one for ``stages``.
        axes: in the order of the file, the drawn ones last.
        seeds: of every configuration.
        include: only points that match one of these, if there are any.
        exclude: no points that match one of these.
        report: what ``report`` says about the final table.
        row: name of the task's row; empty without a table.
        search: what ``optuna`` says; None without it.
    """

    name: str
    path: Path
    bases: dict[str, Base]
    axes: tuple[Axis, ...]
    seeds: tuple[int, ...]
    include: tuple[Filter, ...] = ()
    exclude: tuple[Filter, ...] = ()
    report: dict[str, Any] = field(default_factory=dict)
    row: str = ""
    search: Search | None = None

    @property
    def keys(self) -> list[str]:
        """All keys that get values."""
        return [key for axis in self.axes for key in axis.keys]

    def points(self) -> list[Point]:
        """Return all trials: bases outermost, then the axes in order, seeds innermost.

        Raises:
            UserError: when the filters leave none.
        """
        found = [point for point in self._product() if self._wanted(point)]
        if not found:
            raise UserError(f"The study {self.path} has no trials: its include and exclude filters leave none.")
        return found

    def _product(self) -> Iterator[Point]:
        places = [range(len(axis.values)) for axis in self.axes]
        for base, place, seed in itertools.product(self.bases, itertools.product(*places), self.seeds):
            chosen = zip(self.axes, place, strict=True)
            values = {key: value for axis, at in chosen for key, value in zip(axis.keys, axis.values[at], strict=True)}
            yield Point(base, place, values, seed)

    def _wanted(self, point: Point) -> bool:
        said = {**point.values, "base": point.base, "seed": point.seed}

        def matches(filters: Sequence[Filter]) -> bool:
            return any(all(said[key] in values for key, values in each.items()) for each in filters)

        return (not self.include or matches(self.include)) and not matches(self.exclude)


def read_studies(name: str, tasks: str | None = None, changes: Mapping[str, Any] | None = None) -> list[Study]:
    """Return the studies of a file: one for each row of its table of tasks, or one in all.

    Args:
        name: the file, or its name below ``conf/``.
        tasks: rows to read, separated by commas; None reads all.
        changes: as for :func:`read_study`.

    Raises:
        UserError: for rows that the file does not have.
    """
    path = Path(packaged_config(name))
    file, row = split_row(path)
    if row is not None:
        tell_moved(name, path)
    rows = rows_of(file) if file.suffix != ".json" else {}
    chosen = [text.strip() for text in tasks.split(",")] if tasks else [row] if row else list(rows)
    for each in chosen:
        if each not in rows:
            raise UserError(f"--task {each}: {file} has {f'no such row, {nearest(each, rows)}' if rows else 'no tasks.'}")
    paths = [file.with_suffix("") / f"{each}.yaml" for each in chosen]
    return [read_study(each, changes) for each in paths or [file]]


def read_study(path: str | Path, changes: Mapping[str, Any] | None = None) -> Study:
    """Return a study, YAML or JSON, checked as far as that is possible without the classes that its configs name.

    Args:
        path: the file, or a row of its table of tasks.
        changes: keys of the file with other content, or further ones.

    Raises:
        UserError: when something in the file is wrong; the sentence names file and key.
    """
    path = Path(path)
    file, row = split_row(path)
    content = {**_read(path), **(changes or {})}
    content.setdefault("name", f"{file.stem}-{row}" if row else file.stem)
    bases = _bases(content, file)
    if unknown := sorted(str(key) for key, value in content.items() if key not in OWN_KEYS and not _may_vary(str(key), value)):
        raise mistake(file, f"it has unknown keys {unknown}; it knows {sorted(OWN_KEYS)} and dotted keys with lists of values")
    keys = {str(key): value for key, value in content.items() if key not in OWN_KEYS}
    search = None
    if "optuna" in content:
        drawn = {key: keys.pop(key) for key in [key for key, value in keys.items() if isinstance(value, dict)]}
        search = read_search(content["optuna"], drawn, [stage for base in bases.values() for stage in base.stages], file)
    axes = read_axes(keys, content.get("paired_keys", []), content.get("random"), file)
    seeds = _seeds(content, file)
    known = {key: [point[at] for point in axis.values] for axis in axes for at, key in enumerate(axis.keys)}
    known |= {"base": list(bases), "seed": seeds}
    include, exclude = (read_filters(content.get(which), which, known, file) for which in ("include", "exclude"))
    imports = module_names(content.get("imports"), file)
    bases = {name: base._replace(imports=(*imports, *base.imports)) for name, base in bases.items()}
    report = content.get("report") or {}
    if not isinstance(report, dict):
        raise mistake(file, f"report is {report!r}: give the stages of the table, {{show: [first, second]}}")
    stages = {stage for base in bases.values() for stage in base.stages}
    if unknown := sorted(set(report) - {"show"}) or [name for name in report.get("show") or () if name not in stages]:
        raise mistake(file, f"report names {unknown[0]!r}: give the stages of the table, {{show: [{', '.join(sorted(stages))}]}}")
    return Study(str(content["name"]), file, bases, tuple(axes), tuple(seeds), include, exclude, report, row or "", search)


def _may_vary(key: str, value: Any) -> bool:
    return isinstance(value, list) or "." in key


def _read(path: Path) -> dict[str, Any]:
    if path.suffix == ".json":
        with reading(f"The study {path}", "is not valid JSON", "mend that line"):
            content = parse_json(path.read_text(encoding="utf-8"))
    else:
        content = read_config(path)
    if not isinstance(content, dict) or not {"stages", "base"} & set(content):
        raise mistake(path, "it names no base and no stages: give `stages`, a mapping of named fit or test configs")
    return content


def _seeds(content: Mapping[str, Any], path: Path) -> list[int]:
    key = "seed" if "seed" in content else "seeds"
    seeds = content.get(key, [0])
    if isinstance(seeds, str):
        return parse_seeds(seeds)
    seeds = [seeds] if type(seeds) is int else seeds
    if not isinstance(seeds, list) or not seeds or any(type(seed) is not int or not SEED.holds(seed) for seed in seeds):
        raise mistake(path, f"{key} is {seeds!r}: give a list of whole numbers{SEED}, such as [0, 1, 2]")
    refuse_twice(seeds, key, path)
    return seeds


def parse_seeds(text: str) -> list[int]:
    """Return the seeds of a text: "0-4" is [0, 1, 2, 3, 4]; "0,3" is [0, 3]; "7" is [7].

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


def module_names(written: Any, path: str | Path) -> list[str]:
    """Return what ``imports`` of a study says: one module or a list of them.

    Raises:
        UserError: for anything else.
    """
    names = [written] if isinstance(written, str) else [] if written is None else written
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path}: imports is {written!r}: give a list of modules, imports: [my_package].")
    return names


def config_file(name: str, origin: Path) -> str:
    """Return the path of a config file beside ``origin``, else by its path or its name below ``conf/``."""
    beside = origin.parent / name
    return str(beside) if beside.is_file() else packaged_config(name)


# Bases ----------------------------------------------------------------------------------------------------------------


def _bases(content: Mapping[str, Any], path: Path) -> dict[str, Base]:
    if "stages" in content:
        if "base" in content:
            raise mistake(path, "it has stages and a base: give one of them")
        return {path.stem: Base(_stages(content["stages"], path), path)}
    written = content["base"]
    named = written if isinstance(written, dict) and not set(written) <= STAGE_KEYS else None
    items = list(named.items()) if named else [("", item) for item in (written if isinstance(written, list) else [written])]
    bases: dict[str, Base] = {}
    for name, item in items:
        name = str(name) or "-".join(Path(file).stem for file in ([item] if isinstance(item, str) else _files(item)))
        if name in bases:
            raise mistake(path, f"two bases are called {name!r}: give them names, base: {{first: ..., second: ...}}")
        bases[name] = _base(name, item, path)
    if not bases:
        raise mistake(path, "base is empty: name a config file")
    return bases


def _stages(written: Any, path: Path) -> dict[str, dict[str, Any]]:
    if not isinstance(written, dict) or not written:
        raise UserError(f"The study {path} has no stages: give it a mapping `stages:` of named fit or test configs.")
    for name, stage in written.items():
        where = f"Stage {name!r} of {path}"
        if not isinstance(stage, dict):
            raise UserError(f"{where} is {stage!r:.100}: give it a mapping with the keys {sorted(STAGE_KEYS)}.")
        if unknown := sorted(map(str, set(stage) - STAGE_KEYS)):
            raise UserError(f"{where} has unknown keys {unknown}; a stage knows {sorted(STAGE_KEYS)}.")
        command = stage.get("command", "fit")
        if not isinstance(command, str) or command not in TRAINER_VERBS:
            raise UserError(f"{where} has the command {command!r}: {nearest(str(command), TRAINER_VERBS)}")
    return written


def _files(item: Any) -> list[str]:
    files = item.get("config", []) if isinstance(item, dict) else item
    return [file for file in files if isinstance(file, str)] if isinstance(files, list) else []


def _base(name: str, item: Any, path: Path) -> Base:
    if isinstance(item, str):
        file = config_file(item, path)
        content = read_config(file)
        if isinstance(content, dict) and "stages" in content:
            origin = split_row(Path(file))[0]
            if own := sorted(map(str, set(content) - {"name", "imports", "stages", "report", "seeds"})):
                raise mistake(path, f"base {name!r} is {file}, which has {own} of its own: put these into this file")
            return Base(_stages(content["stages"], origin), origin, tuple(module_names(content.get("imports"), origin)))
        item = [file]
    if isinstance(item, list):
        item = {"config": item}
    if not isinstance(item, dict) or not set(item) <= STAGE_KEYS or not _files(item):
        raise mistake(path, f"base {name!r} is {item!r}: give a config file, a list of them, or {{config: [...], with: ...}}")
    return Base({"": item}, path)
