"""What learners of a policy straight from preferences share: windows of labelled segments, and single transitions beside them.

No reward is learned first and no data are relabelled: an update reads some labelled pairs, a window of each of their two
segments, and if wanted some rows of the replay. Everything is index arithmetic on the one table of transitions.

Differences from the released codes of IPL and CPL: every pair and each of its segments has a window start of its own, and
the last start can be drawn, too; a batch that begins at the end of a pass goes on with the next pass, so that all batches
are equally large.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from lightning_pbrl.data.feedback import Labels, Query
from lightning_pbrl.data.transitions import unpack
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.base import Phase, Spec
from lightning_pbrl.methods.evaluation import PairMetrics
from lightning_pbrl.methods.offline_policy import OfflinePolicy
from lightning_pbrl.nn import DeterministicActor, GaussianActor
from lightning_pbrl.rng import derive, stream

Batch = dict[str, Tensor]
SCORE_TILE = 64
"""Segments evaluated at once when pairs are scored; bounds memory and stays in a CPU's cache."""
HELD_OUT_PAIRS = 1_000
"""Most held-out answers that a round is judged on, the first of them."""


class Passes:
    """Endless passes over some things, each pass in a new random order.

    Args:
        one_pass: generator -> the rows of one pass, in its order, (n, C).
        rng: the stream of the orders, used for nothing else.
    """

    def __init__(self, one_pass: Callable[[torch.Generator], Tensor], rng: torch.Generator) -> None:
        self.one_pass, self.rng = one_pass, rng
        self.rest = one_pass(rng)

    def take(self, count: int) -> Tensor:
        """The next ``count`` rows, (count, C)."""
        parts, have = [self.rest], len(self.rest)
        while have < count:
            parts.append(self.one_pass(self.rng))
            have += len(parts[-1])
        taken, self.rest = torch.cat(parts).tensor_split([count])
        return taken


