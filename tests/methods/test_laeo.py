"""LAEO: its losses, what they move, what it learns on problems with a known answer, and its variants."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from example_toys import (
    SIDE,
    STATES,
    FilmedToy,
    chain,
    draw,
    final_distance,
    minibatch,
    near_centre,
    ready,
    spearman,
    square,
    success_probability,
)
from toys import SPEC, ToyData, assert_same, make_trainer, read_csv

from lightning_pbrl.data.examples import Examples
from lightning_pbrl.engine.gradients import own_gradients
from lightning_pbrl.errors import UserError
from lightning_pbrl.losses.contrastive_control import example_value, mixed_actor_loss, nce_loss
from lightning_pbrl.methods.bc import BC
from lightning_pbrl.methods.laeo import LAEO
from lightning_pbrl.methods.loading import load_method

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),  # a resumed run
    pytest.mark.filterwarnings("ignore:Total length of `Share` across ranks is zero"),  # pictures come without a simulator
]

SMALL: dict[str, Any] = {"hidden": (16, 16), "repr_dim": 8, "batch_size": 32, "updates": 6, "eval_interval": 3, "lr": 3e-3}
POINT = {"obs_dim": 2, "action_dim": 2, "horizon": 40}
MODES = ("sample_logit", "sample_exp", "mean_exp", "max", "logsumexp")


def toy(**settings: Any) -> tuple[LAEO, Any]:
    """LAEO on the synthetic data, with its engine."""
    data = ToyData(examples=12)
    data.setup("fit")
    assert data.examples is not None
    method = LAEO(SPEC, **{**SMALL, **settings})
    return method, ready(method, data.source, data.examples.states)


def fit(folder: Path, data: ToyData | None = None, ckpt_path: Path | None = None, trainer: Any = None, **settings: Any) -> LAEO:
    method = LAEO(SPEC, **{**SMALL, **settings})
    make_trainer(folder, **(trainer or {})).fit(method, data or ToyData(examples=12), ckpt_path=ckpt_path)
    return method


# Losses ----------------------------------------------------------------------------------------------------------------


def test_a_minibatch_is_steps_with_their_futures() -> None:
    method, engine = toy()
    drawn = draw(engine)
    (row, future), number = drawn["step"], drawn["example"]
    batch, source = minibatch(engine), method.source
    assert torch.equal(source.episodes.of(row), source.episodes.of(future)) and (future >= row).all() and (future > row).any()
    assert torch.equal(batch["obs"], source.column("obs")[row]) and torch.equal(batch["action"], source.column("action")[row])
    assert torch.equal(batch["goal"], source.column("next_obs")[future])  # the action of row t made goal t + 1 and later ones
    assert torch.equal(batch["number"], number) and number.max() < 12
    assert batch["noise"].shape == (1, 32, 2)


@pytest.mark.parametrize("batch_size", [8, 32])
def test_losses_from_their_parts(batch_size: int) -> None:
    """With more examples than steps each is embedded as it was drawn, with fewer all are, once: the same numbers."""
    method, engine = toy(batch_size=batch_size, bc_coef=0.3)
    batch, critic = minibatch(engine), method.critic
    assert ("number" in batch) == (batch_size == 32)
    example = method.examples[draw(engine)["example"]]
    logits = critic.every_pair(critic.phi(batch["obs"], batch["action"]), critic.psi(batch["goal"]))
    action, _ = method.actor.sample(batch["obs"], batch["noise"][0])
    value = critic.every_pair(critic.phi(batch["obs"], action), critic.psi(example)).diagonal(dim1=1, dim2=2).amin(0)
    cloning = -method.actor.log_prob(batch["obs"], batch["action"])
    losses = method.losses(batch)
    torch.testing.assert_close(losses["critic"], nce_loss(logits))
    torch.testing.assert_close(losses["actor"], mixed_actor_loss(value, cloning, 0.3))
    torch.testing.assert_close(losses["actor"], (0.3 * cloning - 0.7 * value).mean())
    torch.testing.assert_close(losses["bc"], cloning.mean())


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_values_the_policys_own_actions(mode: Any) -> None:
    method, engine = toy(aggregate=mode, bc_coef=0.0)
    batch, critic = minibatch(engine), method.critic
    action, _ = method.actor.sample(batch["obs"], batch["noise"][0])
    examples = method.examples[batch["number"]][:, None] if mode.startswith("sample") else method.examples.expand(32, -1, -1)
    phi = critic.phi(batch["obs"], action)
    rows = [critic.every_pair(phi[:, i : i + 1], critic.psi(examples[i])) for i in range(32)]
    value = example_value(torch.cat(rows, dim=1), mode)
    torch.testing.assert_close(method.losses(batch)["actor"], -value.mean())


def test_the_actors_loss_leaves_the_critic_alone() -> None:
    """The critic after some updates does not depend on what the policy does with it; nor a cloning policy on the critic."""
    engines = [toy(bc_coef=c)[1] for c in (0.0, 1.0)]
    for engine in engines:
        engine.run("policy", 4)
    assert torch.equal(engines[0].state.storage["critic"], engines[1].state.storage["critic"])
    assert not torch.equal(engines[0].state.storage["actor"], engines[1].state.storage["actor"])
    cloning = [toy(bc_coef=1.0, loss=loss)[1] for loss in ("nce", "cpc")]
    for engine in cloning:
        engine.run("policy", 4)
    assert torch.equal(cloning[0].state.storage["actor"], cloning[1].state.storage["actor"])


def test_adams_epsilon_is_the_released_codes() -> None:
    _, engine = toy()
    assert all(group.options["eps"] == 1e-7 for group in engine.state.groups.values())


@pytest.mark.parametrize("target", [-20.0, 20.0])
def test_a_learned_temperature_follows_its_target(target: float) -> None:
    """The entropy lies between the two: alpha falls when it is above its target, and rises when below."""
    method, engine = toy(alpha="learned", target_entropy=target, bc_coef=0.0)
    engine.run("policy", 20)
    assert (method.log_alpha.item() > 0) == (target > 0) and method.log_alpha.item() != 0


def test_a_fixed_temperature_widens_the_policy() -> None:
    entropies = []
    for alpha in (0.0, 3.0):
        method, engine = toy(alpha=alpha, bc_coef=0.0)
        engine.run("policy", 80)
        obs = method.source.column("obs")
        noise = torch.randn(len(obs), 2, generator=torch.Generator().manual_seed(0))
        entropies.append(-method.actor.sample(obs, noise)[1].mean())
    assert entropies[1] > entropies[0] + 0.5


@pytest.mark.parametrize("settings", [{}, {"aggregate": "logsumexp", "loss": "cpc", "alpha": "learned", "repr_norm": True}])
def test_losses_and_gradients_are_one_graph(settings: dict[str, Any]) -> None:
    """Traced whole, with the gradients inside, it gives the eager numbers; the code made of the graph is torch's business."""
    _, engine = toy(**settings)
    program = engine.programs["policy"]
    rows = program.gather(draw(engine))
    eager = own_gradients(engine.state, program.steps[0], program.view, engine.moved("policy"))
    traced = torch.compile(eager, backend="aot_eager", fullgraph=True, dynamic=False)
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        gradients, reached, losses, handed = traced(rows, {})
    expected = eager(rows, {})
    assert reached == expected[1] and handed == expected[3] == {}
    for found, numbers in ((gradients, expected[0]), (losses, expected[2])):
        assert found and found.keys() == numbers.keys()
        for key, value in numbers.items():
            torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-6)


