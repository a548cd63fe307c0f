"""Summary table of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from rich.table import Table

from lightning_pbrl.data.transitions import Transitions


def describe_dataset(source: Transitions) -> Table:
    """Return a table of episodes, steps, true return and success, per behaviour if the data record it."""
    returns = source.episodes.sums(source.reward)
    outcome = None if source.success is None else source.solved_episodes()
    who = source.about.get("behaviours")
    mixture: Sequence[Any] = source.about.get("mixture", [])
    table = Table(title=f"{len(source.episodes)} episodes, {len(source)} steps")
    for column in ("behaviour", "episodes", "return mean", "return sd", "success"):
        table.add_column(column, justify="left" if column == "behaviour" else "right")
    rows = [("all", torch.ones(len(returns), dtype=torch.bool))]
    if who is not None:
        numbers = torch.tensor(who)
        rows = [(_short(mixture, k), numbers == k) for k in range(int(numbers.max()) + 1)] + rows
    for name, chosen in rows:
        if chosen.any():
            part = returns[chosen]
            told = None if outcome is None else outcome[0][chosen & (outcome[0] | outcome[1])]
            success = "-" if told is None or not len(told) else f"{float(told.double().mean()):.2f}"
            cells = (str(int(chosen.sum())), f"{float(part.mean()):.1f}", f"{float(part.std(correction=0)):.1f}", success)
            table.add_row(name, *cells)
    return table


def _short(mixture: Sequence[Any], number: int) -> str:
    """Return the settings of a behaviour that differ from those of an unperturbed expert."""
    if number >= len(mixture):
        return f"behaviour {number}"
    if mixture[number].get("expert") is False:
        return "random actions"
    settings = {key: value for key, value in mixture[number].items() if key != "weight" and value not in (0, 0.0)}
    settings = {key: value for key, value in settings.items() if (key, value) not in (("expert", True), ("hold", 1))}
    return ", ".join(f"{key} {value}" for key, value in settings.items()) or "expert"
