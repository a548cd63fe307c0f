"""The update engine against textbook code: IQL, one thread, side by side.

Claims: the engine (compiled, and eager) against a plain PyTorch loop; compiled against a textbook LightningModule; and
the engine inside the real Trainer against the same engine called directly.
"""

from __future__ import annotations

import logging
import tempfile
import time
import warnings
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.measure import Claim, Contestant, Rounds, interleave, judge, per_unit, summary, with_library, without_onednn
from benchmarks.plain_iql import PlainIQL, TextbookIQL
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.datamodules.base import FeedbackDataModule
from lightning_pbrl.engine import UpdateEngine
from lightning_pbrl.methods.iql import IQL
from lightning_pbrl.nn.linear import linear

BLOCK = 64
CLAIMS = [
    Claim("IQL engine compiled / plain PyTorch loop", 1.5, "plain", "compiled"),
    Claim("IQL engine eager / plain PyTorch loop", 1.25, "plain", "eager"),
    Claim("IQL engine compiled / textbook LightningModule", 2.0, "textbook", "compiled"),
    Claim("... compiled, without oneDNN / plain PyTorch loop", None, "plain", "compiled, default library"),
    Claim("... eager, without oneDNN / plain PyTorch loop", None, "plain", "eager, default library"),
    Claim("plain PyTorch loop / textbook LightningModule", None, "textbook", "plain"),
    Claim("product of 256 x 256 matrices, oneDNN / default library", None, "product, default library", "product, oneDNN"),
]
TRAINER_CLAIM = Claim(f"compiled engine in the Trainer, K={BLOCK} / the same engine bare", 0.97, "bare", "trainer")


class Size(NamedTuple):
    """How much is measured; the goals are stated for the default."""

    rows: int = 250_000
    obs_dim: int = 39
    action_dim: int = 4
    hidden: tuple[int, ...] = (256, 256)
    batch_size: int = 256
    updates: int = 192
    rounds: int = 11
    compile: bool = True
    products: int = 500


