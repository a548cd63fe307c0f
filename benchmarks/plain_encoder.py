"""CLARIFY's trajectory encoder as reference code trains it: the opponent of ``benchmarks.encoder``.

Written anew after the structure of the released code: GPT-2 blocks of ``nn.Linear`` with attention spelled out, trajectories as
separate NumPy arrays, windows that a Python loop cuts, pads and standardises one by one, answers in preallocated arrays of
copied segments, each segment of a pair embedded on its own, one default AdamW for encoder and decoder, ``.item()`` for
the log. Left out, which favours it: the return-to-go of every window, which nothing reads.

It computes what preset ``paper`` means (read-out at the first step, bounded losses), so that both do the same work.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

Array = NDArray[np.float32]

CLIP, LR, WEIGHT_DECAY, WARMUP = 0.25, 1e-4, 1e-4, 10_000
PARTNERS, PADDED_ACTION, Z_DIM = 50, -10.0, 16


class Shape(NamedTuple):
    """Size of both transformers."""

    width: int
    layers: int
    heads: int
    dropout: float
    max_steps: int


class Attention(nn.Module):
    """Causal self-attention, every product written out."""

    def __init__(self, shape: Shape, tokens: int) -> None:
        super().__init__()
        self.heads, self.size = shape.heads, shape.width // shape.heads
        self.query_key_value = nn.Linear(shape.width, 3 * shape.width)
        self.project = nn.Linear(shape.width, shape.width)
        self.drop_weight, self.drop = nn.Dropout(shape.dropout), nn.Dropout(shape.dropout)
        self.register_buffer("past", torch.ones(tokens, tokens).tril().bool())

    def split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, self.size).permute(0, 2, 1, 3)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        query, key, value = (self.split(part) for part in self.query_key_value(x).split(self.heads * self.size, dim=2))
        score = torch.matmul(query, key.transpose(-1, -2)) / math.sqrt(self.size)
        length = x.shape[1]
        score = torch.where(self.past[:length, :length], score, torch.finfo(score.dtype).min)  # type: ignore[index]
        weight = self.drop_weight(F.softmax(score + padding, dim=-1))
        merged = torch.matmul(weight, value).permute(0, 2, 1, 3).contiguous().view(x.shape)
        return self.drop(self.project(merged))


class GPT2Block(nn.Module):
    """Attention and a perceptron, each added to what came in."""

    def __init__(self, shape: Shape, tokens: int) -> None:
        super().__init__()
        self.norm_1, self.attention = nn.LayerNorm(shape.width), Attention(shape, tokens)
        self.norm_2 = nn.LayerNorm(shape.width)
        self.widen, self.narrow = nn.Linear(shape.width, 4 * shape.width), nn.Linear(4 * shape.width, shape.width)
        self.drop = nn.Dropout(shape.dropout)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        x = x + self.attention(self.norm_1(x), padding)
        return x + self.drop(self.narrow(F.relu(self.widen(self.norm_2(x)))))


class GPT2(nn.Module):
    """A stack of blocks."""

    def __init__(self, shape: Shape, tokens: int) -> None:
        super().__init__()
        self.drop = nn.Dropout(shape.dropout)
        self.blocks = nn.ModuleList(GPT2Block(shape, tokens) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        padding = (1.0 - mask[:, None, None, :]) * -1e4
        x = self.drop(x)
        for block in self.blocks:
            x = block(x, padding)
        return self.norm(x)


class PlainModel(nn.Module):
    """Encoder and decoder in one module, as one optimiser holds them."""

    def __init__(self, obs_dim: int, action_dim: int, length: int, shape: Shape) -> None:
        super().__init__()
        width = shape.width
        self.encode_state, self.encode_time = nn.Linear(obs_dim, width), nn.Embedding(shape.max_steps, width)
        self.encode_norm, self.encoder = nn.LayerNorm(width), GPT2(shape, length)
        self.to_z = nn.Linear(width, Z_DIM)
        self.decode_z, self.decode_state = nn.Linear(Z_DIM, width), nn.Linear(obs_dim, width)
        self.decode_action, self.decode_time = nn.Linear(action_dim, width), nn.Embedding(shape.max_steps, width)
        self.decode_norm, self.decoder = nn.LayerNorm(width), GPT2(shape, 3 * length)
        self.to_action = nn.Sequential(nn.Linear(width, action_dim), nn.Tanh())

    def embed_all(self, states: Tensor, times: Tensor, mask: Tensor) -> Tensor:
        """One embedding per step, from the states reversed: (B, T, O) -> (B, T, Z)."""
        tokens = self.encode_norm(self.encode_state(states) + self.encode_time(times))
        return self.to_z(self.encoder(torch.flip(tokens, [1]), torch.flip(mask, [1]))).flip(1)

    def embed(self, states: Tensor, times: Tensor, mask: Tensor) -> Tensor:
        """One embedding per segment: (B, T, O) -> (B, Z)."""
        return self.embed_all(states, times, mask)[:, 0]

    def forward(self, states: Tensor, actions: Tensor, times: Tensor, mask: Tensor) -> Tensor:
        """Predicted actions, (B, T, A)."""
        batch, length = states.shape[:2]
        z = self.embed_all(states, times, mask)
        when = self.decode_time(times)
        parts = (self.decode_z(z) + when, self.decode_state(states) + when, self.decode_action(actions) + when)
        tokens = torch.stack(parts, dim=1).permute(0, 2, 1, 3).reshape(batch, 3 * length, -1)
        masks = torch.stack((mask, mask, mask), dim=1).permute(0, 2, 1).reshape(batch, 3 * length)
        out = self.decoder(self.decode_norm(tokens), masks).reshape(batch, length, 3, -1).permute(0, 2, 1, 3)
        return self.to_action(out[:, 1])


def similarity(x: Tensor, y: Tensor) -> Tensor:
    return -torch.mean((x - y) ** 2, dim=1)


class PlainEncoder:
    """The training loop.

    Args:
        trajectories: observations and actions of every episode.
        segments: observations of the two segments of every answered pair, (N, 2, T, O).
        begin: their first time steps, (N, 2).
        label: P(second preferred), 0 or 1, of every pair; 0.5 where the answer was "cannot compare", (N,).
        shape: of both transformers.
        batch_size: windows, and pairs, per step.
    """

    def __init__(
        self,
        trajectories: list[tuple[Array, Array]],
        segments: Array,
        begin: NDArray[np.int64],
        label: Array,
        shape: Shape,
        batch_size: int,
    ) -> None:
        self.trajectories, self.segments, self.begin, self.label = trajectories, segments, begin, label
        self.length, self.batch_size = segments.shape[2], batch_size
        states = np.concatenate([states for states, _ in trajectories])
        self.mean, self.std = states.mean(0), states.std(0) + 1e-6
        obs_dim, action_dim = states.shape[1], trajectories[0][1].shape[1]
        self.model = PlainModel(obs_dim, action_dim, self.length, shape)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda done: min((done + 1) / WARMUP, 1))

    def windows(self, drawn: list[tuple[int, int]] | None = None) -> tuple[Tensor, ...]:
        """Left-padded windows, one after another: states, actions, times, mask.

        Args:
            drawn: (trajectory, first step) of each; random ones when None.
        """
        if drawn is None:
            which = np.random.randint(len(self.trajectories), size=self.batch_size)
            drawn = [(i, np.random.randint(len(self.trajectories[i][0]))) for i in which]
        columns: tuple[list[NDArray[Any]], ...] = ([], [], [], [])
        for which_one, first in drawn:
            states, actions = self.trajectories[which_one]
            states, actions = states[first : first + self.length][None], actions[first : first + self.length][None]
            seen = states.shape[1]
            missing = self.length - seen
            padded = np.concatenate([np.zeros((1, missing, states.shape[2])), states], axis=1)
            columns[0].append((padded - self.mean) / self.std)
            columns[1].append(np.concatenate([np.ones((1, missing, actions.shape[2])) * PADDED_ACTION, actions], axis=1))
            columns[2].append(np.concatenate([np.zeros((1, missing)), np.arange(first, first + seen)[None]], axis=1))
            columns[3].append(np.concatenate([np.zeros((1, missing)), np.ones((1, seen))], axis=1))
        types = (torch.float32, torch.float32, torch.long, torch.float32)
        return tuple(
            torch.from_numpy(np.concatenate(parts, axis=0)).to(dtype=kind) for parts, kind in zip(columns, types, strict=True)
        )

    def pairs(self, drawn: NDArray[np.int64] | None = None) -> tuple[Tensor, ...]:
        """Answered pairs, with replacement: states and times of the first and of the second segments, labels."""
        if drawn is None:
            drawn = np.random.choice(len(self.label), size=self.batch_size, replace=True)
        sides: list[Tensor] = []
        for side in (0, 1):
            states = (self.segments[drawn, side] - self.mean) / self.std
            times = self.begin[drawn, side][:, None] + np.arange(self.length)[None]
            sides += [torch.from_numpy(states).to(dtype=torch.float32), torch.from_numpy(times).to(dtype=torch.long)]
        return (*sides, torch.from_numpy(self.label[drawn]))

    def reconstruction(self, states: Tensor, actions: Tensor, times: Tensor, mask: Tensor) -> Tensor:
        predicted = self.model(states, actions, times, mask)
        kept, size = mask.reshape(-1) > 0, actions.shape[2]
        return torch.mean((predicted.reshape(-1, size)[kept] - actions.reshape(-1, size)[kept]) ** 2)

    def contrast(
        self, windows: tuple[Tensor, ...], pairs: tuple[Tensor, ...], partner: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The losses of the second update.

        Args:
            windows: as :meth:`windows` returns them.
            pairs: as :meth:`pairs` returns them.
            partner: numbers in [0, 1) that pick the partners of clear pairs, (PARTNERS, B); random when None.
        """
        states, _, times, mask = windows
        full = self.model.embed_all(states, times, mask).reshape(-1, Z_DIM)
        norm = torch.mean((torch.norm(full, dim=1) - torch.ones(len(full))) ** 2)
        first_states, first_times, second_states, second_times, label = pairs
        real = torch.ones(first_times.shape)
        first = self.model.embed(first_states, first_times, real)
        second = self.model.embed(second_states, second_times, real)
        alike, unclear = similarity(first, second), label == 0.5
        ambiguity = torch.tensor(0.0)
        if (~unclear).any():
            ambiguity = ambiguity + torch.mean(torch.sigmoid(alike[~unclear]))
        if unclear.any():
            ambiguity = ambiguity - torch.mean(torch.sigmoid(alike[unclear]))
        won, lost = label == 0, label == 1
        good, bad = torch.cat([first[won], second[lost]]), torch.cat([second[won], first[lost]])
        quadrilateral = torch.tensor(0.0)
        if len(good):
            u = torch.rand(PARTNERS, len(good)) if partner is None else partner[:, : len(good)]
            index = (u * len(good)).long().reshape(-1)
            good_j, bad_j = good[index], bad[index]
            good, bad = good.repeat(PARTNERS, 1), bad.repeat(PARTNERS, 1)
            apart = similarity(good, bad_j) + similarity(good_j, bad)
            quadrilateral = torch.mean(torch.sigmoid(apart - similarity(good, good_j) - similarity(bad, bad_j)))
        loss = 0.1 * norm + 0.1 * ambiguity + quadrilateral
        return {"loss": loss, "ambiguity": ambiguity, "quadrilateral": quadrilateral, "norm": norm}

    def update(self, loss: Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()

    def run(self, steps: int) -> dict[str, float]:
        """Train; the last step's losses."""
        self.model.train()
        log = {}
        for _ in range(steps):
            windows = self.windows()
            reconstruction = self.reconstruction(*windows)
            self.update(reconstruction)
            losses = self.contrast(windows, self.pairs())
            self.update(losses["loss"])
            self.schedule.step()
            log = {"reconstruction": reconstruction.item(), **{name: loss.item() for name, loss in losses.items()}}
        return log
