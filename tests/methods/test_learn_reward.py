"""Reward models as parts: a method of their own, or held by a learner that acts; their names, settings and checkpoints."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from pebble_toys import SMALL, fit
from toys import SPEC, ToyData, assert_same, callbacks_for, make_trainer

from lightning_pbrl.data.feedback import Query
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.base import Method
from lightning_pbrl.methods.learn_reward import LearnReward, RewardEnsemble, UnifiedReward
from lightning_pbrl.methods.learn_reward_from_examples import ORIL, LearnRewardFromExamples
from lightning_pbrl.methods.loading import load_method
from lightning_pbrl.methods.mrn import MRN
from lightning_pbrl.methods.pebble import PEBBLE
from lightning_pbrl.methods.pref_ppo import PrefPPO
from lightning_pbrl.rewards import ensemble, nmr, oril, preference_transformer
from lightning_pbrl.rewards.base import RewardModel, chosen, described

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),  # a resumed run
    pytest.mark.filterwarnings("ignore:The dirpath has changed from"),
]

SETTINGS: dict[str, Any] = {"hidden": [16], "epochs": 5, "ensemble_size": 2}
HISTORY: dict[str, Any] = {"epochs": 4, "batch_size": 8, "window": 4, "ensemble_size": 2}


def fitted(method: Method, folder: Path, resume: Path | None = None, **trainer: Any) -> Method:
    data = ToyData(examples=12 if "examples" in method.needs else 0)
    make_trainer(folder, callbacks_for(type(method)), **trainer).fit(method, data, ckpt_path=resume)
    return method


# A method of its own -----------------------------------------------------------------------------------------------------


def test_any_model_is_a_method(tmp_path: Path) -> None:
    """By object, by name with settings, and by the name of its own method: the same weights under the same names."""
    given: list[Any] = [
        ensemble.RewardEnsemble(**SETTINGS),
        {"class_path": "RewardEnsemble", "init_args": SETTINGS},
        {"class_path": "lightning_pbrl.rewards.ensemble.RewardEnsemble", "init_args": SETTINGS},
    ]
    named = fitted(RewardEnsemble(SPEC, seed=3, **SETTINGS), tmp_path / "named")
    assert named.hparams.epochs == 5 and named.hparams.margin == 0.1 and "reward_model" not in named.hparams
    for number, one in enumerate(given):
        method = fitted(LearnReward(SPEC, one, seed=3), tmp_path / str(number))
        assert_same(method.state_dict(), named.state_dict())
        settings = {**ensemble.RewardEnsemble().hparams, **SETTINGS}
        assert method.hparams.reward_model == {"class_path": "RewardEnsemble", "init_args": settings}
        loaded = load_method(tmp_path / str(number) / "checkpoints" / "last.ckpt")
        assert_same(loaded.state_dict(), named.state_dict())
    by_name = LearnReward(SPEC, "NMR")
    assert isinstance(by_name.reward_model, nmr.NMR) and by_name.reward_model.hparams.train_type == "sum"


def test_kinds_and_feedback_are_those_of_the_model(tmp_path: Path) -> None:
    assert LearnReward(SPEC, "UnifiedReward").kinds == UnifiedReward.kinds == {"pair", "rating"}
    assert LearnReward(SPEC, "RewardEnsemble").kinds == RewardEnsemble.kinds == {"pair", "graded", "best"}
    with pytest.raises(UserError, match="ORIL learns from examples and LearnReward gives labels: use another model or method"):
        LearnReward(SPEC, "ORIL")
    settings = {"updates": 30, "eval_interval": 20, "hidden": [16], "batch_size": 8}
    method = fitted(LearnRewardFromExamples(SPEC, oril.ORIL(**settings)), tmp_path / "wrapped")
    named = fitted(ORIL(SPEC, **settings), tmp_path / "named")
    assert_same(method.state_dict(), named.state_dict())
    assert method.running.updates["reward"] == 30 and method.trainer.current_epoch == 2


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"class_path": "RewardEnsembel"}, "names 'RewardEnsembel': did you mean RewardEnsemble"),
        ({"class_path": "lightning_pbrl.rewards.ensemble.Nothing"}, "names 'lightning_pbrl.rewards.ensemble.Nothing'"),
        ({"class_path": "lightning_pbrl.methods.iql.IQL"}, "names 'lightning_pbrl.methods.iql.IQL'"),
        ({"class_path": "NMR", "init_args": {"widht": 3}}, "reward_model has no 'widht': did you mean width"),
        ({"class_path": "NMR", "width": 3}, "has 'width' beside class_path: put it under init_args"),
        ({"class_path": "NMR", "init_args": {"epochs": "many"}}, "NMR got epochs='many': give a number"),
        ({"epochs": 3}, r"names no class: give \{class_path: RewardEnsemble\}, for instance"),
    ],
)
def test_wrong_models(given: Any, told: str) -> None:
    with pytest.raises(UserError, match=told):
        LearnReward(SPEC, given)


def test_a_description_builds_the_same_model() -> None:
    model = preference_transformer.PreferenceTransformer(width=8, heads=2, epochs=3)
    again = chosen(described(model), SPEC, 5)
    assert type(again) is type(model) and again.hparams == model.hparams and again.seed == 5


class Outside(RewardModel):
    """A linear reward, fitted by nobody's rule but its own: one update per answer."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()