# Known answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["nce", "cpc"])
def test_the_critic_ranks_actions_as_the_exact_success_probability_does(loss: Any) -> None:
    """A chain of six states: mean_exp of the critic against the discounted probability of being in the last, by linear algebra.

    For cpc, whose critic is right up to a constant per state and action that the penalty holds.
    """
    discount, goal = 0.8, STATES - 1
    method = LAEO({"obs_dim": STATES, "action_dim": 1, "horizon": 60}, hidden=(32,), repr_dim=16, batch_size=128, lr=3e-3,
                  discount=discount, loss=loss, aggregate="mean_exp")  # fmt: skip
    ready(method, chain(), torch.eye(STATES)[goal:]).run("policy", 600)
    actions = torch.tensor([[-1.0], [1.0]]).expand(STATES, 2, 1)
    with torch.no_grad():
        found = method.scorer(torch.eye(STATES))(actions)
    exact = success_probability(goal, discount)
    assert spearman(found, exact) > 0.9
    assert (found[:, 1] > found[:, 0]).all() and (exact[:, 1] > exact[:, 0]).all()  # right is better everywhere
    assert method.act(torch.eye(STATES)).min() > -1


def test_it_goes_where_the_examples_are_and_cloning_does_not() -> None:
    settings: dict[str, Any] = {"hidden": (64, 64), "repr_dim": 16, "batch_size": 128, "lr": 2e-3, "discount": 0.9, "seed": 1}
    distances = {}
    for bc_coef in (0.05, 1.0):
        method = LAEO(POINT, bc_coef=bc_coef, **settings)
        ready(method, square(), near_centre()).run("policy", 450)
        distances[bc_coef] = final_distance(method)
    assert distances[0.05] < 0.7 and distances[1.0] > 1.2


