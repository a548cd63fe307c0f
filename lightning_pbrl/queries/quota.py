"""Quotas: division of a round's questions into pairs and ratings.

A quota knows the number of questions of each kind so far. It may also know the scores of the candidates of each kind (bits per
unit of cost, or the strategies' own unit). Any other state of earlier rounds is in its ``notes``, which are kept in the label
store.

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
"""Constant added before rounding down, so that 0.29 x 100 is 29."""


class Worth(NamedTuple):
    """Scores of the candidates of a round of n questions; a score that is not finite is ignored.

    Attributes:
        pair, rating: scores of all candidates of a kind, any order.
        best_pair, best_rating: scores of the n that would be asked if the round had this kind alone.
    """

    pair: Tensor
    rating: Tensor
    best_pair: Tensor
    best_rating: Tensor


class Quota(ABC):
    """Base class of quotas, which set the number of pairs in a round; the other questions are ratings.

    Attributes:
        scored: True if it needs the scores of the candidates.
    """

    scored: ClassVar[bool] = False

    @abstractmethod
    def pairs(self, n: int, asked: Mapping[Kind, int], worth: Worth | None = None) -> int:
        """Return the number of pairs among ``n`` questions, 0 .. ``n``.

        Args:
            n: number of questions of this round.
            asked: number of earlier questions of each kind.
            worth: scores of the candidates, for a quota that is ``scored``.
        """

    def notes(self) -> dict[str, Any]:
        """Return the state that later rounds need besides the counts, as plain JSON."""
        return {}

    def recall(self, notes: Mapping[str, Any]) -> None:  # noqa: B027 - most remember nothing
        """Restore the notes of the newest round with questions; empty before the first."""

    def metrics(self) -> dict[str, float]:
        """Return metrics of the last decision, by metric key."""
        return {}

    def describe(self) -> dict[str, Any]:
        """Return class name and settings as plain JSON."""
        return describe(self)


class FixedShare(Quota):
    """Fixed share of pairs among *all* questions so far; the next round corrects the rounding of the last.

    After every round ``|pairs - share x questions| < 1``, as soon as there were enough questions to get there.

    Args:
        share: share of pairs, in [0, 1].

    Raises:
        UserError: for a share out of range.
    """

    def __init__(self, share: float = 0.5) -> None:
        self.share = _fraction("FixedShare", "share", share)

    def pairs(self, n: int, asked: Mapping[Kind, int], worth: Worth | None = None) -> int:
        wanted = math.floor(self.share * (sum(asked.values()) + n) + ROUNDING)
        return min(max(wanted - asked["pair"], 0), n)


class MeanScore(Quota):
    """Share a / (a + b) of pairs, with a and b the mean scores over all candidates of the two kinds (released rule).

    The number is rounded half to even. If one mean is not positive, the other kind gets all questions; if neither is, half are
    pairs. The only state is the scale of the ratings' scores: they are divided by the largest 99th percentile of any round so
    far.

    Args:
        normalize: divide the ratings' scores by that scale; without it both means are in the unit of the scores.

    Bias: with ``normalize`` one mean is absolute and the other relative to its own maximum, so the share mostly measures the
    normalisation. As the model becomes certain, bits of pairs vanish and the ratings' relative mean does not.
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
    r"""Share of pairs that moves from ``target`` towards the kind with more information per unit of cost.

    With a and b the mean scores of the n questions that a round of one kind alone would ask,

        f_0 = target,    f_(k+1) = (1 - eta) f_k + eta clip(a / (a + b), minimum, 1 - minimum),

    and the pairs of round k are floor(sum_(j <= k) f_j n_j) - (pairs so far), which carries over the rounding. If neither kind
    has any information, or no score is finite, the share stays.

    Args:
        target: initial share of pairs, in [0, 1].
        eta: step size of the share, in [0, 1]; 0 keeps the target.
        minimum: lower limit of the target share of either kind, in [0, 0.5].

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
    """Return the mean of the finite scores; 0 without any."""
    kept = scores[scores.isfinite()].double()
    return float(kept.mean()) if len(kept) else 0.0


def percentile(scores: Tensor, share: float) -> Tensor:
    """Return the linearly interpolated percentile of any number of scores, (N,) -> ().

    ``torch.quantile`` accepts at most 16 million.
    """
    ordered, at = scores.sort().values, share * (len(scores) - 1)
    low = int(at)
    return torch.lerp(ordered[low], ordered[min(low + 1, len(scores) - 1)], at - low)


def _fraction(owner: str, name: str, value: float, high: float = 1.0) -> float:
    if not 0 <= value <= high:
        raise UserError(f"{owner} got {name}={value:g}; give a share between 0 and {high:g}.")
    return value
