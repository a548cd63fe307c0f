"""Base of policy learners directly from preferences: windows of labelled segments, and single transitions beside them.

No reward is learned first and no data are relabelled. An update reads some labelled pairs, a window of each of their two
segments, and optionally rows of the replay. All is index arithmetic on the one table of transitions.

Differences from the released codes of IPL and CPL: every pair and each of its segments has its own window start, and the last
start can be drawn, too. A batch that begins at the end of a pass goes on with the next pass: all batches are equally large.
"""

from __future__ import annotations

from abc import ABC
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from lightning_pbrl.data.feedback import Labels, Query
from lightning_pbrl.data.transitions import fetch, unpack
from lightning_pbrl.engine import Draw, Passes, Rows
from lightning_pbrl.engine.draws import Place
from lightning_pbrl.errors import UserError
from lightning_pbrl.fitting.answers import nothing_learned
from lightning_pbrl.fitting.evaluation import PairMetrics
from lightning_pbrl.methods.base import Phase, Spec
from lightning_pbrl.methods.offline_policy import OfflinePolicy
from lightning_pbrl.nn import DeterministicActor, GaussianActor
from lightning_pbrl.rng import derive
from lightning_pbrl.shared_scoring import tiled

Batch = dict[str, Tensor]
SCORE_TILE = 64
"""Segments evaluated at once when pairs are scored; bounds memory and stays in a CPU's cache."""
HELD_OUT_PAIRS = 1_000
"""Most held-out answers that evaluate a round, the first of them."""


class Windows(Draw):
    """Draw first rows of windows, (B, C), int64, and the labels of their pairs, (B,), float64; the pairs in endless passes.

    Args:
        method: method whose ``one_pass``, ``steps`` and settings define a window.
    """

    def __init__(self, method: PreferencePolicy) -> None:
        self.method, h = method, method.hparams
        self.passes = Passes(method.entries, h.batch_size, ends="full", order=method.one_pass)

    @property
    def width(self) -> int:  # type: ignore[override]
        """Number of uniform numbers: one per window, or a single one."""
        h = self.method.hparams
        return 1 if h.window_starts == "shared" else h.batch_size * self.method.clips

    def __call__(self, u: Tensor, place: Place) -> dict[str, Tensor]:
        *first, label = self.passes(u, place).unbind(1)
        start, slack = torch.stack(first, -1), self.method.pairs.length - self.method.steps
        if self.method.hparams.window_starts == "shared":
            start += (u[..., None] * max(slack, 1)).floor()
        else:
            start += (u.view_as(start) * (slack + 1)).floor()
        return {"start": start.long(), "label": label}