class PreferencePolicy(OfflinePolicy, ABC):
    """A policy learner whose only feedback is the labels.

    Args:
        spec: sizes, linked from the data module.
        batch_size: labelled pairs per update; every labelled pair is drawn once per pass, and each round begins a new pass.
        window: steps of each segment that an update reads; None for whole segments.
        replay_batch_size: single transitions per update beside the pairs, uniform with replacement; 0 for none.
        window_starts: each: a uniform start per pair and segment, U{0, ..., k - window}. shared: one per update, and never the
            last of them (the released code of IPL).
        normalize_obs: standardise observations (IPL and CPL do not).
        **offline_policy: the arguments of :class:`OfflinePolicy`: ``updates``, ``eval_interval``, ``replicas`` ...

    Attributes:
        labels: all answers, given with the data or by a teacher; they may grow from round to round.
        opening: whether updates are of the first kind (:attr:`opening_updates`).
    """

    needs = frozenset({"labels"})
    fewest_steps: ClassVar[int] = 1
    """Shortest window that can be learned from."""
    actor: GaussianActor | DeterministicActor
    _passes: dict[torch.Generator, Passes]

    def __init__(
        self,
        spec: Spec,
        batch_size: int = 16,
        window: int | None = None,
        replay_batch_size: int = 0,
        window_starts: Literal["each", "shared"] = "each",
        normalize_obs: bool = False,
        **offline_policy: Any,
    ) -> None:
        super().__init__(spec, normalize_obs=normalize_obs, **offline_policy)
        if window_starts == "shared" and window is None:
            raise UserError("window_starts=shared says where windows start and window is null: set window, or leave it out.")
        if self.replicas > 1 and self.hparams.get("dropout"):
            raise UserError(
                f"The replicas of {type(self).__name__} would share one stream of dropout masks: set dropout to 0, or run its "
                "seeds as processes with `lightning-pbrl run EXPERIMENT --seeds 0-4`."
            )
        self.opening = False
        self.pairs = Labels.empty()
        self.__dict__["_passes"] = {}

    # Rounds --------------------------------------------------------------------------------------------------------------

    @property
    def opening_updates(self) -> int:
        """Updates of a first kind (cloning, or with a reward beside) that come before all others."""
        return 0

    def end_opening(self) -> None:
        """Called once, before the first update of the second kind."""

    def plan(self, round_number: int) -> list[Phase]:
        if self.replicas > 1 and self.asked.this_round + self.asked.remaining > 0:
            raise UserError(
                f"{self.replicas} replicas cannot ask one teacher: set ask.budget to 0 and let them learn from given labels, or "
                "run their seeds as processes with `lightning-pbrl run EXPERIMENT --seeds 0-4`."
            )
        self.use_labels(self.labels)
        if self.hparams.get("dropout"):  # a resumed round drops what it would have dropped
            torch.manual_seed(derive(self.seed, "dropout", round_number, self.trainer.global_rank))
        done = self.engines["policy"].updates
        updates = min(self.eval_interval, self.updates - done)
        first = min(max(self.opening_updates - done, 0), updates)
        self.opening = first > 0
        opens = Phase("opening", "policy", first)
        rest = Phase("policy", "policy", updates - first, start=self._close if done + first == self.opening_updates else None)
        return [phase for phase in (opens, rest) if phase.updates]

    def _close(self) -> None:
        self.opening = False
        self.end_opening()

    def use_labels(self, labels: Labels) -> None:
        """Learn from these from now on.

        Raises:
            UserError: when they say nothing about order, or their segments are shorter than the window.
        """
        self.pairs = labels.preferences().to("cpu")
        self.__dict__["_passes"] = {}
        if not len(self.pairs):
            raise self.nothing_learned(labels)
        if not self.fewest_steps <= self.steps <= self.pairs.length:
            raise UserError(
                f"{type(self).__name__} reads windows of {self.steps} steps and segments have {self.pairs.length}: set "
                f"model.init_args.window between {self.fewest_steps} and the length of a segment, or raise data.segment_length."
            )

    @property
    def steps(self) -> int:
        """Steps m of a window."""
        return self.hparams.window or self.pairs.length

    # Minibatches: index arithmetic on whole blocks -----------------------------------------------------------------------

    @property
    def noise(self) -> int:
        """Standard normal numbers per update that the losses want, found in ``batch["noise"]``."""
        return 0

    def minibatches(self) -> dict[str, Any]:
        """``sample``, ``gather`` and ``view`` of a program."""
        return {"sample": self.sample, "gather": self.gather, "view": self.view}

    def one_pass(self, rng: torch.Generator) -> Tensor:
        """First rows of both segments and the label, of every pair in a random order, (n, 3), float64."""
        rows = torch.cat([self.pairs.start.double(), self.pairs.value.double().unsqueeze(-1)], dim=1)
        return rows[torch.randperm(len(rows), generator=rng)]

    def sample(self, updates: int, rng: torch.Generator) -> Sequence[Tensor]:
        """First rows of windows with their labels, replay rows and noise side by side, one vector per update; float64 holds all.

        One call draws all of it, and the passes have a stream of their own, so that an update does not depend on its block.
        """
        h, device = self.hparams, self.source.device
        if rng not in self._passes:
            self._passes[rng] = Passes(self.one_pass, stream(rng.initial_seed(), "passes"))
        rows = self._passes[rng].take(updates * h.batch_size).view(updates, h.batch_size, -1)
        first = rows[..., :-1]  # (updates, B, C), views: the label stays where it is
        sizes = [first[0].numel(), h.replay_batch_size, self.noise]
        drawn = torch.rand(updates, sum(sizes), generator=rng, dtype=torch.float64)
        place, replay, noise = drawn.split(sizes, dim=1)
        slack = self.pairs.length - self.steps
        if h.window_starts == "shared":
            first += (place[:, :1, None] * max(slack, 1)).floor()
        else:
            first += (place.view_as(first) * (slack + 1)).floor()
        number = (replay * self.source.drawable_count).long()
        normal = torch.special.ndtri(noise)  # by the inverse distribution function
        parts = rows.flatten(1).to(device), self.source.drawable_rows(number).double(), normal.to(device)
        return torch.cat(parts, dim=1).unbind(0)

    def gather(self, ids: Tensor) -> Batch:
        """Windows (B, C, m, O + A), labels (B,), replay rows (b, W) and noise of one update; replicas on a leading axis."""
        h = self.hparams
        rest = h.replay_batch_size + self.noise
        pairs, replay, noise = ids.split([ids.shape[-1] - rest, h.replay_batch_size, self.noise], dim=-1)
        pairs = pairs.unflatten(-1, (h.batch_size, -1))
        segments = self.source.segments(pairs[..., :-1].long(), self.steps)
        batch = {"segments": segments, "label": pairs[..., -1].to(segments)}
        if h.replay_batch_size:
            rows = self.source.packed.index_select(0, replay.reshape(-1).long())
            batch["replay"] = rows.view(*replay.shape, -1)
        if self.noise:
            batch["noise"] = noise.to(segments)
        return batch

    def view(self, batch: Batch) -> Batch:
        """Observations (standardised, if so set) and actions of the windows' points, and columns of the replay by name.

        Returns:
            The batch with obs (B, C, m, O) and action (B, C, m, A); with replay also replay_obs (b, O), replay_action (b, A),
            replay_next_obs (b, O) and replay_terminated (b,).
        """
        obs, action = batch["segments"].split([self.spec["obs_dim"], self.spec["action_dim"]], dim=-1)
        out = {**batch, "obs": self.normalized(obs), "action": action}
        if "replay" in batch:
            rows = unpack(batch["replay"], self.source.layout)
            out.update(replay_action=rows["action"], replay_terminated=rows["terminated"])
            out.update(replay_obs=self.normalized(rows["obs"]), replay_next_obs=self.normalized(rows["next_obs"]))
        return out

    # Acting and judging --------------------------------------------------------------------------------------------------

    def act(self, obs: Tensor, sample: bool = False) -> Tensor:
        return self.actor.act(self.normalized(obs), sample)

    def score(self, obs: Tensor, action: Tensor) -> Tensor:
        """How good a segment is in this method's own terms: (n, k, O), (n, k, A) -> (E, n); normalised observations."""
        raise UserError(f"{type(self).__name__} does not score segments: choose an ask.query that asks the model for nothing.")

    @torch.no_grad()
    def returns(self, query: Query) -> Tensor:
        """Score of every asked segment per member, (E, B, C)."""
        start, parts = query.start.reshape(-1), []
        for rows in start.split(SCORE_TILE):
            points = self.source.segments(rows, query.length)
            obs, action = points.split([self.spec["obs_dim"], self.spec["action_dim"]], dim=-1)
            parts.append(self.score(self.normalized(obs), action))
        return torch.cat(parts, dim=1).unflatten(1, query.start.shape)

    def on_train_epoch_end(self) -> None:
        """Log how well the scores agree with held-out answers, if the data came with any."""
        super().on_train_epoch_end()
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if data.held_out_labels is None:
            return
        judgement = data.judgement(torch.arange(min(len(data.held_out_labels), HELD_OUT_PAIRS)))
        metrics, found = PairMetrics(), []
        for replica in range(self.replicas):
            self.use_replica(replica)
            metrics.update(self.returns(judgement.query).float(), judgement)
            found.append(metrics.compute(judgement))
        self.use_replica(0)
        row = {key: float(torch.stack([one[key] for one in found if key in one]).mean()) for key in found[0]}
        self.log_dict({**row, "step": float(self.trainer.global_step)}, batch_size=1)
