"""MRN: Adam's differentiable step, the outer loss and its gradient by differences, and when it is taken."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from pebble_toys import build, fit
from toys import drawn

from lightning_pbrl.data.feedback import Query
from lightning_pbrl.errors import UserError
from lightning_pbrl.losses.bilevel import adam_step
from lightning_pbrl.losses.preference import preference_cross_entropy
from lightning_pbrl.methods.mrn import MRN


def test_adam_step_is_torch_s() -> None:
    weights = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))
    optimizer = torch.optim.Adam([weights], lr=0.1)
    for gradient in ([1.0, -3.0, 0.0], [0.5, 2.0, 1e-3], [4.0, 0.0, -1.0]):
        g = torch.tensor(gradient)
        state = {key: value.clone() for key, value in optimizer.state[weights].items()}
        predicted = adam_step(weights.detach().clone(), g, state, 0.1)
        weights.grad = g
        optimizer.step()
        torch.testing.assert_close(predicted, weights.detach(), rtol=1e-5, atol=1e-6)


def test_no_gradient_is_lost_or_infinite_where_the_gradient_is_zero() -> None:
    g = torch.tensor([0.0, 1.0], requires_grad=True)
    adam_step(torch.zeros(2), g, {}, 0.1).sum().backward()
    assert g.grad is not None and torch.isfinite(g.grad).all()


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return fit(MRN, tmp_path_factory.mktemp("mrn"), ask={"budget": 18}, meta_every=15, meta_pairs=5)


def batch_of(method: MRN) -> dict[str, Any]:
    return method.gather_meta(drawn(method.running.programs["meta"], seed=3)[0])


def test_the_outer_loss_is_that_of_a_critic_one_step_ahead(fitted: MRN) -> None:
    """The same with a real copy and a real optimiser, which starts from the same moments."""
    batch = batch_of(fitted)
    ahead = copy.deepcopy(fitted.critic)
    with torch.no_grad():
        action, log_prob = fitted.actor.sample(batch["next_obs"], batch["next_noise"])
        q = fitted.critic_target(torch.cat([batch["next_obs"], action], -1)).squeeze(-1).amin(0)
        reward = fitted.reward(torch.cat([batch["obs"], batch["action"]], -1)).mean(0)
        y = reward + 0.99 * (1 - batch["terminated"]) * (q - fitted.log_alpha.exp() * log_prob)
    optimizer = torch.optim.Adam(ahead.parameters(), lr=1e-3)
    optimizer.param_groups[0]["foreach"] = False
    at = 0
    for p in ahead.parameters():
        part = slice(at, at + p.numel())
        moments = {key: batch["adam"][key][part].view_as(p).clone() for key in ("exp_avg", "exp_avg_sq")}
        optimizer.state[p] = {"step": batch["adam"]["step"].clone(), **moments}
        at += p.numel()
    (ahead(torch.cat([batch["obs"], batch["action"]], -1)).squeeze(-1) - y).square().mean(-1).sum().backward()
    optimizer.step()
    with torch.no_grad():
        returns = torch.stack([ahead(batch["first"][:, side]).squeeze(-1) for side in range(2)], -1)
        expected = 0.1 * preference_cross_entropy(returns, batch["label"]).sum()
    assert len(batch["label"]) == 5
    assert float(fitted.meta_loss(batch)["members"].detach()) == pytest.approx(float(expected), rel=1e-5)


def test_its_gradient_reaches_the_reward_model(fitted: MRN) -> None:
    """Along a random direction, against central differences in float64."""
    method, batch = copy.deepcopy(fitted).double(), batch_of(fitted)
    batch = {
        key: {k: v.double() for k, v in value.items()} if isinstance(value, dict) else value.double()
        for key, value in batch.items()
    }
    (p, *_) = method.reward_model.members.parameters()
    (gradient,) = torch.autograd.grad(method.meta_loss(batch)["members"], p)
    assert gradient.norm() > 0
    direction, eps = gradient / gradient.norm(), 1e-4
    values = []
    for sign in (1, -1):
        p.data += sign * eps * direction
        values.append(float(method.meta_loss(batch)["members"].detach()))
        p.data -= sign * eps * direction
    assert (values[0] - values[1]) / (2 * eps) == pytest.approx(float(gradient.norm()), rel=1e-2)


def test_returns_follow_it(fitted: MRN) -> None:
    """Strategies ask the members as they are after it, not those of the last fit."""
    query, saved = Query("pair", fitted.labels.start, 5), fitted.running.state_dict()
    before = fitted.reward_model.returns(query)
    fitted.running.run("meta", 1)
    with torch.no_grad():
        rewards = fitted.reward(fitted.source.segments(query.start, 5).flatten(0, -2)).view(3, len(query), 2, 5)
    torch.testing.assert_close(fitted.reward_model.returns(query), rewards.double().sum(-1), rtol=0, atol=1e-5)
    assert (fitted.reward_model.returns(query) - before).abs().min() > 1e-4
    fitted.running.load_state_dict(saved)


def test_when_it_is_taken(tmp_path: Path) -> None:
    """Every 15 env steps from 40 on, also across rounds, until the session at 80 has spent the budget."""

    class Watched(MRN):
        def relabel_replay(self) -> None:
            self.__dict__.setdefault("noted", []).append((self.env_steps, self.running.state.updates["members"]))
            super().relabel_replay()

    method = fit(Watched, tmp_path, meta_every=15)
    assert method.noted == [(40, 5), (55, 6), (70, 7), (80, 12)]
    longer = fit(Watched, tmp_path / "longer", meta_every=15, ask={"budget": 18})
    assert longer.noted == [(40, 5), (55, 6), (70, 7), (80, 12), (85, 13), (100, 14), (115, 15), (120, 20)]
    assert longer.env_steps == 160


def test_mistakes() -> None:
    with pytest.raises(UserError, match="MRN got meta_every=0: give a number of at least 1"):
        build(MRN, meta_every=0)
