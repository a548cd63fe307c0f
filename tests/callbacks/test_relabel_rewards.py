"""The column that policy learners read: controls by number, learned rewards against a slow loop, errors."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from toys import SPEC, ToyData, callbacks_for, make_trainer

from lightning_pbrl.callbacks.relabel_rewards import CONTROLS, RelabelRewards
from lightning_pbrl.data.relabel import control_reward, min_max, predict_reward
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.bc import BC
from lightning_pbrl.methods.iql import IQL
from lightning_pbrl.methods.learn_reward import RewardEnsemble
from lightning_pbrl.methods.loading import load_method


def four_rows(reward: list[float] | None) -> Transitions:
    obs = torch.arange(20.0).view(4, 5) / 10
    true = None if reward is None else torch.tensor(reward)
    return Transitions.from_columns(obs, torch.zeros(4, 2), obs, torch.tensor([0, 4]), true)


def relabelled(source: Transitions, callback: RelabelRewards, seed: int = 0) -> list[float]:
    module = SimpleNamespace(source=source, device=torch.device("cpu"), seed=seed)
    callback.on_fit_start(None, module)  # type: ignore[arg-type]
    return source.column("learned_reward").tolist()


def test_controls_by_number() -> None:
    reward = [1.0, 3.0, 2.0, 5.0]
    for control, raw, scaled in (
        ("true", reward, [0.0, 0.5, 0.25, 1.0]),
        ("negated", [-1.0, -3.0, -2.0, -5.0], [1.0, 0.5, 0.75, 0.0]),
        ("zero", [0.0] * 4, [0.0] * 4),
    ):
        assert relabelled(four_rows(reward), RelabelRewards(control, normalize=False)) == raw
        assert relabelled(four_rows(reward), RelabelRewards(control)) == scaled


def test_constant_rewards_become_zeros() -> None:
    for control in ("true", "negated"):
        assert relabelled(four_rows([7.0] * 4), RelabelRewards(control)) == [0.0] * 4
    assert min_max(torch.tensor([2.0, 2.0])).tolist() == [0.0, 0.0]


def test_random_rewards_belong_to_the_seed() -> None:
    data = ToyData().load()
    first, again, other = (relabelled(data, RelabelRewards("random", normalize=False), seed) for seed in (1, 1, 2))
    assert first == again != other
    values = torch.tensor(first)
    assert values.min() >= 0 and values.max() < 1
    assert values.mean().item() == pytest.approx(0.5, abs=4 * (1 / 12 / 600) ** 0.5)


def test_null_leaves_the_column_alone() -> None:
    source = four_rows([1.0] * 4)
    source.write("learned_reward", torch.tensor([4.0, 3.0, 2.0, 1.0]))
    assert relabelled(source, RelabelRewards(None)) == [4.0, 3.0, 2.0, 1.0]


def test_the_true_reward_itself_is_never_written() -> None:
    source = four_rows([1.0, 2.0, 3.0, 4.0])
    before = source.fingerprint
    for control in CONTROLS:
        relabelled(source, RelabelRewards(control))
    assert source.reward.tolist() == [1.0, 2.0, 3.0, 4.0]
    source._fingerprint = None
    assert source.fingerprint == before


def test_controls_of_a_missing_true_reward() -> None:
    for control in ("true", "negated"):
        with pytest.raises(UserError, match=f"The control '{control}' needs the true reward, and these data carry none"):
            relabelled(four_rows(None), RelabelRewards(control))
    assert relabelled(four_rows(None), RelabelRewards("zero")) == [0.0] * 4


@pytest.fixture(scope="module")
def reward_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reward")
    method = RewardEnsemble(SPEC, hidden=(8,), epochs=3, normalize_obs=True)
    make_trainer(folder, callbacks_for(RewardEnsemble)).fit(method, ToyData())
    return folder / "checkpoints" / "last.ckpt"


def test_learned_reward_is_the_mean_of_members_row_by_row(reward_checkpoint: Path) -> None:
    data, model = ToyData().load(), load_method(reward_checkpoint)
    relabelled(data, RelabelRewards(str(reward_checkpoint), normalize=False))
    column = data.column("learned_reward")
    for row in range(0, len(data), 37):
        features = torch.cat([data.column("obs")[row], data.column("action")[row]])[None]
        mean = sum(model.reward(features)[e, 0].item() for e in range(3)) / 3
        assert column[row].item() == pytest.approx(mean, abs=1e-6)
    raw = column.clone()
    scaled = torch.tensor(relabelled(data, RelabelRewards(str(reward_checkpoint))))
    torch.testing.assert_close(scaled, (raw - raw.min()) / (raw.max() - raw.min()))
    assert scaled.min() == 0 and scaled.max() == 1


@pytest.mark.parametrize("tile", [1, 7, 512, 10_000])
def test_tiles_do_not_matter(tile: int, reward_checkpoint: Path) -> None:
    data, model = ToyData().load(), load_method(reward_checkpoint)
    whole = model.reward(data.features()).mean(0)
    torch.testing.assert_close(predict_reward(data, model.reward, tile=tile), whole, rtol=0, atol=1e-6)


def test_negated_is_minus_true() -> None:
    data = ToyData().load()
    assert torch.equal(control_reward(data, "negated"), -control_reward(data, "true"))


def test_missing_checkpoint_is_told_before_training(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There is no checkpoint at .*gone\.ckpt"):
        make_trainer(tmp_path, [RelabelRewards(str(tmp_path / "gone.ckpt"))]).fit(IQL(SPEC, hidden=(8,)), ToyData())


@pytest.mark.parametrize(("obs_dim", "action_dim"), [(4, 2), (5, 3), (6, 1)])
def test_a_reward_model_of_other_sizes(obs_dim: int, action_dim: int, reward_checkpoint: Path) -> None:
    obs = torch.zeros(4, obs_dim)
    source = Transitions.from_columns(obs, torch.zeros(4, action_dim), obs, torch.tensor([0, 4]), torch.zeros(4))
    words = (
        "relabel.reward is a RewardEnsemble for observations of size 5 and actions of size 2, and these data have sizes "
        f"{obs_dim} and {action_dim}: give a reward model that was trained on data of this task."
    )
    for reward in (str(reward_checkpoint), load_method(reward_checkpoint)):
        with pytest.raises(UserError, match=re.escape(words)):
            relabelled(source, RelabelRewards(reward))


def test_a_policy_is_no_reward_model(tmp_path: Path) -> None:
    method = BC(SPEC, updates=2, eval_interval=2, hidden=(8,))
    make_trainer(tmp_path).fit(method, ToyData())
    with pytest.raises(UserError, match="BC learns a policy, not a reward"):
        relabelled(four_rows([1.0] * 4), RelabelRewards(str(tmp_path / "checkpoints" / "last.ckpt")))


def test_a_reward_model_that_was_never_fitted() -> None:
    with pytest.raises(UserError, match="RewardEnsemble that was never fitted: fit it first, or give its checkpoint"):
        relabelled(four_rows(None), RelabelRewards(RewardEnsemble({"obs_dim": 5, "action_dim": 2, "horizon": 4})))


def test_a_policy_learner_without_relabelling_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"IQL learns from a reward and the data have none yet: set relabel\.reward to"):
        make_trainer(tmp_path, [RelabelRewards()]).fit(IQL(SPEC, hidden=(8,)), ToyData())
