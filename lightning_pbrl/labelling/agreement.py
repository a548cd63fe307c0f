"""Agreement of persons who answered the same questions, by kappa and alpha.

Skipped questions are missing values. Preferences are nominal categories (first, equal, second), ratings ordinal.

Sources: Cohen, Educ. Psychol. Meas. 20 (1960) 37; Fleiss, Psychol. Bull. 76 (1971) 378, both as in torchmetrics; Krippendorff,
"Content Analysis" (2004) ch. 11, as in the package krippendorff.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import Literal, NamedTuple

import torch

from lightning_pbrl.data import kinds
from lightning_pbrl.data.feedback import Kind
from lightning_pbrl.labelling.formats.records import Given, Key


class Agreement(NamedTuple):
    """Agreement about the questions of one kind; 1 is perfect, 0 that of chance, NaN where it is not defined.

    Attributes:
        shared: number of questions with answers of two or more persons.
        equal: share of equal answers among all pairs of answers to one question.
        cohen: Cohen's kappa and number of common questions, by the names of two persons.
        fleiss: Fleiss' kappa, about the questions that all persons have answered; NaN for fewer than two persons.
        alpha: Krippendorff's alpha.
    """

    shared: int
    equal: float
    cohen: dict[tuple[str, str], tuple[float, int]]
    fleiss: float
    alpha: float


def agreement(answers: Iterable[Given], kind: Kind) -> Agreement:
    """Compute the agreement of all persons about the questions of one kind."""
    by_person: dict[str, dict[Key, float]] = {}
    for each in answers:
        if each.kind == kind and each.value is not None:
            by_person.setdefault(each.person, {})[each.key] = each.value
    levels = sorted({value for values in by_person.values() for value in values.values()})
    code = {value: place for place, value in enumerate(levels)}
    table = {person: {key: code[value] for key, value in values.items()} for person, values in sorted(by_person.items())}
    units: dict[Key, list[int]] = {}
    for values in table.values():
        for key, level in values.items():
            units.setdefault(key, []).append(level)
    couples = [one == two for found in units.values() for one, two in itertools.combinations(found, 2)]
    cohen = {}
    for one, two in itertools.combinations(table, 2):
        if common := sorted(table[one].keys() & table[two].keys()):
            cohen[one, two] = _cohen([table[one][key] for key in common], [table[two][key] for key in common]), len(common)
    everyone = [found for found in units.values() if len(found) == len(table) > 1]
    return Agreement(
        sum(len(found) > 1 for found in units.values()),
        sum(couples) / len(couples) if couples else math.nan,
        cohen,
        _fleiss(everyone, len(levels)),
        _alpha([[values.get(key) for key in units] for values in table.values()], levels, kind) if couples else math.nan,
    )


def _cohen(one: list[int], two: list[int]) -> float:
    """Return Cohen's kappa of two lists of categories; NaN if both are constant and equal."""
    from torchmetrics.functional.classification import multiclass_cohen_kappa

    classes = max(2, *one, *two) + 1
    return float(multiclass_cohen_kappa(torch.tensor(one), torch.tensor(two), classes))


def _fleiss(units: list[list[int]], classes: int) -> float:
    """Return Fleiss' kappa of units with one category per person; NaN without a unit, or for one category."""
    from torchmetrics.functional.nominal import fleiss_kappa

    if not units or classes < 2:
        return math.nan
    counts = torch.stack([torch.bincount(torch.tensor(found), minlength=classes) for found in units])
    if int((counts.sum(0) > 0).sum()) < 2:
        return math.nan
    return float(fleiss_kappa(counts))


def _alpha(table: list[list[int | None]], levels: list[float], kind: Kind) -> float:
    """Return Krippendorff's alpha of persons x questions, None where there is no answer; NaN for one category."""
    import krippendorff

    values = [[math.nan if place is None else levels[place] for place in row] for row in table]
    paired = [column for column in zip(*values, strict=True) if sum(value == value for value in column) > 1]
    if len({value for column in paired for value in column if value == value}) < 2:
        return math.nan
    level: Literal["nominal", "ordinal"] = "ordinal" if kinds.of(kind).ordered else "nominal"
    return float(krippendorff.alpha(reliability_data=values, level_of_measurement=level))
