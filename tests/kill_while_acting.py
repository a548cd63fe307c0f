"""Online runs that are killed at random; every one is finished in the end.

folder/straight is left alone. folder/broken0, broken1 ... are killed (SIGKILL) at random moments and started again; a run that
ends before its kill makes room for the next, until there were as many kills as wanted. All runs are children of one process,
so that nothing is imported anew. Each leaves calls.txt (what the teacher heard, written before it answered), labels.sqlite and
end.pt.
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import torch
from killable_run import Slow, SlowTeacher
from online_toys import WalkSimulator
from pebble_toys import SMALL_REWARD
from toys import make_trainer
from warm import say_to

from lightning_pbrl.callbacks.ask_teacher import AskTeacher
from lightning_pbrl.datamodules.online import OnlineDataModule
from lightning_pbrl.methods.active_rlhf import ActiveRLHF
from lightning_pbrl.methods.base import Method, Spec
from lightning_pbrl.methods.qpa import QPA
from lightning_pbrl.queries.bald import BALDQuery
from lightning_pbrl.queries.mixed import MixedQuery
from lightning_pbrl.queries.policy_aligned import PolicyAlignedQuery
from lightning_pbrl.queries.quota import InformationPerCost
from lightning_pbrl.teachers.mixed import MixedTeacher
from lightning_pbrl.trainer import RoundCheckpoint

BUDGET, PER_ROUND = 20, 4
SMALL = {"hidden": (16,), "batch_size": 8, "block": 5, "compile": False, "seed": 1}


class SlowMixedTeacher(Slow, MixedTeacher):
    """Slow at both kinds."""


def qpa(spec: Spec) -> tuple[Method, AskTeacher]:
    """Rounds of 50 env steps after 40; questions in the rounds 1 to 5 of 6. The replay of 100 rows forgets most of them."""
    reward = {**SMALL_REWARD, "crop": [2, 4], "crop_copies": 3, "epochs": 20}
    steps = {"env_steps": 340, "seed_steps": 20, "explore_steps": 20, "round_steps": 50, "reset_updates": 9}
    method = QPA(spec, recent=3, reward_model=reward, **SMALL, **steps)
    return method, AskTeacher(SlowTeacher(), PolicyAlignedQuery(3), BUDGET, PER_ROUND, first_round=1)


def active_rlhf(spec: Spec) -> tuple[Method, AskTeacher]:
    """Two rollouts of 20 steps to explore, then rounds of three; 2 questions in round 1 and the rest evenly in later ones."""
    reward = {"hidden": [16, 16], "dropout": 0.2, "batch_size": 8, "first_epochs": 20, "epochs": 10}
    steps = {"env_steps": 340, "explore_steps": 40, "round_steps": 60, "n_steps": 20, "n_epochs": 3, "explore_epochs": 5}
    query = MixedQuery(BALDQuery("pair"), BALDQuery("rating"), InformationPerCost())
    method = ActiveRLHF(spec, reward_model=reward, **SMALL, **steps)
    return method, AskTeacher(SlowMixedTeacher(), query, BUDGET, first_round=1, initial=0.1, schedule="spread")


def run(name: str, folder: Path) -> None:
    """One fit, resumed from ``last.ckpt`` when there is one."""
    torch.set_num_threads(1)
    data = OnlineDataModule(WalkSimulator(20), capacity=100, segment_length=5, eval_episodes=2, eval_envs=2)
    method, ask = {"QPA": qpa, "ActiveRLHF": active_rlhf}[name](data.spec)
    ask.teacher.log = folder / "calls.txt"
    last = folder / "checkpoints" / "last.ckpt"
    trainer = make_trainer(folder, [RoundCheckpoint(), ask], logger=False)
    trainer.fit(method, data, ckpt_path=last if last.exists() else None)
    end = {
        "weights": {key: value.clone() for key, value in method.state_dict().items()},
        "engine": method.running.state_dict(),
        "data": data.state_dict(),
        "labels": [(labels.start, labels.value.nan_to_num(-1.0), labels.status) for labels in (method.labels, method.ratings)],
        "asked": list(method.asked),
        "env_steps": method.env_steps,
    }
    torch.save(end, folder / "end.part")
    os.replace(folder / "end.part", folder / "end.pt")


def start(name: str, folder: Path) -> int:
    """The process of a run."""
    folder.mkdir(exist_ok=True)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            say_to(folder / "output.txt")
            run(name, folder)
            status = 0
        finally:
            os._exit(status)
    return child


def main(name: str, folder: Path, kills: int) -> None:
    began = time.monotonic()
    _, status = os.waitpid(start(name, folder / "straight"), 0)
    if status:
        raise SystemExit((folder / "straight" / "output.txt").read_text())
    whole, rng, done, number = time.monotonic() - began, random.Random(0), 0, 0
    while done < kills:
        broken = folder / f"broken{number}"
        child = start(name, broken)
        time.sleep(rng.uniform(0.0, 0.4 * whole))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            done += 1
            with open(broken / "kills.txt", "a") as file:
                file.write("killed\n")
        elif status:
            raise SystemExit((broken / "output.txt").read_text())
        else:
            number += 1
    for broken in sorted(folder.glob("broken*")):
        if not (broken / "end.pt").exists() and os.waitpid(start(name, broken), 0)[1]:
            raise SystemExit((broken / "output.txt").read_text())