def test_goals_in_place_of_examples() -> None:
    """Offline contrastive RL: trained with futures as goals, it acts with the examples, and takes their mean action."""
    settings: dict[str, Any] = {"hidden": (64, 64), "repr_dim": 16, "batch_size": 128, "lr": 2e-3, "discount": 0.9, "seed": 1}
    method = LAEO(POINT, bc_coef=0.2, goal_conditioned=True, **settings)
    ready(method, square(), near_centre(5)).run("policy", 300)
    assert final_distance(method) < 0.75
    obs = torch.tensor([[0.1, 0.2], [-0.7, 0.9]])
    with torch.no_grad():
        alone = torch.stack([method.actor.act(torch.cat([obs, goal.expand(2, -1)], 1)) for goal in method.examples])
        torch.testing.assert_close(method.act(obs), alone.mean(0))
        assert method.act(obs, sample=True).abs().max() <= 1


def test_goal_conditioned_refuses_what_needs_all_examples() -> None:
    with pytest.raises(UserError, match="aggregate=max is over all examples, and a goal-conditioned policy"):
        LAEO(POINT, goal_conditioned=True, aggregate="max")


# Examples, checkpoints, frozen critics ---------------------------------------------------------------------------------


def test_the_examples_are_part_of_the_checkpoint(tmp_path: Path) -> None:
    method = fit(tmp_path)
    loaded = load_method(tmp_path / "checkpoints" / "last.ckpt")
    assert method.examples.shape == (12, 5) and torch.equal(loaded.examples, method.examples)


def test_a_resumed_run_keeps_its_examples(tmp_path: Path) -> None:
    """The data module brings others: the run goes on with those it began with, bit for bit."""
    straight = fit(tmp_path / "straight")
    fit(tmp_path / "stopped", trainer={"max_epochs": 1})
    other = ToyData(examples=7)
    resumed = fit(tmp_path / "stopped", other, tmp_path / "stopped" / "checkpoints" / "last.ckpt")
    assert other.examples is not None and len(other.examples.states) == 7
    assert_same(straight.state_dict(), resumed.state_dict())


def test_examples_of_another_shape() -> None:
    method = LAEO(SPEC, **SMALL)
    with pytest.raises(UserError, match=r"LAEO got examples of success of shape \(3, 4\) and sees states of shape \(5,\): give"):
        method.use_examples(torch.zeros(3, 4))
    for wrong in (torch.zeros(0, 5), torch.tensor(3.0)):
        with pytest.raises(UserError, match="give at least one"):
            method.use_examples(wrong)


def test_examples_of_another_type(tmp_path: Path) -> None:
    """Arrays are taken; pictures in [0, 1] would be divided by 255 again, and NaN would be sought."""
    method = LAEO(SPEC, **SMALL)
    states = np.random.default_rng(0).normal(size=(4, 5))
    method.use_examples(states)
    assert method.examples.dtype == torch.float32 and method.examples.numpy() == pytest.approx(states)
    single = states.astype(np.float32)
    method.use_examples(single)
    single[:] = 0.0
    assert method.examples.numpy() == pytest.approx(states)  # a copy
    for wrong in (np.nan, np.inf):
        states[2, 1] = wrong
        with pytest.raises(UserError, match="LAEO got an example of success, number 2, with NaN or infinity: leave it out"):
            method.use_examples(states)
    seen = LAEO(FilmedToy().spec, **SMALL)
    with pytest.raises(UserError, match=r"LAEO got pictures of success of torch.float32: give them as uint8, 0 to 255"):
        seen.use_examples(torch.rand(3, SIDE, SIDE, 3))
    seen.use_examples(np.full((3, SIDE, SIDE, 3), 255, dtype=np.uint8))
    assert seen.examples.dtype == torch.uint8 and seen.examples.shape == (3, SIDE * SIDE * 3)


