"""Two kinds of answer, one reward: what trains it, what its draws are, when fits end, what a policy gets."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from toys import SPEC, ToyData, assert_same, make_trainer

from lightning_pbrl.arguments import packaged_config
from lightning_pbrl.callbacks.ask_teacher import AskTeacher
from lightning_pbrl.data.feedback import Labels, Query, Status
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.engine import UpdateEngine
from lightning_pbrl.errors import UserError
from lightning_pbrl.losses.information import bald, pair_probability, rating_probability
from lightning_pbrl.losses.preference import preference_cross_entropy
from lightning_pbrl.losses.rating import gaussian_nll
from lightning_pbrl.methods.loading import load_method
from lightning_pbrl.methods.unified_reward import UnifiedReward
from lightning_pbrl.queries.bald import BALDQuery
from lightning_pbrl.queries.mixed import MixedQuery
from lightning_pbrl.queries.uniform import UniformQuery
from lightning_pbrl.rng import stream
from lightning_pbrl.teachers.mixed import MixedTeacher
from lightning_pbrl.teachers.rating import RatingTeacher

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
T = 10


def linear_data(episodes: int = 20, horizon: int = 30) -> Transitions:
    """Random states and actions; the true reward is linear in both."""
    rng = torch.Generator().manual_seed(0)
    n = episodes * horizon
    obs, action = torch.randn(n, 5, generator=rng), torch.rand(n, 2, generator=rng) * 2 - 1
    reward = torch.cat([obs, action], 1) @ torch.tensor([1.0, -0.5, 0.3, 0.0, 0.2, 0.7, -1.0])
    return Transitions.from_columns(obs, action, obs, torch.arange(0, n + 1, horizon), reward)


def alone(source: Transitions | None = None, **settings: Any) -> UnifiedReward:
    """The method with data and without a Trainer."""
    method = UnifiedReward(SPEC, **{"hidden": (16, 16), "dropout": 0.4, **settings})
    method.configure_model()
    method.source = source or linear_data()
    return method


def engine_of(method: UnifiedReward, pairs: int = 12, ratings: int = 8) -> UpdateEngine:
    """The engine of its program on random answers."""
    rng, source = torch.Generator().manual_seed(1), method.source
    start = source.pool(T).pairs(pairs, rng).start
    answered = torch.full((pairs + ratings,), int(Status.ANSWERED))
    method.pairs = Labels(start, T, (torch.rand(pairs, generator=rng) > 0.5).float(), answered[:pairs])
    start = source.pool(T).draw(ratings, rng).unsqueeze(1)
    method.rated = Labels(start, T, torch.randint(10, (ratings,), generator=rng).float(), answered[:ratings])
    method.one_pass = 1
    return UpdateEngine(method, method.programs()["reward"], [stream(0, "sampler")], compile=False)


def fit(folder: Path, ask: dict[str, Any] | None = None, ckpt_path: Path | None = None, **settings: Any) -> UnifiedReward:
    trainer = {name: settings.pop(name) for name in ("max_epochs",) if name in settings}
    usual: dict[str, Any] = {"teacher": MixedTeacher(), "query": MixedQuery(), "budget": 40, "per_round": 20}
    method = UnifiedReward(SPEC, **{"hidden": (16, 16), "first_epochs": 5, "epochs": 4, "batch_size": 8, **settings})
    make_trainer(folder, [AskTeacher(**{**usual, **(ask or {})})], **trainer).fit(method, Linear(), ckpt_path=ckpt_path)
    return method


class Linear(ToyData):
    def load(self) -> Transitions:
        return linear_data()


# What trains it --------------------------------------------------------------------------------------------------------


def test_the_objective_by_hand() -> None:
    """Joint: cross entropy of the pairs plus lambda times the likelihood of a R + b with V + sigma^2, each a mean of its own."""
    method = alone(rating_weight=0.7, dropout=0.3)
    engine = engine_of(method)
    with torch.no_grad():
        method.decoder.log_a.fill_(math.log(2.0)), method.decoder.b.fill_(3.0), method.decoder.log_sigma.fill_(math.log(0.5))
    engine._attach()
    batch = method.gather_both((torch.arange(12).unsqueeze(0), torch.arange(8).unsqueeze(0)))
    method.network.rate = 0.0
    found = method.losses(batch)
    per_step = method.network(batch["pairs"].flatten(0, -2))[0].view(12, 2, T, 2)
    pref = preference_cross_entropy(per_step[..., 0].sum(-1), batch["label"][0])
    per_step = method.network(batch["rated"].flatten(0, -2))[0].view(8, T, 2)
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
        method = alone(ratings=ratings, step_mode=mode)
        engine = engine_of(method, pairs, rated)
        before = {key: rows.clone() for key, rows in engine.state.storage.items()}
        engine.run(2)
        assert not torch.equal(before["network"], engine.state.storage["network"])
        if "decoder" in before:
            assert torch.equal(before["decoder"], engine.state.storage["decoder"]) == (rated == 0)
        assert ("decoder" in before) == (ratings != "rbrl")


def test_sequential_makes_two_steps_where_joint_makes_one() -> None:
    moved = {}
    for mode in ("joint", "sequential"):
        engine = engine_of(alone(step_mode=mode))
        engine.run(1)
        state = engine.state.optimizers[0]["network"].state
        moved[mode] = next(iter(state.values()))["step"].item()
    assert moved == {"joint": 1.0, "sequential": 2.0}


def test_every_minibatch_has_its_share_of_both_kinds() -> None:
    method = alone(ensemble_size=2)
    engine_of(method, pairs=30, ratings=9)
    method.one_pass = 3
    batches = method.sample_both(6, torch.Generator().manual_seed(0))
    assert [(pair.shape, rating.shape) for pair, rating in batches] == [((2, 10), (2, 3))] * 6
    for member in range(2):
        once = torch.cat([pair[member] for pair, _ in batches[:3]])
        assert once.sort().values.tolist() == list(range(30))
    assert not torch.equal(batches[0][0][0], batches[0][0][1])


def test_ratings_alone_teach_a_linear_reward(tmp_path: Path) -> None:
    """Ten classes of 250 random clips: R^2 above 0.8 on clips that nobody rated, and a decoder on the raters' scale."""
    teacher, query = RatingTeacher(eval_beta=0.25), UniformQuery("rating")
    ask = {"teacher": teacher, "query": query, "budget": 250, "per_round": 250}
    method = fit(tmp_path, ask, hidden=(32, 32), first_epochs=60, batch_size=32, dropout=0.05)
    assert len(method.labels) == 0 and len(method.ratings) == 250
    query = Query("rating", method.source.pool(T).start(torch.arange(len(method.source.pool(T)))).unsqueeze(1), T)
    new = ~torch.isin(query.start[:, 0], method.ratings.start)
    predicted, true = method.returns(query)[0, new, 0], method.source.true_returns(query)[new, 0]
    assert torch.corrcoef(torch.stack([predicted, true.double()]))[0, 1] ** 2 > 0.8
    mean, _ = method.decode(method.posterior(query, 20))
    low, high = teacher.range
    assert (mean.mean(0)[new, 0] - ((true - low) / (high - low) * 10 - 0.5)).abs().mean() < 1.0


