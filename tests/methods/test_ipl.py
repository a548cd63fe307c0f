"""IPL: the engine's updates against plain loops, sizes, sources, scores, asking, and a problem whose answer is known."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from preference_toys import batches, corridor, difference, follow, labelled, labels_of, plain, ready, step
from torch import Tensor, nn
from toys import SPEC, ToyData, make_trainer

from lightning_pbrl.arguments import packaged_config
from lightning_pbrl.callbacks.ask_teacher import AskTeacher
from lightning_pbrl.data.feedback import Query
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.ipl import IPL
from lightning_pbrl.methods.mr_iql import MRIQL
from lightning_pbrl.queries.disagreement import DisagreementQuery
from lightning_pbrl.teachers.simulated import SimulatedTeacher

UPDATES, LR, DISCOUNT, POLYAK, BETA, LAMBDA = 12, 3e-3, 0.99, 0.05, 0.4, 2.0
SETTINGS: dict[str, Any] = {
    "hidden": (16, 16),
    "lr": LR,
    "polyak": POLYAK,
    "beta": BETA,
    "chi2_coeff": LAMBDA,
    "batch_size": 4,
    "window": 5,
}


# Sizes -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hidden", "ipl", "mr", "awac"),
    [
        ((256, 256, 256), 571_147, 714_252, 285_961),
        ((64, 64), 27_851, 34_892, 14_025),
        ((35, 35), 11_176, 14_012, 5_644),
    ],
)
def test_parameter_counts_are_the_published_ones(hidden: tuple[int, ...], ipl: int, mr: int, awac: int) -> None:
    """Meta-World, observations of 39 and actions of 4; targets not counted."""
    spec = {"obs_dim": 39, "action_dim": 4, "horizon": 500}

    def count(method: Any) -> int:
        method.configure_model()
        return sum(p.numel() for p in method.parameters() if p.requires_grad)

    assert count(IPL(spec, hidden=hidden)) == ipl
    assert count(MRIQL(spec, hidden=hidden)) == mr
    assert count(IPL(spec, hidden=hidden, variant="awac", ensemble_size=1)) == awac


def test_parameter_counts_for_hopper() -> None:
    spec = {"obs_dim": 11, "action_dim": 3, "horizon": 1000}
    for method, expected in ((IPL(spec), 278_537), (MRIQL(spec), 348_426)):
        method.configure_model()
        assert sum(p.numel() for p in method.parameters() if p.requires_grad) == expected


def test_initial_networks_are_orthogonal_and_the_spread_is_one() -> None:
    method = IPL(SPEC, hidden=(16, 16))
    method.configure_model()
    for weight in (*method.q.weights, *method.v.weights, *method.actor.mean.weights):
        for matrix in weight.detach().reshape(-1, *weight.shape[-2:]):
            wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
            torch.testing.assert_close(wide @ wide.T, torch.eye(len(wide)), rtol=0, atol=1e-5)
    assert all((bias == 0).all() for net in (method.q, method.v, method.actor.mean) for bias in net.biases)
    assert (method.actor.log_std == 0).all() and method.actor.log_std_range == (-5.0, 2.0)
    assert not torch.equal(method.q.weights[0][0], method.q.weights[0][1])


# The order of the updates ------------------------------------------------------------------------------------------------


def flat(batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """One loop over pairs, segments and steps: s, a, s', discount, and how many of them are of segments."""
    s, a, next_s, discount = [], [], [], []
    for pair, side, t in itertools.product(range(4), range(2), range(4)):  # windows of 5 points
        points = batch["segments"][pair, side]
        s.append(points[t, :5])
        a.append(points[t, 5:])
        next_s.append(points[t + 1, :5])
        discount.append(DISCOUNT)
    for row in batch.get("replay", ()):
        s.append(row[:5])
        a.append(row[5:7])
        next_s.append(row[7:12])
        discount.append(DISCOUNT * (1 - float(row[13])))
    return torch.stack(s), torch.stack(a), torch.stack(next_s), torch.tensor(discount, dtype=torch.float64)


