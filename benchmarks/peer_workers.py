"""``python -m benchmarks.peer_workers NAME``: one contestant of ``benchmarks.peers``.

It prints ``turn ready``; then, for each number on its input, it does so many units and prints ``turn SECONDS``, CPU seconds.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.engine import InMemory, Size, columns, iql, trainer, transitions

Run = Callable[[int], Any]
"""Does a number of units."""
RANDOM_STEPS = 2_000
ENV = "HalfCheetah-v5"
HIDDEN, BATCH_SIZE = (256, 256), 256


def report(text: object) -> None:
    print("turn", text, flush=True)


def take_turns(run: Run, warm: int = 64) -> None:
    """Serve turns until the input ends; two small ones before warm up."""
    for _ in range(2):
        run(warm)
    report("ready")
    for line in sys.stdin:
        began = time.process_time()
        run(int(line))
        report(time.process_time() - began)


def iql_fit() -> None:
    """Fits by the library's Trainer, compiled; what the compiler has made is on disk since the warm-up."""
    table = transitions(Size().rows, Size().obs_dim, Size().action_dim)

    def run(updates: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            trainer(folder, updates).fit(iql(table, Size(), compile=True), datamodule=InMemory(table))

    take_turns(run)


def d3rlpy_fit() -> None:
    """Fits by d3rlpy on the same rows."""
    import d3rlpy

    obs, action, reward, _, terminated = (
        column.numpy() for column in columns(transitions(Size().rows, Size().obs_dim, Size().action_dim))
    )
    terminated[499::500] = 1.0  # it tells episodes by them
    data = d3rlpy.dataset.MDPDataset(obs, action, reward, terminated)

    def run(updates: int) -> None:
        learner = d3rlpy.algos.IQLConfig(batch_size=BATCH_SIZE).create(device="cpu:0")
        with tempfile.TemporaryDirectory() as folder:
            logs = d3rlpy.logging.FileAdapterFactory(folder)
            learner.fit(data, n_steps=updates, n_steps_per_epoch=updates, show_progress=False, logger_adapter=logs)

    take_turns(run)


def sac_loop() -> None:
    """One fit whose blocks wait for turns."""
    import pytorch_lightning as pl

    from benchmarks.online import BLOCK, sac
    from lightning_pbrl.datamodules.online import OnlineDataModule
    from lightning_pbrl.envs.gym_mujoco import GymMuJoCo

    class Turns(pl.Callback):
        """Hold the fit before a block when the blocks of a turn are done."""

        warm, left = 3, 0
        began: float | None = None

        def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
            if pl_module.rounds.name != "policy":
                return
            self.warm, self.left = self.warm - 1, self.left - BLOCK
            if self.warm >= 0 or self.left > 0:
                return
            report("ready" if self.began is None else time.process_time() - self.began)
            line = sys.stdin.readline()
            if not line:
                os._exit(0)
            self.left, self.began = int(line), time.process_time()

    data = OnlineDataModule(GymMuJoCo(ENV), eval_episodes=0, segment_length=1)
    spec, steps = data.spec, 10**6
    rounds = {"env_steps": steps, "seed_steps": RANDOM_STEPS, "round_steps": steps - RANDOM_STEPS}
    method = sac(spec["obs_dim"], spec["action_dim"], HIDDEN, BATCH_SIZE, compile=True, **rounds)
    with tempfile.TemporaryDirectory() as folder:
        trainer(folder, -1, Turns()).fit(method, data)


def sb3_loop(module: str) -> None:
    """``learn`` of stable-baselines3, or of SBX, which has its interface."""
    from importlib import import_module

    import gymnasium as gym

    settings = {"learning_starts": RANDOM_STEPS, "batch_size": BATCH_SIZE, "learning_rate": 3e-4, "device": "cpu"}
    make = import_module(module).SAC
    learner = make("MlpPolicy", gym.make(ENV), policy_kwargs={"net_arch": list(HIDDEN)}, **settings)
    learner.learn(RANDOM_STEPS + 64)
    take_turns(lambda steps: learner.learn(steps, reset_num_timesteps=False))


WORKERS: dict[str, Callable[[], None]] = {
    "IQL": iql_fit,
    "d3rlpy": d3rlpy_fit,
    "SAC": sac_loop,
    "SB3": lambda: sb3_loop("stable_baselines3"),
    "SBX": lambda: sb3_loop("sbx"),
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    WORKERS[sys.argv[1]]()