# What its draws are ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"posterior": "ensemble", "ensemble_size": 3}, {"ensemble_size": 3}])
def test_a_clip_with_itself_tells_nothing(settings: dict[str, Any]) -> None:
    """Exactly, by the direct path and by that of the whole table."""
    method = alone(**settings)
    for count in (4, 200):
        start = method.source.pool(T).draw(count, torch.Generator().manual_seed(2))
        sample = method.posterior(Query("pair", torch.stack([start, start], 1), T), 20)
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
        method = UnifiedReward(spec, dropout=0.4, dropout_masks=masks)
        method.configure_model()
        method.source = source
        start = source.pool(50).draw(100, torch.Generator().manual_seed(1))
        sample = method.posterior(Query("pair", torch.stack([start, start], 1), 50), 20)
        bits[masks] = bald(pair_probability(sample[..., 0])).mean().item()
    assert 0.05 < bits["step"] < 0.4 and bits["question"] == 0.0


@pytest.mark.parametrize(
    "settings", [{"step_mode": "sequential"}, {"step_mode": "joint"}, {"ratings": "squared"}, {"ratings": "rbrl"}]
)
def test_what_nothing_is_learnt_about_keeps_its_weights(settings: dict[str, Any]) -> None:
    """As in the released code, where the variance head has no gradient: weight decay inside Adam would move it by lr a step."""
    method = alone(weight_decay=1e-2, **settings)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    engine_of(method, 12, 8 if "ratings" in settings else 0).run(5)
    moved = {name for name, value in method.state_dict().items() if not torch.equal(value, before[name])}
    network = {f"network.{name}" for name in method.network.state_dict()} - {"network.head_weights.1", "network.head_biases.1"}
    decoder = {"decoder.log_a", "decoder.b"} if settings.get("ratings") == "squared" else set()
    assert moved == network | decoder


