"""One reward network for both kinds of answer: preferences between two clips, and ratings of one.

Source: the repository `MariaGkoulta/rlhf-repo` (active RLHF): architecture, sizes and schedule of fits. Its code never trains on
a rating; here both likelihoods are one objective. Rating classes: RbRL (White et al. 2024, arXiv 2307.16348).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_pbrl.data.feedback import Kind, Labels, Query, Status
from lightning_pbrl.data.step_encoder import StepEncoder
from lightning_pbrl.engine import Draw, Frozen, Group, Metrics, Part, Passes, Phase, Program
from lightning_pbrl.errors import UserError
from lightning_pbrl.losses.preference import preference_accuracy, preference_cross_entropy
from lightning_pbrl.losses.rating import class_boundaries, gaussian_nll, rbrl_cross_entropy, squared_error
from lightning_pbrl.nn.dropout_mlp import DropoutMLP
from lightning_pbrl.nn.rating_decoder import RatingDecoder
from lightning_pbrl.rewards.posterior import SHARPNESS, RewardPosterior
from lightning_pbrl.rng import derive, uniform

Split = tuple[tuple[Labels, Labels], tuple[Labels, Labels]]
"""Pairs and ratings to train on, and those held out."""


class UnifiedReward(RewardPosterior):
    r"""Unified reward: per-step rewards that explain preferences and ratings at once (repository MariaGkoulta/rlhf-repo).

    .. math::
        L = L_{pref} + \lambda L_{rate}, \quad
        L_{pref} = \text{mean}\, \text{CE}(\sigma(R_1 - R_0), \text{label}), \quad
        L_{rate} = -\text{mean} \log N(y \mid a R + b, V + \sigma_0^2)

    R is the sum over a clip's steps of the reward r(s, a), V that of a variance v(s, a) from a second head; a > 0, b and sigma_0
    are learnt. A fit is to all answers so far, warm from the one before, until the loss on the held-out answers has not
    fallen for ``patience`` passes; then the best weights come back.

    Policies get r without dropout. :meth:`posterior` gives the returns under draws from the posterior, each draw one function
    for all questions.

    Args:
        posterior: kind of draws: dropout (masks on one network, or on each of the members in turn) or ensemble (the members).
        ensemble_size: members E.
        hidden: hidden layers (leaky ReLU between them).
        dropout: probability with which a hidden unit is dropped in training and in draws (released code: .1, and .4 where it asks
            by BALD, so that its strategies differ in more than their questions).
        dropout_masks: unit that shares a mask: question (all steps of both clips: a draw is one function, in training as in
            scoring) or step (every step and clip its own, as released).
        variance_head: predict V; without it V = 0.
        ratings: gaussian (above), rbrl (class cross entropy of RbRL), squared (mean (a R + b - y)^2) or ignored (as released).
        decoder: affine (a, b and sigma_0 learnt) or none (a = 1, b = 0, sigma_0 = 0, as released).
        rating_weight: lambda.
        bins: K; ratings are 0 .. K - 1.
        step_mode: joint (one step on L) or sequential (one on L_pref, then one on lambda L_rate, as released).
        lr: learning rate per update, Adam.
        weight_decay: L2 penalty inside Adam, of the network.
        batch_size: answers per update; each kind has its fraction of every minibatch.
        first_epochs: most passes of the first fit.
        epochs: most passes of every later one.
        first_patience: passes without a lower held-out loss after which the first fit ends.
        patience: the same for every later one.
        validation: fraction of answers that are held out, by a hash of the answer's number: an answer never changes sides. 0, or
            none held out yet: all passes are done.
        restore_best: end a fit with the weights of the lowest held-out loss.
        return_penalty: weight of the norm of a minibatch's predicted returns, over both sides of its pairs (released: 1e-5).
        pictures: see the images of data or replay although the policy sees states; all heads share their encoder.
        shift: largest random shift of images in a fit, pixels (DrQ); None for 4, 0 for none.

    Raises:
        UserError: if settings contradict each other.

    Differences: validation is the training objective without dropout (released: cross entropy plus squared error).
    """

    kinds: ClassVar[frozenset[Kind]] = frozenset({"pair", "rating"})
    pictures: ClassVar[bool] = True
    held_out: tuple[Labels, Labels]

    def __init__(
        self,
        posterior: Literal["dropout", "ensemble"] = "dropout",
        ensemble_size: int = 1,
        hidden: Sequence[int] = (64, 64),
        dropout: float = 0.1,
        dropout_masks: Literal["question", "step"] = "question",
        variance_head: bool = True,
        ratings: Literal["gaussian", "rbrl", "squared", "ignored"] = "gaussian",
        decoder: Literal["affine", "none"] = "affine",
        rating_weight: float = 1.0,
        bins: int = 10,
        step_mode: Literal["joint", "sequential"] = "joint",
        lr: float = 1e-3,
        weight_decay: float = 1e-3,
        batch_size: int = 64,
        first_epochs: int = 100,
        epochs: int = 50,
        first_patience: int = 10,
        patience: int = 7,
        validation: float = 0.2,
        restore_best: bool = True,
        return_penalty: float = 0.0,
        pictures: bool = False,
        shift: int | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if posterior == "ensemble" and ensemble_size < 2:
            raise UserError(f"{name} with posterior=ensemble has {ensemble_size} member(s): raise ensemble_size, or use dropout.")
        if posterior == "dropout" and not 0 < dropout < 1:
            raise UserError(f"{name} draws by dropout and dropout is {dropout:g}: give a probability between 0 and 1.")
        if not hidden:
            raise UserError(f"{name} got hidden=[]: give a list of layers of at least one unit.")
        if decoder == "none" and not variance_head and ratings == "gaussian":
            raise UserError(f"{name} has no variance for its ratings: set variance_head, decoder=affine, or ratings=squared.")

    def build(self) -> None:
        h = self.hparams
        self.encoder = StepEncoder(self.spec, h, type(self).__name__)
        self.network = DropoutMLP(self.encoder.features, 1 + h.variance_head, h.hidden, h.ensemble_size, h.dropout)
        self.decoder = RatingDecoder(h.ensemble_size, (h.bins - 1) / 2)
        self.register_buffer("boundaries", torch.linspace(0, 1, h.bins + 1).repeat(h.ensemble_size, 1))  # rbrl: of returns
        self.pairs, self.rated, self.one_pass = Labels.empty(), Labels.empty(clips=1), 1
        self.held_out = Labels.empty(), Labels.empty(clips=1)
        self.best: tuple[float, dict[str, Tensor]] | None = None
        self.bad_passes, self.allowed, self.held_out_loss = 0, 0, math.nan

    def groups(self) -> dict[str, Part]:
        h = self.hparams
        decoder = Group(h.lr) if self.decodes else Frozen()
        network = Group(h.lr, options={"weight_decay": h.weight_decay}, modules=("network", "encoder"))
        return {"network": network, "decoder": decoder}

    def programs(self) -> dict[str, Program]:
        h = self.hparams
        steps = [self.losses] if h.step_mode == "joint" else [self.preference_step, self.rating_step]

        def passes(count: Callable[[], int]) -> Passes:
            return Passes(count, h.batch_size, ends=lambda: self.one_pass, members=self.encoder.orders)

        draws: dict[str, Draw] = {"pair": passes(lambda: len(self.pairs)), "rating": passes(lambda: len(self.rated))}
        for kind, clips, length in (("pair", 2, lambda: self.pairs.length), ("rating", 1, lambda: self.rated.length)):
            draws |= {f"{kind}_{name}": draw for name, draw in self.encoder.shifts(clips, length, h.batch_size).items()}
        moves = ("network", "decoder") if self.decodes else ("network",)
        return {"reward": Program(steps, draws, self.gather_both, moves=moves, ragged=True)}

    def plan(self, round_number: int) -> list[Phase]:
        h, first = self.hparams, self.engine.updates["reward"] == 0
        answers = self.split()
        one_pass = math.ceil(sum(map(len, answers[0])) / h.batch_size)
        epochs = h.first_epochs if first else h.epochs
        begin = partial(self.begin, answers, one_pass, h.first_patience if first else h.patience, round_number)
        fit = Phase("reward", "reward", epochs * one_pass, block=max(one_pass, 1), start=begin, done=self.stops)
        return [fit, Phase("best weights", start=self.end_fit)]

    def begin(self, answers: Split, one_pass: int, patience: int, round_number: int) -> None:
        """Train on the first two of ``answers`` from the next update on, with dropout that a resumed round repeats."""
        train, self.held_out = answers
        self.pairs, self.rated, self.one_pass = train[0].to(self.device), train[1].to(self.device), one_pass
        self.best, self.bad_passes, self.held_out_loss, self.allowed = None, 0, math.nan, patience
        torch.manual_seed(derive(self.seed, "dropout", round_number, self.rank))

    def split(self) -> Split:
        """Return pairs and ratings to train on, and those held out; skipped and pending ones in neither."""
        train, held = [], []
        for kind, labels in (("pair", self.labels), ("rating", self.ratings)):
            keep = (labels.status == Status.ANSWERED) | (labels.status == Status.EQUAL)
            if kind == "rating" and self.hparams.ratings == "ignored":
                keep = torch.zeros_like(keep)
            if kind == "rating" and self.hparams.ratings == "rbrl":
                self._check_classes(labels.value[keep])
            out = self.held(kind, len(labels)).to(keep.device)
            train.append(labels.take(keep & ~out))
            held.append(labels.take(keep & out))
        return (train[0], train[1]), (held[0].to(self.device), held[1].to(self.device))

    def usable(self) -> int:
        return sum(len(labels) for labels in self.split()[0])

    def _check_classes(self, ratings: Tensor) -> None:
        if len(ratings) and not (ratings.frac().eq(0) & (ratings >= 0) & (ratings < self.bins)).all():
            raise UserError(
                f"{type(self).__name__} with ratings=rbrl takes the whole numbers 0 to {self.bins - 1} and got ratings from "
                f"{ratings.min():g} to {ratings.max():g}: set bins, or use ratings=gaussian, which takes any number."
            )

    def held(self, kind: str, count: int) -> Tensor:
        """Return a mask of the held-out ones of answers 0 .. ``count`` - 1 of a kind, (count,), bool; it never changes."""
        keys = torch.arange(count) + derive(self.seed, "validation", kind) % 2**62
        return uniform(keys, 0) < self.hparams.validation

    def gather_both(self, drawn: dict[str, Tensor]) -> dict[str, Tensor]:
        """Gather pairs (E, b, 2, T, O + A) with labels (E, b), rated clips (E, m, T, O + A) with ratings (E, m); or one kind."""
        pair, rating = drawn["pair"], drawn["rating"]
        batch, read = dict[str, Tensor](), partial(self.encoder.segments, self.source)
        if pair.shape[1]:
            clips = read(self.pairs.start[pair], self.pairs.length, drawn.get("pair_shift"))
            batch |= {"pairs": clips, "label": self.pairs.value[pair]}
        if rating.shape[1]:
            clips = read(self.rated.start[rating], self.rated.length, drawn.get("rating_shift")).squeeze(2)
            batch |= {"rated": clips, "rating": self.rated.value[rating]}
        return batch

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return L of both kinds in one step, summed over members."""
        parts = [part for part in (self.preference_step(batch), self.rating_step(batch)) if part]
        total = torch.stack([part["network"] for part in parts]).sum()
        every = {name: value for part in parts for name, value in part.items()}
        return {name: total if name in ("network", "decoder") else value for name, value in every.items()}

    def preference_step(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the Bradley-Terry cross entropy; nothing if the minibatch has no pair."""
        if "pairs" not in batch:
            return {}
        returns, _ = self.clip_sums(batch["pairs"], dropout=True, heads=1)
        loss = preference_cross_entropy(returns, batch["label"]).sum()
        if self.hparams.return_penalty:
            loss = loss + self.hparams.return_penalty * returns.norm(dim=1).sum()
        accuracy = preference_accuracy(returns.detach(), batch["label"]).mean()
        return {"network": loss, "preference_loss": loss, "accuracy": accuracy}

    def rating_step(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return lambda times the ratings' loss; nothing if the minibatch has none."""
        if "rated" not in batch:
            return {}
        loss = self.hparams.rating_weight * self.rating_loss(batch["rated"], batch["rating"], dropout=True).sum()
        return {"network": loss, **({"decoder": loss} if self.decodes else {}), "rating_loss": loss}

    def rating_loss(self, clips: Tensor, rating: Tensor, dropout: bool) -> Tensor:
        """Return the loss of the ratings per member, (E, m, T, F) -> (E,)."""
        h = self.hparams
        mean, variance = self.clip_sums(clips, dropout, heads=None if h.ratings == "gaussian" else 1)
        rating = rating.expand_as(mean)
        if h.ratings == "rbrl":
            return rbrl_cross_entropy(mean, rating, h.bins, SHARPNESS)
        if self.decodes:
            mean, variance = self.decoder(mean, variance, torch.arange(h.ensemble_size, device=mean.device))
        return squared_error(mean, rating) if h.ratings == "squared" else gaussian_nll(mean, variance, rating)

    def clip_sums(self, clips: Tensor, dropout: bool, heads: int | None = None) -> tuple[Tensor, Tensor]:
        """Compute return and variance of clips: (E or 1, b, ..., T, F) -> two of (E, b, ...).

        The variance is 0 without its head, or with ``heads=1``, which leaves that head without a gradient.
        """
        share = math.prod(clips.shape[2:-1]) if self.hparams.dropout_masks == "question" else 1
        out = self.network(self.encoder(clips.flatten(1, -2)), share if dropout else 0, heads)
        return self.sums(out.unflatten(1, clips.shape[1:-1]))

    def sums(self, out: Tensor) -> tuple[Tensor, Tensor]:
        """Sum outputs per step, (..., T, 1 or 2) -> sums of means and of variances, (...,)."""
        mean = out[..., 0].sum(-1)
        return mean, F.softplus(out[..., 1]).sum(-1) if out.shape[-1] > 1 else torch.zeros_like(mean)

    def stops(self, metrics: Metrics) -> bool:
        """Return True if the held-out loss has not fallen for long enough; asked after every pass."""
        if not any(len(labels) for labels in self.held_out):
            return False
        loss = self.held_out_loss = self.validation_loss()
        if self.best is None or loss < self.best[0]:
            moved = self.engine.moved("reward") if self.hparams.restore_best else ()
            self.best, self.bad_passes = (loss, {key: self.engine.state.storage[key].clone() for key in moved}), 0
        else:
            self.bad_passes += 1
        return self.bad_passes >= self.allowed

    @torch.no_grad()
    def validation_loss(self) -> float:
        """Return the objective on the held-out answers without dropout, mean over members."""
        pairs, ratings = self.held_out
        loss = torch.zeros((), device=self.device)
        members, orders, read = self.hparams.ensemble_size, self.encoder.orders, partial(self.encoder.segments, self.source)
        if len(pairs):
            clips = read(pairs.start, pairs.length).expand(orders, -1, -1, -1, -1)
            loss = loss + preference_cross_entropy(self.clip_sums(clips, dropout=False, heads=1)[0], pairs.value).mean()
        if len(ratings):
            clips = read(ratings.start[:, 0], ratings.length).expand(orders, -1, -1, -1)
            value = ratings.value.expand(members, -1)
            loss = loss + self.hparams.rating_weight * self.rating_loss(clips, value, dropout=False).mean()
        return float(loss)

    def end_fit(self) -> None:
        """Evaluate the last pass, bring the best weights back, and set the boundaries of RbRL's classes."""
        self.stops({})
        if self.best is not None and self.hparams.restore_best:
            self.held_out_loss = self.best[0]
            for key, value in self.best[1].items():
                self.engine.state.storage[key].copy_(value)
        self.best = None
        self._scorers.clear()  # their sums are those of other weights
        if self.hparams.ratings == "rbrl" and len(self.rated):
            returns = self.returns(Query("rating", self.rated.start, self.rated.length)).squeeze(-1).float()
            self.boundaries.copy_(class_boundaries(returns, self.rated.value, self.hparams.bins))

    # Used by policies and strategies -----------------------------------------------------------------------------------

    def reward(self, features: Tensor) -> Tensor:
        """Return the mean head without dropout: (n, O + A) -> (E, n)."""
        return self.network(self.encoder(features), heads=1)[..., 0]

    def metrics(self) -> dict[str, float]:
        """Return the loss on held-out answers at the end of the newest fit."""
        return {} if math.isnan(self.held_out_loss) else {"pref/held_out_loss": self.held_out_loss}
