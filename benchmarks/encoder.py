"""CLARIFY's trajectory encoder against reference-style code: one thread, side by side.

Claims: encoder steps (both updates of a step: reconstruction, then the contrastive losses), with minibatches, at the size of
the overlay ``preset/clarify/small.yaml`` and at full size.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import torch
from torch import nn

from benchmarks.engine import transitions
from benchmarks.measure import Claim, interleave, judge, per_unit, summary, without_onednn
from benchmarks.plain_encoder import PlainEncoder, Shape
from lightning_pbrl.data.feedback import Labels, Status
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.engine import UpdateEngine
from lightning_pbrl.fitting.answers import hand_over
from lightning_pbrl.fitting.starting import attach
from lightning_pbrl.methods.clarify import CLARIFY

EPISODE = 500


class Size(NamedTuple):
    """How much is measured.

    Attributes:
        small: width, layers, heads and batch size of the small overlay.
        full: the paper's.
        steps: encoder steps per round with ``small``.
        full_steps: with ``full``.
    """

    rows: int = 100_000
    obs_dim: int = 39
    action_dim: int = 4
    length: int = 50
    pairs: int = 1_000
    dropout: float = 0.1
    small: tuple[int, int, int, int] = (64, 1, 2, 32)
    full: tuple[int, int, int, int] = (256, 4, 4, 64)
    steps: int = 4
    full_steps: int = 1
    rounds: int = 9
    full_rounds: int = 3


QUICK = Size(rows=2_000, length=10, pairs=40, small=(16, 1, 2, 4), full=(32, 2, 2, 4), steps=2, rounds=2, full_rounds=2)

CLAIMS = {
    "small": [
        Claim("encoder steps, small overlay, engine / plain PyTorch loop", None, "plain", "engine"),
        Claim("... small overlay, without oneDNN / plain PyTorch loop", None, "plain", "engine, default library"),
    ],
    "full": [
        Claim("encoder steps, full size, engine / plain PyTorch loop", None, "plain", "engine"),
        Claim("... full size, without oneDNN / plain PyTorch loop", None, "plain", "engine, default library"),
    ],
}


def answers(source: Transitions, length: int, count: int) -> Labels:
    """Random answers: as many skips as the teacher of CLARIFY gives, about half."""
    rng = torch.Generator().manual_seed(1)
    query = source.pool(length).pairs(count, rng)
    skipped = torch.rand(count, generator=rng) < 0.5
    value = (torch.rand(count, generator=rng) < 0.5).float().masked_fill(skipped, float("nan"))
    return Labels(query.start, length, value, torch.where(skipped, int(Status.SKIPPED), int(Status.ANSWERED)))


def clarify(source: Transitions, labels: Labels, size: Size, shape: tuple[int, int, int, int]) -> CLARIFY:
    """Our method with data, answers and eager engines, without a Trainer."""
    width, layers, heads, batch = shape
    spec = {"obs_dim": source.obs_dim, "action_dim": source.action_dim, "horizon": 0}
    sizes: dict[str, Any] = {
        "width": width,
        "layers": layers,
        "heads": heads,
        "encoder_batch_size": batch,
        "dropout": size.dropout,
    }
    method = CLARIFY(spec, max_episode_steps=EPISODE, hidden=(8,), start_times="true", **sizes)
    method.configure_model()
    method.source = source
    hand_over(method)
    method.on_data()
    attach(method, UpdateEngine(method, method.groups(), method.programs(), [0], compile=False))
    method.labels = labels
    method.use_answers()
    return method


def plain(source: Transitions, labels: Labels, size: Size, shape: tuple[int, int, int, int]) -> PlainEncoder:
    """The opponent on the same data and answers."""
    width, layers, heads, batch = shape
    obs, action, ends = source.column("obs"), source.column("action"), source.episodes.offsets.tolist()
    spans = [slice(*span) for span in itertools.pairwise(ends)]
    trajectories = [(obs[span].numpy().copy(), action[span].numpy().copy()) for span in spans]
    segments = source.segments(labels.start, labels.length)[..., : source.obs_dim].numpy().copy()
    begin = (labels.start - source.episodes.offsets[source.episodes.of(labels.start)]).numpy()
    label = labels.value.nan_to_num(0.5).numpy()
    return PlainEncoder(trajectories, segments, begin, label, Shape(width, layers, heads, size.dropout, EPISODE), batch)


def counterparts(method: CLARIFY, theirs: PlainEncoder) -> list[tuple[nn.Module, nn.Module]]:
    """Layers of ours, each with the layer of the opponent that has the same part."""
    encoder, decoder, model = method.encoder, method.decoder, theirs.model
    layers: list[tuple[Any, Any]] = [
        (encoder.state, model.encode_state),
        (encoder.time, model.encode_time),
        (encoder.norm, model.encode_norm),
        (encoder.stack.norm, model.encoder.norm),
        (encoder.head, model.to_z),
        (decoder.z, model.decode_z),
        (decoder.state, model.decode_state),
        (decoder.action, model.decode_action),
        (decoder.time, model.decode_time),
        (decoder.norm, model.decode_norm),
        (decoder.stack.norm, model.decoder.norm),
        (decoder.head, model.to_action[0]),
    ]
    blocks: list[tuple[Any, Any]] = [
        *zip(encoder.stack.blocks, model.encoder.blocks, strict=True),
        *zip(decoder.stack.blocks, model.decoder.blocks, strict=True),
    ]
    for mine, other in blocks:
        layers += [
            (mine.norm_attention, other.norm_1),
            (mine.norm_mlp, other.norm_2),
            (mine.attention.qkv, other.attention.query_key_value),
            (mine.attention.out, other.attention.project),
            (mine.mlp[0], other.widen),
            (mine.mlp[2], other.narrow),
        ]
    return layers


def copy_weights(method: CLARIFY, theirs: PlainEncoder) -> None:
    """Give the opponent our weights, so that both compute the same numbers."""
    for mine, other in counterparts(method, theirs):
        other.load_state_dict({name: value.clone() for name, value in mine.state_dict().items()})


def race(source: Transitions, labels: Labels, size: Size, shape: tuple[int, int, int, int], steps: int, rounds: int) -> Any:
    """CPU seconds per encoder step of both, round by round."""
    method = clarify(source, labels, size, shape)
    theirs = plain(source, labels, size, shape)
    copy_weights(method, theirs)
    ours = per_unit(lambda: method.running.run("encoder", steps), steps)
    contestants = {
        "plain": per_unit(lambda: theirs.run(steps), steps),
        "engine": ours,
        "engine, default library": without_onednn(ours),
    }
    return interleave(contestants, rounds)


def main(size: Size) -> dict[str, Any]:
    """Measure everything; plain JSON."""
    source = transitions(size.rows, size.obs_dim, size.action_dim, EPISODE)
    labels = answers(source, size.length, size.pairs)
    torch.manual_seed(0)
    claims, seconds = [], {}
    for name, shape, steps, rounds in (
        ("small", size.small, size.steps, size.rounds),
        ("full", size.full, size.full_steps, size.full_rounds),
    ):
        seen = race(source, labels, size, shape, steps, rounds)
        claims += [judge(claim, seen) for claim in CLAIMS[name]]
        seconds.update({f"{name}, {who}": spread for who, spread in summary(seen).items()})
    rates = {who: 1 / spread["median"] for who, spread in seconds.items()}
    shown = "; ".join(f"{who} {rate:.3g}" for who, rate in rates.items() if "library" not in who)
    return {
        "size": size._asdict(),
        "unit": "CPU seconds per encoder step (two updates)",
        "claims": claims,
        "seconds": seconds,
        "steps_per_cpu_second": rates,
        "note": f"Encoder steps (of two updates) per CPU second: {shown}.",
    }
