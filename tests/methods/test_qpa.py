"""QPA: when minibatches are hybrid and of what, crops by a slow loop, the rule of the fit, sessions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pebble_toys import build, filled, fit
from toys import drawn

from lightning_pbrl.data.feedback import Labels
from lightning_pbrl.engine import Program, UpdateEngine
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.base import Asked
from lightning_pbrl.methods.qpa import QPA
from lightning_pbrl.queries.policy_aligned import PolicyAlignedQuery
from lightning_pbrl.rewards.ensemble import RewardEnsemble
from lightning_pbrl.rng import derive

CROP: dict[str, Any] = {"crop": [2, 4], "crop_copies": 3}


class Watched(QPA):
    """Notes of every minibatch of the policy: env steps, questions left, ages of its rows."""

    def program(self, gather: Any) -> Program:
        return super().program(lambda drawn: self.note(gather(drawn)))

    def note(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if self.rounds.name in ("policy", "reset"):
            found = (batch["rows"].unsqueeze(1) == self.source.packed).all(-1)  # no two rows of the replay are equal
            assert (found.sum(1) == 1).all()
            ages = (self.source.steps - 1 - found.long().argmax(1)).tolist()  # one environment, a ring that holds the whole run
            self.__dict__.setdefault("noted", []).append((self.rounds.name, self.env_steps, self.asked.remaining, ages))
        return batch


def test_hybrid_between_the_first_session_and_the_last(tmp_path: Path) -> None:
    """Sessions at 40 and 80 spend the budget: recent rows in the last half of a batch from 41 to 80, and not after."""
    method = fit(Watched, tmp_path, CROP, batch_size=64, recent=1)
    assert len([1 for phase, *_ in method.noted if phase == "reset"]) == 9
    for phase, env_steps, remaining, ages in method.noted:
        hybrid = phase == "policy" and env_steps <= 80
        assert (remaining > 0) == (env_steps <= 80) and len(ages) == 64
        assert (max(ages[32:]) < 20) == hybrid  # one trajectory of 20 steps; uniform: chance 0.5^32 at most
        assert max(ages[:32]) >= 20


@pytest.mark.parametrize(("after", "finished", "rows"), [(False, 4, None), (True, 4, 20), (True, 1, 10)])
def test_the_window(after: bool, finished: int, rows: int | None) -> None:
    """N trajectories of ten steps, fewer while fewer have ended; after the budget only if wanted; the ring has wrapped."""
    method = build(QPA, CROP, recent=2, hybrid_after_budget=after)
    method.configure_model()
    method.source = method.reward_model.source = filled(10 * finished + 3, capacity=30)
    method.asked = Asked(6, 6, 0)
    u = torch.full((8,), 1 - 1e-9, dtype=torch.float64)  # the oldest row of either part
    size = min(30, 10 * finished + 3)
    newest = 10 * finished + 2
    expected = [newest - size + 1] * 8 if rows is None else [newest - size + 1] * 4 + [newest - rows + 1] * 4
    found = method.programs()[method.learn(1).program].gather({"place": u})["rows"]
    assert found[:, 0].long().tolist() == expected  # an observation tells its step


def ensemble(**settings: Any) -> RewardEnsemble:
    """Members on five labelled pairs of segments of six steps, one of them equal."""
    model = RewardEnsemble(**{"hidden": [8], "margin": 0.0, **settings})
    model.spec = {"obs_dim": 2, "action_dim": 1, "horizon": 10}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(0, "init"))
        model.build()
    model.source = filled(60, capacity=60)
    model.source.packed[:, :3] = torch.randn(60, 3, generator=torch.Generator().manual_seed(5))
    start = torch.tensor([[0, 10], [1, 21], [33, 12], [40, 51], [22, 3]])
    value = torch.tensor([0.0, 1.0, 0.5, 1.0, 0.0])
    model.pairs = model.labels = Labels(start, 6, value, torch.tensor([1, 1, 2, 1, 1]))
    model.attach(UpdateEngine(model, model.groups(), model.programs(), [0], compile=False))
    return model


def test_cropped_loss_against_a_slow_loop() -> None:
    """Mean over copies and pairs, sum over members; a copy's segments share their length, not their beginning."""
    model = ensemble(crop=[2, 4], crop_copies=3, ensemble_size=2)
    (numbers,) = drawn(model.programs()["reward"], seed=1)
    pairs, u = numbers["pair"], numbers["crop"]
    assert pairs.shape == (2, 5)
    expected, right, strict = 0.0, 0, 0
    for member in range(2):
        for column in range(5):
            pair = int(pairs[member, column])
            label = float(model.pairs.value[pair])
            for copy in range(3):
                size = 2 + int(3 * u[0, copy, member, column])
                returns = []
                for side in range(2):
                    begin = int((6 - size + 1) * u[1 + side, copy, member, column])
                    assert 2 <= size <= 4 and 0 <= begin <= 6 - size
                    at = int(model.pairs.start[pair, side]) + begin
                    returns.append(float(model.reward(model.source.features()[at : at + size])[member].detach().double().sum()))
                p = 1 / (1 + math.exp(returns[0] - returns[1]))
                expected -= (label * math.log(p) + (1 - label) * math.log(1 - p)) / 15
                strict += label != 0.5
                right += (label == 1 and p > 0.5) or (label == 0 and p < 0.5)
    found = model.losses(model.gather_pairs(numbers))
    assert float(found["members"].detach()) == pytest.approx(expected, rel=1e-5)
    assert float(found["accuracy"]) == pytest.approx(right / strict, rel=1e-6) and strict == 2 * 4 * 3


