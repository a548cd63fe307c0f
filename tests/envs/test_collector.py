"""Collecting against a plain loop, how episodes end and begin, and open episodes that are restored exactly."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from online_toys import WalkSimulator

from lightning_pbrl.data.replay import Replay
from lightning_pbrl.envs.base import Simulator
from lightning_pbrl.envs.collector import Collector
from lightning_pbrl.envs.dm_control import DMControl
from lightning_pbrl.envs.gym_mujoco import GymMuJoCo
from lightning_pbrl.envs.metaworld import MetaWorld
from lightning_pbrl.envs.rollout import VectorEnvs
from lightning_pbrl.errors import UserError
from lightning_pbrl.rng import derive


def collector(simulator: Simulator, num_envs: int = 2, seed: int = 0, capacity: int = 200) -> Collector:
    replay = Replay(capacity, num_envs, simulator.obs_dim, simulator.action_dim, simulator.horizon, simulator.describe())
    return Collector(VectorEnvs(simulator, num_envs), replay, seed)


def policy(simulator: Simulator) -> Any:
    """A fixed policy that looks at what it sees."""
    weight = torch.randn(simulator.obs_dim, simulator.action_dim, generator=torch.Generator().manual_seed(1))
    return lambda obs: torch.sin(obs @ weight)


def rows(collected: Collector) -> torch.Tensor:
    """What is stored, true rewards as the last column, newest first."""
    replay = collected.replay
    index = replay.rows_of_age(torch.arange(replay.size))
    return torch.cat([replay.packed[index], replay.reward[index, None]], 1)


@pytest.mark.parametrize("edge", [9.0, 0.6])
def test_rows_are_those_of_a_plain_loop(edge: float) -> None:
    """With falls and with the horizon; the row after an end begins with the reset of the next episode's own seed."""
    simulator, steps = WalkSimulator(edge=edge), 25
    act, found = policy(simulator), collector(simulator, seed=7)
    for _ in range(steps):
        found.step(act)
    replay = found.replay
    ends = [0, 0]
    for i in range(2):
        env, episode = simulator.make(), 0
        obs = env.reset(seed=derive(7, "episode", i, 0) % 2**31)[0]
        for p in range(steps):
            with torch.no_grad():
                action = act(torch.from_numpy(obs)[None])[0].numpy()
            after, reward, terminated, truncated, info = env.step(action)
            row = i * replay.lane + p
            expected = [*obs, *action, *after, 0.0, float(terminated), float(truncated)]
            assert replay.packed[row].tolist() == pytest.approx(expected, abs=1e-6)
            assert replay.reward[row] == pytest.approx(reward)
            assert replay.success is not None and bool(replay.success[row]) == bool(info["success"])
            obs, ends[0], ends[1] = after, ends[0] + terminated, ends[1] + truncated
            if terminated or truncated:
                episode += 1
                obs = env.reset(seed=derive(7, "episode", i, episode) % 2**31)[0]
        assert found.episode[i] == episode
    assert replay.finished == sum(ends) and (ends[0] > 0) == (edge < 1) and (ends[1] > 0 or edge < 1)


def test_a_timeout_bootstraps_and_a_fall_does_not() -> None:
    cut, fell = collector(WalkSimulator(horizon=3), 1), collector(WalkSimulator(horizon=3, edge=0.0), 1)
    for found in (cut, fell):
        for _ in range(3):
            found.step()
    assert cut.replay.packed[:3, -2:].tolist() == [[0, 0], [0, 0], [0, 1]]
    assert fell.replay.packed[:3, -2:].tolist() == [[1, 0], [1, 0], [1, 0]]
    assert cut.replay.recent_lengths(9).tolist() == [3] and fell.replay.recent_lengths(9).tolist() == [1, 1, 1]


def test_every_env_step_is_counted() -> None:
    found = collector(WalkSimulator(), num_envs=3)
    assert found.env_steps == 0
    for _ in range(5):
        found.step()
    assert found.env_steps == found.replay.size == 15


def test_random_actions_are_uniform_and_of_a_stream_of_their_own() -> None:
    first, second, other = (collector(WalkSimulator(), seed=seed, capacity=2000) for seed in (0, 0, 1))
    for p in range(400):
        first.step()
        if p % 2 == 0:  # what happens in between moves nothing
            second.step(policy(second.envs.simulator))
        second.step()
        other.step()
    actions = [found.replay.stored_column("action").view(2, -1) for found in (first, second, other)]
    drawn = actions[1].unflatten(1, (-1, 3))[:, :, 1:].flatten(1)
    assert torch.equal(drawn[:, :400], actions[0][:, : drawn.shape[1]])
    assert not torch.equal(actions[0], actions[2])
    assert actions[0].min() >= -1 and actions[0].max() < 1 and abs(actions[0].mean()) < 0.1
    assert abs(actions[0].var() - 1 / 3) < 0.05


