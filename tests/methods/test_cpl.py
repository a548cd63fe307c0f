"""CPL and SFT: updates against plain loops, the hand-over from cloning, pairs by score, and a problem whose answer is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from preference_toys import batches, difference, draws, labelled, plain, ready, step
from torch import Tensor
from toys import SPEC, ToyData, callbacks_for, make_trainer, read_csv

from lightning_pbrl.callbacks.relabel_rewards import RelabelRewards
from lightning_pbrl.data.feedback import Labels, Query, Status
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.cpl import CPL
from lightning_pbrl.methods.sft import SFT

LR, ALPHA = 3e-3, 0.4
SETTINGS: dict[str, Any] = {"hidden": (16, 16), "lr": LR, "batch_size": 4, "window": 5, "dropout": 0.0}


def split(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    return batch["segments"][..., :5], batch["segments"][..., 5:]


def sums(net: Any, batch: dict[str, Tensor]) -> Tensor:
    """Sum over steps of -|pi(s) - a|^2, (B, 2), one segment at a time."""
    obs, action = split(batch)
    pairs = [[-((net(obs[b, c]) - action[b, c]) ** 2).sum() for c in range(obs.shape[1])] for b in range(len(obs))]
    return torch.stack([torch.stack(pair) for pair in pairs])


def cloning(net: Any, batch: dict[str, Tensor], preferred: bool) -> Tensor:
    """Mean squared error of the steps of all segments, or of those that were not rejected."""
    labels = enumerate(batch["label"].tolist())
    kept = [(b, c) for b, value in labels for c in range(2) if not preferred or value in (c, 0.5)]
    return -torch.stack([sums(net, batch)[pair] / 5 for pair in kept]).mean()


def contrast(advantage: Tensor, label: Tensor, bias: float) -> Tensor:
    first, second = advantage.T
    lost, won = torch.log1p(torch.exp(bias * first - second)), torch.log1p(torch.exp(bias * second - first))
    return (label * lost + (1 - label) * won).mean()


@pytest.mark.parametrize(
    ("cls", "settings"),
    [
        (CPL, {"bias": 0.5}),
        (CPL, {"bias": 1.0, "bc_coeff": 0.7}),
        (CPL, {"bias": 1.0, "bc_coeff": 0.7, "bc_data": "pos"}),
        (CPL, {"bias": 0.75, "reference_kl": True}),
        (SFT, {}),
    ],
)
def test_updates_equal_a_plain_loop(cls: type[SFT], settings: dict[str, Any]) -> None:
    """Three updates of cloning, then with a new Adam five of the second kind, warmed up over four."""
    data, labels = labelled(count=10)
    schedule = {"alpha": ALPHA, "warmup": 4, "lr_multiplier": 0.5} if cls is CPL else {}
    method, engine = ready(cls, data, labels, bc_updates=3, **schedule, **settings, **SETTINGS)
    seen, net = batches(method, 8), plain(method.actor.mean)
    engine.run("first", 3)
    method.begin_policy()
    engine.run("policy", 5)

    adam = torch.optim.Adam(net.parameters(), lr=LR)
    for number, batch in enumerate(seen):
        if number < 3:
            step(adam, cloning(net, batch, preferred=False))
            continue
        if number == 3:
            adam = torch.optim.Adam(net.parameters(), lr=LR)
            with torch.no_grad():
                fixed = [sums(net, later) for later in seen]
        if cls is SFT:
            step(adam, cloning(net, batch, preferred=True))
            continue
        adam.param_groups[0]["lr"] = LR * 0.5 * min((number - 3 + 1) / 4, 1)
        advantage = sums(net, batch) - (fixed[number] if settings.get("reference_kl") else 0)
        loss = contrast(ALPHA * advantage, batch["label"], settings["bias"])
        if "bc_coeff" in settings:
            loss = loss + 0.7 * cloning(net, batch, preferred=settings.get("bc_data") == "pos")
        step(adam, loss)
    assert difference(method.actor.mean, [net]) < 1e-12
    assert difference(method.actor.mean, [plain(ready(cls, data, labels, **SETTINGS)[0].actor.mean)]) > 1e-3


def test_a_gaussian_policy_uses_its_own_density() -> None:
    data, labels = labelled(count=10)
    method, _ = ready(CPL, data, labels, actor="gaussian", bc_updates=0, alpha=ALPHA, **SETTINGS)
    method.actor.log_std.data.fill_(-0.5)
    batch = batches(method, 1)[0]
    obs, action = split(batch)
    law = torch.distributions.Normal(method.actor.mean(obs.flatten(0, 2)), torch.tensor(-0.5, dtype=torch.float64).exp())
    expected = law.log_prob(action.flatten(0, 2)).sum(-1).view(4, 2, 5).sum(-1)
    found = method.losses(method.view(batch))["actor"]
    torch.testing.assert_close(found, contrast(ALPHA * expected, batch["label"], 0.5), rtol=0, atol=1e-12)


# Pairs by score ----------------------------------------------------------------------------------------------------------


def scored(**settings: Any) -> tuple[CPL, dict[int, float]]:
    """A method that compares by learned reward, and each labelled segment's score by its first row."""
    data, labels = labelled(count=10)
    data.write("learned_reward", data.reward)
    method, _ = ready(CPL, data, labels, bc_updates=0, **{**SETTINGS, "window": 6, **settings})
    return method, {int(row): float(data.reward[row : row + 6].sum()) for row in labels.start.flatten()}