def both(values: Tensor, weight: float | None, segments: int = 32) -> Tensor:
    """The three replay weights, as section 2.2 of the notes writes them: per segment first."""
    if weight is None or values.shape[-1] == segments:
        return values.mean()
    by_pair = values[..., :segments].reshape(*values.shape[:-1], 4, 2, 4)
    of_segments = (by_pair[..., 0, :].mean() + by_pair[..., 1, :].mean()) / 2
    return (1 - weight) * of_segments + weight * values[..., segments:].mean()


def preference(reward: Tensor, label: Tensor) -> Tensor:
    """Soft-label cross entropy of the sums over the four transitions of each window."""
    sums = reward[:, :32].reshape(-1, 4, 2, 4).sum(-1)
    logit = sums[..., 1] - sums[..., 0]
    return nn.functional.binary_cross_entropy_with_logits(logit, label.expand_as(logit))


class PlainIPL:
    """IPL written out: one optimiser per network, one loss after the other.

    Args:
        method: whose present weights it starts with.
        weights: replay weights of value, chi2 and policy.
    """

    def __init__(self, method: IPL, weights: tuple[float | None, ...]) -> None:
        self.weights, members = weights, range(method.hparams.ensemble_size)
        self.qs, self.targets = ([plain(method.q, e) for e in members] for _ in range(2))
        self.mean = plain(method.actor.mean)
        self.log_std = nn.Parameter(method.actor.log_std.detach().clone())
        self.q_adam = torch.optim.Adam([p for q in self.qs for p in q.parameters()], lr=LR)
        self.actor_adam = torch.optim.Adam([*self.mean.parameters(), self.log_std], lr=LR)
        if method.hparams.variant != "awac":
            self.v = plain(method.v)
            self.v_adam = torch.optim.Adam(self.v.parameters(), lr=LR)

    def with_value(self, batch: dict[str, Tensor], value_loss: Any) -> None:
        """One update of IPL-IQL or IPL-XQL: V, then the critic with the new V, then the actor, then the target."""
        s, a, next_s, discount = flat(batch)
        sa = torch.cat([s, a], 1)
        with torch.no_grad():
            tq = torch.stack([q(sa).squeeze(1) for q in self.targets]).min(0).values
        step(self.v_adam, both(value_loss(tq - self.v(s).squeeze(1)), self.weights[0]))
        with torch.no_grad():
            limit = 1 / (LAMBDA * (1 - DISCOUNT))
            next_value = self.v(next_s).squeeze(1).clamp(-limit, limit)
        self.move_critic(sa, discount, next_value, batch["label"])
        with torch.no_grad():
            advantage = tq - self.v(s).squeeze(1)
        self.move_actor(s, a, advantage)
        follow(self.targets, self.qs, POLYAK)

    def without_value(self, batch: dict[str, Tensor]) -> None:
        """One update of IPL-AWAC: the critic, then the actor against the critic before and after that step, then the target."""
        s, a, next_s, discount = flat(batch)
        sa = torch.cat([s, a], 1)
        next_noise, noise = batch["noise"]
        with torch.no_grad():
            next_a = self.mean(next_s) + self.log_std.clamp(-5, 2).exp() * next_noise
            next_value = sum(q(torch.cat([next_s, next_a], 1)).squeeze(1) for q in self.targets) / len(self.targets)
            before = sum(q(sa).squeeze(1) for q in self.qs) / len(self.qs)
        self.move_critic(sa, discount, next_value, batch["label"])
        with torch.no_grad():
            own_a = self.mean(s) + self.log_std.clamp(-5, 2).exp() * noise
            after = sum(q(torch.cat([s, own_a], 1)).squeeze(1) for q in self.qs) / len(self.qs)
        self.move_actor(s, a, before - after)
        follow(self.targets, self.qs, POLYAK)

    def move_critic(self, sa: Tensor, discount: Tensor, next_value: Tensor, label: Tensor) -> None:
        reward = torch.stack([q(sa).squeeze(1) for q in self.qs]) - discount * next_value
        step(self.q_adam, preference(reward, label) + LAMBDA * both(reward.square(), self.weights[1]))

    def move_actor(self, s: Tensor, a: Tensor, advantage: Tensor) -> None:
        weight = torch.exp(advantage / BETA).clamp(max=100)
        log_prob = torch.distributions.Normal(self.mean(s), self.log_std.clamp(-5, 2).exp()).log_prob(a).sum(-1)
        step(self.actor_adam, both(-weight * log_prob, self.weights[2]))

    def difference(self, method: IPL) -> float:
        parts = [(method.q, self.qs), (method.q_target, self.targets), (method.actor.mean, [self.mean])]
        if method.hparams.variant != "awac":
            parts.append((method.v, [self.v]))
        spread = float((method.actor.log_std - self.log_std).detach().abs().max())
        return max([difference(mlp, nets) for mlp, nets in parts] + [spread])


