"""CLARIFY: a reward ensemble plus an embedding of segments in which clear and ambiguous questions lie apart.

Source: "CLARIFY: Contrastive preference reinforcement learning for untangling ambiguous queries" (ICML 2025, arXiv
2506.00388) and its released code. Ask with :class:`~lightning_pbrl.queries.embedding.EmbeddingQuery`.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_pbrl.data.feedback import Kind, Labels, Query, Status
from lightning_pbrl.data.segments import segment_rows
from lightning_pbrl.engine import Below, Group, Part, Program, Uniform
from lightning_pbrl.errors import UserError
from lightning_pbrl.losses.contrastive import (
    AmbiguityLoss,
    Pairing,
    Similarity,
    ambiguity_loss,
    anchor_loss,
    norm_loss,
    quadrilateral_loss,
    reconstruction_loss,
)
from lightning_pbrl.methods.base import Phase, Spec
from lightning_pbrl.methods.learn_reward import RewardEnsemble
from lightning_pbrl.nn import Normalizer
from lightning_pbrl.nn.trajectory_encoder import ActionDecoder, AntiCausalEncoder, Readout
from lightning_pbrl.rewards.history import evaluating
from lightning_pbrl.rng import derive, stream
from lightning_pbrl.shared_scoring import tiled

PADDED_ACTION = -10.0
"""Placeholder for an action before a window begins (released code)."""
PARTNERS = 50
"""Random partners of each clear pair in the quadrilateral loss (released code)."""
ANCHOR_LR = 1e-3
"""Learning rate of z*, which has an optimiser of its own (released code)."""
EMBED_TILE = 64
"""Segments embedded at once, a fixed number: bounds memory whatever the number of candidates."""


class CLARIFY(RewardEnsemble):
    r"""CLARIFY: a reward ensemble and a contrastive embedding that tells clear from ambiguous questions (ICML 2025).

    .. math::
        L = L_\text{recon} + 0.1\, L_\text{amb} + L_\text{quad} + 0.1\, L_\text{norm}

    ``L_recon``: a decoder recovers the actions from the states and z. ``L_amb``: pushes the two segments of a clear pair apart,
    pulls those of a skipped pair together. ``L_quad``: pulls preferred segments together, rejected ones together, and pushes the
    two kinds apart. ``L_norm``: keeps embeddings near the unit sphere. An encoder step is two updates with the same AdamW, each
    with its own gradient and clipping: first the reconstruction, then (on a fresh forward pass) the three others.

    A round fits the reward, then does ``n_init`` (first time) or ``n_emb`` (later) encoder steps. Skipped questions train the
    encoder, never the reward. Equal answers are neither clear nor ambiguous.

    With images the encoder reads the features of the reward's torso, each image's computed once a round.

    Args:
        spec: sizes, linked from the data module.
        n_init: encoder steps of the first round that has answers.
        n_emb: encoder steps of every later round (paper 2,000, released code 500).
        z_dim: size of an embedding.
        width: token size of the two transformers.
        layers: blocks of each.
        heads: attention heads of each block.
        dropout: dropout of both in training; segments are embedded without it.
        encoder_lr: AdamW's learning rate after the warm-up.
        weight_decay: AdamW's weight decay, on all weights.
        warmup: encoder steps in which the learning rate grows linearly to ``encoder_lr``.
        clip: largest gradient norm of encoder and decoder together, per update.
        encoder_batch_size: windows for the reconstruction, and as many labelled pairs, per step.
        amb_weight: weight of L_amb.
        quad_weight: weight of L_quad.
        norm_weight: weight of L_norm.
        similarity: l2 (minus the mean square difference) or cosine.
        direction_loss: quadrilateral, or anchor (preferred segments nearer to a learned point than rejected ones).
        max_episode_steps: rows of the time embedding; at least the longest episode (Meta-World 500, DMControl 1,000).
        readout: full: z has seen every state of the segment. reference: only the last, as in the released code.
        amb_loss: paper. reference: never pulls ambiguous pairs together (an operator-precedence slip of the released code).
        squash: bound each term of L_quad (or of the anchor's loss) by a logistic function. false: the paper's formula, whose
            L_quad has no lower bound.
        pairing: query: z+ and z- of one question. reference: the released code's lists, which mix up questions.
        standardize: standardise states wherever the encoder reads them. false: for the reconstruction only, so that
            L_amb, L_quad and the choice of questions see states on another scale (released code).
        start_times: where segments are embedded, which the paper leaves open. zero: each from step 0 on, so that a few hundred
            answers cannot be memorised by their times. true: at their own time steps. random: at random ones (released code).
        ties_as_skips: treat equal answers as skipped, also in the reward's fit (released code, which cannot tell them apart).
        **reward: arguments of ``RewardEnsemble`` and ``Method``.

    Raises:
        UserError: at the start of a fit, if an episode is longer than ``max_episode_steps``.
    """

    kinds: ClassVar[frozenset[Kind]] = frozenset({"pair"})

    def __init__(
        self,
        spec: Spec,
        n_init: int = 20_000,
        n_emb: int = 2_000,
        z_dim: int = 16,
        width: int = 256,
        layers: int = 4,
        heads: int = 4,
        dropout: float = 0.1,
        encoder_lr: float = 1e-4,
        weight_decay: float = 1e-4,
        warmup: int = 10_000,
        clip: float = 0.25,
        encoder_batch_size: int = 64,
        amb_weight: float = 0.1,
        quad_weight: float = 1.0,
        norm_weight: float = 0.1,
        similarity: Similarity = "l2",
        direction_loss: Literal["quadrilateral", "anchor"] = "quadrilateral",
        max_episode_steps: int = 1_000,
        readout: Readout = "full",
        amb_loss: AmbiguityLoss = "paper",
        squash: bool = True,
        pairing: Pairing = "query",
        standardize: bool = True,
        start_times: Literal["true", "random", "zero"] = "zero",
        ties_as_skips: bool = False,
        **reward: Any,
    ) -> None:
        super().__init__(spec, **reward)

    @property
    def scorer(self) -> CLARIFY:
        return self

    def build(self) -> None:
        super().build()
        h, model, action_dim = self.hparams, self.reward_model, self.spec["action_dim"]
        obs_dim = model.encoder.features - action_dim if model.side else self.spec["obs_dim"]
        sizes = {"width": h.width, "layers": h.layers, "heads": h.heads, "dropout": h.dropout}
        sizes["max_steps"] = h.max_episode_steps
        self.encoder = AntiCausalEncoder(obs_dim, h.z_dim, readout=h.readout, **sizes)
        self.decoder = ActionDecoder(obs_dim, action_dim, h.z_dim, **sizes)
        self.encoder_normalizer = Normalizer(obs_dim, eps=1e-6)
        if h.direction_loss == "anchor":
            self.anchor = nn.Parameter(torch.randn(h.z_dim))
        self.questions = Labels.empty()

    def on_data(self) -> None:
        super().on_data()
        if not self.reward_model.side:
            self.encoder_normalizer.fit(self.source.column("obs"))

    def on_fit_start(self) -> None:
        longest = int(self.source.episodes.lengths.max())
        if longest > self.hparams.max_episode_steps:
            raise UserError(
                f"The longest episode has {longest} steps and the encoder embeds {self.hparams.max_episode_steps}: set "
                f"model.init_args.max_episode_steps to at least {longest}."
            )
        super().on_fit_start()

    def groups(self) -> dict[str, Part]:
        h = self.hparams
        adamw: dict[str, Any] = {
            "lr": h.encoder_lr,
            "optimizer": torch.optim.AdamW,
            "options": {"weight_decay": h.weight_decay},
            "schedule": self.warm_up,
            "clip": h.clip,
            "clip_jointly": True,
        }
        # One AdamW in the paper; two groups here, because the second update leaves the decoder as it is.
        encoder = {"encoder": Group(**adamw), "decoder": Group(**adamw)}
        anchor = Group(ANCHOR_LR, torch.optim.AdamW, {"weight_decay": h.weight_decay})
        return {**super().groups(), **encoder, **({"anchor": anchor} if h.direction_loss == "anchor" else {})}

    def warm_up(self, done: int) -> float:
        """Return the factor on the encoder's learning rate after ``done`` steps."""
        return min((done + 1) / max(self.hparams.warmup, 1), 1.0)

    def programs(self) -> dict[str, Program]:
        """Return the reward's fit and the encoder's steps, on uniform windows of uniform episodes, cut at an episode's end."""
        size = self.hparams.encoder_batch_size
        draws = {
            "episode": Uniform(size),
            "time": Uniform(size),
            "pair": Below(lambda: len(self.questions), size),
            "pair_time": Uniform(size, 2),
            "partner": Uniform(PARTNERS, size),
        }
        moves = ("encoder", "decoder", "anchor") if self.hparams.direction_loss == "anchor" else ("encoder", "decoder")
        encoder = Program([self.reconstruct, self.contrast], draws, self.gather_windows, moves=moves)
        return {**super().programs(), "encoder": encoder}

    def plan(self, round_number: int) -> list[Phase]:
        if self.hparams.ties_as_skips:
            self.labels = self.reward_model.labels = ties_to_skips(self.labels)
        known = bool((self.labels.status != Status.PENDING).any())
        first = round_number == 0 or (self.hparams.n_init and not self.encoder_steps())
        updates = self.hparams.n_init if first else self.hparams.n_emb
        encoder = Phase("encoder", "encoder", updates if known else 0, start=self.begin_encoder)
        return [*super().plan(round_number), encoder]

    def begin_encoder(self) -> None:
        """Learn from all answers there are, with dropout that a resumed round repeats."""
        self.use_answers()
        torch.manual_seed(derive(self.seed, "dropout", self.trainer.current_epoch, self.trainer.global_rank))

    def use_answers(self) -> None:
        """Train the encoder on all present answers from now on."""
        known = self.labels.take(self.labels.status != Status.PENDING)
        self.questions, self.question_time = known.to(self.device), self.begin(known.start.cpu()).to(self.device)
        self.offsets = self.source.episodes.offsets.to(self.device)

    def gather_windows(self, drawn: dict[str, Tensor]) -> dict[str, Tensor]:
        """Gather left-padded windows, (B, T, ...), and labelled pairs, (B, 2, T, ...)."""
        questions, length = self.questions, self.questions.length
        offsets, pair = self.offsets, drawn["pair"]
        episode = (drawn["episode"] * (len(offsets) - 1)).long()
        time = (drawn["time"] * offsets.diff()[episode]).long()
        first, count = offsets[episode] + time, (offsets.diff()[episode] - time).clamp(max=length)
        pair_time = self.question_time[pair]
        if self.hparams.start_times == "random":
            pair_time = (drawn["pair_time"] * max(self.hparams.max_episode_steps - length - 1, 1)).long()
        at = torch.arange(length, device=first.device)
        step = at - (length - count)[:, None]  # (B, T); negative on padding
        valid, step = step >= 0, step.clamp(min=0)
        rows, real = first[:, None] + step, valid[..., None]
        obs, action = self.states(rows), self.source.column("action")[rows]
        pairs = self.states(segment_rows(questions.start[pair], length))
        return {
            "obs": self.encoder_normalizer(torch.where(real, obs, 0.0)),
            "action": torch.where(real, action, PADDED_ACTION),
            "time": torch.where(valid, time[:, None] + step, 0),
            "valid": valid.float(),
            "pair_obs": self.encoder_normalizer(pairs) if self.hparams.standardize else pairs,
            "pair_time": pair_time[..., None] + at,
            "label": questions.value[pair],
            "clear": questions.status[pair] == Status.ANSWERED,
            "ambiguous": questions.status[pair] == Status.SKIPPED,
            "partner": drawn["partner"].float(),
        }

    def states(self, rows: Tensor) -> Tensor:
        """Return the states at rows, (...,) -> (..., O); of images the features of the reward's torso as it is now."""
        return (self.reward_model.codes() if self.reward_model.side else self.source.column("obs"))[rows]

    def reconstruct(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return L_recon, which moves encoder and decoder."""
        z = self.encoder(batch["obs"], batch["time"], batch["valid"])
        action = self.decoder(z, batch["obs"], batch["action"], batch["time"], batch["valid"])
        loss = reconstruction_loss(action, batch["action"], batch["valid"])
        return {"encoder": loss, "decoder": loss}

    def contrast(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return 0.1 L_amb + L_quad + 0.1 L_norm, which moves the encoder (and z*)."""
        h, label, clear, ambiguous = self.hparams, batch["label"], batch["clear"], batch["ambiguous"]
        pairs = batch["pair_obs"].flatten(0, 1), batch["pair_time"].flatten(0, 1)
        z = self.encoder.segment(*pairs).view(*batch["pair_obs"].shape[:2], -1)
        amb = ambiguity_loss(z, clear, ambiguous, h.amb_loss, h.similarity)
        norm = norm_loss(self.encoder(batch["obs"], batch["time"], batch["valid"]))
        if h.direction_loss == "anchor":
            quad = anchor_loss(z, label, clear, self.anchor, h.similarity, h.squash, h.pairing)
        else:
            quad = quadrilateral_loss(z, label, clear, batch["partner"], h.similarity, h.squash, h.pairing)
        loss = h.amb_weight * amb + h.quad_weight * quad + h.norm_weight * norm
        moved = {"encoder": loss, "anchor": loss} if h.direction_loss == "anchor" else {"encoder": loss}
        return {**moved, "ambiguity": amb, h.direction_loss: quad, "norm": norm}

    @torch.no_grad()
    def embed(self, query: Query) -> Tensor:
        """Return embeddings of the asked segments, without dropout: (B, C, Z)."""
        start, device = query.start.reshape(-1).cpu(), self.source.device
        time = self.begin(start)
        if self.hparams.start_times == "random":
            steps = max(self.hparams.max_episode_steps - query.length - 1, 1)
            time = torch.randint(steps, start.shape, generator=stream(self.seed, "embed", self.encoder_steps()))

        def embed(tile: Tensor) -> Tensor:
            rows, begin = tile.unbind(1)
            obs = self.states(segment_rows(rows, query.length))
            obs = self.encoder_normalizer(obs) if self.hparams.standardize else obs
            return self.encoder.segment(obs, segment_rows(begin, query.length)).clone()  # a view would keep every step's

        both = F.pad(torch.stack([start, time], 1), (0, 0, 0, -len(start) % EMBED_TILE)).to(device)
        with evaluating(self.encoder):
            return tiled(embed, both.split(EMBED_TILE), dim=0)[: len(start)].view(*query.start.shape, -1)

    def encoder_steps(self) -> int:
        """Return the encoder steps done so far, also of a method loaded from a checkpoint."""
        if self.engine is not None:
            return self.engine.updates["encoder"]
        return int(self._restored["engine"]["updates"]["encoder"]) if self._restored is not None else 0

    def begin(self, rows: Tensor) -> Tensor:
        """Return the time step at which a segment from each row on is embedded: its episode's or 0, (...,), on the CPU."""
        episodes = self.source.episodes
        return torch.zeros_like(rows) if self.hparams.start_times == "zero" else rows - episodes.offsets[episodes.of(rows)]


def ties_to_skips(labels: Labels) -> Labels:
    """Return labels whose equal answers read as skipped."""
    equal = labels.status == Status.EQUAL
    value, status = labels.value.masked_fill(equal, float("nan")), labels.status.masked_fill(equal, int(Status.SKIPPED))
    return Labels(labels.start, labels.length, value, status)
