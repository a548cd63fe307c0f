"""Scoring the whole pool of clips by BALD against code in the manner of the release: one thread, side by side.

Ours scores *every* clip of the pool (each legal start), each transition once for all draws. What the plain code does per clip is
measured on some and extrapolated: every clip costs the same. The disjoint clips are the hard case: no transition is shared, so
only the shared masks, the first layer and the width of the products can help.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from benchmarks.engine import transitions
from benchmarks.measure import Claim, interleave, judge, per_unit, summary
from benchmarks.plain_bald import PlainReward, pair_scores, rating_scores
from lightning_pbrl.data.feedback import Labels, Query
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.losses.information import bald
from lightning_pbrl.queries.bald import BALDQuery
from lightning_pbrl.rewards.base import chosen
from lightning_pbrl.rewards.posterior import POSTERIOR_TILE
from lightning_pbrl.rewards.unified import UnifiedReward

CLAIMS = [
    Claim("BALD of ratings, every clip of the pool / a clip at a time", 25, "clips plain", "clips ours"),
    Claim("... clips that share no transition", None, "clips plain", "disjoint ours"),
    Claim("BALD of pairs, whole pool scored anew / a clip at a time", 25, "pairs plain", "pairs ours"),
]


class Size(NamedTuple):
    """How much is measured; the goals are stated for the default."""

    rows: int = 100_000
    obs_dim: int = 17
    action_dim: int = 6
    width: int = 64
    dropout: float = 0.4
    length: int = 40
    draws: int = 20
    plain_clips: int = 150
    pairs: int = 20_000
    rounds: int = 5


QUICK = Size(rows=2_000, width=16, length=10, draws=4, plain_clips=5, pairs=300, rounds=2)


def unified(source: Transitions, size: Size) -> UnifiedReward:
    """Our model with the data attached, without a Trainer."""
    spec = {"obs_dim": size.obs_dim, "action_dim": size.action_dim, "horizon": 0}
    model = chosen(UnifiedReward(hidden=(size.width, size.width), dropout=size.dropout), spec, seed=0)
    assert isinstance(model, UnifiedReward)
    model.build()
    model.source = source
    return model


def copy_weights(method: UnifiedReward, plain: PlainReward) -> None:
    """Give the plain model our weights."""
    weights, biases = zip(*method.network.layers(0), strict=True)
    with torch.no_grad():
        for layer, at in ((plain.trunk[0], 0), (plain.trunk[3], 1)):
            layer.weight.copy_(weights[at]), layer.bias.copy_(biases[at])
        for head, row in ((plain.mean, 0), (plain.variance, 1)):
            head.weight.copy_(weights[2][row : row + 1]), head.bias.copy_(biases[2][row : row + 1])


def main(size: Size) -> dict[str, Any]:
    """Measure everything; plain JSON."""
    source = transitions(size.rows, size.obs_dim, size.action_dim)
    ours, plain = unified(source, size), PlainReward(size.obs_dim + size.action_dim, size.width, size.dropout)
    copy_weights(ours, plain)
    pool, rng = source.pool(size.length), torch.Generator().manual_seed(0)
    features = source.features().contiguous().numpy()
    some = [features[at : at + size.length] for at in pool.draw(size.plain_clips, rng).tolist()]
    strategy, pairs = BALDQuery("rating", draws=size.draws), BALDQuery("pair", draws=size.draws)
    candidates = pool.pairs(size.pairs, rng)
    first = source.episodes.first
    apart = [first + at for at in range(0, int(source.episodes.lengths.min()) - size.length + 1, size.length)]
    disjoint = Query("rating", torch.cat(apart).unsqueeze(1), size.length)

    def anew() -> None:
        ours.attach(None)  # as after every fit

    def every_clip() -> None:
        anew()
        strategy.consider(pool, 1, ours, Labels.empty(size.length, clips=1), rng)

    def some_clips() -> None:
        features = ours.source.segments(disjoint.start[:, 0], size.length).flatten(0, 1)  # gathered, whatever the table's size
        functions = ours._functions(size.draws)
        sums = (
            torch.cat([functions(part) for part in features.split(POSTERIOR_TILE)], 1)
            .view(2 * size.draws, len(disjoint), -1)
            .sum(-1)
        )
        bald(ours.rating_probability(torch.stack(sums.double().chunk(2), -1).unsqueeze(2)).squeeze(2))

    def every_pair() -> None:
        anew()
        pairs.score(candidates, ours)

    seen = interleave(
        {
            "clips plain": per_unit(lambda: rating_scores(plain, some, size.draws), size.plain_clips),
            "clips ours": per_unit(every_clip, len(pool)),
            "disjoint ours": per_unit(some_clips, len(disjoint)),
            "pairs plain": per_unit(lambda: pair_scores(plain, some, size.draws), size.plain_clips // 2),
            "pairs ours": per_unit(every_pair, size.pairs),
        },
        size.rounds,
    )
    return {
        "size": size._asdict(),
        "unit": "CPU seconds per clip (clips, disjoint) or pair",
        "extrapolated": {"plain": f"measured on {size.plain_clips} clips; each costs the same"},
        "clips": {"pool": len(pool), "disjoint": len(disjoint)},
        "clips_per_cpu_second": {name: 1 / found["median"] for name, found in summary(seen).items()},
        "claims": [judge(claim, seen) for claim in CLAIMS],
        "seconds": summary(seen),
    }
