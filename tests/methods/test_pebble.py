"""PEBBLE: order of a round, what is relabelled, what starts anew, and that it learns what the teacher likes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import QUIET
from online_toys import Watching
from pebble_toys import build, fit
from toys import assert_same, read_csv

from lightning_pbrl.data.replay import Replay
from lightning_pbrl.errors import UserError
from lightning_pbrl.fitting.online_diagnostics import log_prob_of_questions
from lightning_pbrl.methods.pebble import PEBBLE
from lightning_pbrl.teachers.simulated import SimulatedTeacher
from lightning_pbrl.train_cli import train_cli

pytestmark = [
    QUIET,
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),  # a resumed run
]


class Watched(Watching, PEBBLE):
    def counts(self) -> tuple[int, ...]:
        return (self.running.state.updates["actor"],)

    def relabel_replay(self) -> None:
        super().relabel_replay()
        self.__dict__["relabelled"] = self.source.stored_column("learned_reward").clone()


def mean_reward(method: PEBBLE) -> torch.Tensor:
    """The ensemble's mean, by its members one after another, of every stored row."""
    features = method.source.features()[method.source.stored]
    members = method.reward_model.members
    single = [members(features[i : i + 1]).squeeze(-1).mean() for i in range(len(features))]
    return torch.stack(single)


def test_the_rounds_of_a_run(tmp_path: Path) -> None:
    """20 random and 20 exploring steps, then rounds of 40; questions in every second round, 12 in all, 6 at a time."""
    method = fit(Watched, tmp_path, ask={"every": 2}, env_steps=240)
    expected = [
        (0, "random", 0, 0),
        (0, "explore", 20, 0),
        (0, "explore", 39, 19),
        (1, "reward", 40, 19),
        (1, "relabel", 40, 19),
        (1, "reset", 40, 19),
        (1, "policy", 40, 28),
        (2, "policy", 80, 68),
        (3, "reward", 120, 108),
        (3, "relabel", 120, 108),
        (3, "policy", 120, 108),
        (4, "policy", 160, 148),
        (5, "policy", 200, 188),
    ]
    assert method.noted == expected
    assert len(method.labels) == 12 and method.asked.remaining == 0
    assert method.running.updates["reward"] == 2 * 5  # 6, then 12 labels: one minibatch per pass, 5 passes each


@pytest.mark.parametrize("capacity", [None, 60])  # 60 rows for 160 steps: the ring has wrapped when it is relabelled
def test_every_stored_row_carries_the_present_reward(capacity: int | None, tmp_path: Path) -> None:
    method = fit(Watched, tmp_path, data={"capacity": capacity}, env_steps=160, ask={"budget": 18})
    with torch.no_grad():  # rounds 1, 2 and 3 have asked, and new rows carry the reward of their time
        torch.testing.assert_close(method.source.stored_column("learned_reward"), mean_reward(method), rtol=1e-5, atol=1e-6)
    assert len(method.relabelled) == (120 if capacity is None else 60)  # the last session is at step 120


def test_the_critic_starts_anew_and_nothing_else_does(tmp_path: Path) -> None:
    seen: dict[str, Any] = {}

    class Reset(PEBBLE):
        def reset_critic(self) -> None:
            flat = self.running.state
            seen["before"] = {key: value.clone() for key, value in self.state_dict().items()}
            seen["moments"] = {key: dict(flat.optimizers[0][key].state) for key in ("actor", "log_alpha")}
            super().reset_critic()
            seen["after"] = {key: value.clone() for key, value in self.state_dict().items()}
            optimizers = flat.optimizers[0]
            seen["fresh"] = not optimizers["critic"].state
            seen["same"] = all(dict(optimizers[key].state) == seen["moments"][key] for key in seen["moments"])

    fit(Reset, tmp_path, trainer={"max_epochs": 2})
    moved = {key for key, value in seen["after"].items() if not torch.equal(value, seen["before"][key])}
    weights = {key for key in seen["after"] if key.startswith(("critic.weights", "critic_target.weights"))}
    assert weights <= moved and all(key.startswith("critic") for key in moved)
    for key in weights:
        if key.startswith("critic."):
            assert torch.equal(seen["after"][key], seen["after"][key.replace("critic.", "critic_target.")])
    assert seen["fresh"] and seen["same"] and seen["moments"]["log_alpha"]


def test_the_fit_ends_above_the_accuracy() -> None:
    method = build(PEBBLE, {"stop_accuracy": 0.97})
    method.configure_model()
    assert not method.reward_model.fits_well({"accuracy": 0.97}) and method.reward_model.fits_well({"accuracy": 0.98})


