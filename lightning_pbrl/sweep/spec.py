"""What a sweep file says: base configs, and the values that its trials give to their keys.

The JSON files of Inverse Preference Learning are read as they are: ``base`` is a config or a list of them, every other key
is a dotted key of the config with a list of values, all combinations are run, ``paired_keys`` are groups of keys whose
lists are walked through together, and ``seed`` varies fastest. The same in YAML, and more:

    name: demo                                                # the file's stem when left out
    base:                                                     # several bases with names; a name's value is a config, a
      iql: {config: [data/demo.yaml, model/iql.yaml]}         # list of configs that overlay each other, the mapping of an
      full: experiment/demo.yaml                              # experiment's stage, or an experiment file
    data.init_args.task: [plate-slide, drawer-open]           # of every stage of an experiment
    stages.reward.with.ask.budget: [100, 200]                 # of one stage
    paired_keys: [[data.init_args.task, data.init_args.path]]
    model.init_args.lr: {log_uniform: [1e-4, 1e-2]}           # or uniform, choice: drawn, ...
    random: {samples: 10, seed: 0}                            # ... ten points in all, each combined with all the rest
    include: [{base: iql}]                                    # keep trials that match one of these,
    exclude: [{base: iql, data.init_args.task: [plate-slide]}]  # drop those that match one of these
    seed: [0, 1, 2]
"""

from __future__ import annotations

import itertools
import json
import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lightning_pbrl.data.guard import parse_json, reading, reason
from lightning_pbrl.errors import UserError, nearest
from lightning_pbrl.experiment import STAGE_KEYS, config_file, module_names, read_experiment
from lightning_pbrl.ranges import SEED

OWN_KEYS = ("name", "imports", "base", "seed", "paired_keys", "random", "include", "exclude")
"""Keys of a sweep file that are no keys of a config."""

GIVEN = ("run_dir", "seed_everything", "resume", "model.init_args.seed")
"""Keys of a config that a sweep sets itself."""

DIGITS = 4
"""Significant digits of drawn numbers, so that a folder's name says exactly what ran."""


class Axis(NamedTuple):
    """Keys that vary together: one key of its own, a group of paired ones, or all that are drawn.

    Attributes:
        keys: dotted keys.
        values: one tuple per point of the axis, in the order of ``keys``.
    """

    keys: tuple[str, ...]
    values: tuple[tuple[Any, ...], ...]


class Base(NamedTuple):
    """What trials start from.

    Attributes:
        stages: stage name -> mapping, as in an experiment.
        single: whether it is a config and no experiment; its one stage has no folder of its own.
        origin: the file beside which configs are looked up first.
        imports: modules that an experiment names.
    """

    stages: dict[str, dict[str, Any]]
    single: bool
    origin: Path
    imports: tuple[str, ...] = ()


