"""Predicted returns of many segments: each transition is scored once, segments are differences of prefix sums.

A pool of N transitions holds about N segments of length T, which overlap; scoring pairs one by one evaluates the model
2 T times per pair. Here the model sees each transition once, and a pair costs four look-ups.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_pbrl.data.feedback import Query
from lightning_pbrl.data.relabel import CPU_PICTURES, CUDA_PICTURES
from lightning_pbrl.data.segments import segment_rows
from lightning_pbrl.data.steps import steps_of
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.shared_scoring import known, tiled

CPU_TILE = 1024
"""Rows per forward pass on a CPU: activations stay in its cache."""
GPU_TILE = 65536
"""Rows per forward pass elsewhere: bounds memory, keeps the device busy."""


class PrefixSums:
    """Sums of consecutive steps by two look-ups.

    The sums run over all rows in float64 (in float32 differences of sums over a million rows lose the segment). A segment
    within one episode, as every pool draws, sums that episode's steps alone.

    Args:
        reward: rewards per step, (E, N).
        rows: ids of these rows, ascending, (N,); 0 .. N - 1 when None.
    """

    def __init__(self, reward: Tensor, rows: Tensor | None = None) -> None:
        self._rows = rows
        self._before = torch.zeros(reward.shape[0], reward.shape[1] + 1, dtype=torch.float64, device=reward.device)
        torch.cumsum(reward, 1, dtype=torch.float64, out=self._before[:, 1:])

    def returns(self, start: Tensor, length: int) -> Tensor:
        """Return the sum of the ``length`` steps from ``start``: (...,) -> (E, ...), float64."""
        flat = start.reshape(-1)
        if self._rows is not None:
            flat = torch.searchsorted(self._rows, flat)
        total = self._before.index_select(1, flat + length) - self._before.index_select(1, flat)
        return total.view(len(total), *start.shape)


class ReturnScorer:
    """Predict returns of segments from a reward function and a table of transitions.

    Two paths give the same numbers up to the rounding of the forward pass. A query whose segments have fewer steps than the
    table has rows (B x C x T < N) is scored directly, each row that it touches once. A larger one scores all rows once and
    keeps their prefix sums until the model or the table changes. The choice depends on sizes alone, never on what is cached,
    so that a resumed run repeats it bit for bit. Unwritten rows of a replay are neither counted nor scored.

    Args:
        reward: member rewards of features, (n, O + A) -> (E, n); called without gradient.
        source: transitions that queries point into.
        version: returns the model's version, a number that changes with its parameters.
        tile: rows per forward pass; None is 1,024 on a CPU and 65,536 elsewhere (of images 64 and 2,048, and never more).
        pictures: True if ``reward`` reads images and actions as bytes.
    """

    def __init__(
        self,
        reward: Callable[[Tensor], Tensor],
        source: Transitions,
        version: Callable[[], int],
        tile: int | None = None,
        pictures: bool = False,
    ) -> None:
        self.reward, self.source, self.version, self.tile, self.pictures = reward, source, version, tile, pictures
        self._sums: PrefixSums | None = None
        self._scored: tuple[int, int] | None = None

    @torch.no_grad()
    def returns(self, query: Query) -> Tensor:
        """Return the predicted return of each segment per member, (E, B, C), float64, on the source's device."""
        start = query.start.to(self.source.device)
        if start.numel() * query.length < self.source.size:
            rows, place = segment_rows(start, query.length).unique(return_inverse=True)
            return self._score(rows)[:, place].sum(-1, dtype=torch.float64)
        return self._prefix_sums().returns(start, query.length)

    def observations(self, query: Query) -> Tensor:
        """Return the observations of each segment, (B, C, T, O), on the source's device."""
        return self.source.segments(query.start, query.length)[..., : self.source.obs_dim]

    def _prefix_sums(self) -> PrefixSums:
        now = (self.version(), self.source.version)
        if not known(self._sums is not None and self._scored == now):
            rows = self.source.written
            self._sums, self._scored = PrefixSums(self._score(rows), rows), now
        assert self._sums is not None  # noqa: S101
        return self._sums

    def _score(self, rows: Tensor | None = None) -> Tensor:
        """Return member rewards of the given rows, of all when None: (E, n)."""
        features, source = self.source.features(), self.source
        on_cpu = features.device.type == "cpu"
        tile = self.tile or (CPU_TILE if on_cpu else GPU_TILE)
        if self.pictures:
            tile = min(tile, CPU_PICTURES if on_cpu else CUDA_PICTURES)
            rows = torch.arange(len(source), device=source.device) if rows is None else rows
        if rows is None:
            return tiled(self.reward, features.split(tile), dim=1)
        count = len(rows)  # whole tiles only: oneDNN prepares, and keeps, code for every size it meets
        whole = tile if self.pictures else CPU_TILE
        tiles = F.pad(rows, (0, -count % whole)).split(tile)[: max(-(-count // tile), 1)]  # an empty one gives E
        return tiled(lambda part: self.reward(steps_of(source, part, self.pictures)), tiles, dim=1)[:, :count]
