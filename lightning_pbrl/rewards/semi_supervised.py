"""Reward ensemble that also learns from unlabelled pairs: the feedback model of SURF.

Source: J. Park, Y. Seo, J. Shin, H. Lee, P. Abbeel, K. Lee, "SURF: Semi-supervised Reward Learning with Data Augmentation for
Feedback-efficient Preference-based Reinforcement Learning", ICLR 2022 (arXiv 2203.10050), Algorithm 1, and its released code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from lightning_pbrl.data.feedback import Kind, Labels
from lightning_pbrl.data.kinds.mixed import Mixed
from lightning_pbrl.engine import Below, Draw, Program
from lightning_pbrl.errors import UserError
from lightning_pbrl.losses.semi_supervised import masked_preference_cross_entropy, pseudo_labels
from lightning_pbrl.ranges import Range
from lightning_pbrl.rewards.ensemble import RewardEnsemble
from lightning_pbrl.rng import stream


class SemiSupervisedEnsemble(RewardEnsemble, ranges={"threshold": Range(0.5, 1)}):
    r"""Semi-supervised reward ensemble: random crops of labelled pairs and of pseudo-labelled ones (Park et al. 2022).

    .. math::
        L = \sum_e \big( E_{\text{labelled}}[\text{CE}(P_e(\text{crop}), y)]
            + \lambda\, E_{\text{others}}[1(\max(P_e, 1 - P_e) \ge \tau)\, \text{CE}(P_e(\text{crop}), 1(P_e > \tfrac12))] \big)

    A segment is seen with ``context`` further steps on each side. The teacher and the pseudo label :math:`P_e` read the segment
    itself, a crop may reach into the context. Members label for themselves, without gradient.

    Args:
        context: steps on each side of a segment.
        crop: shortest and longest crop; None for segment length - context ... segment length + context.
        epochs: with ``fit_rule`` updates, a round's fit is ceil(epochs x labels / batch_size) updates (1,000 in the DeepMind
            Control Suite, 20 in Meta-World).
        fit_rule: see :class:`RewardEnsemble`.
        stop_accuracy: see :class:`RewardEnsemble`; SURF never stops early.
        unlabelled_ratio: unlabelled pairs per label (100; Meta-World 10), drawn anew for each fit.
        unlabelled_recent: newest episodes that these come from; None for all.
        unlabelled_batches: mu, unlabelled pairs per labelled one in a minibatch.
        unlabelled_weight: lambda.
        threshold: tau, confidence from which on a pseudo label counts, in [0.5, 1].
        **reward: arguments of :class:`RewardEnsemble`.
    """

    kinds: ClassVar[frozenset[Kind]] = frozenset({"pair"})

    def __init__(
        self,
        context: int = 5,
        crop: Sequence[int] | None = None,
        epochs: int = 1000,
        fit_rule: Literal["passes", "updates"] = "updates",
        stop_accuracy: float = 1.0,
        unlabelled_ratio: int = 100,
        unlabelled_recent: int | None = None,
        unlabelled_batches: int = 4,
        unlabelled_weight: float = 1.0,
        threshold: float = 0.99,
        **reward: Any,
    ) -> None:
        super().__init__(crop=crop, epochs=epochs, fit_rule=fit_rule, stop_accuracy=stop_accuracy, **reward)
        if self.hparams.crop_copies > 1 or self.hparams.score != "bradley_terry":
            raise UserError(f"{type(self).__name__} makes one crop of each pair and knows the score bradley_terry only.")
        self.context = context

    @property
    def crop(self) -> Sequence[int]:
        length = self.labels.length
        return self.hparams.crop or (max(1, length - self.context), length + self.context)

    def programs(self) -> dict[str, Program]:
        h, fit = self.hparams, super().programs()["reward"]
        many = h.unlabelled_batches * h.batch_size
        draws: dict[str, Draw] = {
            "unlabelled": Below(lambda: len(self.unlabelled), self.encoder.orders, many),
            "unlabelled_crop": self.crops(many),
        }
        moved = self.encoder.shifts(2, lambda: self.pairs.length + 2 * self.context, many)
        draws |= {f"unlabelled_{name}": draw for name, draw in moved.items()}
        return {"reward": replace(fit, draws={**fit.draws, **draws}, tile=None)}  # a tile would hold labelled pairs alone

    def begin_fit(self, pairs: Labels | Mixed) -> None:
        self.unlabelled = torch.empty(0, 2, dtype=torch.int64)
        if len(pairs):
            pool = self.source.pool(pairs.length, self.hparams.unlabelled_recent, self.context)
            rng = stream(self.seed, "unlabelled", self.version())
            self.unlabelled = pool.pairs(self.hparams.unlabelled_ratio * len(pairs), rng).start.to(self.source.device)
        super().begin_fit(pairs)

    def gather_pairs(self, drawn: dict[str, Tensor]) -> dict[str, Tensor]:
        steps = self.pairs.length + 2 * self.context
        number, crop = drawn["unlabelled"], drawn["unlabelled_crop"]
        start = self.unlabelled[number] - self.context
        segments = self.encoder.segments(self.source, start, steps, drawn.get("unlabelled_shift"))
        unlabelled = {"unlabelled": segments, "unlabelled_kept": self.kept(crop, number.shape[-1], steps)}
        return {**super().gather_pairs(drawn), **unlabelled}

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        losses, segments = super().losses(batch), batch["unlabelled"]
        reward = self.reward(segments.flatten(1, -2)).unflatten(1, segments.shape[1:-1])  # (E, b, 2, T)
        whole = reward.narrow(-1, self.context, self.pairs.length).sum(-1)
        label, sure = pseudo_labels(whole, self.hparams.threshold)
        (cropped,) = (reward * batch["unlabelled_kept"]).sum(-1)  # (E, b, 2)
        loss = self.hparams.unlabelled_weight * masked_preference_cross_entropy(cropped, label, sure).sum()
        return {**losses, "members": losses["members"] + loss, "sure": sure.mean()}