def test_the_learner_never_reads_the_true_reward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers from noise, so that the teacher needs no reward: with NaN in place of every true reward, the same run."""

    class Blind(SimulatedTeacher):
        def answer(self, query: Any, clips: Any, keys: Any) -> Any:
            action = clips.action.squeeze(-1)
            return super().answer(query, clips._replace(reward=action), keys)

    with_reward = fit(PEBBLE, tmp_path / "a", ask={"teacher": Blind()})
    append = Replay.append

    def blinded(self: Replay, obs: Any, action: Any, next_obs: Any, reward: Any, *rest: Any, **more: Any) -> None:
        append(self, obs, action, next_obs, reward * float("nan"), *rest, **more)

    monkeypatch.setattr(Replay, "append", blinded)
    without = fit(PEBBLE, tmp_path / "b", ask={"teacher": Blind()})
    assert without.source.reward[without.source.stored].isnan().all()
    assert all(torch.isfinite(value).all() for value in without.state_dict().values())
    assert_same(with_reward.state_dict(), without.state_dict())
    logged = [{key for row in read_csv(tmp_path / run) for key in row} for run in "ab"]
    assert {"pref/accuracy_all", "pref/accuracy_recent", "pref/return_spearman_all"} <= logged[0]
    assert not {"pref/accuracy_all", "pref/accuracy_recent", "pref/return_spearman_all"} & logged[1]


def test_what_is_logged_of_the_reward(tmp_path: Path) -> None:
    method = fit(PEBBLE, tmp_path)
    rows = read_csv(tmp_path)
    judged = [row for row in rows if "pref/accuracy_all" in row]
    assert len(judged) == 4
    rows_of_ten = method.source.pool(1, 10)
    newest = method.source.column("learned_reward")[rows_of_ten.start(torch.arange(len(rows_of_ten)))]
    assert len(newest) == 8 * 20  # eight episodes have ended after 160 steps
    assert judged[-1]["train/learned_return_mean"] == pytest.approx(float(newest.sum()) / 8, rel=1e-5)
    asked = [row for row in rows if "query/log_prob" in row]
    assert len(asked) == 2  # the rounds that have asked
    total = 0.0
    for start in method.labels.start[-2:].flatten().tolist():  # the two newest questions, step by step, by the change of variable
        for row in method.source.features()[start : start + 5]:
            mean, log_std = (part.item() for part in method.actor(row[None, :2]))
            action = float(row[2].clamp(-1 + 1e-6, 1 - 1e-6))
            standard = (math.atanh(action) - mean) / math.exp(log_std)
            total += -0.5 * standard**2 - log_std - 0.5 * math.log(2 * math.pi) - math.log(1 - action**2)
    assert float(log_prob_of_questions(method, 2)["query/log_prob"]) == pytest.approx(total / 20, rel=1e-4)


def test_a_resumed_run_is_an_uninterrupted_one(tmp_path: Path) -> None:
    """Stopped after the first session; the second fit, relabelling and all acting are repeated bit for bit."""
    straight = fit(PEBBLE, tmp_path / "straight")
    fit(PEBBLE, tmp_path / "halves", trainer={"max_epochs": 2})
    resumed = fit(PEBBLE, tmp_path / "halves", ckpt_path=tmp_path / "halves/checkpoints/last.ckpt")
    assert_same(straight.state_dict(), resumed.state_dict())
    assert_same(straight.source.state_dict(), resumed.source.state_dict())


def test_it_learns_what_the_teacher_likes(tmp_path: Path) -> None:
    """The walker is liked for its position; a reward from 40 answers orders four of five pairs as the truth does."""
    fit(PEBBLE, tmp_path, {"epochs": 60, "lr": 3e-3}, ask={"budget": 40, "per_round": 20})
    judged = [row for row in read_csv(tmp_path) if "pref/accuracy_all" in row]
    assert judged[-1]["pref/accuracy_all"] > 0.8 > judged[0]["pref/accuracy_all"]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"reward_model": {"epohcs": 3}}, "reward_model has no 'epohcs': did you mean epochs"),
        ({"reward_model": {"normalize_obs": True}}, "reward_model has no 'normalize_obs'"),
        ({"reward": "zero"}, "PEBBLE learns its reward: leave model.init_args.reward alone"),
    ],
)
def test_mistakes(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        build(PEBBLE, **settings)


def test_asking_before_anything_has_happened_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"No episode has ended yet.*ask.first_round"):
        fit(PEBBLE, tmp_path, ask={"first_round": 0})


@pytest.mark.parametrize("method", ["pebble", "qpa", "surf", "rune", "mrn"])
def test_the_shipped_config_is_the_paper_s(method: str) -> None:
    """Built by the command line, the reward model has its own settings, those of its file and of the paper."""
    cli = train_cli(
        ["-c", "data/online/HalfCheetah-v5.yaml", "-c", f"model/{method}.yaml", "--trainer.accelerator=cpu"], run=False
    )
    found = cli.model.reward_model.hparams
    paper: dict[str, Any] = {"ensemble_size": 3, "epochs": 50, "fit_rule": "passes", "stop_accuracy": 0.97, "margin": 0.0}
    if method == "qpa":
        paper |= {"ensemble_size": 1, "epochs": 2000, "fit_rule": "updates", "stop_accuracy": 0.98}
        paper |= {"crop": [35, 45], "crop_copies": 20}
    if method == "surf":
        paper |= {"epochs": 1000, "fit_rule": "updates", "stop_accuracy": 1.0, "context": 5, "threshold": 0.99}
    assert {key: found[key] for key in paper} == paper
    assert found["hidden"] == (256, 256, 256) and cli.model.hparams["hidden"] == [1024, 1024]