QUICK = Size(rows=2_000, hidden=(32, 32), updates=BLOCK // 2, rounds=2, compile=False, products=20)


def transitions(rows: int, obs_dim: int, action_dim: int, length: int = 500) -> Transitions:
    """Random transitions in episodes of ``length`` steps; the learned reward is written."""
    rng = torch.Generator().manual_seed(0)
    length = min(length, rows)
    offsets = torch.arange(0, rows + 1, length)
    count = int(offsets[-1])
    obs = torch.randn(count, obs_dim, generator=rng)
    action = torch.rand(count, action_dim, generator=rng) * 2 - 1
    next_obs = obs + 0.1 * torch.randn(count, obs_dim, generator=rng)
    reward = torch.tanh(obs[:, 0])
    source = Transitions.from_columns(obs, action, next_obs, offsets, reward=reward)
    source.write("learned_reward", reward)
    return source


class InMemory(FeedbackDataModule):
    """A data module around a table that is already there."""

    def __init__(self, table: Transitions) -> None:
        super().__init__()
        self.table = table

    def load(self) -> Transitions:
        return self.table


def engine(source: Transitions, size: Size, compile: bool) -> UpdateEngine:  # noqa: A002 - as the engine calls it
    """The bare engine of the IQL method, without a Trainer."""
    method = iql(source, size, compile)
    method.configure_model()
    method.source = source
    method.on_data()
    return UpdateEngine(method, method.groups(), method.programs(), [0], compile)


def iql(source: Transitions, size: Size, compile: bool) -> IQL:  # noqa: A002 - as the engine calls it
    spec = {"obs_dim": source.obs_dim, "action_dim": source.action_dim, "horizon": 0}
    batch = {"batch_size": size.batch_size, "hidden": size.hidden, "block": BLOCK, "compile": compile}
    return IQL(spec, updates=1_000_000, eval_interval=1_000_000, **batch)


def trainer(folder: str, steps: int, *callbacks: pl.Callback) -> pl.Trainer:
    """A Trainer with a CSV logger and nothing else that costs time."""
    return pl.Trainer(
        accelerator="cpu",
        devices=1,
        logger=CSVLogger(folder),
        max_steps=steps,
        max_epochs=-1,
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        limit_val_batches=0,
    )


class Stopwatch(pl.Callback):
    """CPU seconds per batch, from the end of the first batch to the end of the last: start-up is not counted."""

    def on_train_start(self, *_: Any) -> None:
        self.stamps: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        self.stamps.append(time.process_time())

    def seconds_per_batch(self) -> float:
        return (self.stamps[-1] - self.stamps[0]) / (len(self.stamps) - 1)


def textbook(source: Transitions, size: Size, folder: str) -> Contestant:
    """A textbook LightningModule: one fit per round, batches from a shuffled DataLoader."""
    module = TextbookIQL(source.obs_dim, source.action_dim, size.hidden)
    loader = DataLoader(TensorDataset(*columns(source)), batch_size=size.batch_size, shuffle=True)

    def run() -> float:
        watch = Stopwatch()
        batches = min(size.updates, len(loader) - 1)
        fit = trainer(folder, 3 * batches, watch)  # Lightning counts the steps of all three optimisers
        fit.fit(module, loader)
        return watch.seconds_per_batch()

    return run


class InAndOut(pl.Callback):
    """Times rounds of blocks alternately through the Trainer and by calling the very same engine directly.

    Both use one engine, one compiled graph, one set of weights, so nothing differs but Lightning's loop and logging.

    Args:
        blocks: blocks per half-round.
    """

    def __init__(self, blocks: int) -> None:
        self.blocks, self.done = blocks, 0
        self.seen: Rounds = {"trainer": [], "bare": []}

    def on_train_batch_end(self, trainer: pl.Trainer, method: pl.LightningModule, *_: Any) -> None:
        now = time.process_time()
        self.done += 1
        if self.done % self.blocks:
            return
        engine = method.running
        if self.done > self.blocks:  # the first half-round warms up, and compiles
            self.seen["trainer"].append((now - self.began) / (self.blocks * BLOCK))
            bare = per_unit(lambda: [engine.run("policy", BLOCK) for _ in range(self.blocks)], self.blocks * BLOCK)
            self.seen["bare"].append(bare())
        self.began = time.process_time()


def inside(source: Transitions, size: Size, folder: str) -> Rounds:
    """The engine inside a Trainer and bare, half-rounds alternating within one fit."""
    blocks = max(1, 2 * size.updates // BLOCK)
    watch = InAndOut(blocks)
    fit = trainer(folder, (size.rounds + 1) * blocks * BLOCK, watch)
    fit.fit(iql(source, size, size.compile), datamodule=InMemory(source))
    return watch.seen


def product(count: int) -> Contestant:
    """One layer's forward product, 2 x 256^3 operations, by the library that ``linear`` chooses."""
    x, weight, bias = torch.ones(256, 256), torch.ones(256, 256), torch.ones(256)

    def multiply() -> None:
        for _ in range(count):  # nothing is kept: fresh memory for each result would cost as much as the product
            linear(x, weight, bias)

    return per_unit(multiply, count)


def columns(source: Transitions) -> list[torch.Tensor]:
    """The table as separate contiguous columns, as textbook code keeps them."""
    names = ("obs", "action", "learned_reward", "next_obs", "terminated")
    return [source.column(name).contiguous() for name in names]


def main(size: Size) -> dict[str, Any]:
    """Measure everything; plain JSON."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    source = transitions(size.rows, size.obs_dim, size.action_dim)
    eager, compiled = engine(source, size, False), engine(source, size, size.compile)
    plain = PlainIQL(columns(source), size.hidden, size.batch_size)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice about workers, devices and short epochs
        began = time.process_time()
        compiled.run("policy", 2)
        first_call = time.process_time() - began
        bare_eager = per_unit(lambda: eager.run("policy", size.updates), size.updates)
        bare_compiled = per_unit(lambda: compiled.run("policy", size.updates), size.updates)
        contestants = {
            "plain": per_unit(lambda: plain.run(size.updates), size.updates),
            "textbook": textbook(source, size, folder),
            "eager": bare_eager,
            "compiled": bare_compiled,
            "eager, default library": without_onednn(bare_eager),
            "compiled, default library": without_onednn(bare_compiled),
            "product, oneDNN": with_library(product(size.products), onednn=True),
            "product, default library": without_onednn(product(size.products)),
        }
        seen = interleave(contestants, size.rounds)
        within = inside(source, size, folder)
    return {
        "size": size._asdict(),
        "unit": "CPU seconds per update; per product",
        "claims": [judge(claim, seen) for claim in CLAIMS] + [judge(TRAINER_CLAIM, within)],
        "seconds": summary(seen) | summary(within),
        "compile_cpu_seconds": first_call,
    }
