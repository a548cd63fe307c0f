"""Draws from the posterior of a reward network and the ratings they predict, for BALD and the feedback record."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_pbrl.data.feedback import Query
from lightning_pbrl.losses.information import rating_probability
from lightning_pbrl.losses.rating import class_log_probability
from lightning_pbrl.nn.dropout_mlp import DropoutMLP
from lightning_pbrl.nn.rating_decoder import RatingDecoder
from lightning_pbrl.rewards.base import RewardModel
from lightning_pbrl.rng import derive, stream

SHARPNESS = 30.0
"""Sharpness of RbRL's rating intervals (k of its class score)."""
POSTERIOR_TILE = 512
"""Rows per forward pass of all draws on a CPU: their activations stay in its cache."""


class RewardPosterior(RewardModel, ABC):
    """The half of :class:`~lightning_pbrl.rewards.unified.UnifiedReward` that strategies use."""

    network: DropoutMLP
    decoder: RatingDecoder
    boundaries: Tensor

    @abstractmethod
    def sums(self, out: Tensor) -> tuple[Tensor, Tensor]:
        """Sum outputs per step, (..., T, 1 or 2) -> sums of means and of variances, (...,)."""

    @property
    def bins(self) -> int:
        """Number of levels of the ratings."""
        return int(self.hparams.bins)

    @property
    def decodes(self) -> bool:
        """True if a, b and sigma_0 are learnt."""
        return self.hparams.decoder == "affine" and self.hparams.ratings in ("gaussian", "squared")

    @torch.no_grad()
    def posterior(self, query: Query, draws: int) -> Tensor:
        """Draw returns from the posterior: (D, B, C), or (D, B, C, 2) with their variances if there is a variance head.

        A draw is one function, the same for every step, clip and question, and for every call until the weights move. D is
        ``draws``, or the number of members of an ensemble.
        """
        if self.hparams.dropout_masks == "step" and self.hparams.posterior == "dropout":
            return self._independent(query, draws)
        tile = POSTERIOR_TILE if self.device.type == "cpu" else None
        sums = self.scorer("posterior", partial(self._functions, draws), (draws, self.version()), tile).returns(query)
        if not self.hparams.variance_head:
            return sums
        return torch.stack(sums.chunk(2), -1)

    def _functions(self, draws: int) -> Any:
        """Return rewards per step under every draw, with a variance head also variances: (n, F) -> (D, n) or (2 D, n)."""
        h = self.hparams
        if h.posterior == "ensemble":
            masks = [torch.ones(1, width, device=self.device) for width in h.hidden]
            parts = [(member, masks) for member in range(h.ensemble_size)]
        else:
            rng = stream(self.seed, "posterior", self.version())
            every = [mask.to(self.device) for mask in self.network.masks(draws, rng)]
            parts = [(e, [mask[e :: h.ensemble_size] for mask in every]) for e in range(min(h.ensemble_size, draws))]

        def functions(features: Tensor) -> Tensor:
            seen = self.encoder(features)
            out = torch.cat([self.network.functions(seen, masks, member) for member, masks in parts])
            if h.variance_head:
                return torch.cat([out[..., 0], F.softplus(out[..., 1])])
            return out[..., 0]

        return functions

    def member_of(self, draws: int) -> Tensor:
        """Return the member of each draw, (D,)."""
        members = self.hparams.ensemble_size
        return torch.cat([torch.full((len(range(e, draws, members)),), e) for e in range(members)]).to(self.device)

    def _independent(self, query: Query, draws: int) -> Tensor:
        """Return the released code's draws: a mask for every step and clip, so that no draw is a function."""
        clips = self.encoder.segments(self.source, query.start, query.length)
        members, seen = self.hparams.ensemble_size, self.encoder(clips.flatten(0, -2))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(self.seed, "posterior", self.version()))
            found = []
            for member in self.member_of(draws).tolist():
                out = self.network(seen, share=1)[member % members].view(*clips.shape[:-1], -1)
                mean, variance = self.sums(out)
                found.append(torch.stack([mean, variance], -1) if self.hparams.variance_head else mean)
        return torch.stack(found).double()

    @torch.no_grad()
    def predicted_ratings(self, query: Query) -> Tensor:
        """Return the expected rating of every asked clip, (B,), rating units: without dropout, mean over members."""
        returns, members = self.returns(query)[..., 0], torch.arange(self.hparams.ensemble_size, device=self.device)
        if self.hparams.ratings == "rbrl":
            share = class_log_probability(returns, self.boundaries.double(), SHARPNESS).exp().mean(0)
            return share @ torch.arange(self.hparams.bins, dtype=share.dtype, device=share.device)
        return (self.decoder(returns, torch.zeros_like(returns), members)[0] if self.decodes else returns).mean(0)

    def decode(self, posterior: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance of the ratings under every draw of :meth:`posterior`: two of (D, B, C), rating units."""
        mean, variance = posterior.unbind(-1) if self.hparams.variance_head else (posterior, torch.zeros_like(posterior))
        if not self.decodes:
            return mean, variance.clamp(min=1e-6)
        with torch.no_grad():
            return self.decoder(mean, variance, self.member_of(len(mean)))

    def rating_probability(self, posterior: Tensor) -> Tensor:
        """Return the probability of every rating under every draw of :meth:`posterior`: (D, B, C, K), float64."""
        if self.hparams.ratings == "rbrl":
            returns = posterior[..., 0] if self.hparams.variance_head else posterior
            cut = self.boundaries[self.member_of(len(returns))].double()
            return class_log_probability(returns.flatten(1), cut, SHARPNESS).exp().view(*returns.shape, -1)
        return rating_probability(*self.decode(posterior), self.hparams.bins)