def test_rank_compares_every_segment_with_a_random_other_one() -> None:
    method, score = scored(compare="rank")
    count = len(score)
    drawn = [update["windows"] for update in draws(method, 5 * count)]  # 4 pairs each: 20 passes
    pairs = torch.cat([torch.cat([windows["start"], windows["label"][:, None]], 1) for windows in drawn])
    for one in pairs.split(count):
        assert sorted(one[:, 0].tolist()) == sorted(one[:, 1].tolist()) == sorted(score)
    assert (pairs[:, 0] != pairs[:, 1]).all()
    assert all((score[int(b)] > score[int(a)]) == (y == 1) for a, b, y in pairs.tolist())
    partners = {int(b) for a, b, _ in pairs.tolist() if a == pairs[0, 0]}
    assert len(partners) > 8  # of 19; 20 draws


def test_score_compares_all_segments_of_a_batch() -> None:
    method, score = scored(compare="score", alpha=ALPHA)
    batch = batches(method, 1)[0]
    assert batch["segments"].shape == (4, 1, 6, 7)
    assert batch["label"].tolist() == pytest.approx([score[int(row)] for row in find(method, batch)])
    advantage, total = ALPHA * sums(method.actor.mean, batch)[:, 0], torch.zeros(())
    for i in range(4):
        for j in range(i + 1, 4):
            label = (batch["label"][j] > batch["label"][i]).double()[None]
            total = total + contrast(advantage[[i, j]][None], label, 0.5)
    torch.testing.assert_close(method.losses(method.view(batch))["actor"], total / 6, rtol=0, atol=1e-12)


def find(method: CPL, batch: dict[str, Tensor]) -> list[int]:
    """The table's rows with which the batch's segments begin."""
    first = batch["segments"][:, 0, 0]
    return [int((method.source.features() == row).all(-1).nonzero()) for row in first]


def test_scores_must_be_there(tmp_path: Path) -> None:
    method = CPL(SPEC, compare="rank", hidden=[8], updates=4, eval_interval=4, batch_size=4)
    with pytest.raises(UserError, match="CPL learns from a reward and the data have none yet"):
        make_trainer(tmp_path, callbacks_for(CPL, budget=10)).fit(method, ToyData())
    assert CPL.needs == CPL(SPEC).needs == {"labels"}
    method = CPL(SPEC, compare="score", hidden=[8], updates=4, eval_interval=4, batch_size=4, bc_updates=0)
    make_trainer(tmp_path, [*callbacks_for(CPL, budget=10), RelabelRewards("true")]).fit(method, ToyData())
    assert method.running.updates["policy"] == 4


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(UserError, match=r"CPL got bias=0\.0: give a number above 0 and at most 1"):
        CPL(SPEC, bias=0.0)
    with pytest.raises(UserError, match="compare=score has no preferred segment to clone"):
        CPL(SPEC, compare="score", bc_coeff=1.0, bc_data="pos")
    with pytest.raises(UserError, match="bc_data=pos says what the cloning term reads and there is none: set bc_coeff"):
        CPL(SPEC, bc_data="pos", bc_updates=10)
    with pytest.raises(UserError, match="set batch_size to 2 or more"):
        CPL(SPEC, compare="score", batch_size=1)


# Runs --------------------------------------------------------------------------------------------------------------------


