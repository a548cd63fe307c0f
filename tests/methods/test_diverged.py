"""NaN and infinity stop a run with what, where and since when; the checkpoint of the round before stays."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from online_toys import PointPhysics, PointSimulator
from toys import SPEC, ToyData, callbacks_for, make_trainer

from lightning_pbrl.callbacks.relabel_rewards import RelabelRewards
from lightning_pbrl.callbacks.write_predictions import WritePredictions
from lightning_pbrl.callbacks.write_results import WriteResults
from lightning_pbrl.data.replay import Replay
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.datamodules.online import OnlineDataModule
from lightning_pbrl.envs.behaviour import Behaviour
from lightning_pbrl.envs.collect import collect, episode_plan
from lightning_pbrl.envs.collector import Collector
from lightning_pbrl.envs.rollout import VectorEnvs, rollout
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.base import Method, Phase
from lightning_pbrl.methods.bc import BC
from lightning_pbrl.methods.cem import CEM
from lightning_pbrl.methods.iql import IQL
from lightning_pbrl.methods.learn_reward import LearnReward
from lightning_pbrl.methods.loading import load_method
from lightning_pbrl.methods.sac import SAC
from lightning_pbrl.queries.base import best
from lightning_pbrl.rewards import ensemble
from lightning_pbrl.rng import derive

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")


class Exploding(IQL):
    """Its critic's loss is ``bad`` in the 15th update, which ends a block."""

    bad, seen = 1.0, 0

    def losses(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        found = super().losses(batch)
        self.seen += 1
        return {**found, "q": found["q"] * self.bad} if self.seen == 15 else found


Method.registry.pop("Exploding")


def iql(cls: type[IQL] = IQL, **settings: Any) -> IQL:
    return cls(SPEC, **{"updates": 30, "eval_interval": 10, "hidden": (8,), "batch_size": 8, "block": 5, **settings})


def fit(method: Method, folder: Path, data: Any = None, callbacks: Any = None) -> None:
    callbacks = callbacks_for(type(method)) if callbacks is None else callbacks
    make_trainer(folder, callbacks).fit(method, data or ToyData(eval_episodes=2))


# Learning ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_stops_within_its_block_and_the_last_checkpoint_stays(bad: float, tmp_path: Path) -> None:
    method = iql(Exploding)
    method.bad = bad
    with pytest.raises(UserError) as caught:
        fit(method, tmp_path)
    kept = tmp_path / "checkpoints" / "last.ckpt"
    assert str(caught.value) == (
        "Exploding has diverged: the loss of q became NaN or infinite in the updates 11 to 15 of 'policy' (round 1): lower "
        f"model.init_args.lr, or look for values of the data that are far from the others; {kept} of an earlier round is kept."
    )
    saved = torch.load(kept, weights_only=True)
    assert saved["lightning_pbrl"]["updates"] == 10 and all(torch.isfinite(v).all() for v in saved["state_dict"].values())


@pytest.mark.parametrize(("part", "told"), [("weights", "a weight of 'q'"), ("moments", "a moment in the optimiser of 'q'")])
def test_a_round_that_ends_with_lost_weights_is_not_saved(part: str, told: str, tmp_path: Path) -> None:
    """A finite loss may have a gradient that is not."""

    class Spoiled(IQL):
        def plan(self, round_number: int) -> Any:
            return [*super().plan(round_number), Phase("spoil", start=self.spoil)]

        def spoil(self) -> None:
            flat = self.running.state
            (moments,) = flat.optimizers[0]["q"].state.values()
            (flat.storage["q"] if part == "weights" else moments["exp_avg_sq"])[0, 3] = math.inf

    Method.registry.pop("Spoiled")
    with pytest.raises(UserError) as caught:
        fit(iql(Spoiled), tmp_path)
    assert f"Spoiled has diverged: {told} became NaN or infinite by update 10 (round 0): lower" in str(caught.value)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(
    ("column", "told"),
    [
        ("learned_reward", "Column 'learned_reward' of the data is NaN or infinite in 2 of 600 rows, the first is row 7"),
        ("reward", "The true reward of the data is NaN or infinite in 2 of 600 rows, the first is row 7"),
    ],
)
def test_rewards_are_blamed_before_anything_is_learned(column: str, told: str, tmp_path: Path) -> None:
    class Spoiled(ToyData):
        def load(self) -> Transitions:
            data = super().load()
            data.write("learned_reward", data.reward)
            values = data.reward if column == "reward" else data.column(column)
            values[7], values[9] = math.inf, -math.inf
            return data

    cure = "the data are at fault and not the training, so repair these rows or leave their episodes out."
    with pytest.raises(UserError) as caught:
        fit(iql(), tmp_path, Spoiled(), callbacks=[])
    assert str(caught.value) == f"{told}: {cure}"


def test_lost_checkpoints_are_refused(tmp_path: Path) -> None:
    fit(iql(updates=10), tmp_path)
    path = tmp_path / "checkpoints" / "last.ckpt"
    saved = torch.load(path, weights_only=True)
    saved["lightning_pbrl"]["engine"]["state"]["weights"][0]["q.weights.0"][0] = math.inf
    torch.save(saved, path)
    with pytest.raises(UserError) as caught:
        load_method(path)
    assert str(caught.value) == (
        f"The checkpoint {path} has NaN or infinity in q.weights.0, so its training has diverged: use an earlier one."
    )
    with pytest.raises(UserError, match=r"The checkpoint has NaN or infinity in q\.weights\.0, so its training has diverged"):
        make_trainer(tmp_path).test(iql(), ToyData(), ckpt_path=path, verbose=False)


# What is made of a model --------------------------------------------------------------------------------------------------


class LostReward(ensemble.RewardEnsemble):
    """A reward that is ``value`` where the first entry of an observation is positive, in row 0 of the toy data it is not."""

    value = math.nan

    def reward(self, features: torch.Tensor) -> torch.Tensor:
        known = super().reward(features)
        return torch.where(features[:, 0] > 0, self.value, known)


class Lost(LearnReward):
    """Its method."""


Method.registry.pop("Lost")


def lost() -> Lost:
    method = Lost(SPEC, LostReward(hidden=(8,)))
    method.configure_model()
    return method


def test_a_lost_reward_is_neither_relabelled_by_nor_predicted_nor_judged(tmp_path: Path) -> None:
    data = ToyData(eval_episodes=2)
    data.setup("fit")
    bad = data.source.column("obs")[:, 0] > 0
    told = f"is NaN or infinite in {int(bad.sum())} of 600 rows, the first is row {int(bad.int().argmax())}"
    with pytest.raises(UserError) as caught:
        fit(iql(), tmp_path, callbacks=[RelabelRewards(lost())])
    assert str(caught.value) == (
        f"The reward that relabel.reward, a Lost, predicts {told}: its training has diverged, so train it again with a "
        "smaller lr."
    )
    trainer = make_trainer(tmp_path, [WritePredictions()])
    with pytest.raises(UserError, match=f"What Lost predicts as learned_reward for the rows from 0 on {told}: predict from"):
        trainer.predict(lost(), ToyData())
    assert not (tmp_path / "predictions.safetensors").exists()
    with pytest.raises(UserError, match=r"The predicted return of a held-out pair is NaN or infinite in \d+ of 50 pairs"):
        make_trainer(tmp_path).test(lost(), ToyData(), verbose=False)


def test_a_constant_reward_is_no_reward(tmp_path: Path) -> None:
    model = lost()
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    model.reward_model.value = 0.0  # type: ignore[assignment]
    with pytest.raises(UserError) as caught:
        fit(iql(), tmp_path, callbacks=[RelabelRewards(model)])
    assert str(caught.value) == (
        "relabel.reward, a Lost, predicts the same reward, 0, for all 600 rows, so a policy could learn nothing from it: train "
        "it on more answers, or use relabel.reward=zero for a control."
    )


def test_scores_without_an_order_are_refused() -> None:
    assert best(torch.tensor([1.0, 3.0, 2.0]), 2).tolist() == [1, 2]
    with pytest.raises(UserError, match="The score of a candidate question is NaN or infinite in 1 of 3 candidates, the first"):
        best(torch.tensor([1.0, math.nan, 2.0]), 2)
    with pytest.raises(UserError, match="What the planner's critic says of actions is NaN or infinite in 2 of 2 states"):
        CEM(candidates=10, elites=5).best(lambda action: action.sum(-1) * math.inf, 2, 1)


# Environments -------------------------------------------------------------------------------------------------------------


class Broken(PointSimulator):
    """An observation or a reward of step ``step`` is ``bad`` in every episode."""

    def __init__(self, what: str, step: int, bad: float = math.nan) -> None:
        super().__init__()
        self.what, self.step, self.bad = what, step, bad

    def make(self, render: bool = False) -> Any:
        from lightning_pbrl.envs.episodic import Episodic

        physics, what = PointPhysics(1.0), self.what
        begin, advance = physics.begin, physics.advance

        def start(seed: int) -> Any:
            physics.t = 0
            obs, info = begin(seed)
            return obs * (self.bad if self.step == 0 else 1.0), info

        def move(action: Any) -> Any:
            obs, reward, over, info = advance(action)
            physics.t += 1
            factor = self.bad if physics.t == self.step else 1.0
            return obs * (factor if what == "obs" else 1.0), reward * (factor if what == "reward" else 1.0), over, info

        physics.begin, physics.advance = start, move
        return Episodic(self, physics)


def blamed(what: str, step: int, seed: int) -> str:
    return (
        f"point-v0 gave {what} at step {step} of the episode with reset seed {seed}: the environment is at fault and not the "
        "learner, so repair it, or let it end the episode (terminated) before it diverges."
    )


@pytest.mark.parametrize(
    ("simulator", "told"),
    [
        (Broken("obs", 0), blamed("the observation nan in entry 0", 0, 5)),
        (Broken("obs", 4), blamed("the observation nan in entry 0", 4, 5)),
        (Broken("reward", 4), blamed("the reward nan", 4, 5)),
        (Broken("reward", 3, math.inf), blamed("the reward inf", 3, 5)),
    ],
)
def test_an_episode_stops_where_the_environment_breaks(simulator: Broken, told: str) -> None:
    with pytest.raises(UserError) as caught:
        rollout(lambda obs: torch.full((len(obs), 1), 0.1), simulator, [5])
    assert str(caught.value) == told


@pytest.mark.parametrize("what", ["obs", "reward"])
def test_a_collector_blames_the_environment_and_stores_nothing(what: str) -> None:
    replay = Replay(40, 2, 1, 1, 20)
    collector = Collector(VectorEnvs(Broken(what, 6), 2), replay, seed=3)
    for _ in range(5):
        collector.step()
    with pytest.raises(UserError) as caught:
        collector.step()
    seed = derive(3, "episode", 0, 0) % 2**31
    assert str(caught.value) == blamed("the observation nan in entry 0" if what == "obs" else "the reward nan", 6, seed)
    assert replay.steps == 5


@pytest.mark.parametrize(("what", "step"), [("obs", 0), ("obs", 6), ("reward", 6)])
def test_a_collection_blames_the_environment_and_keeps_the_parts_before(
    what: str, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixture, path = [Behaviour(random=1.0, expert=False)], tmp_path / "point.safetensors"
    monkeypatch.setattr("lightning_pbrl.envs.collect.SHARD", 1)
    broken = Broken(what, step)

    def break_it(done: int, _: int) -> None:
        broken.bad = math.nan if done else broken.bad

    broken.bad = 1.0
    with pytest.raises(UserError) as caught:
        collect(broken, mixture, 3, path, seed=4, progress=break_it)
    seed = episode_plan(mixture, 4, 1)[1]
    assert str(caught.value) == blamed("the reward nan" if what == "reward" else "the observation nan in entry 0", step, seed)
    assert not path.exists()
    assert len(list(path.with_name(f"{path.name}.parts").iterdir())) == 1  # the episode before it broke


def test_a_policy_that_is_lost_while_it_acts_is_told_so(tmp_path: Path) -> None:
    class Reckless(SAC):
        def behave(self, obs: torch.Tensor) -> torch.Tensor:
            return super().behave(obs) * (math.nan if self.env_steps == 30 else 1.0)

    Method.registry.pop("Reckless")
    spec, small = {"obs_dim": 1, "action_dim": 1, "horizon": 20}, {"hidden": (8,), "batch_size": 4, "block": 5}
    method = Reckless(spec, env_steps=40, seed_steps=20, round_steps=20, **small)
    with pytest.raises(UserError) as caught:
        fit(method, tmp_path, OnlineDataModule(PointSimulator(), eval_episodes=2))
    kept = tmp_path / "checkpoints" / "last.ckpt"
    assert str(caught.value) == (
        "Reckless has diverged: the policy's action is NaN or infinite at env step 31, where all observations are finite (round "
        f"1): lower model.init_args.lr, or look for values of the data that are far from the others; {kept} of an earlier round "
        "is kept."
    )


def test_results_hold_numbers_or_are_not_written(tmp_path: Path) -> None:
    class Undefined(BC):
        def on_test_epoch_end(self) -> None:
            super().on_test_epoch_end()
            self.log("test/spread", math.nan)

    Method.registry.pop("Undefined")
    method = Undefined(SPEC, hidden=(8,))
    with pytest.raises(UserError) as caught:
        make_trainer(tmp_path, [WriteResults()]).test(method, ToyData(test_episodes=2), verbose=False)
    assert str(caught.value) == (
        "Undefined was tested and test/spread is nan, so no results.json is written: look for what is not finite in the episodes "
        "or predictions, or log the metric only where it is defined."
    )
    assert not (tmp_path / "results.json").exists()