def test_a_model_from_outside_is_named_by_its_path() -> None:
    assert Outside.__abstractmethods__ == {"build", "groups", "programs", "plan", "reward"}
    assert RewardModel.registry["Outside"] is Outside


# Held by a learner that acts ---------------------------------------------------------------------------------------------


def slow_reward(method: Any, rows: torch.Tensor) -> torch.Tensor:
    """The reward of stored rows, each from a window of its own that is cut at the beginning of its episode and of the ring."""
    replay, model, found = method.source, method.reward_model, []
    model.eval()
    obs_dim = replay.obs_dim
    for row in rows.tolist():
        first, steps = row, 1
        while steps < model.hparams.window:
            before = first - 1
            if before < 0 or before % replay.lane == replay.lane - 1 or bool(replay.column("truncated")[before]):
                break
            if replay.age(torch.tensor(before)) != replay.age(torch.tensor(first)) + 1:  # overwritten since
                break
            first, steps = before, steps + 1
        window = replay.features()[first : row + 1][None]
        assert window.shape[-1] == obs_dim + replay.action_dim
        time = torch.arange(1, steps + 1)[None]
        padded = torch.zeros(1, model.hparams.window, window.shape[-1])
        times = torch.zeros(1, model.hparams.window, dtype=torch.int64)
        padded[0, -steps:], times[0, -steps:] = window[0], time
        with torch.no_grad():
            found.append(torch.stack([member.last(padded, times) for member in model.members]).mean())
    return torch.stack(found)


@pytest.mark.parametrize("cls", [PEBBLE, PrefPPO])
@pytest.mark.parametrize("capacity", [None, 60])
def test_a_history_model_rewards_what_is_collected(cls: Any, capacity: int | None, tmp_path: Path) -> None:
    """Every row that the last fit relabelled, and every newer one, has the reward of the window that ends there."""
    given = preference_transformer.PreferenceTransformer(width=8, heads=2, attention_dim=8, dropout=0.0, **HISTORY)
    data = {"num_envs": 2, **({} if capacity is None else {"capacity": capacity})}
    method = fit(cls, tmp_path, reward_model=given, data=data)
    replay = method.source
    assert isinstance(method.reward_model, preference_transformer.PreferenceTransformer)
    assert method.running.updates["reward"] > 0 and replay.size == (capacity or 160)
    rows = replay.stored if cls is PEBBLE else replay.rows_of_age(torch.arange(20))
    newest = method.reward_model.relabel(replay, rows)
    torch.testing.assert_close(newest, slow_reward(method, rows), atol=1e-6, rtol=0)
    if cls is PEBBLE:
        whole = replay.age(rows) <= replay.lane - given.hparams.window  # others lost a part of their window since
        torch.testing.assert_close(replay.column("learned_reward")[rows][whole], newest[whole], atol=1e-6, rtol=0)
    loaded = load_method(tmp_path / "checkpoints" / "last.ckpt")
    assert_same(loaded.state_dict(), method.state_dict())
    assert loaded.hparams.reward_model["class_path"] == "PreferenceTransformer"


