"""Read which values the keys of a study take: lists, pairs, draws, and filters over all of them."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lightning_pbrl.errors import UserError, nearest

GIVEN = ("run_dir", "seed_everything", "resume", "model.init_args.seed")
"""Keys of a config that a study sets itself."""

DIGITS = 4
"""Significant digits of drawn numbers, so that a folder's name says exactly what ran."""

Filter = dict[str, list[Any]]
"""Key -> values that match; a point matches when it does so for every key."""


class Axis(NamedTuple):
    """Keys that vary together: one key of its own, a group of paired ones, or all that are drawn.

    Attributes:
        keys: dotted keys.
        values: one tuple per point of the axis, in the order of ``keys``.
        folders: name of each point's folder; empty: named by what the values are.
    """

    keys: tuple[str, ...]
    values: tuple[tuple[Any, ...], ...]
    folders: tuple[str, ...] = ()


class Distribution(NamedTuple):
    """Values that a key is drawn from.

    Attributes:
        kind: ``uniform``, ``log_uniform`` (uniform in the logarithm) or ``choice``.
        values: lower and upper bound, or the choices.
    """

    kind: str
    values: tuple[Any, ...]

    def draw(self, rng: random.Random) -> Any:
        """Return one value."""
        if self.kind == "choice":
            return rng.choice(self.values)
        low, high = self.values
        return self.rounded(
            rng.uniform(low, high) if self.kind == "uniform" else math.exp(rng.uniform(math.log(low), math.log(high)))
        )

    def rounded(self, value: float) -> float:
        """Return a drawn number with :data:`DIGITS` digits, within the bounds."""
        return min(max(float(f"{value:.{DIGITS}g}"), self.values[0]), self.values[1])


def mistake(path: Path, what: str) -> UserError:
    """Return the sentence about a study's file."""
    return UserError(f"The study {path}: {what}.")


# Axes -----------------------------------------------------------------------------------------------------------------


def read_axes(keys: Mapping[str, Any], paired: Any, settings: Any, path: Path) -> list[Axis]:
    """Return the axes of a grid, in the order of the file, the drawn ones last.

    Args:
        keys: dotted key -> list of values, or a distribution.
        paired: groups of keys whose lists are walked through together.
        settings: how many points are drawn, ``{samples: 10, seed: 0}``; None where nothing is.
        path: the study's file.

    Raises:
        UserError: for what is none of these.
    """
    lists: dict[str, list[Any]] = {}
    drawn: dict[str, dict[str, Any]] = {}
    for key, written in keys.items():
        refuse_given(str(key), path)
        if isinstance(written, dict):
            drawn[str(key)] = written
        elif isinstance(written, list) and written:
            lists[str(key)] = written
        else:
            raise mistake(path, f"{key} is {written!r}: give a list of values, such as [{written or 1!r}]")
    groups = _paired(paired, lists, path)
    axes: list[Axis] = []
    for key in lists:
        group = next((group for group in groups if key in group), (key,))
        if key == next(other for other in lists if other in group):  # a group stands where its first key does
            values = lists[key] if len(group) == 1 else list(zip(*(lists[each] for each in group), strict=True))
            refuse_twice(values, " with ".join(group), path)
            axes.append(Axis(group, tuple(zip(*(lists[each] for each in group), strict=True))))
    return axes + _drawn(drawn, settings, path)


def refuse_given(key: str, path: Path) -> None:
    """Refuse a key that a study sets itself."""
    if key.split(".with.")[-1] in GIVEN:
        raise mistake(path, f"{key} is set by the study itself; for seeds write `seed: [0, 1]`")


def refuse_twice(values: Sequence[Any], key: Any, path: Path) -> None:
    """Refuse a list that names a value twice."""
    for at, value in enumerate(values):
        if value in values[:at]:
            raise mistake(path, f"{key} has the value {value!r} twice; remove one")