class Point(NamedTuple):
    """One trial before it is planned.

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


Filter = dict[str, list[Any]]
"""Key -> values that match; a point matches when it does so for every key."""


@dataclass(frozen=True)
class SweepSpec:
    """A sweep file, checked.

    Attributes:
        name: of the sweep and its folder.
        path: the file.
        bases: name -> base, in order.
        axes: in the order of the file, the drawn ones last.
        seeds: of every configuration.
        include: only points that match one of these, if there are any.
        exclude: no points that match one of these.
        imports: modules that every trial imports first.
    """

    name: str
    path: Path
    bases: dict[str, Base]
    axes: tuple[Axis, ...]
    seeds: tuple[int, ...]
    include: tuple[Filter, ...] = ()
    exclude: tuple[Filter, ...] = ()
    imports: tuple[str, ...] = ()

    @property
    def keys(self) -> list[str]:
        """All keys that get values."""
        return [key for axis in self.axes for key in axis.keys]

    def points(self) -> list[Point]:
        """All trials: bases outermost, then the axes in order, seeds innermost.

        Raises:
            UserError: when the filters leave none.
        """
        found = [point for point in self._product() if self._wanted(point)]
        if not found:
            raise UserError(f"The sweep {self.path} has no trials: its include and exclude filters leave none.")
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


def read_spec(path: str | Path, changes: Mapping[str, Any] | None = None) -> SweepSpec:
    """A sweep file, JSON or YAML, checked as far as that is possible without its configs' classes.

    Args:
        path: the file.
        changes: keys of the file with other content, or further ones.

    Raises:
        UserError: when something in the file is wrong; the sentence names file and key.
    """
    path = Path(path)
    content = {**_read(path), **(changes or {})}
    content.setdefault("name", path.stem)
    axes = _axes(content, path)
    bases = _bases(content.get("base"), path)
    seeds = content.get("seed", [0])
    if not isinstance(seeds, list) or not seeds or any(type(seed) is not int or not SEED.holds(seed) for seed in seeds):
        raise _mistake(path, f"seed is {seeds!r}: give a list of whole numbers{SEED}, such as [0, 1, 2]")
    _refuse_twice(seeds, "seed", path)
    known = {key: [point[at] for point in axis.values] for axis in axes for at, key in enumerate(axis.keys)}
    known |= {"base": list(bases), "seed": seeds}
    include, exclude = (_filters(content.get(which), which, known, path) for which in ("include", "exclude"))
    imports = tuple(module_names(content.get("imports"), path))
    return SweepSpec(str(content["name"]), path, bases, tuple(axes), tuple(seeds), include, exclude, imports)


def _mistake(path: Path, what: str) -> UserError:
    return UserError(f"The sweep {path}: {what}.")


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        content = parse_json(text) if path.suffix == ".json" else read_yaml(text)
    except OSError as error:
        raise _mistake(path, f"the file cannot be read ({error.strerror})") from error
    except Exception as error:
        kind = path.suffix.removeprefix(".").upper()
        raise _mistake(path, f"this is not valid {kind} ({reason(error)}); mend that line") from error
    if not isinstance(content, dict) or "base" not in content:
        raise _mistake(path, "it names no base: give `base`, a config file or several, beside the keys to vary")
    return content


def read_yaml(text: str) -> Any:
    """YAML in which 1e-4 is a number, as it is in JSON."""
    return _numbers(yaml.safe_load(text), {})


def _numbers(value: Any, done: dict[int, Any]) -> Any:
    """YAML 1.1 wants a dot in front of an exponent and reads 1e-4 as text.

    Args:
        value: what YAML makes of the text.
        done: results by the identity of what they come from: what is named by several aliases is made once.
    """
    if isinstance(value, dict | list):
        if id(value) not in done:
            done[id(value)] = (
                {key: _numbers(item, done) for key, item in value.items()}
                if isinstance(value, dict)
                else [_numbers(item, done) for item in value]
            )
        return done[id(value)]
    return float(value) if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value) else value


# Bases ----------------------------------------------------------------------------------------------------------------


def _bases(written: Any, path: Path) -> dict[str, Base]:
    named = written if isinstance(written, dict) and not set(written) <= STAGE_KEYS else None
    items = list(named.items()) if named else [("", item) for item in (written if isinstance(written, list) else [written])]
    bases: dict[str, Base] = {}
    for name, item in items:
        name = str(name) or "-".join(Path(file).stem for file in ([item] if isinstance(item, str) else _files(item)))
        if name in bases:
            raise _mistake(path, f"two bases are called {name!r}: give them names, base: {{first: ..., second: ...}}")
        bases[name] = _base(name, item, path)
    if not bases:
        raise _mistake(path, "base is empty: name a config file")
    return bases


def _files(item: Any) -> list[str]:
    files = item.get("config", []) if isinstance(item, dict) else item
    return [file for file in files if isinstance(file, str)] if isinstance(files, list) else []


def _base(name: str, item: Any, path: Path) -> Base:
    if isinstance(item, str):
        file = config_file(item, path)
        with reading(file, "is not valid YAML", "mend that line"):
            content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        if isinstance(content, dict) and "stages" in content:
            read = read_experiment(file)
            return Base(read["stages"], False, Path(file), tuple(read["imports"]))
        item = [file]
    if isinstance(item, list):
        item = {"config": item}
    if not isinstance(item, dict) or not set(item) <= STAGE_KEYS or not _files(item):
        raise _mistake(path, f"base {name!r} is {item!r}: give a config file, a list of them, or {{config: [...], with: ...}}")
    return Base({"trial": item}, True, path)


# Axes -----------------------------------------------------------------------------------------------------------------


def _axes(content: Mapping[str, Any], path: Path) -> list[Axis]:
    lists: dict[str, list[Any]] = {}
    drawn: dict[str, dict[str, Any]] = {}
    for key, written in content.items():
        if key in OWN_KEYS:
            continue
        if str(key).split(".with.")[-1] in GIVEN:
            raise _mistake(path, f"{key} is set by the sweep itself; for seeds write `seed: [0, 1]`")
        if isinstance(written, dict):
            drawn[str(key)] = written
        elif isinstance(written, list) and written:
            lists[str(key)] = written
        else:
            raise _mistake(path, f"{key} is {written!r}: give a list of values, such as [{written or 1!r}]")
    groups = _paired(content.get("paired_keys", []), lists, path)
    axes: list[Axis] = []
    for key in lists:
        group = next((group for group in groups if key in group), (key,))
        if key == next(other for other in lists if other in group):  # a group stands where its first key does
            values = lists[key] if len(group) == 1 else list(zip(*(lists[each] for each in group), strict=True))
            _refuse_twice(values, " with ".join(group), path)
            axes.append(Axis(group, tuple(zip(*(lists[each] for each in group), strict=True))))
    return axes + _drawn(drawn, content.get("random"), path)


def _refuse_twice(values: Sequence[Any], key: Any, path: Path) -> None:
    for at, value in enumerate(values):
        if value in values[:at]:
            raise _mistake(path, f"{key} has the value {value!r} twice; remove one")


def _paired(written: Any, lists: Mapping[str, list[Any]], path: Path) -> list[tuple[str, ...]]:
    if not isinstance(written, list) or any(not isinstance(group, list) or len(group) < 2 for group in written):
        raise _mistake(path, f"paired_keys is {written!r}: give a list of groups of keys, [[first, second]]")
    groups = [tuple(str(key) for key in group) for group in written]
    for group in groups:
        for key in group:
            if key not in lists:
                raise _mistake(path, f"paired_keys names {key!r}, which has no list of values: {nearest(key, lists)}")
            if sum(key in other for other in groups) > 1:
                raise _mistake(path, f"paired_keys has {key!r} in two groups; join them")
        if len({len(lists[key]) for key in group}) > 1:
            counts = ", ".join(f"{key} has {len(lists[key])} values" for key in group)
            raise _mistake(path, f"paired keys need lists of one length, but {counts}")
    return groups


def _drawn(written: Mapping[str, dict[str, Any]], settings: Any, path: Path) -> list[Axis]:
    """The axis of all drawn keys, ``samples`` points long (fewer where draws of a ``choice`` repeat); none without any."""
    if not written and settings is None:
        return []
    usual = isinstance(settings, dict) and {"samples"} <= set(settings) <= {"samples", "seed"}
    if not usual or any(type(number) is not int or number < 0 for number in settings.values()) or not settings["samples"]:
        raise _mistake(path, "keys with a distribution need `random: {samples: 10, seed: 0}`, whole numbers")
    if not written:
        raise _mistake(path, "random draws no key: give one a distribution, such as {log_uniform: [1e-4, 1e-2]}")
    columns = []
    for key, distribution in written.items():
        rng = random.Random(f"{settings.get('seed', 0)}/{key}")  # one stream per key: a further key changes no other
        columns.append([_draw(distribution, rng, key, path) for _ in range(settings["samples"])])
    points = {json.dumps(point): point for point in zip(*columns, strict=True)}
    return [Axis(tuple(written), tuple(points.values()))]


def _draw(distribution: Mapping[str, Any], rng: random.Random, key: str, path: Path) -> Any:
    """One value of ``uniform: [low, high]``, ``log_uniform: [low, high]`` (uniform in the logarithm) or ``choice: [...]``."""
    kind, written = next(iter(distribution.items())) if len(distribution) == 1 else ("", None)
    values: list[Any] = written if isinstance(written, list) else []
    if kind == "choice" and values:
        return rng.choice(values)
    bounds = len(values) == 2 and all(type(value) in (int, float) for value in values)
    if kind not in ("uniform", "log_uniform") or not bounds or not values[0] < values[1]:
        shapes = "{uniform: [low, high]}, {log_uniform: [low, high]} or {choice: [...]}"
        raise _mistake(path, f"{key} is {dict(distribution)!r}: give a list of values, or {shapes} with low below high")
    low, high = map(float, values)
    if kind == "log_uniform" and low <= 0:
        raise _mistake(path, f"{key} draws from log_uniform {values}: its lower bound must be above 0")
    value = rng.uniform(low, high) if kind == "uniform" else math.exp(rng.uniform(math.log(low), math.log(high)))
    return min(max(float(f"{value:.{DIGITS}g}"), low), high)


# Filters --------------------------------------------------------------------------------------------------------------


def _filters(written: Any, which: str, known: Mapping[str, list[Any]], path: Path) -> tuple[Filter, ...]:
    filters: list[Filter] = []
    for each in [] if written is None else written if isinstance(written, list) else [written]:
        if not isinstance(each, dict) or not each:
            raise _mistake(path, f"{which} has {each!r}: give mappings of key: value, or key: [values]")
        filters.append({})
        for key, value in each.items():
            if key not in known:
                raise _mistake(path, f"{which} names {key!r}, which the sweep does not vary: {nearest(str(key), known)}")
            wanted = [value] if value in known[key] or not isinstance(value, list) else value
            for item in wanted:
                if item not in known[key]:
                    raise _mistake(path, f"{which} names {item!r}, which is no value of {key}: it has {known[key]}")
            filters[-1][key] = wanted
    return tuple(filters)
