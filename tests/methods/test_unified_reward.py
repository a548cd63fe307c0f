"""Two kinds of answer, one reward: what trains it, what its draws are, when fits end."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from unified_toys import T, alone, engine_of, fit

from lightning_pbrl.data.feedback import Labels, Query
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.losses.information import bald, pair_probability, rating_probability
from lightning_pbrl.losses.preference import preference_cross_entropy
from lightning_pbrl.losses.rating import gaussian_nll
from lightning_pbrl.queries.mixed import MixedQuery
from lightning_pbrl.queries.uniform import UniformQuery
from lightning_pbrl.rng import stream
from lightning_pbrl.teachers.rating import RatingTeacher

# What trains it --------------------------------------------------------------------------------------------------------


def test_the_objective_by_hand() -> None:
    """Joint: cross entropy of the pairs plus lambda times the likelihood of a R + b with V + sigma^2, each a mean of its own."""
    model = alone(rating_weight=0.7, dropout=0.3)
    engine_of(model)
    with torch.no_grad():
        model.decoder.log_a.fill_(math.log(2.0)), model.decoder.b.fill_(3.0), model.decoder.log_sigma.fill_(math.log(0.5))
    batch = model.gather_both({"pair": torch.arange(12).unsqueeze(0), "rating": torch.arange(8).unsqueeze(0)})
    model.network.rate = 0.0
    found = model.losses(batch)
    per_step = model.network(batch["pairs"].flatten(0, -2))[0].view(12, 2, T, 2)
    pref = preference_cross_entropy(per_step[..., 0].sum(-1), batch["label"][0])
    per_step = model.network(batch["rated"].flatten(0, -2))[0].view(8, T, 2)
    mean, variance = per_step[..., 0].sum(-1), torch.nn.functional.softplus(per_step[..., 1]).sum(-1)
    rate = gaussian_nll(2 * mean + 3, variance + 0.25, batch["rating"][0])
    assert found["preference_loss"].item() == pytest.approx(pref.item(), rel=1e-5)
    assert found["rating_loss"].item() == pytest.approx(0.7 * rate.item(), rel=1e-5)
    assert found["network"].item() == pytest.approx((pref + 0.7 * rate).item(), rel=1e-5) and found["decoder"] is found["network"]


@pytest.mark.parametrize("ratings", ["gaussian", "rbrl", "squared"])
@pytest.mark.parametrize("mode", ["joint", "sequential"])
def test_both_kinds_move_the_network(ratings: Any, mode: Any) -> None:
    """Pairs alone, ratings alone: either moves it; ratings alone move the decoder, pairs alone leave it where it is."""
    for pairs, rated in ((12, 0), (0, 8), (12, 8)):
        model = alone(ratings=ratings, step_mode=mode)
        engine = engine_of(model, pairs, rated)
        before = {key: rows.clone() for key, rows in engine.state.storage.items()}
        engine.run("reward", 2)
        assert not torch.equal(before["network"], engine.state.storage["network"])
        assert torch.equal(before["decoder"], engine.state.storage["decoder"]) == (rated == 0 or ratings == "rbrl")
        assert ("decoder" in engine.moved("reward")) == (ratings != "rbrl")


def test_sequential_makes_two_steps_where_joint_makes_one() -> None:
    moved = {}
    for mode in ("joint", "sequential"):
        engine = engine_of(alone(step_mode=mode))
        engine.run("reward", 1)
        state = engine.state.optimizers[0]["network"].state
        moved[mode] = next(iter(state.values()))["step"].item()
    assert moved == {"joint": 1.0, "sequential": 2.0}


def test_every_minibatch_has_its_share_of_both_kinds() -> None:
    model = alone(ensemble_size=2)
    engine = engine_of(model, pairs=30, ratings=9)
    model.one_pass = 3
    batches = engine.drawn("reward", 6, 0)
    assert [(drawn["pair"].shape, drawn["rating"].shape) for drawn in batches] == [((2, 10), (2, 3))] * 6
    for member in range(2):
        once = torch.cat([drawn["pair"][member] for drawn in batches[:3]])
        assert once.sort().values.tolist() == list(range(30))
    assert not torch.equal(batches[0]["pair"][0], batches[0]["pair"][1])


def test_ratings_alone_teach_a_linear_reward(tmp_path: Path) -> None:
    """Ten classes of 250 random clips: R^2 above 0.8 on clips that nobody rated, and a decoder on the raters' scale."""
    teacher, query = RatingTeacher(eval_beta=0.25), UniformQuery("rating")
    ask = {"teacher": teacher, "query": query, "budget": 250, "per_round": 250}
    method = fit(tmp_path, ask, hidden=(32, 32), first_epochs=60, batch_size=32, dropout=0.05)
    assert len(method.labels) == 0 and len(method.ratings) == 250
    model, pool = method.reward_model, method.source.pool(T)
    query = Query("rating", pool.start(torch.arange(len(pool))).unsqueeze(1), T)
    new = ~torch.isin(query.start[:, 0], method.ratings.start)
    predicted, true = model.returns(query)[0, new, 0], method.source.true_returns(query)[new, 0]
    assert torch.corrcoef(torch.stack([predicted, true.double()]))[0, 1] ** 2 > 0.8
    mean, _ = model.decode(model.posterior(query, 20))
    low, high = teacher.range
    assert (mean.mean(0)[new, 0] - ((true - low) / (high - low) * 10 - 0.5)).abs().mean() < 1.0


