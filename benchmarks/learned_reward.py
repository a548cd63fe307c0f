"""``python -m benchmarks.learned_reward``: stable-baselines3 on a reward learned from answers, the true one and zero.

Pendulum-v1: 60 episodes of uniform random actions, a reward ensemble from 200 answers of the oracle about pairs of 25 steps, then
SAC and PPO through ``LearnedRewardWrapper``. Returns are the true ones of 10 episodes after training, by seed. Along one more
episode the wrapper's rewards are compared with those of the fitted model.

It writes ``results/learned_reward.json`` after each run.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import stable_baselines3 as sb3
import torch

from benchmarks.measure import machine
from lightning_pbrl import (
    AskTeacher,
    FeedbackDataModule,
    LearnedRewardWrapper,
    RewardEnsemble,
    SimulatedTeacher,
    Trainer,
    rewards,
)
from lightning_pbrl.data.transitions import Transitions

SPEC = {"obs_dim": 3, "action_dim": 1, "horizon": 200}
REWARDS = ("learned", "true", "zero")
SETTINGS: dict[str, dict[str, Any]] = {
    "SAC": {"learning_rate": 1e-3, "policy_kwargs": {"net_arch": [64, 64]}},
    "PPO": {"learning_rate": 1e-3, "n_steps": 1024, "gamma": 0.9, "gae_lambda": 0.95, "policy_kwargs": {"net_arch": [64, 64]}},
}


class RandomPendulum(FeedbackDataModule):
    """Episodes of uniform random actions."""

    def load(self) -> Transitions:
        env, rng, rows = gymnasium.make("Pendulum-v1"), np.random.default_rng(0), []
        for episode in range(60):
            obs, _ = env.reset(seed=episode)
            for _ in range(200):
                action = rng.uniform(-1, 1, 1)
                after, reward, *_ = env.step(2.0 * action)
                rows.append((obs, action, after, reward))
                obs = after
        columns = [torch.from_numpy(np.array(column, np.float32)) for column in zip(*rows, strict=True)]
        return Transitions.from_columns(*columns[:3], torch.arange(61) * 200, reward=columns[3])


class Zero(gymnasium.RewardWrapper):
    """No reward at all."""

    def reward(self, reward: Any) -> float:
        return 0.0


def learned(folder: Path, seed: int) -> RewardEnsemble:
    """Learn a reward from 200 answers in a run folder."""
    data = RandomPendulum(segment_length=25, held_out_pairs=500)
    callbacks = AskTeacher(SimulatedTeacher(), budget=200)
    method = RewardEnsemble(SPEC, seed=seed)
    Trainer(folder, accelerator="cpu", callbacks=callbacks, enable_progress_bar=False).fit(method, data)
    rewards.load(folder).save(folder / "export")
    return method


def difference(policy: Any, folder: Path, method: RewardEnsemble) -> float:
    """Return the largest difference of the wrapper's rewards from the fitted model's along an episode of a policy."""
    env, rows, over = LearnedRewardWrapper(gymnasium.make("Pendulum-v1"), folder), [], False
    obs, _ = env.reset(seed=2_000)
    while not over:
        action = policy.predict(obs, deterministic=True)[0]
        after, reward, _, over, _ = env.step(action)
        rows.append((obs, action / 2.0, after, [reward]))
        obs = after
    columns = [torch.from_numpy(np.array(column, np.float32)) for column in zip(*rows, strict=True)]
    episode = Transitions.from_columns(*columns[:3], torch.tensor([0, len(rows)]))
    return float((method.relabel(episode).cpu() - columns[3][:, 0]).abs().max())


def trained(algorithm: str, which: str, folder: Path, method: RewardEnsemble, seed: int, steps: int) -> dict[str, Any]:
    """Train a policy on a reward; return the true returns of ten episodes."""
    env = gymnasium.make("Pendulum-v1")
    if which != "true":
        env = Zero(env) if which == "zero" else LearnedRewardWrapper(env, folder)
    begin = time.process_time()
    model = getattr(sb3, algorithm)("MlpPolicy", env, seed=seed, device="cpu", **SETTINGS[algorithm])
    model.learn(steps)
    spent, judge, returns = time.process_time() - begin, gymnasium.make("Pendulum-v1"), []
    for episode in range(10):
        obs, _ = judge.reset(seed=1_000 + episode)
        total, over = 0.0, False
        while not over:
            obs, reward, _, over, _ = judge.step(model.predict(obs, deterministic=True)[0])
            total += float(reward)
        returns.append(total)
    found = {"algorithm": algorithm, "reward": which, "seed": seed, "steps": steps, "cpu_seconds": round(spent, 1)}
    found |= {"true_return": float(np.mean(returns)), "true_return_sd": float(np.std(returns))}
    return found | ({"largest_difference": difference(model, folder, method)} if which == "learned" else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sac-steps", type=int, default=3_000)
    parser.add_argument("--ppo-steps", type=int, default=20_480)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "learned_reward.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        result: dict[str, Any] = {
            "env": "Pendulum-v1",
            "stable_baselines3": sb3.__version__,
            "machine": machine("python -m benchmarks.learned_reward"),
        }
        result |= {"settings": SETTINGS, "held_out": [], "runs": []}
        for seed in range(options.seeds):
            folder = Path(name) / f"reward{seed}"
            method = learned(folder, seed)
            result["held_out"].append(json.loads((folder / "export/config.json").read_text())["facts"].get("held_out"))
            for algorithm, steps in (("SAC", options.sac_steps), ("PPO", options.ppo_steps)):
                for which in REWARDS:
                    result["runs"].append(trained(algorithm, which, folder, method, seed, steps))
                    print(json.dumps(result["runs"][-1]), flush=True)
                    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