def test_a_draw_is_one_function() -> None:
    """Draws by folded weights are the network with the same masks, written out; for every query they are the same."""
    method = alone(ensemble_size=2)
    query = method.source.pool(T).pairs(5, torch.Generator().manual_seed(3))
    sample = method.posterior(query, 4)
    masks = method.network.masks(4, stream(0, "posterior", 0))
    clips = method.source.segments(query.start, T)
    for d, (member, mask) in enumerate([(0, 0), (0, 2), (1, 1), (1, 3)]):
        x = clips
        for layer, (weight, bias) in enumerate(method.network.layers(member)):
            x = x @ weight.T + bias
            x = torch.nn.functional.leaky_relu(x) * masks[layer][mask] if layer < 2 else x
        torch.testing.assert_close(sample[d, ..., 0].float(), x[..., 0].sum(-1), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(
            sample[d, ..., 1].float(), torch.nn.functional.softplus(x[..., 1]).sum(-1), rtol=1e-4, atol=1e-4
        )
    assert method.member_of(4).tolist() == [0, 0, 1, 1]
    few = method.posterior(Query("rating", query.start[:2, :1], T), 4)
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
    method = alone()
    query = Query("rating", method.source.pool(T).draw(6, torch.Generator().manual_seed(4)).unsqueeze(1), T)
    with torch.no_grad():
        method.decoder.log_a.fill_(math.log(2.0)), method.decoder.b.fill_(3.0)
    sample = method.posterior(query, 5)
    found = method.rating_probability(sample)
    torch.testing.assert_close(found, rating_probability(2 * sample[..., 0] + 3, sample[..., 1] + 1.0, 10))
    rbrl = alone(ratings="rbrl")
    rbrl.boundaries.copy_(torch.linspace(-2, 2, 11))
    classes = rbrl.rating_probability(rbrl.posterior(query, 5))
    assert classes.shape == (5, 6, 1, 10) and torch.allclose(classes.sum(-1), torch.ones(5, 6, 1, dtype=torch.float64))


# When fits end ---------------------------------------------------------------------------------------------------------


def test_predicted_ratings_by_hand() -> None:
    query = Query("rating", torch.tensor([[0], [40], [90]]), T)
    method = alone(posterior="ensemble", ensemble_size=2)
    with torch.no_grad():
        method.decoder.log_a.copy_(torch.tensor([2.0, 3.0]).log())
        method.decoder.b.copy_(torch.tensor([1.0, 5.0]))
    first, second = method.returns(query)[..., 0]
    torch.testing.assert_close(method.predicted_ratings(query), ((2 * first + 1) + (3 * second + 5)) / 2)
    plain = alone(decoder="none")
    torch.testing.assert_close(plain.predicted_ratings(query), plain.returns(query)[0, :, 0])
    classes = alone(ratings="rbrl", bins=2)
    classes.boundaries.copy_(torch.tensor([[-1.0, 0.0, 1.0]]))  # the classes score 30 (R - 1/2) apart, R = (r + 1) / 2
    expected = torch.sigmoid(15 * classes.returns(query)[0, :, 0])
    torch.testing.assert_close(classes.predicted_ratings(query), expected)


def test_an_answer_never_changes_sides() -> None:
    method = alone(validation=0.2)
    held = method.held("pair", 5000)
    assert torch.equal(held[:100], method.held("pair", 100)) and not torch.equal(held, method.held("rating", 5000))
    assert abs(held.float().mean().item() - 0.2) < 4 * math.sqrt(0.16 / 5000)
    assert not alone(validation=0.0).held("pair", 50).any()


@pytest.mark.parametrize("restore", [True, False])
def test_the_best_weights_come_back(restore: bool) -> None:
    """Held-out losses 3, 2, 5, 6: with a patience of 2 the fit stops at the fourth; then the weights of the second are there."""
    method = alone(restore_best=restore)
    engine = engine_of(method)
    method.engines = {"reward": engine}
    method.held_out = (method.pairs, Labels.empty(clips=1))
    method.best, method.bad_passes, method.allowed = None, 0, 2
    losses, seen, stopped = iter([3.0, 2.0, 5.0, 6.0, 7.0]), [], []
    method.validation_loss = lambda: next(losses)  # type: ignore[method-assign]
    for _ in range(4):
        engine.run(1)
        seen.append(engine.state.storage["network"].clone())
        stopped.append(method.stops({}))
    assert stopped == [False, False, False, True]
    method.end_fit()
    assert torch.equal(engine.state.storage["network"], seen[1 if restore else 3])


def test_held_out_answers_are_not_trained_on(tmp_path: Path) -> None:
    method = fit(tmp_path, {"query": MixedQuery(UniformQuery(), UniformQuery("rating"))})
    train, held = method.split()
    for kind, labels in enumerate((method.labels, method.ratings)):
        assert len(train[kind]) + len(held[kind]) == len(labels) == 20 and len(held[kind]) > 0
    assert torch.equal(method.pairs.start, train[0].start) and torch.equal(method.rated.start, train[1].start)


def test_no_held_out_answer_means_all_passes(tmp_path: Path) -> None:
    method = fit(tmp_path, {"budget": 20, "query": MixedQuery(UniformQuery(), UniformQuery("rating"))}, validation=0.0)
    assert method.engine.updates["reward"] == 5 * math.ceil(20 / 8)


# Whole runs ------------------------------------------------------------------------------------------------------------


def test_questions_chosen_by_bald_and_a_killed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that dies after a round's answers and before its fit: resumed, bit-equal next labels and weights."""
    straight = fit(tmp_path / "straight", {"budget": 60})
    plan = UnifiedReward.plan

    def dying(self: UnifiedReward, round_number: int) -> Any:
        if round_number == 1:
            raise RuntimeError("killed")
        return plan(self, round_number)

    monkeypatch.setattr(UnifiedReward, "plan", dying)
    with pytest.raises(RuntimeError, match="killed"):
        fit(tmp_path / "broken", {"budget": 60})
    monkeypatch.undo()
    resumed = fit(tmp_path / "broken", {"budget": 60}, tmp_path / "broken/checkpoints/last.ckpt")
    assert straight.asked[:3] == resumed.asked[:3] == (60, 20, 0)
    assert_same([list(straight.labels), list(straight.ratings)], [list(resumed.labels), list(resumed.ratings)])
    assert_same(straight.state_dict(), resumed.state_dict())
    assert len(straight.labels) == len(straight.ratings) == 30


def test_policies_get_the_reward_without_dropout(tmp_path: Path) -> None:
    """In train mode, in eval mode and from a checkpoint: the same numbers, twice."""
    method = fit(tmp_path, dropout=0.4)
    features = method.source.features()[:50]
    expected = method.combine(method.reward(features))
    for mode in (True, False):
        method.train(mode)
        assert torch.equal(method.combine(method.reward(features)), expected)
    loaded = load_method(tmp_path / "checkpoints" / "last.ckpt")
    assert torch.equal(loaded.combine(loaded.reward(features)), expected)


def test_it_never_reads_the_true_reward(tmp_path: Path) -> None:
    """Answers that are in the store, data whose true rewards are NaN: the same network."""
    one = fit(tmp_path / "one")

    class Blind(Linear):
        def load(self) -> Transitions:
            data = linear_data()
            fingerprint = data.fingerprint
            data.reward.fill_(float("nan"))
            data._fingerprint = fingerprint
            return data

    methods = []
    for number, data in enumerate((Linear(), Blind())):
        method = UnifiedReward(SPEC, hidden=(16, 16), first_epochs=5, epochs=4, batch_size=8)
        ask = AskTeacher(store=str(tmp_path / "one/labels.sqlite"))
        make_trainer(tmp_path / f"silent{number}", [ask]).fit(method, data)
        assert len(method.ratings) == len(one.ratings)
        methods.append(method)
    assert_same(methods[0].state_dict(), methods[1].state_dict())


def test_presets_are_switches_of_the_constructor() -> None:
    written = {
        name: yaml.safe_load(Path(packaged_config(f"preset/unified_reward/{name}.yaml")).read_text())["model"]["init_args"]
        for name in ("paper", "reference")
    }
    defaults = UnifiedReward(SPEC).hparams
    assert all(defaults[key] == value for key, value in written["paper"].items())
    reference = UnifiedReward(SPEC, **written["reference"])
    assert set(written["reference"]) == set(written["paper"])
    assert all(reference.hparams[key] != defaults[key] for key in written["reference"])


def test_reference_leaves_the_ratings_alone(tmp_path: Path) -> None:
    """The released result: half of the answers are bought and not used."""
    written = yaml.safe_load(Path(packaged_config("preset/unified_reward/reference.yaml")).read_text())["model"]["init_args"]
    method = fit(tmp_path, {"query": MixedQuery(rating=UniformQuery("rating"))}, **written)
    assert len(method.ratings) == 20 and len(method.rated) == 0 and len(method.pairs) > 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"posterior": "ensemble"}, "posterior=ensemble has 1 member"),
        ({"dropout": 0.0}, "draws by dropout and dropout is 0"),
        ({"validation": 1.0}, r"validation=1\.0: give a number of at least 0 and below 1"),
        ({"bins": 1}, "bins=1: give a number of at least 2"),
        ({"batch_size": 0}, "batch_size=0: give a number of at least 1"),
        ({"ensemble_size": 0}, "ensemble_size=0"),
        ({"epochs": -1}, "epochs=-1"),
        ({"hidden": []}, r"hidden=\[\]: give a list of layers"),
        ({"hidden": 64}, "hidden=64: give a list"),
        ({"posterior": "ensemble", "ensemble_size": 2, "dropout": 1.0}, r"dropout=1\.0: give a number of at least 0 and below 1"),
        ({"rating_weight": -1.0}, "rating_weight=-1"),
        ({"ratings": "gausian"}, "ratings='gausian': give one of its choices; did you mean gaussian"),
        ({"step_mode": "jiont"}, "step_mode='jiont'"),
        ({"lr": "fast"}, "lr='fast': give a number"),
        ({"bins": 10.5}, "bins=10.5: give a whole number"),
        ({"decoder": "none", "variance_head": False}, "has no variance for its ratings"),
    ],
)
def test_settings_that_contradict_each_other(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        UnifiedReward(SPEC, **settings)


@pytest.mark.parametrize("value", [0.5, 10.0, -1.0])
def test_classes_take_whole_numbers_of_the_scale(value: float) -> None:
    method = alone(ratings="rbrl", validation=0.0)
    method.labels = Labels.empty(T)
    start, status = torch.tensor([[0], [30]]), torch.full((2,), int(Status.ANSWERED))
    method.ratings = Labels(start, T, torch.tensor([3.0, value]), status)
    with pytest.raises(UserError, match="takes the whole numbers 0 to 9"):
        method.split()
    method.ratings = Labels(start, T, torch.tensor([3.0, 9.0]), status)
    assert len(method.split()[0][1]) == 2


def test_teacher_and_model_rate_on_one_scale(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="MixedTeacher rates on 21 levels and UnifiedReward reads 10"):
        fit(tmp_path, {"teacher": MixedTeacher(rating=RatingTeacher(bins=21))})


@pytest.mark.parametrize(("budget", "rounds", "initial"), [(20, 20, 0.4), (10, 10, 0.5), (20, 10, 0.9)])
def test_a_spread_budget_is_spent_though_some_rounds_ask_nothing(
    tmp_path: Path, budget: int, rounds: int, initial: float
) -> None:
    """What is left is rounded to even: half a question a round is none."""
    spread = {"budget": budget, "rounds": rounds, "initial": initial, "schedule": "spread", "query": UniformQuery("rating")}
    method = fit(tmp_path, spread, hidden=(2,), first_epochs=1, epochs=1)
    assert len(method.ratings) == budget and method.trainer.current_epoch == rounds


def test_a_run_ends_when_there_is_nothing_left_to_ask(tmp_path: Path) -> None:
    class Dry(UniformQuery):
        """Finds questions in the first round alone."""

        def propose(self, pool: Any, n: int, model: Any, labels: Labels, rng: torch.Generator) -> Query:
            query = super().propose(pool, n, model, labels, rng)
            return Query(query.kind, query.start[: 0 if len(labels) else n], query.length)

    method = fit(tmp_path, {"query": Dry("rating"), "budget": 60}, hidden=(2,), epochs=1)
    assert len(method.ratings) == 20 and method.trainer.current_epoch == 2


def test_bald_refuses_a_model_without_draws(tmp_path: Path) -> None:
    from lightning_pbrl.methods.reward_ensemble import RewardEnsemble

    ask = AskTeacher(MixedTeacher(), BALDQuery("pair"), budget=10, per_round=10)
    with pytest.raises(UserError, match="BALDQuery asks the model for its 'posterior', which RewardEnsemble does not have"):
        make_trainer(tmp_path, [ask]).fit(RewardEnsemble(SPEC, hidden=(8,)), Linear())