def test_a_history_model_goes_on_bit_for_bit(tmp_path: Path) -> None:
    given = {"class_path": "NMR", "init_args": {"width": 8, **HISTORY}}
    straight = fit(PEBBLE, tmp_path / "straight", reward_model=given)
    fit(PEBBLE, tmp_path / "stopped", reward_model=given, trainer={"max_epochs": 2})
    resumed = fit(PEBBLE, tmp_path / "stopped", reward_model=given, ckpt_path=tmp_path / "stopped" / "checkpoints" / "last.ckpt")
    assert_same(straight.state_dict(), resumed.state_dict())
    assert torch.equal(straight.source.packed, resumed.source.packed)


def test_wrong_models_of_a_learner_that_acts() -> None:
    spec = {"obs_dim": 2, "action_dim": 1, "horizon": 20}
    with pytest.raises(UserError, match="PEBBLE learns its reward from answers, and ORIL does not: use another model"):
        PEBBLE(spec, reward_model={"class_path": "ORIL"}, **SMALL)
    with pytest.raises(UserError, match="has no 'normalize_obs' in a method that acts"):
        PEBBLE(spec, reward_model=ensemble.RewardEnsemble(normalize_obs=True), **SMALL)
    with pytest.raises(UserError, match=r"MRN learns its reward: leave model.init_args.reward alone"):
        MRN(spec, reward="zero", **SMALL)


# Former names and checkpoints --------------------------------------------------------------------------------------------


def as_a_method(content: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint in the layout of schema 2: the reward model's weights are those of the method."""

    def renamed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key.removeprefix("reward_model."): renamed(item) for key, item in value.items()}
        return [renamed(item) for item in value] if isinstance(value, list) else value

    saved = renamed(content["lightning_pbrl"])
    assert saved["schema"] == 3
    return {**content, "state_dict": renamed(content["state_dict"]), "lightning_pbrl": {**saved, "schema": 2}}


def test_schema_2_is_loaded_and_gone_on_with(tmp_path: Path) -> None:
    straight = fitted(RewardEnsemble(SPEC, **SETTINGS), tmp_path / "straight")
    fitted(RewardEnsemble(SPEC, **SETTINGS), tmp_path / "stopped", max_epochs=1)
    path = tmp_path / "stopped" / "checkpoints" / "last.ckpt"
    new = load_method(path)
    old = as_a_method(torch.load(path, weights_only=True))
    assert "members.weights.0" in old["state_dict"]
    torch.save(old, path)
    assert_same(load_method(path).state_dict(), new.state_dict())
    resumed = fitted(RewardEnsemble(SPEC, **SETTINGS), tmp_path / "stopped", path)
    assert_same(straight.state_dict(), resumed.state_dict())
    assert_same(straight.running.state_dict(), resumed.running.state_dict())


def test_former_modules_tell_the_present_ones() -> None:
    with pytest.warns(FutureWarning, match="lightning_pbrl.methods.reward_ensemble is now lightning_pbrl.methods.learn_reward"):
        from lightning_pbrl.methods.reward_ensemble import RewardEnsemble as Former
    assert Former is RewardEnsemble
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        from lightning_pbrl.queries.scoring import ReturnScorer  # type: ignore[import-not-found]
    assert ReturnScorer.__module__ == "lightning_pbrl.rewards.scoring"


def test_a_model_answers_for_the_method_that_holds_it(tmp_path: Path) -> None:
    method = fitted(RewardEnsemble(SPEC, **SETTINGS), tmp_path)
    assert isinstance(method, RewardEnsemble)
    query = Query("pair", torch.tensor([[3, 40], [100, 7]]), 10)
    assert method.scorer is method.reward_model
    assert torch.equal(method.returns(query), method.reward_model.returns(query))
    features = torch.randn(6, 7)
    assert torch.equal(method.reward(features), method.reward_model.reward(features))
    assert torch.equal(method.relabel(method.source), method.reward_model.relabel(method.source))
    rows = torch.tensor([5, 90])
    torch.testing.assert_close(method.relabel(method.source)[rows], method.relabel(method.source, rows))