def test_copies_differ_and_begin_independently() -> None:
    model = ensemble(crop=[2, 4], crop_copies=2, ensemble_size=1, batch_size=600)
    kept = model.kept(drawn(model.programs()["reward"])[0]["crop"], 600, 6)[:, 0]  # (2, 600, 2, 6)
    lengths, (first, second) = kept.sum(-1)[..., 0], kept.long().argmax(-1).unbind(-1)
    assert torch.equal(lengths, kept.sum(-1)[..., 1])
    for one, other in ((lengths[0], lengths[1]), (first[0], first[1]), (first[0], second[0])):
        assert 0.5 < float((one != other).float().mean()) < 0.9
    assert set(lengths.unique().tolist()) == {2, 3, 4}


def test_updates_of_a_fit_and_its_end() -> None:
    """ceil(reward_update x labels / 128): 157 for QPA's first 10 labels, 1,563 for 100. It ends by the accuracy of the fit."""
    model = ensemble(crop=[2, 4], fit_rule="updates", epochs=2000, stop_accuracy=0.98)
    full = model.labels
    for count, updates in ((10, 157), (100, 1563), (0, 0)):
        model.labels = full.take(torch.tensor([0, 1, 3, 4]).repeat(25)[:count])
        (phase,) = model.plan(1)
        assert (phase.updates, phase.block) == (updates, min(count, 1)) and phase.start is not None
        phase.start()
        accuracies = [0.9, 1.0, 1.0, 1.0, 1.0]  # means 0.9, 0.95, 0.967, 0.975, 0.98
        assert [model.fits_well({"accuracy": a}) for a in accuracies] == [False, False, False, False, True]
    model.hparams["stop_accuracy"] = 1.0
    model.plan(1)
    assert not model.fits_well({"accuracy": 1.0})


def test_sessions_of_a_run(tmp_path: Path) -> None:
    """Policy-aligned questions in three rounds, the last clipped: 6 + 6 + 2; ceil(10 labels / 4) updates."""
    ask = {"budget": 14, "query": PolicyAlignedQuery(recent=2)}
    method = fit(QPA, tmp_path, {**CROP, "epochs": 10, "batch_size": 4, "stop_accuracy": 1.0}, ask=ask)
    assert len(method.labels) == 14
    fits = [math.ceil(10 * labels / 4) for labels in (6, 12, 14)]
    assert method.running.updates["reward"] == sum(fits) == 15 + 30 + 35
    assert method.reward_model.hparams.ensemble_size == 1


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"omega": 1.5}, r"QPA got omega=1\.5: give a number between 0 and 1"),
        ({"reward_model": {"crop": None}}, "crop_copies is 20"),
        ({"reward_model": {"crop_copies": 0}}, "crop_copies=0: give a number of at least 1"),
    ],
)
def test_mistakes(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        build(QPA, **settings)


def test_a_crop_longer_than_a_segment_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"crop is \[35, 45\] and segments have 5 steps"):
        fit(QPA, tmp_path)
