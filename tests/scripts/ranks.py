"""Fits on CPU processes of one launch: ``ranks.py FOLDER DEVICES NODES CASE...``; each rank leaves FOLDER/rank{r}.pt.

The file holds, of each fit by its name, what the rank ended with.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning_pbrl as lightning_pbrl  # before Lightning: what that imports and few processes need is put off

# isort: split
import torch
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "methods"))

from every_method import METHODS, small_settings
from preference_toys import OneSided
from toys import SPEC, ToyData, callbacks_for, data_for, make_trainer

from lightning_pbrl import shared_scoring
from lightning_pbrl.data.feedback import Labels, Status
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.engine import UpdateEngine
from lightning_pbrl.methods import clarify, preference_policy
from lightning_pbrl.methods.bc import BC
from lightning_pbrl.methods.iql import IQL
from lightning_pbrl.methods.learn_reward import RewardEnsemble
from lightning_pbrl.queries.bald import BALDQuery
from lightning_pbrl.queries.disagreement import DisagreementQuery
from lightning_pbrl.queries.embedding import EmbeddingQuery
from lightning_pbrl.queries.entropy import EntropyQuery
from lightning_pbrl.queries.kcenter import KCenterDisagreementQuery, KCenterQuery
from lightning_pbrl.rewards import history, posterior, scoring
from lightning_pbrl.testing.toys import labels_of

Fit = tuple[str, Any, Any, dict[str, Any], dict[str, Any]]
"""Name, method, data, arguments of what asks, arguments of the Trainer."""


def whole() -> Iterator[Fit]:
    """A reward model and a policy, with evaluation."""
    reward = RewardEnsemble(SPEC, hidden=(16,), epochs=5, batch_size=8)
    yield "RewardEnsemble", reward, OneSided(eval_episodes=5, test_episodes=1), {}, {}
    policy = IQL(SPEC, updates=30, eval_interval=15, hidden=(16,), batch_size=16, block=7, lr=3e-3)
    yield "IQL", policy, OneSided(eval_episodes=5, test_episodes=1), {}, {}


def nodes() -> Iterator[Fit]:
    """Two policies."""
    for cls in (IQL, BC):
        method = cls(SPEC, updates=12, eval_interval=6, hidden=(16,), batch_size=16, block=5, lr=3e-3)
        yield cls.__name__, method, ToyData(eval_episodes=2), {}, {}


def every() -> Iterator[Fit]:
    """Two updates of every method that takes several devices."""
    for name, cls in METHODS.items():
        if cls.ddp:
            yield f"every/{name}", cls(SPEC, **small_settings(name, block=2)), data_for(cls), {}, {"max_steps": 2}


def halves() -> Iterator[Fit]:
    """Two updates of policies whose losses are means over a minibatch."""
    for name in ("BC", "IQL", "TD3BC"):
        method = METHODS[name](SPEC, **small_settings(name, block=2, batch_size=BATCH, compile=False))
        yield f"halves/{name}", method, data_for(METHODS[name]), {}, {"max_steps": 2}


class Unsure(ToyData):
    """Toy data with 40 answers, every third of them skipped."""

    def load(self) -> Transitions:
        data = super().load()
        given = labels_of(data, data.pool(self.segment_length).pairs(40, torch.Generator().manual_seed(0)))
        skipped = torch.arange(40) % 3 == 2
        value = given.value.masked_fill(skipped, torch.nan)
        self.labels = Labels(given.start, given.length, value, given.status.masked_fill(skipped, int(Status.SKIPPED)))
        return data


def questions() -> Iterator[Fit]:
    """What each strategy asks by a model's initial weights."""
    for name, strategy in (
        ("RewardEnsemble", DisagreementQuery()),
        ("RewardEnsemble", KCenterQuery()),
        ("RewardEnsemble", KCenterDisagreementQuery()),
        ("CLARIFY", EmbeddingQuery(pick="random")),
        ("UnifiedReward", BALDQuery("pair")),
        ("UnifiedReward", BALDQuery("rating")),
        ("PreferenceTransformer", EntropyQuery()),
        ("IPL", EntropyQuery()),
    ):
        method = METHODS[name](SPEC, **small_settings(name, block=2))
        ask = {"query": strategy, "uniform_first": False, "budget": 12, "per_round": 12}
        yield f"{name}/{type(strategy).__name__}/{'/'.join(strategy.kinds)}", method, Unsure(), ask, {"max_steps": 2}


CASES = {case.__name__: case for case in (whole, nodes, every, halves, questions)}
BATCH = 16


def drawing(make: Callable[..., Any] = UpdateEngine.drawn) -> list[Any]:
    """Return a list that gets what engines draw from now on, block by block, drawn by ``make``."""
    found: list[Any] = []

    def drawn(engine: UpdateEngine, program: str, updates: int, replica: int | None = None) -> Any:
        found.append(make(engine, program, updates, replica))
        return found[-1]

    UpdateEngine.drawn = drawn  # type: ignore[method-assign]
    return found


def small_tiles() -> list[int]:
    """Make tiles so small that toy data have many; return a list that gets the sizes of those that a shared call passes here."""
    scoring.CPU_TILE, posterior.POSTERIOR_TILE = 32, 16
    history.CPU_STEPS, preference_policy.SCORE_TILE, clarify.EMBED_TILE = 60, 16, 16
    passed: list[int] = []

    def tiled(function: Callable[[Tensor], Tensor], tiles: Any, dim: int) -> Tensor:
        def counted(tile: Tensor) -> Tensor:
            passed.extend([len(tile)] if shared_scoring._together.get() else [])
            return function(tile)

        return shared_scoring.tiled(counted, tiles, dim)

    for module in (scoring, history, preference_policy, clarify):
        module.tiled = tiled  # type: ignore[attr-defined]
    return passed


def main(folder: Path, devices: int, count: int, *cases: str) -> None:
    """Make all fits of the cases, one after the other."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    passed, drawn = small_tiles(), drawing()
    out = {}
    for name, method, data, ask, settings in (fit for case in cases for fit in CASES[case]()):
        around = callbacks_for(type(method), **{"budget": 20, "per_round": 10, **ask})
        if devices * count > 1:
            settings["strategy"] = DDPStrategy(broadcast_buffers=False, process_group_backend="gloo")
        settings |= {"devices": devices, "num_nodes": count, "use_distributed_sampler": False}
        trainer = make_trainer(folder / name, around, **settings)
        passed.clear()
        drawn.clear()
        method.configure_model()
        before = {key: value.clone() for key, value in method.named_parameters()}
        trainer.fit(method, data)
        if "max_steps" not in settings and devices > 1:
            trainer.test(method, data, verbose=False)
        out[name] = {
            "weights": {key: value.clone() for key, value in method.state_dict().items()},
            "before": before,
            "drawn": list(drawn),
            "labels": tuple(method.labels),
            "ratings": tuple(method.ratings),
            "metrics": {key: value.clone() for key, value in trainer.callback_metrics.items()},
            "step": trainer.global_step,
            "updates": sum(method.running.updates.values()),
            "world": (trainer.world_size, trainer.global_rank, trainer.local_rank),
            "passed": sum(passed),
        }
    torch.save(out, folder / f"rank{trainer.global_rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