@pytest.mark.parametrize("settings", [{"planner": "cem"}, {"goal_conditioned": True}])
@pytest.mark.parametrize("sample", [False, True])
def test_acting_without_examples_or_without_states(settings: dict[str, Any], sample: bool) -> None:
    method = LAEO(SPEC, **SMALL, **settings)
    method.configure_model()
    for rows in (0, 3):
        with pytest.raises(UserError, match="LAEO was asked for actions and has no examples of success yet: give them to use_ex"):
            method.act(torch.zeros(rows, 5), sample)
    method.use_examples(torch.zeros(2, 5))
    assert method.act(torch.zeros(0, 5), sample).shape == (0, 2)
    assert method.act(torch.zeros(1, 5), sample).shape == (1, 2)


@pytest.mark.parametrize("settings", [{"repr_dim": 0}, {"batch_size": 1}, {"alpha": -1.0}, {"alpha": float("nan")}])
def test_numbers_that_make_no_sense(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"LAEO got \w+=\S+: give (a number of at least [01]|at least 2 steps)"):
        LAEO(SPEC, **{**SMALL, **settings})


def test_a_frozen_critic_serves_new_examples(tmp_path: Path) -> None:
    """Only the policy learns, and the checkpoint stands alone."""
    first = fit(tmp_path / "first", normalize_obs=True)
    path = tmp_path / "first" / "checkpoints" / "last.ckpt"
    second = fit(tmp_path / "second", ToyData(examples=5), critic_from=str(path), normalize_obs=True, seed=3, updates=12)
    assert list(second.running.state.groups) == ["actor"] and second.trainer.global_step == 12
    assert_same(first.critic.state_dict(), second.critic.state_dict())
    assert_same(first.normalizer.state_dict(), second.normalizer.state_dict())
    untrained = LAEO(SPEC, **SMALL, seed=3)
    untrained.configure_model()
    assert not torch.equal(untrained.actor.net.weights[0], second.actor.net.weights[0])
    assert len(second.examples) == 5 and not any("critic_loss" in key for row in read_csv(tmp_path / "second") for key in row)
    path.unlink()
    assert_same(second.state_dict(), load_method(tmp_path / "second" / "checkpoints" / "last.ckpt").state_dict())


def test_a_critic_of_another_size_or_method(tmp_path: Path) -> None:
    fit(tmp_path / "first")
    path = str(tmp_path / "first" / "checkpoints" / "last.ckpt")
    with pytest.raises(UserError, match=r"critic_from=.*last.ckpt holds a critic built otherwise: give the checkpoint of a LAEO"):
        fit(tmp_path / "second", critic_from=path, repr_dim=4)
    make_trainer(tmp_path / "bc").fit(BC(SPEC, hidden=(8,), updates=2), ToyData())
    with pytest.raises(UserError, match="holds the method BC: give"):
        fit(tmp_path / "third", critic_from=str(tmp_path / "bc" / "checkpoints" / "last.ckpt"))


def test_held_out_episodes_are_judged_every_round(tmp_path: Path) -> None:
    fit(tmp_path)
    rows = [row for row in read_csv(tmp_path) if "held_out/critic_loss" in row]
    assert [row["step"] for row in rows] == [3, 6]
    names = ("binary_accuracy", "categorical_accuracy", "logits_pos", "logits_neg", "logsumexp", "bc", "actor_loss")
    assert all(f"held_out/{name}" in row for name in names for row in rows)
    assert rows[0]["held_out/critic_loss"] > rows[1]["held_out/critic_loss"] > 0