class PreferencePolicy(OfflinePolicy, ABC):
    """Base of policy learners whose only feedback is the labels.

    Args:
        spec: sizes, linked from the data module.
        batch_size: labelled pairs per update; every labelled pair is drawn once per pass, and each round begins a new pass.
        window: steps of each segment that an update reads; None for whole segments.
        replay_batch_size: single transitions per update beside the pairs, uniform with replacement; 0 for none.
        window_starts: each: a uniform start per pair and segment, U{0, ..., k - window}. shared: one per update, and never the
            last of them (the released code of IPL).
        normalize_obs: standardise observations (IPL and CPL do not).
        **offline_policy: arguments of :class:`OfflinePolicy`: ``updates``, ``eval_interval``, ``replicas`` ...

    Attributes:
        labels: all answers, given with the data or by a teacher; they may grow from round to round.
    """

    needs = frozenset({"labels"})
    fewest_steps: ClassVar[int] = 1
    """Shortest window that can be learned from."""
    actor: GaussianActor | DeterministicActor

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
        self.pairs = Labels.empty()

    @property
    def first_updates(self) -> int:
        """Number of updates of the program "first" (cloning, or with a reward beside), all before those of "policy"."""
        return 0

    def begin_policy(self) -> None:
        """Prepare for "policy": called once, between the last update of "first" and the first of "policy"."""

    def plan(self, round_number: int) -> list[Phase]:
        if self.replicas > 1 and self.asked.this_round + self.asked.remaining > 0:
            raise UserError(
                f"{self.replicas} replicas cannot ask one teacher: set ask.budget to 0 and let them learn from given labels, or "
                "run their seeds as processes with `lightning-pbrl run EXPERIMENT --seeds 0-4`."
            )
        done = self.updates_done
        updates = min(self.eval_interval, self.updates - done)
        first = min(max(self.first_updates - done, 0), updates)
        begins = first < updates and done + first == self.first_updates
        return [
            Phase("labels", start=self.read_labels),
            Phase("first", "first", first),
            *([Phase("begin policy", start=self.begin_policy)] if begins else []),
            Phase("policy", "policy", updates - first),
        ]

    def read_labels(self) -> None:
        """Learn from all answers there are, with dropout that a resumed round repeats."""
        self.use_labels(self.labels)
        if self.hparams.get("dropout"):
            torch.manual_seed(derive(self.seed, "dropout", self.trainer.current_epoch, self.trainer.global_rank))

    def use_labels(self, labels: Labels) -> None:
        """Learn from these labels; raise a UserError if they hold no preference, or segments shorter than the window."""
        self.pairs = labels.preferences().to("cpu")
        if not len(self.pairs):
            raise nothing_learned(self, labels)
        if not self.fewest_steps <= self.steps <= self.pairs.length:
            raise UserError(
                f"{type(self).__name__} reads windows of {self.steps} steps and segments have {self.pairs.length}: set "
                f"model.init_args.window between {self.fewest_steps} and the length of a segment, or raise data.segment_length."
            )

    @property
    def steps(self) -> int:
        """Number of steps m of a window."""
        return self.hparams.window or self.pairs.length

    # Minibatches: index arithmetic on whole blocks ---------------------------------------------------------------------

    @property
    def clips(self) -> int:
        """Number of segments C that are compared with each other."""
        return 2

    def minibatches(self) -> dict[str, Any]:
        """Return ``draws``, ``gather`` and ``view`` of a program."""
        h = self.hparams
        draws: dict[str, Draw] = {"windows": Windows(self)}
        if h.replay_batch_size:
            draws["replay"] = Rows(self.source, h.replay_batch_size)
        return {"draws": draws, "gather": self.gather, "view": self.view}

    def entries(self) -> int:
        """Return the number n of entries of a pass."""
        return len(self.pairs)

    def one_pass(self, rng: torch.Generator) -> Tensor:
        """Return first rows of both segments and the label, of every pair in a random order, (3, n), float64."""
        rows = torch.cat([self.pairs.start.double(), self.pairs.value.double().unsqueeze(-1)], dim=1)
        return rows[torch.randperm(len(rows), generator=rng)].mT

    def gather(self, drawn: dict[str, Any]) -> Batch:
        """Gather windows (B, C, m, O + A), labels (B,), replay rows (b, W) and noise of one update."""
        segments = self.source.segments(drawn["windows"]["start"], self.steps)
        batch = {"segments": segments, "label": drawn["windows"]["label"].to(segments)}
        if "replay" in drawn:
            batch["replay"] = fetch(self.source.packed, drawn["replay"])
        if "noise" in drawn:
            batch["noise"] = drawn["noise"]
        return batch

    def view(self, batch: Batch) -> Batch:
        """Split windows into observations and actions, the replay into columns; standardise observations if set.

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

    def act(self, obs: Tensor, sample: bool = False) -> Tensor:
        return self.actor.act(self.normalized(obs), sample)

    def score(self, obs: Tensor, action: Tensor) -> Tensor:
        """Return the method's score of a segment, from normalised observations: (n, k, O), (n, k, A) -> (E, n)."""
        raise UserError(f"{type(self).__name__} does not score segments: choose an ask.query that asks the model for nothing.")

    @torch.no_grad()
    def returns(self, query: Query) -> Tensor:
        """Return the score of every asked segment per member, (E, B, C)."""

        def score(rows: Tensor) -> Tensor:
            points = self.source.segments(rows, query.length)
            obs, action = points.split([self.spec["obs_dim"], self.spec["action_dim"]], dim=-1)
            return self.score(self.normalized(obs), action)

        return tiled(score, query.start.reshape(-1).split(SCORE_TILE), dim=1).unflatten(1, query.start.shape)

    def on_train_epoch_end(self) -> None:
        """Log the agreement of the scores with held-out answers, if the data came with any."""
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
