"""Summary of a data set for somebody who opens it for the first time: counts, ranges, and what is not normalised."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from torch import Tensor

from lightning_pbrl.data.interventions import interventions
from lightning_pbrl.data.transitions import Transitions

ENTRIES = 40
"""Largest number of entries of a column that are shown one by one."""
WINDOW = 65_536
"""Rows that are looked at at a time."""
LARGE, SMALL = 10.0, 0.01
"""Standard deviations, or means, beyond which an entry is called large; and below which it is called small."""


class Ranges(NamedTuple):
    """Ranges of the entries of a column, (d,) each."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]


def ranges(values: Tensor) -> Ranges:
    """Return the ranges of a column, (N, d), window by window."""
    low, high = np.full(values.shape[1], np.inf), np.full(values.shape[1], -np.inf)
    total, mean = 0, np.zeros(values.shape[1])
    squares = np.zeros(values.shape[1])
    for part in values.split(WINDOW):
        part = part.double().cpu().numpy()
        low, high = np.minimum(low, part.min(0)), np.maximum(high, part.max(0))
        count, centre = len(part), part.mean(0)
        gap = centre - mean
        squares += ((part - centre) ** 2).sum(0) + gap**2 * total * count / (total + count)
        mean, total = mean + gap * count / (total + count), total + count
    return Ranges(low, high, mean, np.sqrt(squares / total))


def counts(source: Transitions) -> Table:
    """Return a table of rows, episodes, their lengths and ends, rewards and success."""
    lengths, episodes = source.episodes.lengths, source.episodes
    last = episodes.offsets[1:] - 1
    ended = int((source.column("terminated")[last] == 1).sum())
    cut = int((source.column("truncated")[last] == 1).sum())
    table = Table(show_header=False, box=None, padding=(0, 2))
    rows = [
        ("rows", f"{len(source):,}"),
        ("episodes", f"{len(episodes):,}"),
        ("their lengths", f"{int(lengths.min())} min, {int(lengths.median())} median, {int(lengths.max())} max"),
        ("ends", f"{ended:,} episodes terminated, {cut:,} truncated"),
        ("terminated rows", f"{int((source.column('terminated') == 1).sum()):,}"),
        ("drawable rows", f"{source.drawable_count:,} (the others have no known successor)"),
        ("observation, action", f"{source.obs_dim} and {source.action_dim} entries, float32"),
    ]
    if source.has_pictures:
        shape = tuple(source.frames.shape) if source.frames is not None else ()
        rows.append(("pictures", f"{shape}, uint8; policies see them"))
    rows += [("reward", _reward(source)), ("success", _success(source))]
    if "interventions" in source.about:
        found = interventions(source)
        rows.append(("interventions", f"{len(found.first):,}, of {int((found.end - found.first).sum()):,} steps"))
    for row in rows:
        table.add_row(*row)
    return table


def columns(source: Transitions) -> Table:
    """Return a table of the ranges of observations, actions and rewards."""
    table = Table(box=None, padding=(0, 2))
    for header in ("column", "min", "max", "mean", "sd"):
        table.add_column(header, justify="left" if header == "column" else "right")
    for name, found in _columns(source):
        for entry in range(min(len(found.low), ENTRIES)):
            numbers = (found.low[entry], found.high[entry], found.mean[entry], found.deviation[entry])
            table.add_row(f"{name} {entry}" if len(found.low) > 1 else name, *(f"{number:.4g}" for number in numbers))
        if len(found.low) > ENTRIES:
            table.add_row(f"{name}: {len(found.low) - ENTRIES} more entries")
    return table


def not_normalised(source: Transitions) -> list[str]:
    """Return what a learner would meet on another scale than it expects, one sentence each."""
    found = dict(_columns(source))
    said = []
    if clipped := source.about.get("actions_clipped"):
        said.append(
            f"Actions leave [-1, 1] in {clipped:,} rows: set action_bounds to [low, high] of their units, or clip_actions: true "
            "where the environment itself clips them. They are shown clipped."
        )
    action = found["action"]
    used = np.maximum(np.abs(action.low), np.abs(action.high))
    if narrow := [int(entry) for entry in (used < 0.5).nonzero()[0]]:
        said.append(
            f"Actions use less than half of [-1, 1] in entries {_list(narrow)}: set action_bounds if their units are others."
        )
    obs = found["obs"]
    if large := [int(entry) for entry in ((obs.deviation > LARGE) | (np.abs(obs.mean) > LARGE)).nonzero()[0]]:
        said.append(f"Observations are large (mean or sd above {LARGE:g}) in entries {_list(large)}.")
    if small := [int(entry) for entry in ((obs.deviation < SMALL) & (obs.deviation > 0)).nonzero()[0]]:
        said.append(f"Observations hardly vary (sd below {SMALL:g}) in entries {_list(small)}.")
    if still := [int(entry) for entry in (obs.deviation == 0).nonzero()[0]]:
        said.append(f"Observations are constant in entries {_list(still)}.")
    if "reward" in found:
        reward = found["reward"]
        if max(abs(reward.low[0]), abs(reward.high[0])) > LARGE:
            said.append(f"Rewards go from {reward.low[0]:.4g} to {reward.high[0]:.4g}; RelabelRewards scales what policies read.")
    return said


def _columns(source: Transitions) -> Iterator[tuple[str, Ranges]]:
    yield "obs", ranges(source.column("obs"))
    yield "action", ranges(source.column("action"))
    known = ~source.reward.isnan()
    if bool(known.any()):
        yield "reward", ranges(source.reward[known][:, None])


def _reward(source: Transitions) -> str:
    unknown = int(source.reward.isnan().sum())
    if unknown == len(source):
        return "unknown"
    returns = source.episodes.sums(source.reward.nan_to_num()).double()
    gaps = f"; unknown in {unknown:,} rows" if unknown else ""
    return f"returns {float(returns.min()):.4g} min, {float(returns.median()):.4g} median, {float(returns.max()):.4g} max{gaps}"


def _success(source: Transitions) -> str:
    if source.success is None:
        return "unknown"
    solved, failed = source.solved_episodes()
    return f"{int(solved.sum()):,} episodes solved, {int(failed.sum()):,} not, {int((~solved & ~failed).sum()):,} unknown"


def _list(entries: list[int], most: int = 12) -> str:
    return ", ".join(map(str, entries[:most])) + (f" and {len(entries) - most} more" if len(entries) > most else "")