def _paired(written: Any, lists: Mapping[str, list[Any]], path: Path) -> list[tuple[str, ...]]:
    if not isinstance(written, list) or any(not isinstance(group, list) or len(group) < 2 for group in written):
        raise mistake(path, f"paired_keys is {written!r}: give a list of groups of keys, [[first, second]]")
    groups = [tuple(str(key) for key in group) for group in written]
    for group in groups:
        for key in group:
            if key not in lists:
                raise mistake(path, f"paired_keys names {key!r}, which has no list of values: {nearest(key, lists)}")
            if sum(key in other for other in groups) > 1:
                raise mistake(path, f"paired_keys has {key!r} in two groups; join them")
        if len({len(lists[key]) for key in group}) > 1:
            counts = ", ".join(f"{key} has {len(lists[key])} values" for key in group)
            raise mistake(path, f"paired keys need lists of one length, but {counts}")
    return groups


def _drawn(written: Mapping[str, dict[str, Any]], settings: Any, path: Path) -> list[Axis]:
    """Return the axis of all drawn keys, ``samples`` points long (fewer where draws of a ``choice`` repeat); none without any."""
    if not written and settings is None:
        return []
    usual = isinstance(settings, dict) and {"samples"} <= set(settings) <= {"samples", "seed"}
    if not usual or any(type(number) is not int or number < 0 for number in settings.values()) or not settings["samples"]:
        raise mistake(path, "keys with a distribution need `random: {samples: 10, seed: 0}`, whole numbers")
    if not written:
        raise mistake(path, "random draws no key: give one a distribution, such as {log_uniform: [1e-4, 1e-2]}")
    columns = []
    for key, distribution in written.items():
        rng = random.Random(f"{settings.get('seed', 0)}/{key}")  # one stream per key: a further key changes no other
        found = read_distribution(distribution, key, path)
        columns.append([found.draw(rng) for _ in range(settings["samples"])])
    points = {json.dumps(point): point for point in zip(*columns, strict=True)}
    return [Axis(tuple(written), tuple(points.values()))]


def read_distribution(written: Any, key: str, path: Path) -> Distribution:
    """Return what ``uniform: [low, high]``, ``log_uniform: [low, high]`` or ``choice: [...]`` says.

    Raises:
        UserError: for anything else.
    """
    kind, found = next(iter(written.items())) if isinstance(written, dict) and len(written) == 1 else ("", None)
    values: list[Any] = found if isinstance(found, list) else []
    if kind == "choice" and values:
        return Distribution("choice", tuple(values))
    bounds = len(values) == 2 and all(type(value) in (int, float) for value in values)
    if kind not in ("uniform", "log_uniform") or not bounds or not values[0] < values[1]:
        shapes = "{uniform: [low, high]}, {log_uniform: [low, high]} or {choice: [...]}"
        raise mistake(path, f"{key} is {written!r}: give a list of values, or {shapes} with low below high")
    low, high = map(float, values)
    if kind == "log_uniform" and low <= 0:
        raise mistake(path, f"{key} draws from log_uniform {values}: its lower bound must be above 0")
    return Distribution(kind, (low, high))


# Filters --------------------------------------------------------------------------------------------------------------


def read_filters(written: Any, which: str, known: Mapping[str, list[Any]], path: Path) -> tuple[Filter, ...]:
    """Return the filters that ``include`` or ``exclude`` has.

    Raises:
        UserError: for keys that do not vary, and values that they do not have.
    """
    filters: list[Filter] = []
    for each in [] if written is None else written if isinstance(written, list) else [written]:
        if not isinstance(each, dict) or not each:
            raise mistake(path, f"{which} has {each!r}: give mappings of key: value, or key: [values]")
        filters.append({})
        for key, value in each.items():
            if key not in known:
                raise mistake(path, f"{which} names {key!r}, which the study does not vary: {nearest(str(key), known)}")
            wanted = [value] if value in known[key] or not isinstance(value, list) else value
            for item in wanted:
                if item not in known[key]:
                    raise mistake(path, f"{which} names {item!r}, which is no value of {key}: it has {known[key]}")
            filters[-1][key] = wanted
    return tuple(filters)