WEIGHTS = ("value_replay_weight", "chi2_replay_weight", "policy_replay_weight")


def beside(update: Any, weights: tuple[float | None, ...] = (0.5, 0.5, 0.5), **settings: Any) -> None:
    """Twelve updates of the engine and of a plain loop give the same weights, and have moved them."""
    data, labels = labelled(count=10)
    method, engine = ready(IPL, data, labels, **{**SETTINGS, **dict(zip(WEIGHTS, weights, strict=True)), **settings})
    expected, start, seen = PlainIPL(method, weights), PlainIPL(method, weights), batches(method, UPDATES)
    engine.run("policy", 5)
    engine.run("policy", UPDATES - 5)
    for batch in seen:
        update(expected, batch)
    assert expected.difference(method) < 1e-12
    assert difference(method.q, start.qs) > 1e-2 and difference(method.actor.mean, [start.mean]) > 1e-2


@pytest.mark.parametrize("weights", [(0.5, 0.5, 0.5), (None, 0.2, 1.0)])
@pytest.mark.parametrize("replay", [0, 6])
def test_ipl_iql_equals_a_plain_loop(weights: tuple[float | None, ...], replay: int) -> None:
    def value_loss(u: Tensor) -> Tensor:
        return torch.where(u < 0, 0.3 * u**2, 0.7 * u**2)

    beside(lambda loop, batch: loop.with_value(batch, value_loss), weights, replay_batch_size=replay)


def test_ipl_xql_equals_a_plain_loop() -> None:
    def value_loss(u: Tensor) -> Tensor:
        return torch.exp(u / BETA) - u / BETA - 1

    beside(lambda loop, batch: loop.with_value(batch, value_loss), replay_batch_size=6, variant="xql", gumbel_clip=20.0)


@pytest.mark.parametrize("members", [1, 2])
def test_ipl_awac_equals_a_plain_loop(members: int) -> None:
    settings: dict[str, Any] = {"variant": "awac", "ensemble_size": members, "replay_batch_size": 6}
    beside(lambda loop, batch: loop.without_value(batch), **settings)


# What the losses read ----------------------------------------------------------------------------------------------------


def small_batch(**settings: Any) -> tuple[IPL, dict[str, Tensor]]:
    data, labels = labelled(count=10)
    method, _ = ready(IPL, data, labels, **{**SETTINGS, "replay_batch_size": 6, **settings})
    return method, batches(method, 1)[0]


