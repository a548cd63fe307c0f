"""PrefPPO: order of a round, which reward a rollout is paid by, resume, and that it learns what the teacher likes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import QUIET
from online_toys import WatchingPay
from pebble_toys import build, fit
from toys import assert_same, read_csv

from lightning_pbrl.data.replay import Replay
from lightning_pbrl.errors import UserError
from lightning_pbrl.fitting.online_diagnostics import log_prob_of_questions
from lightning_pbrl.methods.online_policy import OnlinePolicy
from lightning_pbrl.methods.pebble import PEBBLE
from lightning_pbrl.methods.pref_ppo import PrefPPO
from lightning_pbrl.teachers.simulated import SimulatedTeacher
from lightning_pbrl.train_cli import train_cli

pytestmark = [
    QUIET,
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),  # a resumed run
]


class Watched(WatchingPay, PrefPPO):
    def counts(self) -> tuple[int, ...]:
        return tuple(self.running.updates[key] for key in ("reward", "policy"))

    def worth(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the ensemble's mean, row by row."""
        features, members = self.source.features()[rows], self.reward_model.members
        return torch.stack([members(row[None]).squeeze(-1).mean() for row in features])


def test_the_rounds_of_a_run(tmp_path: Path) -> None:
    """40 exploring steps, then rounds of two rollouts of 20; questions in every second round, 12 in all, 6 at a time."""
    method = fit(Watched, tmp_path, ask={"every": 2}, env_steps=200)
    rollouts = [(name, 20 * k + 20 * (name != "rollout")) for k in range(10) for name in ("rollout", "policy")]
    names = [(name, steps) for _, name, steps, *_ in method.noted]
    expected = [(name if steps > 40 or name == "rollout" else "explore", steps) for name, steps in rollouts]
    expected[4:4] = [("reward", 40), ("reset", 40)]
    expected[14:14] = [("reward", 120)]
    assert names == expected
    # 5 passes of 3 minibatches over each exploring rollout, 3 of 3 over the others; 5 passes of one minibatch of pairs
    assert [counts for _, name, _, *counts in method.noted if name == "reward"] == [[0, 30], [5, 66]]
    assert len(method.labels) == 12 and method.asked.remaining == 0 and method.env_steps == 200
    assert method.running.updates["reward"] == 10 and method.running.updates["policy"] == 30 + 8 * 9


def test_a_rollout_is_paid_by_the_present_ensemble_and_keeps_that(tmp_path: Path) -> None:
    method = fit(Watched, tmp_path)
    assert [phase for phase, _, _ in method.paid] == ["explore"] * 2 + ["policy"] * 6
    with torch.no_grad():
        for _, paid, present in method.paid[2:]:
            torch.testing.assert_close(paid, present, rtol=1e-5, atol=1e-6)
    everything = torch.cat([paid for _, paid, _ in method.paid])
    assert torch.equal(method.source.column("learned_reward")[:160], everything)  # nothing was relabelled
    now = method.combine(method.reward(method.source.features()[:160]))
    assert not torch.allclose(everything[40:80], now[40:80], atol=1e-4)  # the second fit has changed what they are worth