def test_what_a_policy_is_given_and_that_its_actions_are_clipped() -> None:
    found, seen = collector(WalkSimulator()), []

    def act(obs: torch.Tensor) -> torch.Tensor:
        seen.append((obs.shape, obs.dtype, torch.is_grad_enabled()))
        return torch.full((2, 1), 3.0)

    found.step(act)
    assert seen == [((2, 2), torch.float32, False)]
    assert found.replay.stored_column("action").tolist() == [[1.0], [1.0]]


def test_numbers_must_agree() -> None:
    simulator = WalkSimulator()
    with pytest.raises(UserError, match="3 environments act and the replay is for 2"):
        Collector(VectorEnvs(simulator, 3), Replay(20, 2, 2, 1, 6), 0)


def saved(found: Collector) -> dict[str, Any]:
    """The state as a checkpoint would bring it back."""
    file = io.BytesIO()
    torch.save({"replay": found.replay.state_dict(), "collector": found.state_dict()}, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


SIMULATORS = {
    "toy": WalkSimulator(),
    "toy that falls": WalkSimulator(edge=0.6),
    "Meta-World": MetaWorld("push", horizon=12),
    "Gymnasium": GymMuJoCo("HalfCheetah-v5", horizon=12),
    "Gymnasium that falls": GymMuJoCo("Hopper-v5", horizon=60),
    "control suite": DMControl("walker-walk", horizon=12, action_repeat=2),
}


@pytest.mark.parametrize("name", list(SIMULATORS))
def test_a_killed_run_goes_on_in_the_middle_of_its_episodes(name: str) -> None:
    """Killed after 17 steps, in other environments: the next 20 rows are those of the run that was not."""
    if name == "control suite":
        pytest.importorskip("dm_control.suite")
    simulator = SIMULATORS[name]
    act, straight = policy(simulator), collector(simulator)
    for p in range(17):
        straight.step(act if p % 3 else None)
    assert max(straight.replay.open_steps) > 0
    state, resumed = saved(straight), collector(simulator)
    resumed.replay.load_state_dict(state["replay"])
    resumed.load_state_dict(state["collector"])
    assert resumed.env_steps == 34
    for p in range(20):
        for found in (straight, resumed):
            found.step(act if p % 3 else None)
    assert torch.equal(rows(straight), rows(resumed)) and straight.episode == resumed.episode
    assert straight.replay.recent_returns(99).equal(resumed.replay.recent_returns(99))
    for found in (straight, resumed):
        found.close()


def test_environments_that_were_closed_are_built_again() -> None:
    straight, closed = collector(WalkSimulator()), collector(WalkSimulator())
    for p in range(20):
        straight.step()
        closed.step()
        if p % 4 == 0:
            closed.close()
    assert torch.equal(rows(straight), rows(closed))


def test_a_simulator_that_does_not_repeat_itself_is_told() -> None:
    found = collector(WalkSimulator())
    for _ in range(3):
        found.step()
    state = saved(found)
    state["replay"]["rows"][:, -1, 3] += 1.0  # as if another version had made next_obs
    other = collector(WalkSimulator())
    other.replay.load_state_dict(state["replay"])
    other.load_state_dict(state["collector"])
    with pytest.warns(UserWarning, match="walk-v0 did not repeat its open episode exactly"):
        other.step()


def test_action_repeat_sums_rewards_and_shortens_episodes() -> None:
    once, twice = DMControl("walker-walk"), DMControl("walker-walk", action_repeat=2)
    assert (once.horizon, twice.horizon) == (1000, 500) and DMControl("walker-walk", 30, 2).horizon == 30
    assert "action_repeat" not in once.describe() and twice.describe()["action_repeat"] == 2
    assert (once.name, twice.name) == ("walker-walk", "walker-walk-repeat2")
    with pytest.raises(UserError, match="DMControl got action_repeat=0: give a number of at least 1"):
        DMControl("walker-walk", action_repeat=0)
    pytest.importorskip("dm_control.suite")
    one, two = once.make(), twice.make()
    one.reset(seed=3)
    two.reset(seed=3)
    rng = np.random.default_rng(0)
    for _ in range(5):
        action = rng.uniform(-1, 1, 6)
        frames = [one.step(action) for _ in range(2)]
        obs, reward, terminated, truncated, _ = two.step(action)
        assert np.array_equal(obs, frames[-1][0]) and reward == pytest.approx(frames[0][1] + frames[1][1])
        assert not terminated and not truncated