def second_step(method: IPL, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the losses of critic and actor, with what the step before hands on and a V that has not moved."""
    _, handed = method.value_loss(batch)
    return method.critic_and_actor_loss({**batch, **handed})


def test_target_clipping_bounds_the_implied_reward() -> None:
    """V(s') of 1e6 counts as 1 / (lambda (1 - gamma)) = 50; a terminal transition implies Q itself."""
    method, batch = small_batch()
    nn.init.constant_(method.v.biases[-1], 1e6)
    seen = method.view(batch)
    q = method.q(seen["state_action"]).squeeze(-1)
    discount = DISCOUNT * (1 - batch["replay"][:, 13])
    assert 0 < int((discount == 0).sum()) < 6
    expected = torch.cat([q[:, :32] - 49.5, q[:, 32:] - 50 * discount], 1).mean()
    torch.testing.assert_close(second_step(method, seen)["implied_reward"], expected, rtol=0, atol=1e-9)
    unclipped, _ = small_batch(target_clipping=False)
    unclipped.load_state_dict(method.state_dict())
    assert second_step(unclipped, seen)["implied_reward"] < -1e5


@pytest.mark.parametrize(("weight", "inert"), [(0.0, "replay"), (1.0, "segments")])
def test_replay_weights_isolate_the_sources(weight: float, inert: str) -> None:
    method, batch = small_batch(**dict.fromkeys(WEIGHTS, weight))
    other = {**batch, inert: batch[inert] + 1.0}

    def losses(batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
        seen = method.view(batch)
        both = second_step(method, seen)
        return method.value_loss(seen)[0]["v"], both["chi2_loss"], both["actor"], both["pref_loss"]

    *same, pref = losses(batch)
    *also, other_pref = losses(other)
    assert same == also
    assert (pref == other_pref) == (inert == "replay")  # preferences are read from segments alone
    assert all(
        x != y for x, y in zip(same, losses({**batch, **{k: v + 1 for k, v in batch.items() if k != inert}}), strict=False)
    )


def test_a_window_point_is_evaluated_once_and_to_the_right_value() -> None:
    method, batch = small_batch()
    value, next_value = method.values(method.view(batch))
    s, _, next_s, _ = flat(batch)
    torch.testing.assert_close(value, method.v(s).squeeze(1), rtol=0, atol=1e-14)
    torch.testing.assert_close(next_value, method.v(next_s).squeeze(1), rtol=0, atol=1e-14)


@pytest.mark.parametrize("variant", ["iql", "xql", "awac"])
@torch.no_grad()
def test_scores_are_sums_of_implied_rewards(variant: Any) -> None:
    data, labels = labelled(count=70)  # 140 segments: more than one tile
    method, _ = ready(IPL, data, labels, hidden=(16, 16), variant=variant, normalize_obs=True)
    query = Query("pair", labels.start, labels.length)
    found = method.returns(query)
    assert found.shape == (2, 70, 2)
    for pair, side in ((0, 0), (3, 1), (69, 0)):
        first = int(query.start[pair, side])
        for e in range(2):
            total = 0.0
            for t in range(first, first + 5):
                s, a = (method.normalizer(data.packed[t, :5]), data.packed[t, 5:7])
                next_s = method.normalizer(data.packed[t + 1, :5])
                if variant == "awac":
                    next_a = method.actor.mean(next_s)
                    value = method.q_target(torch.cat([next_s, next_a])[None]).mean()
                else:
                    value = method.v(next_s)
                total += float(method.q(torch.cat([s, a])[None])[e] - 0.99 * value)
            assert float(found[e, pair, side]) == pytest.approx(total, abs=1e-12)


# Runs --------------------------------------------------------------------------------------------------------------------


def fit(folder: Path, data: ToyData, ask: AskTeacher, **settings: Any) -> IPL:
    small = {"hidden": [16, 16], "lr": 3e-3, "batch_size": 8, "window": 6, "updates": 60, "eval_interval": 20}
    method = IPL(SPEC, **{**small, **settings})
    make_trainer(folder, [ask]).fit(method, data)
    return method


def test_online_it_asks_where_its_critics_disagree(tmp_path: Path) -> None:
    """Rounds of questions and of updates in turns; the first round is uniform."""
    asked: list[tuple[int, bool]] = []

    class Watched(DisagreementQuery):
        def propose(self, pool: Any, n: int, model: IPL, labels: Any, rng: torch.Generator) -> Query:
            query = super().propose(pool, n, model, labels, rng)
            uniform = pool.pairs(200, torch.Generator().manual_seed(9))
            spread = [torch.sigmoid(model.returns(q).diff(dim=-1)).std(0).mean() for q in (query, uniform)]
            asked.append((len(labels), bool(spread[0] > 1.5 * spread[1])))
            return query

    ask = AskTeacher(SimulatedTeacher(), Watched(large_batch=10), budget=30, per_round=10)
    method = fit(tmp_path, ToyData(), ask, replay_batch_size=8)
    assert asked == [(10, True), (20, True)]
    assert method.asked.total == 30 and method.running.updates["policy"] == 60
    assert len(method.pairs) == 30


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(UserError, match="use_min_target=true is for variant=awac: xql has one value"):
        IPL(SPEC, variant="xql", use_min_target=True)
    with pytest.raises(UserError, match="chi2_coeff is 0, and target_clipping divides by it: give more, or"):
        IPL(SPEC, chi2_coeff=0.0)
    IPL(SPEC, chi2_coeff=0.0, target_clipping=False)
    with pytest.raises(UserError, match=r"IPL got beta=0\.0: give a number above 0"):
        IPL(SPEC, beta=0.0)
    with pytest.raises(UserError, match=r"IPL got policy_replay_weight=1\.5: give a number between 0 and 1"):
        IPL(SPEC, policy_replay_weight=1.5)


@pytest.mark.parametrize("name", ["metaworld", "gym", "robomimic", "reference"])
def test_presets_are_switches_of_the_constructor(name: str) -> None:
    written = yaml.safe_load(Path(packaged_config(f"preset/ipl/{name}.yaml")).read_text())
    (key,) = written
    (part,) = written[key]
    assert (key, part) == ("model", "init_args")
    method = IPL(SPEC, **{"window": 16, **written["model"]["init_args"]})  # reference goes on top of another
    assert all(method.hparams[name] == value for name, value in written["model"]["init_args"].items())


# A problem whose answer is known -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "actor"), [("iql", "gaussian"), ("awac", "gaussian"), ("xql", "gaussian"), ("iql", "deterministic")]
)
def test_it_recovers_the_preferred_policy(variant: Any, actor: Any) -> None:
    """Walk to 0.6 from wherever, and stay."""
    data, labels = corridor()
    settings: dict[str, Any] = {"hidden": (32, 32), "lr": 5e-3, "variant": variant, "beta": 0.1, "polyak": 0.02, "actor": actor}
    method, engine = ready(IPL, data, labels, double=False, chi2_coeff=0.2, expectile=0.8, **settings)
    engine.run("policy", 300)
    with torch.no_grad():
        position = torch.linspace(-1, 1, 9)[:, None]
        for _ in range(30):
            position = (position + 0.3 * method.act(position)).clamp(-1, 1)
        assert (position - 0.6).abs().max() < 0.25  # cloning the data would leave them where they are
        held = labels_of(data, data.pool(8).pairs(300, torch.Generator().manual_seed(7)))
        returns = method.returns(Query("pair", held.start, 8)).mean(0)
        assert ((returns[:, 1] > returns[:, 0]).float() == held.value).float().mean() > 0.9


def test_a_deterministic_actor_is_trained_by_weighted_squared_errors() -> None:
    data, labels = corridor()
    for variant in ("iql", "awac"):
        method, engine = ready(IPL, data, labels, double=False, hidden=(8,), variant=variant, actor="deterministic")
        engine.run("policy", 3)
        obs, action = torch.zeros(2, 1), torch.tensor([[0.5], [-0.25]])
        mean = method.act(obs)
        assert torch.equal(method.actor.log_prob(obs, action), -(mean - action).square().sum(-1))
        assert torch.equal(method.act(obs, sample=True), mean) and not hasattr(method.actor, "log_std")


def test_with_ties_alone_the_implied_reward_vanishes() -> None:
    data, labels = labelled(count=40, length=6)
    labels.value.fill_(0.5)
    _, engine = ready(IPL, data, labels, double=False, hidden=(16, 16), lr=3e-3, chi2_coeff=3.0, replay_batch_size=16)
    first = engine.run("policy", 20)["chi2_loss"]
    engine.run("policy", 280)
    assert engine.run("policy", 20)["chi2_loss"] < 0.25 * first
