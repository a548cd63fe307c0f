"""ActiveRLHF and ActiveSAC: the order of a round, what rollouts are paid, and that either kind of answer teaches the policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command_line import QUIET
from online_toys import WalkSimulator, WatchingPay
from pebble_toys import SMALL_PPO
from toys import SPEC, assert_same, make_trainer, read_csv

from lightning_pbrl.arguments import packaged_config
from lightning_pbrl.callbacks.ask_teacher import AskTeacher
from lightning_pbrl.datamodules.online import OnlineDataModule
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.active_rlhf import ActiveRLHF
from lightning_pbrl.methods.active_sac import ActiveSAC
from lightning_pbrl.methods.loading import load_method
from lightning_pbrl.queries.bald import BALDQuery
from lightning_pbrl.queries.base import QueryStrategy
from lightning_pbrl.queries.mixed import MixedQuery
from lightning_pbrl.queries.quota import FixedShare
from lightning_pbrl.rewards.unified import UnifiedReward
from lightning_pbrl.teachers.mixed import MixedTeacher
from lightning_pbrl.train_cli import train_cli

pytestmark = [
    QUIET,
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),  # a resumed run
]

REWARD: dict[str, Any] = {"hidden": [16, 16], "dropout": 0.2, "batch_size": 8, "first_epochs": 12, "epochs": 6}
SMALL: dict[str, Any] = {**SMALL_PPO, "env_steps": 200}


def mixed() -> MixedQuery:
    return MixedQuery(BALDQuery("pair"), BALDQuery("rating"), FixedShare(0.5))


class Watched(WatchingPay, ActiveRLHF):
    def worth(self, rows: torch.Tensor) -> torch.Tensor:
        self.reward_model.train()  # as a strategy's draws might leave it
        features = self.source.features()[rows]
        return torch.stack([self.reward_model.network(row[None])[0, 0, 0] for row in features]).detach()


def fit(folder: Path, cls: Any = ActiveRLHF, ask: Any = None, trainer: Any = None, ckpt_path: Any = None, **settings: Any) -> Any:
    """Two rounds of 40 steps at least; by default 4 questions in round 1 and the other 16 evenly in the rounds 2 to 4."""
    data = OnlineDataModule(WalkSimulator(20), segment_length=5, eval_episodes=2, eval_envs=2)
    asking = {"query": mixed(), "budget": 20, "initial": 0.2, "schedule": "spread", "first_round": 1, **(ask or {})}
    method = cls(data.spec, reward_model=REWARD, **{**SMALL, **settings})
    asks = AskTeacher(MixedTeacher(), **asking)
    make_trainer(folder, [asks], **(trainer or {})).fit(method, data, ckpt_path=ckpt_path)
    return method


def test_the_rounds_of_a_run(tmp_path: Path) -> None:
    """40 exploring steps, then rounds of a fit and two rollouts; the questions are 4, then 16 over three rounds."""
    method = fit(tmp_path, Watched)
    steps = {0: [0, 20], 1: [40, 60], 2: [80, 100], 3: [120, 140], 4: [160, 180]}
    expected: list[tuple[int, str, int]] = []
    for number, starts in steps.items():
        if number:
            expected += [(number, name, starts[0]) for name in ("reward", "best weights")]
        if number == 1:
            expected.append((1, "reset", 40))
        for start in starts:
            expected += [(number, "rollout", start), (number, "policy" if number else "explore", start + 20)]
    assert method.noted == expected
    asked = {(row["labels/pair"], row["labels/rating"]) for row in read_csv(tmp_path) if "labels/pair" in row}
    assert asked == {(0, 0), (2, 2), (4, 5), (7, 8), (10, 10)}  # 5, 6 and 5 more; what is owed to a kind is carried over
    assert len(method.labels) == len(method.ratings) == 10
    assert method.asked.remaining == 0 and method.env_steps == 200


def test_a_rollout_is_paid_by_the_present_network_without_dropout(tmp_path: Path) -> None:
    method = fit(tmp_path, Watched)
    assert [phase for phase, _, _ in method.paid] == ["explore"] * 2 + ["policy"] * 8
    for _, paid, worth in method.paid[2:]:
        torch.testing.assert_close(paid, worth, rtol=1e-5, atol=1e-6)
        assert paid.std() > 0
    first, last = method.paid[2][1], method.paid[-1][1]
    assert not torch.allclose(first.mean(), last.mean(), atol=1e-4)  # it was fitted anew in between


@pytest.mark.slow
@pytest.mark.parametrize(
    ("query", "pairs", "rounds"), [(BALDQuery("pair"), 60, 2), (BALDQuery("rating"), 0, 5)], ids=["pairs", "ratings"]
)
def test_it_learns_what_the_teacher_likes(query: QueryStrategy, pairs: int, rounds: int, tmp_path: Path) -> None:
    """The teacher likes the walker's position: a perfect policy gets about 64 of an episode, a random one about 0."""
    data = OnlineDataModule(WalkSimulator(20), num_envs=8, eval_episodes=8, eval_envs=8, segment_length=5)
    steps = {"explore_steps": 800, "explore_epochs": 1, "round_steps": 1_600, "n_steps": 50}
    policy = {"hidden": [32, 32], "lr": 3e-3, "discount": 0.95, "entropy_coef": 0.01, "block": 512, "compile": False}
    reward = {"hidden": [32, 32], "batch_size": 16}
    method = ActiveRLHF(data.spec, env_steps=800 + 1_600 * rounds, reward_model=reward, **steps, **policy)
    ask = AskTeacher(MixedTeacher(), query, 60, first_round=1, initial=0.2, schedule="spread")
    make_trainer(tmp_path, [ask]).fit(method, data)
    random = method.source.log.finished[:32, 3].mean()
    learned = [row["eval/return_mean"] for row in read_csv(tmp_path) if "eval/return_mean" in row][-1]
    assert (len(method.labels), len(method.ratings)) == (pairs, 60 - pairs)
    assert random < 10 and learned > 55