def fit(folder: Path, ckpt_path: Path | None = None, max_epochs: int = -1, **settings: Any) -> CPL:
    small = {"hidden": [16, 16], "lr": 3e-3, "batch_size": 8, "window": 6, "updates": 60, "eval_interval": 20, "block": 7}
    method = CPL(SPEC, **{**small, "warmup": 10, "bias": 0.75, "alpha": ALPHA, **settings})
    make_trainer(folder, callbacks_for(CPL), max_epochs=max_epochs).fit(method, ToyData(), ckpt_path=ckpt_path)
    return method


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize("bc_updates", [20, 30])
def test_cloning_hands_over_within_a_round_or_at_its_edge_and_resumes(bc_updates: int, tmp_path: Path) -> None:
    """The reference is the cloned policy, the second optimiser begins at zero; with dropout, through a resume."""
    settings: dict[str, Any] = {"bc_updates": bc_updates, "reference_kl": True, "dropout": 0.25}
    straight = fit(tmp_path / "straight", **settings)
    (tmp_path / "cloned").mkdir()
    cloned = fit(tmp_path / "cloned", max_epochs=1 + bc_updates // 30, **{**settings, "updates": 60})
    rows = read_csv(tmp_path / "straight")
    kinds = [("train/accuracy" in row, row["step"]) for row in rows if "train/actor_loss" in row]
    assert all(contrastive == (done > bc_updates) for contrastive, done in kinds)
    fit(tmp_path / "stopped", max_epochs=1, **settings)
    resumed = fit(tmp_path / "stopped", tmp_path / "stopped/checkpoints/last.ckpt", **settings)
    for key, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
    optimizer = straight.running.state.optimizers[0]["actor"]
    assert int(next(iter(optimizer.state.values()))["step"]) == 60 - bc_updates
    actor, reference = (torch.cat([p.flatten() for p in net.parameters()]) for net in (straight.actor, straight.reference))
    assert not torch.equal(actor, reference)
    if bc_updates == 20:  # the first round is all cloning
        assert torch.equal(reference, torch.cat([p.flatten() for p in cloned.actor.parameters()]))


def test_bc_on_all_and_on_preferred_are_settings_of_sft() -> None:
    data, labels = labelled(count=10)
    for bc_updates, preferred in ((1_000, False), (0, True)):
        method, _ = ready(SFT, data, labels, bc_updates=bc_updates, **SETTINGS)
        batch = batches(method, 1)[0]
        (learned,) = [phase for phase in method.plan(0) if phase.updates]
        (loss,) = method.programs()[str(learned.program)].steps
        torch.testing.assert_close(
            loss(method.view(batch))["actor"], cloning(method.actor.mean, batch, preferred), rtol=0, atol=1e-12
        )


def test_acting_and_scoring_drop_nothing() -> None:
    data, labels = labelled(count=10)
    method, _ = ready(CPL, data, labels, **{**SETTINGS, "dropout": 0.5, "reference_kl": True})
    query = Query("pair", labels.start, 6)
    assert method.training
    obs = torch.randn(5, 5, dtype=torch.float64)
    assert torch.equal(method.act(obs), method.act(obs))
    assert torch.equal(method.returns(query), method.returns(query)) and method.returns(query).shape == (1, 10, 2)
    assert (method.returns(query) == 0).all()  # the policy is its reference still
    batch = method.view(batches(method, 1)[0])
    assert not torch.equal(method.losses(batch)["actor"], method.losses(batch)["actor"])


# A problem whose answer is known -------------------------------------------------------------------------------------------


def target(obs: Tensor) -> Tensor:
    return 0.6 * obs


def test_it_recovers_the_policy_that_explains_the_answers() -> None:
    """States come at random and answers are drawn from CPL's own model with the policy 0.6 s: that policy is found."""
    rng = torch.Generator().manual_seed(0)
    obs, action = (torch.rand(4_000, 1, generator=rng) * 2 - 1 for _ in range(2))
    data = Transitions.from_columns(obs, action, obs, torch.arange(0, 4_001, 4))
    start = 4 * torch.randint(1_000, (2_000, 2), generator=rng)
    advantage = 5.0 * -(target(obs) - action).square().view(-1, 4).sum(-1)
    gap = advantage[start[:, 1] // 4] - advantage[start[:, 0] // 4]
    value = (torch.rand(2_000, generator=rng) < torch.sigmoid(gap)).float()
    labels = Labels(start, 4, value, torch.full((2_000,), int(Status.ANSWERED)))
    settings: dict[str, Any] = {"hidden": (32,), "lr": 1e-2, "batch_size": 64, "dropout": 0.0, "warmup": 1}
    method, engine = ready(CPL, data, labels, double=False, bc_updates=0, alpha=5.0, bias=1.0, **settings)
    engine.run("policy", 300)
    states = torch.linspace(-0.9, 0.9, 7)[:, None]
    with torch.no_grad():
        assert (method.act(states) - target(states)).abs().max() < 0.15  # cloning would give 0