def test_the_learner_never_reads_the_true_reward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers from actions, so that the teacher needs no reward: with NaN in place of every true reward, the same run."""

    class Blind(SimulatedTeacher):
        def answer(self, query: Any, clips: Any, keys: Any) -> Any:
            return super().answer(query, clips._replace(reward=clips.action.squeeze(-1)), keys)

    with_reward = fit(PrefPPO, tmp_path / "a", ask={"teacher": Blind()})
    append = Replay.append

    def blinded(self: Replay, obs: Any, action: Any, next_obs: Any, reward: Any, *rest: Any, **more: Any) -> None:
        append(self, obs, action, next_obs, reward * float("nan"), *rest, **more)

    monkeypatch.setattr(Replay, "append", blinded)
    without = fit(PrefPPO, tmp_path / "b", ask={"teacher": Blind()})
    assert without.source.reward[without.source.stored].isnan().all()
    assert all(torch.isfinite(value).all() for value in without.state_dict().values())
    assert_same(with_reward.state_dict(), without.state_dict())


def test_a_resumed_run_is_an_uninterrupted_one(tmp_path: Path) -> None:
    """Two environments; stopped after pre-training and after the first session."""
    settings: dict[str, Any] = {"data": {"num_envs": 2, "capacity": 120}, "n_steps": 10, "clip_schedule": "linear"}
    straight = fit(PrefPPO, tmp_path / "straight", **settings)
    for rounds in (1, 2):
        folder = tmp_path / str(rounds)
        fit(PrefPPO, folder, trainer={"max_epochs": rounds}, **settings)
        resumed = fit(PrefPPO, folder, ckpt_path=folder / "checkpoints/last.ckpt", **settings)
        assert_same(straight.state_dict(), resumed.state_dict())
        assert_same(straight.source.state_dict(), resumed.source.state_dict())
        assert read_csv(tmp_path / "straight") == read_csv(folder)


def test_it_learns_what_the_teacher_likes(tmp_path: Path) -> None:
    """The walker is liked for its position; a reward from 40 answers orders four of five pairs as the truth does."""
    method = fit(PrefPPO, tmp_path, {"epochs": 60, "lr": 3e-3}, ask={"budget": 40, "per_round": 20})
    rows = read_csv(tmp_path)
    judged = [row for row in rows if "pref/accuracy_all" in row]
    assert judged[-1]["pref/accuracy_all"] > 0.8
    asked = [row["query/log_prob"] for row in rows if "query/log_prob" in row]
    assert len(asked) == 2
    # the questions' density under the policy that sees standardised observations
    features = method.source.segments(method.labels.start[-20:], 5).flatten(0, -2)
    seen = ((features[:, :2] - method.normalizer.mean) / (method.normalizer.var + 1e-8).sqrt()).float()
    expected = method.actor.log_prob(seen, features[:, 2:]).mean().item()
    assert log_prob_of_questions(method, 20)["query/log_prob"].item() == pytest.approx(expected, rel=1e-4)
    # what recent episodes are worth to the present reward, whatever they were paid
    newest = method.source.pool(1, 10)
    rows_of_ten = newest.start(torch.arange(len(newest)))
    worth = method.combine(method.reward(method.source.features()[rows_of_ten])).sum().item() / 8
    assert judged[-1]["train/learned_return_mean"] == pytest.approx(worth, rel=1e-4)


@pytest.mark.parametrize("cls", [PrefPPO, PEBBLE])
def test_mistakes(cls: type[OnlinePolicy]) -> None:
    with pytest.raises(UserError, match="reward_model has no 'epohcs': did you mean epochs"):
        build(cls, {"epohcs": 3})
    with pytest.raises(UserError, match=rf"{cls.__name__} learns its reward: leave model.init_args.reward alone"):
        build(cls, reward="zero")


def test_the_shipped_config_is_the_paper_s() -> None:
    """Built by the command line: the released script's defaults where the fact sheet's walker does not say otherwise."""
    configs = ["-c", "data/online/HalfCheetah-v5.yaml", "-c", "model/pref_ppo.yaml"]
    cli = train_cli([*configs, "--trainer.accelerator=cpu"], run=False)
    found, reward = cli.model.hparams, cli.model.reward_model.hparams
    paper = {"explore_steps": 32_000, "explore_epochs": 50, "n_epochs": 20, "clip": 0.4, "clip_schedule": "linear"}
    paper |= {"gae_lambda": 0.92, "entropy_coef": 0.0, "n_steps": 500, "batch_size": 64, "lr": 5e-5, "hidden": [256, 256, 256]}
    assert {key: found[key] for key in paper} == paper
    assert (reward["epochs"], reward["ensemble_size"], reward["margin"], reward["stop_accuracy"]) == (100, 3, 0.0, 0.97)