# What its draws are ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"posterior": "ensemble", "ensemble_size": 3}, {"ensemble_size": 3}])
def test_a_clip_with_itself_tells_nothing(settings: dict[str, Any]) -> None:
    """Exactly, by the direct path and by that of the whole table."""
    model = alone(**settings)
    for count in (4, 200):
        start = model.source.pool(T).draw(count, torch.Generator().manual_seed(2))
        sample = model.posterior(Query("pair", torch.stack([start, start], 1), T), 20)
        assert sample.shape == (3 if "posterior" in settings else 20, count, 2, 2)
        assert torch.equal(bald(pair_probability(sample[..., 0])), torch.zeros(count, dtype=torch.float64))
        assert sample[..., 0].std(0).min() > 0


def test_released_masks_give_a_clip_with_itself_information() -> None:
    """The fact sheet's figure: an untrained 23-64-64-1 model at p = .4, clips of 50 steps: 0.17 bits on average; here 0."""
    rng = torch.Generator().manual_seed(0)
    obs, action = torch.randn(400, 17, generator=rng), torch.rand(400, 6, generator=rng)
    source = Transitions.from_columns(obs, action, obs, torch.arange(0, 401, 100))
    spec = {"obs_dim": 17, "action_dim": 6, "horizon": 100}
    bits = {}
    for masks in ("step", "question"):
        model = alone(source, spec, hidden=(64, 64), dropout=0.4, dropout_masks=masks)
        start = source.pool(50).draw(100, torch.Generator().manual_seed(1))
        sample = model.posterior(Query("pair", torch.stack([start, start], 1), 50), 20)
        bits[masks] = bald(pair_probability(sample[..., 0])).mean().item()
    assert 0.05 < bits["step"] < 0.4 and bits["question"] == 0.0


@pytest.mark.parametrize(
    "settings", [{"step_mode": "sequential"}, {"step_mode": "joint"}, {"ratings": "squared"}, {"ratings": "rbrl"}]
)
def test_what_nothing_is_learnt_about_keeps_its_weights(settings: dict[str, Any]) -> None:
    """As in the released code, where the variance head has no gradient: weight decay inside Adam would move it by lr a step."""
    model = alone(weight_decay=1e-2, **settings)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    engine_of(model, 12, 8 if "ratings" in settings else 0).run("reward", 5)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    network = {f"network.{name}" for name in model.network.state_dict()} - {"network.head_weights.1", "network.head_biases.1"}
    decoder = {"decoder.log_a", "decoder.b"} if settings.get("ratings") == "squared" else set()
    assert moved == network | decoder


