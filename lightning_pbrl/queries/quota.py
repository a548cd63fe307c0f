"""Who gets how many: shares of a round's questions between pairs and ratings.

A quota knows how many questions of each kind were asked so far, and may know what the candidates of each kind are worth (bits per
unit of cost, or whatever the strategies score by). What it has to remember of earlier rounds beside that are its ``notes``, which
are kept in the label store.

Sources: the repository `MariaGkoulta/rlhf-repo` for the score share; the others are ours.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from lightning_pbrl.data.feedback import Kind
from lightning_pbrl.describe import describe
from lightning_pbrl.errors import UserError

ROUNDING = 1e-9
"""Added before rounding down, so that 0.29 x 100 is 29."""


class Worth(NamedTuple):
    """What the questions of a round of n are worth; a score that is not a number counts as nothing.

    Attributes:
        pair, rating: scores of all candidates of a kind, any order.
        best_pair, best_rating: of the n that would be asked if the round had this kind alone.
    """

    pair: Tensor
    rating: Tensor
    best_pair: Tensor
    best_rating: Tensor


class Quota(ABC):
    """How many of a round's questions are pairs; the rest are ratings.

    Attributes:
        scored: whether it needs to know what the candidates are worth.
    """

    scored: ClassVar[bool] = False

    @abstractmethod
    def pairs(self, n: int, asked: Mapping[Kind, int], worth: Worth | None = None) -> int:
        """Of ``n`` questions those that are pairs, 0 .. ``n``.

        Args:
            n: questions of this round.
            asked: questions of each kind before it.
            worth: what the candidates are worth, for a quota that is ``scored``.
        """

    def notes(self) -> dict[str, Any]:
        """What later rounds must know beside the counts, plain JSON."""
        return {}

    def recall(self, notes: Mapping[str, Any]) -> None:  # noqa: B027 - most remember nothing
        """Take over the notes of the newest round that asked; empty before the first."""

    def metrics(self) -> dict[str, float]:
        """What to log about the last decision, by metric key."""
        return {}

    def describe(self) -> dict[str, Any]:
        """Class name and settings as plain JSON."""
        return describe(self)


class FixedShare(Quota):
    """A fixed share of *all* questions so far: what rounding leaves over in one round is made good in the next.

    After every round ``|pairs - share x questions| < 1``, as soon as there were enough questions to get there.

    Args:
        share: of pairs, in [0, 1].

    Raises:
        UserError: for a share out of range.
    """

    def __init__(self, share: float = 0.5) -> None:
        self.share = _fraction("FixedShare", "share", share)

    def pairs(self, n: int, asked: Mapping[Kind, int], worth: Worth | None = None) -> int:
        wanted = math.floor(self.share * (sum(asked.values()) + n) + ROUNDING)
        return min(max(wanted - asked["pair"], 0), n)


class MeanScore(Quota):
    """The released rule: pairs get the share a / (a + b), a and b the mean scores over all candidates of the two kinds.

    Rounded half to even; where one mean is not positive the other kind gets all, where neither is half are pairs. Stateless but
    for the scale of the ratings' scores: these are divided by the largest 99th percentile of any round so far.

    Args:
        normalize: divide so; without it both means are in the unit of the scores.

    Bias: with ``normalize`` one mean is absolute and the other relative to its own maximum, so the share mostly measures the
    normalisation: as the model becomes sure, bits of pairs vanish and the ratings' relative mean does not.
    """

    scored = True

    def __init__(self, normalize: bool = True) -> None:
        self.normalize = normalize
        self._scale, self._means, self._wanted = 1e-8, (math.nan, math.nan), math.nan

    def pairs(self, n: int, asked: Mapping[Kind, int], worth: Worth | None = None) -> int:
        assert worth is not None  # noqa: S101
        a, b = mean_worth(worth.pair), mean_worth(worth.rating)
        if self.normalize:
            scores = worth.rating[worth.rating.isfinite()].double()
            if len(scores):
                self._scale = max(self._scale, float(percentile(scores, 0.99)))
            b /= self._scale
        self._means = (a, b)
        if a <= 0 and b <= 0:
            self._wanted = 0.5
            return n // 2
        share = self._wanted = 1.0 if b <= 0 else 0.0 if a <= 0 else a / (a + b)
        return min(max(round(n * share), 0), n)

    def notes(self) -> dict[str, Any]:
        return {"scale": self._scale} if self.normalize else {}

    def recall(self, notes: Mapping[str, Any]) -> None:
        self._scale = notes.get("scale", 1e-8)

    def metrics(self) -> dict[str, float]:
        return {"query/target_share": self._wanted, "query/mean_pair": self._means[0], "query/mean_rating": self._means[1]}


class InformationPerCost(Quota):
    r"""The share moves from ``target`` towards where a question tells most per unit of cost.

    With a and b the mean scores of the n questions that a round of one kind alone would ask,

        f_0 = target,    f_(k+1) = (1 - eta) f_k + eta clip(a / (a + b), minimum, 1 - minimum),

    and the pairs of round k are floor(sum_(j <= k) f_j n_j) - (pairs so far): what rounding leaves over is carried on. Where
    neither kind tells anything, or nothing that is a number, the share stays.

    Args:
        target: share of pairs to begin with, in [0, 1].
        eta: how fast the share follows, in [0, 1]; 0 keeps the target.
        minimum: the smallest share of either kind that is aimed at, in [0, 0.5].

    Raises:
        UserError: for a setting out of range.
    """

    scored = True
    _share: float
    _planned: float | None

    def __init__(self, target: float = 0.5, eta: float = 0.2, minimum: float = 0.1) -> None:
        self.target = _fraction("InformationPerCost", "target", target)
        self.eta = _fraction("InformationPerCost", "eta", eta)
        self.minimum = _fraction("InformationPerCost", "minimum", minimum, 0.5)
        self._share, self._planned = target, None
        self._worth = (math.nan, math.nan)

    def pairs(self, n: int, asked: Mapping[Kind, int], worth: Worth | None = None) -> int:
        assert worth is not None  # noqa: S101
        a, b = (max(mean_worth(scores), 0.0) for scores in (worth.best_pair, worth.best_rating))
        self._worth = (a, b)
        if a + b > 0:
            aim = min(max(a / (a + b), self.minimum), 1 - self.minimum)
            self._share = (1 - self.eta) * self._share + self.eta * aim
        planned = asked["pair"] if self._planned is None else self._planned
        self._planned = planned + self._share * n
        return min(max(math.floor(self._planned + ROUNDING) - asked["pair"], 0), n)

    def notes(self) -> dict[str, Any]:
        return {"share": self._share, "planned": self._planned}

    def recall(self, notes: Mapping[str, Any]) -> None:
        self._share, self._planned = notes.get("share", self.target), notes.get("planned")

    def metrics(self) -> dict[str, float]:
        return {"query/target_share": self._share, "query/worth_pair": self._worth[0], "query/worth_rating": self._worth[1]}


def mean_worth(scores: Tensor) -> float:
    """Mean of the scores that are numbers; 0 of none."""
    kept = scores[scores.isfinite()].double()
    return float(kept.mean()) if len(kept) else 0.0


def percentile(scores: Tensor, share: float) -> Tensor:
    """Linearly interpolated percentile of any number of scores (``torch.quantile`` takes 16 million), (N,) -> ()."""
    ordered, at = scores.sort().values, share * (len(scores) - 1)
    low = int(at)
    return torch.lerp(ordered[low], ordered[min(low + 1, len(scores) - 1)], at - low)


def _fraction(owner: str, name: str, value: float, high: float = 1.0) -> float:
    if not 0 <= value <= high:
        raise UserError(f"{owner} got {name}={value:g}; give a share between 0 and {high:g}.")
    return value
