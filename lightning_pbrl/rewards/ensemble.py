"""A reward ensemble fitted to preferences: the feedback model of MR, OPRL, PEBBLE and CLARIFY.

Sources: Christiano et al. 2017 (arXiv 1706.03741); OPRL (arXiv 2301.01392); sizes and stop rule of CLARIFY's release.
It is MR with uniform queries, OPRL with disagreement queries, LiRE (arXiv 2408.04190) with ranked lists and a linear score.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from lightning_pbrl.compute.summing_adam import SummingAdam
from lightning_pbrl.data.feedback import Kind, Labels
from lightning_pbrl.data.kinds import choices
from lightning_pbrl.data.kinds.mixed import Mixed, accuracy, likelihood, mixed
from lightning_pbrl.data.ranking import derived_pairs
from lightning_pbrl.data.step_encoder import StepEncoder
from lightning_pbrl.engine import Draw, Group, Metrics, Part, Passes, Phase, Program, Uniform
from lightning_pbrl.errors import UserError
from lightning_pbrl.losses.preference import linear_cross_entropy, preference_accuracy, preference_cross_entropy, strict_share
from lightning_pbrl.nn import MLP, Normalizer
from lightning_pbrl.nn.cut_points import CutPoints
from lightning_pbrl.rewards.base import RewardModel

DECAY_PASSES = 10
"""Passes over the labels after which ``lr_decay`` is applied (LiRE's StepLR)."""
CUTS_LR = 10.0
"""Factor on the learning rate of cut points: two numbers beside networks."""
PESSIMISM = 5.0
"""Number of standard deviations that ``mean_minus_std`` subtracts (LiRE's released code)."""


class RewardEnsemble(RewardModel):
    """Reward ensemble: members that each explain the preferences by a sum of per-step rewards (Christiano et al. 2017).

    .. math::
        P_e(\\sigma_1 \\succ \\sigma_0) = \\frac{\\exp \\sum_t r_e(s^1_t, a^1_t)}{\\sum_{i} \\exp \\sum_t r_e(s^i_t, a^i_t)},
        \\qquad L = \\sum_e \\text{cross-entropy}(P_e, \\text{label})

    A fit is to all answers so far, warm from the one before. It passes over the labels, each member in its own order, until
    the mean training accuracy exceeds ``stop_accuracy`` or ``epochs`` passes are done. Skipped questions are not trained on;
    equal ones are, with label 0.5.

    Args:
        ensemble_size: members E.
        hidden: hidden layers of a member (leaky ReLU between them).
        output: bound of the per-step reward: tanh (-1, 1), sigmoid (0, 1) or none.
        score: bradley_terry (exponential) or linear (LiRE; needs output=tanh).
        lr: learning rate per update, one Adam over all members.
        epochs: most passes over the labels per round.
        fit_rule: bound of a round's fit. passes: at most ``epochs`` passes. updates: at most
            ceil(``epochs`` x labels / ``batch_size``) updates, and ``stop_accuracy`` is compared with the accuracy since the fit
            began (QPA and SURF in the DeepMind Control Suite).
        batch_size: pairs per update and member.
        stop_accuracy: end the round's fit above this training accuracy; 1 or more never stops early.
        margin: a pair counts as right only when P(second) is beyond 0.5 ± margin.
        normalize_obs: standardise observations (LiRE does, CLARIFY does not).
        pairs: pairs trained on: the answers, or all pairs that follow from them when the questions built ranked
            lists (ranked: RankedListQuery) or chains (chain: SeqRankQuery).
        aggregate: reward of policies: the members' mean, their min, or mean - 5 x (unbiased) standard deviation.
        crop: temporal crop: shortest and longest length in steps; every pair of a minibatch is cut to a random length
            in this range, each of its segments at a random place. None trains on whole segments.
        crop_copies: crops of each pair in a minibatch, all cut from rewards that are predicted once (QPA's tau).
        sum_gradients: zero gradients once per pass, not once per minibatch, as LiRE's released code does (a defect).
        lr_decay: factor on ``lr`` after every 10 passes of a round's fit, anew in every round; 1 keeps it constant.
        graded: reading of graded pairs: soft, cross entropy with P(second) of 0, .25, .5, .75, 1; or ordinal, cumulative logit
            with cut points that each member learns (Agresti 1992).
        tile: pairs evaluated at once on CPU, to stay in its cache; null for whole batches.
        pictures: see the images of data or replay although the policy sees states. Where the policy sees images, so does the
            reward. Members share the images' encoder and the order of minibatches.
        shift: largest random shift of images in a fit, pixels (DrQ); None for 4, 0 for none.
    """

    kinds: ClassVar[frozenset[Kind]] = frozenset({"pair", "graded", "best"})
    pictures: ClassVar[bool] = True
    pairs: Labels | Mixed

    def __init__(
        self,
        ensemble_size: int = 3,
        hidden: Sequence[int] = (256, 256, 256),
        output: Literal["tanh", "sigmoid", "none"] = "tanh",
        score: Literal["bradley_terry", "linear"] = "bradley_terry",
        lr: float = 3e-4,
        epochs: int = 50,
        fit_rule: Literal["passes", "updates"] = "passes",
        batch_size: int = 128,
        stop_accuracy: float = 0.97,
        margin: float = 0.1,
        normalize_obs: bool = False,
        pairs: Literal["answers", "ranked", "chain"] = "answers",
        aggregate: Literal["mean", "min", "mean_minus_std"] = "mean",
        crop: Sequence[int] | None = None,
        crop_copies: int = 1,
        lr_decay: float = 1.0,
        sum_gradients: bool = False,
        graded: Literal["soft", "ordinal"] = "soft",
        tile: int | None = 16,
        pictures: bool = False,
        shift: int | None = None,
    ) -> None:
        super().__init__()
        if type(self).kinds == RewardEnsemble.kinds:
            self.kinds = choices()  # type: ignore[misc]
        if aggregate == "mean_minus_std" and ensemble_size < 2:
            raise UserError("aggregate=mean_minus_std needs at least two members: raise ensemble_size, or use mean.")
        if crop is not None and not (len(crop) == 2 and 1 <= crop[0] <= crop[1]):
            raise UserError(f"crop is {list(crop)}: give the shortest and the longest length in steps, such as [20, 25].")
        if crop_copies > 1 and crop is None:
            raise UserError(f"crop_copies is {crop_copies}: for more than one copy give a crop.")

    def build(self) -> None:
        h = self.hparams
        output = {"tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "none": None}[h.output]
        self.encoder = StepEncoder(self.spec, h, type(self).__name__)
        self.members = MLP(self.encoder.features, 1, h.hidden, h.ensemble_size, nn.LeakyReLU, output)
        self.normalizer = Normalizer(0 if self.side else self.spec["obs_dim"])
        if h.graded == "ordinal":
            self.cuts = CutPoints(h.ensemble_size)
        self.pairs = Labels.empty()
        self.fit_began, self.one_pass = 0, 1  # of this fit: updates before it, and of a pass
        self.passes_done, self.correct = 0, 0.0  # ... passes done, sum of their accuracies

    def on_data(self) -> None:
        if self.hparams.normalize_obs:
            self.normalizer.fit(self.source.column("obs"))

    def groups(self) -> dict[str, Part]:
        h = self.hparams
        members = replace(Group(h.lr, modules=("members", "encoder")), schedule=self.decay if h.lr_decay != 1 else None)
        if h.sum_gradients:
            members = replace(members, optimizer=SummingAdam, options={"begins": self.pass_begins})
        return {"members": members, **({"cuts": Group(CUTS_LR * h.lr)} if h.graded == "ordinal" else {})}

    def programs(self) -> dict[str, Program]:
        h = self.hparams
        shared = h.pairs != "answers"  # segments, but within a tile only
        tile = h.tile if self.source.device.type == "cpu" and not shared else None
        draws: dict[str, Draw] = {"pair": Passes(lambda: len(self.pairs), h.batch_size, members=self.encoder.orders)}
        clips, steps = lambda: self.pairs.start.shape[1], lambda: self.pairs.length + 2 * self.context
        draws |= self.encoder.shifts(clips, steps, h.batch_size)
        if self.crop is not None:
            draws["crop"] = self.crops(h.batch_size)
        return {"reward": Program([self.losses], draws, self.gather_pairs, moves=tuple(self.groups()), ragged=True, tile=tile)}

    def plan(self, round_number: int) -> list[Phase]:
        h, pairs = self.hparams, self.training_pairs()
        steps = pairs.length + 2 * self.context
        if self.crop is not None and len(pairs) and self.crop[1] > steps:
            raise UserError(
                f"crop is {list(self.crop)} and segments have {steps} steps: crop to at most that, or raise data.segment_length."
            )
        one_pass = math.ceil(len(pairs) / h.batch_size)
        updates = h.epochs * one_pass if h.fit_rule == "passes" else math.ceil(h.epochs * len(pairs) / h.batch_size)
        return [Phase("reward", "reward", updates, block=one_pass, start=partial(self.begin_fit, pairs), done=self.fits_well)]

    def begin_fit(self, pairs: Labels | Mixed) -> None:
        """Train on ``pairs`` from the next update on."""
        self.pairs = pairs.to(self.source.device)
        self.fit_began = self.engine.state.updates["members"]
        self.one_pass = max(math.ceil(len(pairs) / self.hparams.batch_size), 1)
        self.passes_done, self.correct = 0, 0.0

    @property
    def crop(self) -> Sequence[int] | None:
        """Shortest and longest length that pairs are cut to, in steps; None for whole segments."""
        return self.hparams.crop

    def training_pairs(self) -> Labels | Mixed:
        """Return the answers of the next fit: the pairs, or all that follow from them, and the answers of other kinds."""
        kind = self.hparams.pairs
        pairs = self.labels.preferences() if kind == "answers" else derived_pairs(self.labels, kind)
        return mixed(pairs, {kind: found for kind, found in self.others.items() if kind in self.kinds})

    def usable(self) -> int:
        return len(self.training_pairs())

    def pass_begins(self, done: int) -> bool:
        """Return True if update number ``done`` is the first of a pass."""
        return (done - self.fit_began) % self.one_pass == 0

    def decay(self, done: int) -> float:
        """Return the factor on the learning rate after ``done`` updates in all."""
        return self.hparams.lr_decay ** ((done - self.fit_began) // self.one_pass // DECAY_PASSES)

    def fits_well(self, metrics: Metrics) -> bool:
        """Return True if the fit may stop early; asked after every pass."""
        stop, now = self.hparams.stop_accuracy, metrics["accuracy"]
        if self.hparams.fit_rule == "passes":
            return now > stop < 1.0
        self.passes_done, self.correct = self.passes_done + 1, self.correct + now
        return self.correct / self.passes_done >= stop < 1.0

    def crops(self, pairs: int) -> Uniform:
        """Return tau random crops of each pair: length and beginnings in its segments, (1 + C, tau, E, ``pairs``) per update."""
        return Uniform(lambda: 1 + self.pairs.start.shape[1], self.hparams.crop_copies, self.hparams.ensemble_size, pairs)

    def kept(self, u: Tensor, pairs: int, steps: int) -> Tensor:
        """Return a mask of the T = ``steps`` that the crops of b = ``pairs`` keep, (tau, E, b, C, T), bool.

        ``u`` are :meth:`crops` of at least b pairs, (1 + C, tau, E, B). Segments of a copy share its length, not its beginning.
        """
        assert self.crop is not None  # noqa: S101
        (shortest, longest), (size, *first) = self.crop, u[..., :pairs]
        length = shortest + (size * (longest + 1 - shortest)).long()
        begin = (torch.stack(first, -1) * (steps - length + 1).unsqueeze(-1)).long()
        since = torch.arange(steps, device=u.device) - begin.unsqueeze(-1)
        return (since >= 0) & (since < length[..., None, None])

    def gather_pairs(self, drawn: dict[str, Tensor]) -> dict[str, Tensor]:
        """Gather pairs by number (E, b) -> segments (E, b, C, T, O + A) and labels (E, b); among several kinds also that, (E, b).

        ``strict`` is the share of strict preferences in all of them, (). With images E = 1.

        Derived pairs share segments: then these are the distinct ones, (E, U, T, O + A), and ``which`` selects those of each
        pair, (E, b, C). With a crop, ``kept`` marks the steps that count, (tau, E, b, C, T). T counts ``context`` on both sides.
        """
        ids, batch, steps = drawn["pair"], {}, self.pairs.length + 2 * self.context
        if "crop" in drawn:
            batch["kept"] = self.kept(drawn["crop"], ids.shape[-1], steps)
        if isinstance(self.pairs, Mixed):
            batch["kind"] = self.pairs.kind[ids]
        start = self.pairs.start[ids] - self.context
        if self.hparams.pairs != "answers":
            start, batch["which"] = distinct(start)
        segments = self.encoder.segments(self.source, start, steps, drawn.get("shift"))
        value = self.pairs.value
        return {**batch, "segments": segments, "label": value[ids], "strict": value.ne(0.5).float().mean()}

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        segments, label = batch["segments"], batch["label"]
        reward = self.reward(segments.flatten(1, -2)).unflatten(1, segments.shape[1:-1])  # (E, b, C, T) or (E, U, T)
        length: int | Tensor = segments.shape[-2]
        if "which" in batch:
            index = batch["which"].flatten(1).unsqueeze(-1).expand(len(reward), -1, segments.shape[-2])
            reward = reward.gather(1, index).unflatten(1, batch["which"].shape[1:])
        if "kept" in batch:
            reward, length = reward * batch["kept"], batch["kept"].sum(-1)[..., :1]  # its segments are cut to one length
        returns = reward.sum(-1)  # (E, b, C), of every copy with a crop: (tau, E, b, C)
        if "kind" in batch:
            return self.losses_of_kinds(returns if self.hparams.score != "linear" else (returns + length + 1e-5).log(), batch)
        if self.hparams.score == "linear":
            loss = linear_cross_entropy(returns, label, length)
        else:
            loss = preference_cross_entropy(returns, label)
        accuracy = preference_accuracy(returns.detach(), label, self.hparams.margin)
        return {"members": loss.sum(-1).mean(), "accuracy": (accuracy * strict_share(label, batch["strict"])).mean()}

    def losses_of_kinds(self, scores: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the losses of answers of several kinds, each by the likelihood of its own."""
        assert isinstance(self.pairs, Mixed)  # noqa: S101
        each = scores.shape[:-1]
        answers = batch["label"].expand(each), batch["kind"].expand(each), self.pairs.kinds
        cuts = self.cuts() if self.hparams.graded == "ordinal" else None
        loss = likelihood(scores, *answers, cuts).mean(-1).sum(-1).mean()
        right = accuracy(scores.detach(), *answers, self.hparams.margin) * strict_share(answers[0], batch["strict"])
        return {"members": loss, "accuracy": right.mean(), **({} if cuts is None else {"cuts": loss})}

    def reward(self, features: Tensor) -> Tensor:
        if self.hparams.normalize_obs:
            obs, action = features.split([self.spec["obs_dim"], self.spec["action_dim"]], dim=-1)
            features = torch.cat([self.normalizer(obs), action], dim=-1)
        return self.members(self.encoder(features)).squeeze(-1)

    def combine(self, reward: Tensor) -> Tensor:
        """Return the members' mean, min, or mean - 5 x standard deviation: (E, n) -> (n,)."""
        if self.hparams.aggregate == "min":
            return reward.amin(0)
        mean = reward.mean(0)
        return mean if self.hparams.aggregate == "mean" else mean - PESSIMISM * reward.std(0)


def distinct(start: Tensor) -> tuple[Tensor, Tensor]:
    """Return each member's distinct segments and the places of each pair's two: (E, b, 2) -> (E, U), (E, b, 2).

    U is the largest number of distinct segments of any member; shorter rows are padded with segment 0.
    """
    found = [torch.unique(member, return_inverse=True) for member in start]
    return pad_sequence([values for values, _ in found], batch_first=True), torch.stack([which for _, which in found])