def test_a_draw_is_one_function() -> None:
    """Draws by folded weights are the network with the same masks, written out; for every query they are the same."""
    model = alone(ensemble_size=2)
    query = model.source.pool(T).pairs(5, torch.Generator().manual_seed(3))
    sample = model.posterior(query, 4)
    masks = model.network.masks(4, stream(0, "posterior", 0))
    clips = model.source.segments(query.start, T)
    for d, (member, mask) in enumerate([(0, 0), (0, 2), (1, 1), (1, 3)]):
        x = clips
        for layer, (weight, bias) in enumerate(model.network.layers(member)):
            x = x @ weight.T + bias
            x = torch.nn.functional.leaky_relu(x) * masks[layer][mask] if layer < 2 else x
        torch.testing.assert_close(sample[d, ..., 0].float(), x[..., 0].sum(-1), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(
            sample[d, ..., 1].float(), torch.nn.functional.softplus(x[..., 1]).sum(-1), rtol=1e-4, atol=1e-4
        )
    assert model.member_of(4).tolist() == [0, 0, 1, 1]
    few = model.posterior(Query("rating", query.start[:2, :1], T), 4)
    torch.testing.assert_close(few[:, :, 0], sample[:, :2, 0])


def test_shared_masks_in_training() -> None:
    """Rows that share a mask see the same units; rows of two groups do not."""
    network = alone().network
    x = torch.ones(12, 7)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        out = network(x, share=4)[0]
    assert all(torch.equal(out[at], out[4 * (at // 4)]) for at in range(12))
    assert len(out[:, 0].unique()) == 3
    assert len(network(x, share=1)[0][:, 0].unique()) > 6
    assert torch.equal(network.train()(x), network.eval()(x))  # no dropout unless it is asked for


def test_rating_probabilities_follow_the_decoder() -> None:
    model = alone()
    query = Query("rating", model.source.pool(T).draw(6, torch.Generator().manual_seed(4)).unsqueeze(1), T)
    with torch.no_grad():
        model.decoder.log_a.fill_(math.log(2.0)), model.decoder.b.fill_(3.0)
    sample = model.posterior(query, 5)
    found = model.rating_probability(sample)
    torch.testing.assert_close(found, rating_probability(2 * sample[..., 0] + 3, sample[..., 1] + 1.0, 10))
    rbrl = alone(ratings="rbrl")
    rbrl.boundaries.copy_(torch.linspace(-2, 2, 11))
    classes = rbrl.rating_probability(rbrl.posterior(query, 5))
    assert classes.shape == (5, 6, 1, 10) and torch.allclose(classes.sum(-1), torch.ones(5, 6, 1, dtype=torch.float64))


# When fits end ---------------------------------------------------------------------------------------------------------


def test_predicted_ratings_by_hand() -> None:
    query = Query("rating", torch.tensor([[0], [40], [90]]), T)
    model = alone(posterior="ensemble", ensemble_size=2)
    with torch.no_grad():
        model.decoder.log_a.copy_(torch.tensor([2.0, 3.0]).log())
        model.decoder.b.copy_(torch.tensor([1.0, 5.0]))
    first, second = model.returns(query)[..., 0]
    torch.testing.assert_close(model.predicted_ratings(query), ((2 * first + 1) + (3 * second + 5)) / 2)
    plain = alone(decoder="none")
    torch.testing.assert_close(plain.predicted_ratings(query), plain.returns(query)[0, :, 0])
    classes = alone(ratings="rbrl", bins=2)
    classes.boundaries.copy_(torch.tensor([[-1.0, 0.0, 1.0]]))  # the classes score 30 (R - 1/2) apart, R = (r + 1) / 2
    expected = torch.sigmoid(15 * classes.returns(query)[0, :, 0])
    torch.testing.assert_close(classes.predicted_ratings(query), expected)


def test_an_answer_never_changes_sides() -> None:
    model = alone(validation=0.2)
    held = model.held("pair", 5000)
    assert torch.equal(held[:100], model.held("pair", 100)) and not torch.equal(held, model.held("rating", 5000))
    assert abs(held.float().mean().item() - 0.2) < 4 * math.sqrt(0.16 / 5000)
    assert not alone(validation=0.0).held("pair", 50).any()


@pytest.mark.parametrize("restore", [True, False])
def test_the_best_weights_come_back(restore: bool) -> None:
    """Held-out losses 3, 2, 5, 6: with a patience of 2 the fit stops at the fourth; then the weights of the second are there."""
    model = alone(restore_best=restore)
    engine = engine_of(model)
    model.held_out = (model.pairs, Labels.empty(clips=1))
    model.best, model.bad_passes, model.allowed = None, 0, 2
    losses, seen, stopped = iter([3.0, 2.0, 5.0, 6.0, 7.0]), [], []
    model.validation_loss = lambda: next(losses)  # type: ignore[method-assign]
    for _ in range(4):
        engine.run("reward", 1)
        seen.append(engine.state.storage["network"].clone())
        stopped.append(model.stops({}))
    assert stopped == [False, False, False, True]
    model.end_fit()
    assert torch.equal(engine.state.storage["network"], seen[1 if restore else 3])


def test_held_out_answers_are_not_trained_on(tmp_path: Path) -> None:
    method = fit(tmp_path, {"query": MixedQuery(UniformQuery(), UniformQuery("rating"))})
    model = method.reward_model
    train, held = model.split()
    for kind, labels in enumerate((method.labels, method.ratings)):
        assert len(train[kind]) + len(held[kind]) == len(labels) == 20 and len(held[kind]) > 0
    assert torch.equal(model.pairs.start, train[0].start) and torch.equal(model.rated.start, train[1].start)


def test_no_held_out_answer_means_all_passes(tmp_path: Path) -> None:
    method = fit(tmp_path, {"budget": 20, "query": MixedQuery(UniformQuery(), UniformQuery("rating"))}, validation=0.0)
    assert method.running.updates["reward"] == 5 * math.ceil(20 / 8)