def test_the_learner_never_reads_the_true_reward(tmp_path: Path) -> None:
    """After the answers are in, NaN in place of every true reward: the rollouts, paid and learnt from, are the same."""

    class Blinded(ActiveRLHF):
        def plan(self, round_number: int) -> Any:
            self.source.reward[self.source.stored] = float("nan")
            return super().plan(round_number)

    ask = {"budget": 4, "initial": 1.0}
    one = fit(tmp_path / "a", ask=ask)
    two = fit(tmp_path / "b", Blinded, ask=ask)
    assert two.source.reward[two.source.stored][:160].isnan().all()
    assert_same(one.state_dict(), two.state_dict())


def test_a_saved_run_acts_and_judges_as_it_did(tmp_path: Path) -> None:
    method = fit(tmp_path)
    logged = {key for row in read_csv(tmp_path) for key in row}
    assert {"pref/held_out_loss", "query/log_prob", "labels/pair", "labels/rating"} <= logged
    loaded = load_method(tmp_path / "checkpoints" / "last.ckpt")
    obs = torch.tensor([[0.3, 4.0], [-1.0, 11.0]])
    assert_same(method.state_dict(), loaded.state_dict())  # bit for bit
    with torch.no_grad():
        torch.testing.assert_close(method.act(obs), loaded.act(obs))  # to rounding: a product depends on where its weights lie
        features = torch.cat([obs, torch.zeros(2, 1)], 1)
        torch.testing.assert_close(method.reward(features), loaded.reward(features))
    assert isinstance(loaded.reward_model, UnifiedReward)


def test_presets_are_arguments_of_the_reward_model() -> None:
    files = {name: Path(packaged_config(f"preset/active_rlhf/{name}.yaml")) for name in ("paper", "reference")}
    written = {name: yaml.safe_load(file.read_text())["model"]["init_args"]["reward_model"] for name, file in files.items()}
    models = {name: ActiveRLHF(SPEC, reward_model=settings).reward_model.hparams for name, settings in written.items()}
    assert all(models["paper"][key] == value == UnifiedReward().hparams[key] for key, value in written["paper"].items())
    assert set(written["reference"]) == set(written["paper"])
    assert all(models["reference"][key] == value for key, value in written["reference"].items())
    assert all(value != written["paper"][key] for key, value in written["reference"].items() if key != "bins")


def test_off_policy_relabels_what_it_keeps(tmp_path: Path) -> None:
    """ActiveSAC: after the last fit every stored row carries the present network's reward, also those collected before it."""
    steps = {"seed_steps": 20, "explore_steps": 20, "reset_updates": 9}
    sizes = {key: value for key, value in SMALL.items() if key not in ("n_steps", "n_epochs", "explore_epochs", "explore_steps")}
    data = OnlineDataModule(WalkSimulator(20), segment_length=5, eval_episodes=2, eval_envs=2)
    method = ActiveSAC(data.spec, reward_model=REWARD, **{**sizes, **steps})
    ask = AskTeacher(MixedTeacher(), mixed(), 20, first_round=1, initial=0.2, schedule="spread")
    make_trainer(tmp_path, [ask]).fit(method, data)
    assert len(method.labels) + len(method.ratings) == 20 and method.env_steps == 200
    stored = method.source.stored
    with torch.no_grad():
        worth = method.combine(method.reward(method.source.features()[stored]))
    torch.testing.assert_close(method.source.column("learned_reward")[stored], worth, rtol=1e-4, atol=1e-5)


def test_mistakes() -> None:
    spec = {"obs_dim": 2, "action_dim": 1, "horizon": 20}
    with pytest.raises(UserError, match="reward_model has no 'dropuot': did you mean dropout"):
        ActiveRLHF(spec, reward_model={"dropuot": 0.1})
    with pytest.raises(UserError, match=r"ActiveRLHF learns its reward: leave model.init_args.reward alone"):
        ActiveRLHF(spec, reward="zero")


def test_the_shipped_config_is_the_repository_s() -> None:
    """Built by the command line, with what its fact sheet says of the PPO and the reward network."""
    configs = ["-c", "data/online/HalfCheetah-v5.yaml", "-c", "model/active_rlhf.yaml", "-c", "teacher/mixed.yaml"]
    cli = train_cli([*configs, "--trainer.accelerator=cpu", "--ask.budget=750"], run=False)
    found, reward = cli.model.hparams, cli.model.reward_model.hparams
    ppo = {"n_steps": 2048, "batch_size": 64, "n_epochs": 10, "lr": 3e-4, "entropy_coef": 0.01, "round_steps": 20_480}
    ppo |= {"discount": 0.99, "gae_lambda": 0.95, "clip": 0.2, "value_coef": 0.5, "max_grad_norm": 0.5, "hidden": [64, 64]}
    assert {key: found[key] for key in ppo} == ppo
    network = {"hidden": (64, 64), "lr": 1e-3, "weight_decay": 1e-3, "batch_size": 64, "first_epochs": 100, "epochs": 50}
    network |= {"first_patience": 10, "patience": 7, "validation": 0.2, "dropout": 0.1, "bins": 10}
    assert {key: reward[key] for key in network} == network
