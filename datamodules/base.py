"""The base of every data module: one table of transitions, held-out pairs, evaluation episodes."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_pbrl.data import archive
from lightning_pbrl.data.feedback import Judgement, Labels, Query
from lightning_pbrl.data.given_labels import check_labels
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.data.validate import check_table
from lightning_pbrl.envs.base import Simulator
from lightning_pbrl.envs.rollout import Rollouts, VectorEnvs, rollout
from lightning_pbrl.errors import UserError
from lightning_pbrl.fitting.lightning_glue import RoundLoader
from lightning_pbrl.methods.base import Method
from lightning_pbrl.queries.base import take
from lightning_pbrl.rng import derive, stream
from lightning_pbrl.settings import Checked

PREDICT_ROWS = 4_096


class FeedbackDataModule(Checked, pl.LightningDataModule):
    """Transitions, answers about them where the data bring some, and the simulator that judges a policy.

    A subclass says how the data are loaded (:meth:`load`) and, if they must first be made or converted, how
    (``prepare_data``, which Lightning calls on one process per machine). Data that come with answers also set ``labels``
    and ``held_out_labels`` there, about segments of ``segment_length`` steps.

    Args:
        simulator: where policies are rolled out; None when the data come without one (no evaluation then).
        segment_length: steps per segment shown to a teacher.
        eval_episodes: episodes per evaluation while training (seeds of the stream "validation").
        test_episodes: episodes of ``test`` (seeds of the stream "test"; never seen while training or choosing).
        num_envs: environments stepped together.
        held_out_pairs: random pairs on which reward models are validated, where the data bring no held-out answers.
        evaluation_seed: names the sets of evaluation episodes and held-out pairs; the same for every run compared.
    """

    source: Transitions
    labels: Labels | None = None
    """Answers about these data that learners start with; None when there are none."""
    held_out_labels: Labels | None = None
    """Answers that no learner sees: reward models are validated on them."""
    held_out: Query
    """The pairs on which reward models are validated."""

    def __init__(
        self,
        simulator: Simulator | None = None,
        segment_length: int = 50,
        eval_episodes: int = 20,
        test_episodes: int = 50,
        num_envs: int = 10,
        held_out_pairs: int = 1_000,
        evaluation_seed: int = 0,
    ) -> None:
        super().__init__()
        self.simulator, self.segment_length, self.num_envs = simulator, segment_length, num_envs
        self.eval_episodes, self.test_episodes = eval_episodes, test_episodes
        self.held_out_pairs, self.evaluation_seed = held_out_pairs, evaluation_seed
        self._envs: VectorEnvs | None = None

    @abstractmethod
    def load(self) -> Transitions:
        """Read the data; called once per process, after ``prepare_data``."""

    @property
    def spec(self) -> dict[str, Any]:
        """Sizes a method is built with; known without reading the data where the simulator fixes them.

        ``pixels`` is there only where learners see pictures: their side S, and ``obs_dim`` is then S * S * 3. ``frames`` is the
        side of pictures that lie beside the states that policies see.
        """
        if self.simulator is None:
            self.setup("fit")
            source = self.source
            sizes = {"obs_dim": source.shown_dim, "action_dim": source.action_dim, "horizon": 0}
            return sizes if source.frames is None else {**sizes, "pixels": source.frames.shape[1]}
        sim = self.simulator
        sizes = {"obs_dim": sim.obs_dim, "action_dim": sim.action_dim, "horizon": sim.horizon}
        if sim.pixels is not None:
            return {**sizes, "pixels": sim.pixels}
        return sizes if sim.frames is None else {**sizes, "frames": sim.frames}

    def files(self) -> list[Path]:
        """Return the files that :meth:`load` reads: were one of them another, so would be the run."""
        path = getattr(self, "path", None)
        own = [Path(path)] if isinstance(path, str | Path) and Path(path).is_file() else []
        parts = (getattr(self, name, None) for name in ("data", "replay"))
        return own + [file for part in parts if isinstance(part, FeedbackDataModule) for file in part.files()]

    def setup(self, stage: str) -> None:
        shown = self.simulator is not None and self.simulator.pixels is not None
        if shown and self.trainer is not None and self.method.validates_on == "episodes":
            from lightning_pbrl.envs.render import check_rendering

            check_rendering()  # now, not at the first evaluation, when something has been learned
        if not hasattr(self, "source"):
            self.source = self.load()
            check_table(self.source, type(self).__name__)
            for name, labels in (("labels", self.labels), ("held_out_labels", self.held_out_labels)):
                if labels is not None:
                    check_labels(labels, self.source, f"{type(self).__name__}.{name}")

    def rollout(self, act: Callable[[Tensor], Tensor], seeds: Sequence[int]) -> Rollouts:
        """Episodes of a policy, one per seed; environments stay alive between calls."""
        if self.simulator is None:
            raise UserError("These data have no simulator, so a policy cannot be rolled out; set data.simulator.")
        if self._envs is None:
            self._envs = VectorEnvs(self.simulator.evaluated, self.num_envs)
        device = self.trainer.strategy.root_device if self.trainer is not None else "cpu"
        return rollout(act, self._envs, seeds, device)

    def episode_seeds(self, purpose: str, count: int) -> list[int]:
        """Seeds of the evaluation episodes of one purpose ("validation" or "test")."""
        return [derive(self.evaluation_seed, purpose, i) % 2**31 for i in range(count)]

    def judgement(self, numbers: Tensor | None = None) -> Judgement:
        """Return the labels and true returns that predictions about held-out pairs are compared with.

        The label is the held-out answer; where the data bring none, the larger true return is preferred.

        Args:
            numbers: which of the pairs, (B,); all when None.
        """
        given = self.held_out_labels
        query = self.held_out if given is None else Query("pair", given.start, given.length)
        query = query if numbers is None else take(query, numbers)
        true = self.source.true_returns(query)
        if given is None:
            gap = true[:, 1] - true[:, 0]
            label = ((gap.sign() + 1) / 2).masked_fill(gap.isnan(), float("nan"))
        else:
            label = given.value if numbers is None else given.value[numbers]
        return Judgement(query, label.to(true.device), true)

    # Loaders -----------------------------------------------------------------------------------------------------------

    @property
    def method(self) -> Method:
        """The method being trained or tested."""
        assert self.trainer is not None  # noqa: S101 - Lightning attaches it before any loader is asked for
        module = self.trainer.lightning_module
        if not isinstance(module, Method):
            raise UserError(f"{type(self).__name__} feeds methods of this library, not {type(module).__name__}.")
        return module

    def train_dataloader(self) -> RoundLoader:
        method = self.method
        return RoundLoader(lambda: method.round_done)

    def val_dataloader(self) -> Share:
        return self._evaluation("validation", self.eval_episodes)

    def test_dataloader(self) -> Share:
        return self._evaluation("test", self.test_episodes)

    def predict_dataloader(self) -> Share:
        return Share(torch.arange(len(self.source)), self.trainer, PREDICT_ROWS)

    def _evaluation(self, purpose: str, episodes: int) -> Share:
        if self.method.validates_on == "pairs":
            if self.held_out_labels is not None:  # for validation and test alike: they are all there is
                return Share(torch.arange(len(self.held_out_labels)), self.trainer, PREDICT_ROWS)
            rng = stream(self.evaluation_seed, purpose, "pairs")
            self.held_out = self.source.pool(self.segment_length).pairs(self.held_out_pairs, rng)
            return Share(torch.arange(self.held_out_pairs), self.trainer, PREDICT_ROWS)
        seeds = [] if self.simulator is None else self.episode_seeds(purpose, episodes)
        return Share(seeds, self.trainer, self.num_envs)


class Share:
    """This rank's part of the evaluation items, in batches; every rank has the same number of batches, some may be empty.

    Lightning's distributed sampler would repeat items to even the ranks, which biases a mean.

    Args:
        items: episode seeds (a list) or numbers (a tensor).
        trainer: tells rank and world size.
        size: items per batch.
    """

    def __init__(self, items: Any, trainer: pl.Trainer | None, size: int) -> None:
        rank, world = (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)
        own = items[rank::world]
        self.batches = [own[at : at + size] for at in range(0, -(-len(items) // world), size)]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def opened(data: FeedbackDataModule | str) -> Transitions:
    """Return the data that another data module or a data file of this library holds."""
    if isinstance(data, str):
        return archive.load(data)
    data.setup("fit")
    return data.source


def check_sizes(table: Transitions, simulator: Simulator | None, where: str | Path, cure: str) -> None:
    """Data and simulator must mean the same observation and action.

    Args:
        table: the data.
        simulator: None is right with any data.
        where: file or name of the data, for the message.
        cure: what to do about it, for the message.

    Raises:
        UserError: when their sizes differ.
    """
    shown = table.obs_dim if simulator is not None and simulator.pixels is None else table.shown_dim
    if simulator is None or (shown, table.action_dim) == (simulator.obs_dim, simulator.action_dim):
        return
    raise UserError(
        f"{where} has {shown} observation and {table.action_dim} action entries and {simulator.name} has "
        f"{simulator.obs_dim} and {simulator.action_dim}: {cure}."
    )


def __getattr__(name: str) -> Any:
    """Know the base by its old name, with a warning."""
    if name == "OfflineDataModule":
        warnings.warn("OfflineDataModule is called FeedbackDataModule now: use that name.", FutureWarning, stacklevel=2)
        return FeedbackDataModule
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
