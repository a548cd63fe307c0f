"""Data collected on first use: scripted experts, noise and mistakes in any simulator, in one reproducible file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning_pbrl.data import archive
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.datamodules.base import FeedbackDataModule
from lightning_pbrl.envs.base import Simulator
from lightning_pbrl.envs.behaviour import Behaviour
from lightning_pbrl.envs.collect import collect
from lightning_pbrl.envs.take_over import TakeOver

DEFAULT_MIXTURE = (
    Behaviour(weight=1.0, noise=0.1),
    Behaviour(weight=2.0, noise=0.5, random=0.3),
    Behaviour(weight=2.0, noise=1.0, random=0.5),
    Behaviour(weight=1.0, goal_shift=0.2, object_shift=0.1, noise=0.3),
    Behaviour(weight=1.0, random=1.0),
)
"""Default mixture: clean experts, noisy ones, experts that miss the goal, and random actions, for a wide spread of returns."""


class CollectedDataModule(FeedbackDataModule):
    """Scripted behaviour in a simulator, collected into ``cache_dir`` on first use.

    The file's name holds a hash of everything that determines its content. Changing the mixture makes a new file; a second run
    reuses the first. An interrupted collection continues where it stopped.

    Args:
        simulator: simulator for collection and evaluation.
        episodes: number of episodes to collect.
        mixture: behaviours with their weights; None for experts, noise, mistakes and random actions.
        collection_seed: seed of the data set. It is not the run's seed: all seeds learn from the same data.
        cache_dir: folder of the collected files.
        stop_after_success: end a collected episode after this many successful steps; None runs to the horizon.
        take_over: rule by which the scripted expert takes over from a behaviour that is stuck; the data then say who acted. None
            for no interventions.
        **offline: the other arguments of :class:`FeedbackDataModule`.

    Raises:
        UserError: for a behaviour that the simulator does not have.
    """

    simulator: Simulator

    def __init__(
        self,
        simulator: Simulator,
        episodes: int = 200,
        mixture: list[Behaviour] | None = None,
        collection_seed: int = 0,
        cache_dir: str = "data",
        stop_after_success: int | None = None,
        take_over: TakeOver | None = None,
        **offline: Any,
    ) -> None:
        super().__init__(simulator, **offline)
        self.episodes, self.collection_seed = episodes, collection_seed
        self.mixture = list(mixture or DEFAULT_MIXTURE)
        for behaviour in self.mixture:
            behaviour.check(simulator)
        self.cache_dir, self.stop_after_success, self.take_over = cache_dir, stop_after_success, take_over
        if take_over is not None:
            take_over.check(simulator, self.mixture)
        self.progress: Callable[[int, int], None] | None = None

    @property
    def path(self) -> Path:
        """File that holds (or will hold) the data."""
        wanted = [self.simulator.describe(), [b.describe() for b in self.mixture], self.episodes, self.collection_seed]
        wanted += [] if self.stop_after_success is None else [self.stop_after_success]
        wanted += [] if self.take_over is None else [self.take_over.describe()]
        digest = hashlib.blake2b(json.dumps(wanted, sort_keys=True).encode(), digest_size=5).hexdigest()
        return Path(self.cache_dir) / f"{self.simulator.name}-{self.episodes}-{digest}.safetensors"

    def prepare_data(self) -> None:
        how = (self.collection_seed, self.progress, self.stop_after_success, self.take_over)
        collect(self.simulator, self.mixture, self.episodes, self.path, *how)

    def load(self) -> Transitions:
        if not self.path.exists():  # used without a Trainer
            self.prepare_data()
        return archive.load(self.path)
