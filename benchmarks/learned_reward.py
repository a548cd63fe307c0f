"""``python -m benchmarks.learned_reward``: SAC of stable-baselines3 on a reward learned from answers, the true one and zero.

Pendulum-v1: 60 episodes of uniform random actions, a reward ensemble from 200 answers of the oracle about pairs of 25 steps, then
SAC through ``LearnedRewardWrapper``. Returns are the true ones of 10 episodes after training, by seed.
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
REWARDS = ("true", "learned", "zero")


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


def learned(folder: Path, seed: int) -> Path:
    """Learn a reward from 200 answers and return its run folder."""
    data = RandomPendulum(segment_length=25, held_out_pairs=500)
    callbacks = AskTeacher(SimulatedTeacher(), budget=200)
    Trainer(folder, accelerator="cpu", callbacks=callbacks, enable_progress_bar=False).fit(RewardEnsemble(SPEC, seed=seed), data)
    rewards.load(folder).save(folder / "export")
    return folder


def trained(which: str, folder: Path, seed: int, steps: int) -> dict[str, Any]:
    """Train SAC on a reward; return the true returns of ten episodes."""
    env = gymnasium.make("Pendulum-v1")
    if which != "true":
        env = Zero(env) if which == "zero" else LearnedRewardWrapper(env, folder)
    begin = time.process_time()
    model = sb3.SAC("MlpPolicy", env, learning_rate=1e-3, policy_kwargs={"net_arch": [64, 64]}, seed=seed, device="cpu")
    model.learn(steps)
    spent, judge, returns = time.process_time() - begin, gymnasium.make("Pendulum-v1"), []
    for episode in range(10):
        obs, _ = judge.reset(seed=1_000 + episode)
        total, over = 0.0, False
        while not over:
            obs, reward, _, over, _ = judge.step(model.predict(obs, deterministic=True)[0])
            total += float(reward)
        returns.append(total)
    return {"reward": which, "seed": seed, "true_return": float(np.mean(returns)), "cpu_seconds": round(spent, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=5_000)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        for seed in range(options.seeds):
            folder = learned(Path(name) / f"reward{seed}", seed)
            print(json.dumps(json.loads((folder / "export/config.json").read_text())["facts"].get("held_out")), flush=True)
            for which in REWARDS:
                print(json.dumps(trained(which, folder, seed, options.steps)), flush=True)


if __name__ == "__main__":
    main()
