"""SQIL, RCE, GCBC and the cloning they are compared with: losses from their parts, and problems with a known answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from example_toys import SIDE, FilmedToy, final_distance, minibatch, near_centre, ready, square
from toys import SPEC, ToyData, make_trainer

from lightning_pbrl.callbacks.relabel_rewards import RelabelRewards
from lightning_pbrl.engine.draws import Streams
from lightning_pbrl.errors import UserError
from lightning_pbrl.losses.example_value import rce_loss, rce_ratio, sqil_loss
from lightning_pbrl.methods.bc import BC
from lightning_pbrl.methods.example_policy import ExamplePolicy
from lightning_pbrl.methods.gcbc import GCBC
from lightning_pbrl.methods.iql import IQL
from lightning_pbrl.methods.laeo import LAEO
from lightning_pbrl.methods.learn_reward_from_examples import ORIL, PURL, VICE
from lightning_pbrl.methods.loading import load_method
from lightning_pbrl.methods.rce import RCE
from lightning_pbrl.methods.sqil import SQIL
from lightning_pbrl.methods.td3_bc import TD3BC

pytestmark = pytest.mark.filterwarnings("ignore:Total length of `Share` across ranks is zero")  # pictures: no simulator

POINT = {"obs_dim": 2, "action_dim": 2, "horizon": 40}
SMALL: dict[str, Any] = {"hidden": (16, 16), "batch_size": 32, "updates": 6, "eval_interval": 3, "lr": 3e-3}


def toy(cls: type[ExamplePolicy], **settings: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """A method on the synthetic data, every seventh row terminal, and a minibatch of it."""
    data = ToyData(examples=12)
    data.setup("fit")
    data.source.column("terminated")[::7] = 1.0
    assert data.examples is not None
    method = cls(SPEC, **{**SMALL, **settings})
    engine = ready(method, data.source, data.examples.states)
    engine.run("policy", 3)  # targets and critics differ
    return method, minibatch(engine)


@pytest.mark.parametrize("cls", [SQIL, RCE])
def test_critic_and_actor_losses_from_their_parts(cls: Any) -> None:
    method, batch = toy(cls, discount=0.9, bc_coef=0.25)
    assert batch["terminated"].any() and not batch["terminated"].all()
    next_action, example_action = (
        method.actor.sample(batch[name], batch["noise"][k])[0] for name, k in (("next_obs", 1), ("example", 2))
    )
    own = method.actor.sample(batch["obs"], batch["noise"][0])[0]
    target, q, success, worth = (
        net(batch[name], action)
        for net, name, action in (
            (method.critic_target, "next_obs", next_action),
            (method.critic, "obs", batch["action"]),
            (method.critic, "example", example_action),
            (method.critic, "obs", own),
        )
    )
    worth = worth.amin(0)
    if cls is SQIL:
        expected = sqil_loss(q, 0.9 * (1 - batch["terminated"]) * target.amin(0), success, 0.9)
        worth = worth / worth.abs().mean()
    else:
        expected = rce_loss(q, success, rce_ratio(target, batch["terminated"], 20.0), 0.9)
    losses = method.losses(batch)
    torch.testing.assert_close(losses["critic"], expected)
    cloning = -method.actor.log_prob(batch["obs"], batch["action"])
    torch.testing.assert_close(losses["actor"], (0.25 * cloning - 0.75 * worth).mean())


def test_goals_are_cloned() -> None:
    method, batch = toy(GCBC)
    expected = -method.actor.log_prob(torch.cat([batch["obs"], batch["goal"]], 1), batch["action"]).mean()
    torch.testing.assert_close(method.losses(batch)["actor"], expected)
    with pytest.raises(UserError, match=r"GCBC got bc_coef=0.5 and does nothing but clone"):
        GCBC(SPEC, bc_coef=0.5)


@pytest.mark.parametrize(
    ("cls", "settings", "within"),
    [(SQIL, {"polyak": 0.05}, 0.9), (RCE, {"polyak": 0.05}, 0.8), (GCBC, {"bc_coef": 1.0}, 0.5)],
)
def test_they_go_where_the_examples_are(cls: Any, settings: dict[str, Any], within: float) -> None:
    """The problem on which cloning ends at 1.7 (see the tests of LAEO)."""
    common = {"hidden": (64, 64), "batch_size": 128, "lr": 2e-3, "discount": 0.9, "bc_coef": 0.05, "seed": 1}
    method = cls(POINT, **{**common, **settings})
    ready(method, square(), near_centre()).run("policy", 450)
    assert final_distance(method) < within


@pytest.mark.parametrize("bc_coef", [-0.1, 1.1])
def test_a_share_of_cloning(bc_coef: float) -> None:
    with pytest.raises(UserError, match=rf"SQIL got bc_coef={bc_coef}: give a number between 0 and 1"):
        SQIL(SPEC, bc_coef=bc_coef)


@pytest.mark.parametrize("cls", [SQIL, RCE, GCBC, LAEO])
@pytest.mark.parametrize("settings", [{"batch_size": 0}, {"min_std": -1.0}, {"min_std": float("nan")}])
def test_numbers_that_make_no_sense(cls: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"{cls.__name__} got (batch_size|min_std)=\S+: give a number (of at least 1|above 0)"):
        cls(SPEC, **settings)


@pytest.mark.parametrize("polyak", [0.0, 2.0])
def test_rates_and_limits_that_make_no_sense(polyak: float) -> None:
    with pytest.raises(UserError, match=r"SQIL got polyak=\S+: give a number above 0 and at most 1"):
        SQIL(SPEC, polyak=polyak)
    for settings in ({"polyak": polyak}, {"max_ratio": -1.0}):
        with pytest.raises(UserError, match=r"RCE got (polyak|max_ratio)=\S+: give a number above 0( and at most 1)?\."):
            RCE(SPEC, **settings)


def test_a_goal_conditioned_policy_acts_on_no_rows_and_not_without_examples() -> None:
    method = GCBC(SPEC, **SMALL)
    method.configure_model()
    with pytest.raises(UserError, match="GCBC was asked for actions and has no examples of success yet"):
        method.act(torch.zeros(2, 5))
    method.use_examples(torch.zeros(3, 5))
    assert method.act(torch.zeros(0, 5)).shape == (0, 2)


def test_minibatches_are_drawn_on_the_datas_device() -> None:
    """Data on the device without storage: uniform numbers of the stream are the last thing that the CPU makes."""
    method, _ = toy(RCE)
    drawn = Streams(5).block(method.minibatches(method.source.to("meta"))["draws"], 2, device="meta")
    row, future = drawn.pop("step")
    assert all(one.is_meta for one in (row, future, *drawn.values()))
    assert row.shape == future.shape == drawn["example"].shape == (2, 32) and drawn["noise"].shape == (2, 3, 32, 2)


def test_cloning_with_laeos_policy_is_laeo_with_nothing_but_cloning() -> None:
    """The same network and the same loss of the same minibatch."""
    laeo, batch = toy(LAEO, bc_coef=1.0, repr_dim=4)
    bc = BC(SPEC, hidden=(16, 16), policy="squashed", min_std=0.1, normalize_obs=False)
    bc.configure_model()
    bc.actor.load_state_dict(laeo.actor.state_dict())
    torch.testing.assert_close(bc.losses(batch)["actor"], laeo.losses(batch)["actor"])


@pytest.mark.parametrize("cls", [BC, SQIL, RCE, GCBC])
def test_learning_from_pictures(cls: Any, tmp_path: Path) -> None:
    data = FilmedToy()
    method = cls(data.spec, **SMALL, **({"policy": "squashed"} if cls is BC else {}))
    make_trainer(tmp_path).fit(method, data)
    shown = torch.randint(0, 256, (4, SIDE * SIDE * 3), generator=torch.Generator().manual_seed(0)).float()
    assert torch.isfinite(method.act(shown)).all()
    assert torch.equal(load_method(tmp_path / "checkpoints" / "last.ckpt").act(shown), method.act(shown))
    if cls is BC:
        program = method.running.programs["policy"]
        found = program.view(program.gather({"rows": torch.tensor([0, 29, 30])}))
        assert found["obs"].shape == (3, SIDE * SIDE * 3) and found["obs"].dtype == torch.uint8


def test_what_learns_from_states_refuses_pictures(tmp_path: Path) -> None:
    data = FilmedToy()
    with pytest.raises(UserError, match=r"VICE learns from states .* choose one that sees them \(.*BC, .*LAEO"):
        make_trainer(tmp_path).fit(VICE(data.spec, hidden=(8,), updates=2), data)
    with pytest.raises(UserError, match="BC sees pictures with policy=squashed only"):
        BC(data.spec)


# Rewards ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [ORIL, PURL, VICE])
@pytest.mark.parametrize("policy", [TD3BC, IQL])
def test_a_learned_reward_goes_through_relabelling(cls: Any, policy: Any, tmp_path: Path) -> None:
    """Without a true reward anywhere: classifier, relabelled data, policy; the reward is high where the examples are."""
    data = ToyData(true_reward=False, examples=12)
    model = cls(SPEC, hidden=(32,), batch_size=64, updates=200, eval_interval=200, lr=3e-3)
    make_trainer(tmp_path / "reward").fit(model, data)
    path = tmp_path / "reward" / "checkpoints" / "last.ckpt"
    learner = policy(SPEC, hidden=(8,), batch_size=16, updates=3, eval_interval=3)
    fresh = ToyData(true_reward=False)
    make_trainer(tmp_path / "policy", [RelabelRewards(str(path))]).fit(learner, fresh)
    reward = fresh.source.column("learned_reward")
    assert reward.min() == 0 and reward.max() == 1
    first = fresh.source.column("obs")[:, 0]
    high, low = first.argsort()[-60:], first.argsort()[:60]
    assert reward[high].mean() > reward[low].mean() + 0.3
    assert torch.isfinite(torch.cat([p.flatten() for p in learner.parameters()])).all()


def test_rewards_are_what_their_papers_say() -> None:
    features = torch.randn(6, 7, generator=torch.Generator().manual_seed(0))
    found = {}
    for cls in (ORIL, PURL, VICE):
        model = cls(SPEC, hidden=(8,), seed=4)
        model.configure_model()
        found[cls] = model.reward(features)
        assert torch.equal(model.reward(torch.cat([features[:, :5], torch.zeros(6, 2)], 1)), found[cls])  # of states alone
    torch.testing.assert_close(found[ORIL], torch.sigmoid(found[VICE]))
    assert torch.equal(found[ORIL], found[PURL])


@pytest.mark.parametrize("eta", [0.0, 1.5])
def test_a_share_of_successes(eta: float) -> None:
    with pytest.raises(UserError, match=rf"PURL got eta={eta}: give a number above 0 and at most 1"):
        PURL(SPEC, eta=eta)
