"""Reward ensembles and query scoring against reference-style code: one thread, side by side.

Claims: relabelling a data set; disagreement of many candidate pairs, with and without the reward model's sums cached;
k-center picks; one pass of reward training. What would take the reference too long is measured on a part and
extrapolated: disagreement per pair (every pair costs the same) and k-center per pick (the first is the cheapest).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.engine import transitions
from benchmarks.measure import Claim, interleave, judge, per_unit, summary, without_onednn
from benchmarks.plain_scoring import PlainEnsemble, k_center_by_full_distances
from lightning_pbrl.data.feedback import Labels, Query, Status
from lightning_pbrl.data.relabel import predict_reward
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.engine import UpdateEngine
from lightning_pbrl.queries.disagreement import disagreement
from lightning_pbrl.queries.kcenter import k_center
from lightning_pbrl.rewards.base import chosen
from lightning_pbrl.rewards.ensemble import RewardEnsemble
from lightning_pbrl.rewards.scoring import ReturnScorer

CLAIMS = [
    Claim("relabelling, tiles / all rows at once", 1.7, "relabel plain", "relabel ours"),
    Claim("disagreement of candidate pairs / gather and forward per pair", 100, "pairs plain", "pairs ours"),
    Claim("... with the sums cached", 5_000, "pairs plain", "pairs cached"),
    Claim("k-center, 20 picks / all distances at each pick", 500, "k-center plain", "k-center ours"),
    Claim("reward training epoch, tiles / member loop on whole minibatches", 1.1, "epoch plain", "epoch ours"),
    Claim("relabelling without oneDNN / all rows at once", None, "relabel plain", "relabel, default library"),
    Claim("reward training without oneDNN / member loop", None, "epoch plain", "epoch, default library"),
]


class Size(NamedTuple):
    """How much is measured; the goals are stated for the default."""

    rows: int = 200_000
    pool_rows: int = 100_000
    obs_dim: int = 39
    action_dim: int = 4
    hidden: tuple[int, ...] = (256, 256, 256)
    ensemble_size: int = 3
    length: int = 50
    pairs: int = 100_000
    plain_pairs: int = 500
    points: int = 500
    centres: int = 500
    picks: int = 20
    plain_picks: int = 1
    train_pairs: int = 1_000
    batch_size: int = 128
    rounds: int = 5


QUICK = Size(
    rows=2_000,
    pool_rows=1_000,
    hidden=(32, 32),
    length=10,
    pairs=1_000,
    plain_pairs=50,
    points=40,
    centres=40,
    picks=4,
    train_pairs=64,
    rounds=2,
)


def ensemble(source: Transitions, size: Size) -> RewardEnsemble:
    """Our reward ensemble with the data attached, without a Trainer."""
    spec = {"obs_dim": source.obs_dim, "action_dim": source.action_dim, "horizon": 0}
    settings = {"ensemble_size": size.ensemble_size, "hidden": size.hidden, "batch_size": size.batch_size}
    model = chosen(RewardEnsemble(**settings), spec, seed=0)  # type: ignore[arg-type]
    assert isinstance(model, RewardEnsemble)
    model.build()
    model.source = source
    return model


def candidates(source: Transitions, size: Size, count: int) -> Query:
    return source.pool(size.length).pairs(count, torch.Generator().manual_seed(1))


def copy_weights(method: RewardEnsemble, plain: PlainEnsemble) -> None:
    """Give the plain members our members' weights, so that both compute the same numbers."""
    layers = list(zip(method.members.weights, method.members.biases, strict=True))
    for e, net in enumerate(plain.members):
        linears = [layer for layer in net if isinstance(layer, torch.nn.Linear)]
        for target, (weight, bias) in zip(linears, layers, strict=True):
            target.weight.data.copy_(weight[e])
            target.bias.data.copy_(bias[e])


def reward_engine(method: RewardEnsemble, query: Query, label: Tensor) -> UpdateEngine:
    """The engine of the reward program on the given pairs."""
    status = torch.full((len(query),), Status.ANSWERED, dtype=torch.int64)
    method.pairs = Labels(query.start, query.length, label, status)
    return UpdateEngine(method, method.groups(), method.programs(), [0], compile=False)


def main(size: Size) -> dict[str, Any]:
    """Measure everything; plain JSON."""
    source = transitions(size.rows, size.obs_dim, size.action_dim)
    pool = transitions(size.pool_rows, size.obs_dim, size.action_dim)
    ours = ensemble(pool, size)
    plain = PlainEnsemble(source.features().contiguous().numpy(), size.ensemble_size, size.hidden)
    plain_pool = PlainEnsemble(pool.features().contiguous().numpy(), size.ensemble_size, size.hidden)
    copy_weights(ours, plain)
    copy_weights(ours, plain_pool)

    query, version = candidates(pool, size, size.pairs), [0]
    scorer = ReturnScorer(ours.reward, pool, lambda: version[0])
    few = query.start[: size.plain_pairs].numpy()

    def score_anew() -> None:
        version[0] += 1
        disagreement(scorer.returns(query))

    rng = torch.Generator().manual_seed(2)
    points = torch.randn(size.points, 2 * size.length * size.obs_dim, generator=rng)
    centres = torch.randn(size.centres, 2 * size.length * size.obs_dim, generator=rng)
    same = [
        k_center(points.__getitem__, size.points, [centres], size.plain_picks).tolist(),
        k_center_by_full_distances(points, centres, size.plain_picks),
    ]
    assert same[0] == same[1], f"the two k-centers pick differently: {same}"

    asked = candidates(pool, size, size.train_pairs)
    label = (torch.rand(size.train_pairs, generator=rng) > 0.5).float()
    engine = reward_engine(ours, asked, label)
    passes = -(-size.train_pairs // size.batch_size)
    sides = [plain_pool.clips(asked.start[:, side].numpy(), size.length) for side in (0, 1)]

    relabel = per_unit(lambda: predict_reward(source, ours.reward), size.rows)
    epoch = per_unit(lambda: engine.run("reward", passes), 1)
    seen = interleave(
        {
            "relabel plain": per_unit(plain.relabel, size.rows),
            "relabel ours": relabel,
            "relabel, default library": without_onednn(relabel),
            "pairs plain": per_unit(lambda: plain_pool.disagreement(few, size.length), size.plain_pairs),
            "pairs ours": per_unit(score_anew, size.pairs),
            "pairs cached": per_unit(lambda: [disagreement(scorer.returns(query)) for _ in range(5)], 5 * size.pairs),
            "k-center plain": per_unit(lambda: k_center_by_full_distances(points, centres, size.plain_picks), size.plain_picks),
            "k-center ours": per_unit(lambda: k_center(points.__getitem__, size.points, [centres], size.picks), size.picks),
            "epoch plain": per_unit(lambda: plain_pool.train_epoch(*sides, label.long().numpy(), size.batch_size), 1),
            "epoch ours": epoch,
            "epoch, default library": without_onednn(epoch),
        },
        size.rounds,
    )
    return {
        "size": size._asdict(),
        "unit": "CPU seconds per row (relabel), pair (pairs), pick (k-center), pass over the pairs (epoch)",
        "extrapolated": {
            "pairs plain": f"measured on {size.plain_pairs} of {size.pairs} pairs; each costs the same",
            "k-center plain": f"measured on the first {size.plain_picks} of {size.picks} picks, which are the cheapest",
        },
        "claims": [judge(claim, seen) for claim in CLAIMS],
        "seconds": summary(seen),
    }