# Pictures, planning ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"goal_conditioned": True}, {"aggregate": "mean_exp", "batch_size": 8}])
def test_it_learns_from_pictures(tmp_path: Path, settings: dict[str, Any]) -> None:
    data = FilmedToy()
    method = LAEO(data.spec, **{**SMALL, **settings})
    make_trainer(tmp_path).fit(method, data)
    assert method.examples.dtype == torch.uint8 and method.examples.shape == (12, SIDE * SIDE * 3)
    shown = torch.randint(0, 256, (4, SIDE * SIDE * 3), generator=torch.Generator().manual_seed(0)).float()
    loaded = load_method(tmp_path / "checkpoints" / "last.ckpt")
    assert method.act(shown).shape == (4, 2) and torch.equal(loaded.act(shown), method.act(shown))
    source: Any = data.source
    row, future = torch.tensor([0, 29, 30]), torch.tensor([3, 29, 59])
    batch = method.gather(source, {"step": (row, future), "example": torch.zeros(3).long(), "noise": torch.zeros(1, 3, 2)})
    shade = (40 * source.column("next_obs")[future, 0] + 128).clamp(0, 255).to(torch.uint8)
    assert torch.equal(batch["goal"], shade[:, None].expand(-1, SIDE * SIDE * 3))
    assert torch.equal(method.observed(row)[:, 0], (40 * source.column("obs")[row, 0] + 128).clamp(0, 255).floor())


def test_planning_asks_the_critic_alone(tmp_path: Path) -> None:
    """A critic without a policy of its own: the planner finds the action that the critic likes best, and plans alike twice."""
    method, _ = toy(planner="cem", cem_candidates=200, cem_elites=40)
    obs = torch.randn(3, 5, generator=torch.Generator().manual_seed(1))
    grid = torch.cartesian_prod(torch.linspace(-1, 1, 81), torch.linspace(-1, 1, 81)).expand(3, -1, -1)
    with torch.no_grad():
        score = method.scorer(obs)
        best = score(grid).amax(1)
        found = method.act(obs)
        assert (score(found[:, None])[:, 0] >= best - 0.01).all()
    fit(tmp_path, planner="cem", cem_candidates=20, cem_elites=5)
    evaluated = [row["eval/return_mean"] for row in read_csv(tmp_path) if "eval/return_mean" in row]
    assert len(evaluated) == 2
    assert torch.equal(found, method.act(obs))


PLANNED: dict[str, Any] = {"planner": "cem", "cem_candidates": 30, "cem_elites": 6, "cem_iterations": 3}


def test_a_state_is_planned_alike_in_a_batch_of_one_and_of_three() -> None:
    method, _ = toy(**PLANNED)
    obs = torch.randn(3, 5, generator=torch.Generator().manual_seed(1))
    together = method.act(obs)
    assert together.unique(dim=0).shape == (3, 2)
    for i in range(3):
        torch.testing.assert_close(method.act(obs[i : i + 1]), together[i : i + 1])
        torch.testing.assert_close(method.act(obs[[2, 0, 1]][i : i + 1]), together[[2, 0, 1]][i : i + 1])


def test_replicas_plan_as_their_seeds_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an evaluation replica k takes the actions of seed + k alone, whichever episodes there are."""
    settings: dict[str, Any] = {**PLANNED, "updates": 3}
    both = fit(tmp_path / "both", seed=4, replicas=2, layout="loop", **settings)
    alone = [fit(tmp_path / str(k), seed=4 + k, **settings) for k in range(2)]
    obs = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
    seen: list[torch.Tensor] = []

    def rollout(act: Any, seeds: Any) -> Any:
        seen.append(act(obs))
        return SimpleNamespace(episode_return=torch.zeros(1), success=torch.zeros(1))

    monkeypatch.setattr(both.trainer.datamodule, "rollout", rollout)
    for seeds in ([0], [1, 2]):
        both.evaluation.step(seeds)
    assert [torch.equal(seen[i], alone[i % 2].act(obs)) for i in range(4)] == 4 * [True]
    alone[0].critic.load_state_dict(alone[1].critic.state_dict())
    assert not torch.equal(alone[0].act(obs), alone[1].act(obs))  # the same critic, other numbers


def test_replacing_the_examples_retargets_the_planner() -> None:
    method, _ = toy(planner="cem", cem_candidates=50, cem_elites=10)
    obs = torch.ones(1, 5)
    scores = []
    for states in (torch.ones(2, 5), -torch.ones(2, 5)):
        method.use_examples(Examples(states, {}, "by hand").states)
        scores.append(method.scorer(obs)(torch.zeros(1, 1, 2)).item())
    assert scores[0] != scores[1]
