"""Coverage of the policy's states by the questions: a metric per round, and a figure that grows with the run."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_pbrl.data.segments import segment_rows
from lightning_pbrl.methods.base import Method
from lightning_pbrl.reports.coverage import Coverage, write_coverage
from lightning_pbrl.reports.embedding import run_name
from lightning_pbrl.reports.metrics import run_at
from lightning_pbrl.rng import stream
from lightning_pbrl.settings import Checked


class QueryCoverage(Checked, pl.Callback):
    """Sample stored, visited and asked states at every round with questions (:mod:`lightning_pbrl.reports.coverage`).

    It logs ``query/distance_ratio``: 1 if the questions cover the states that the policy visits, larger if they lie elsewhere.
    The run folder gets ``coverage.png`` and ``coverage.npz``. Methods that do not act while they ask are skipped.

    Args:
        points: number of states per sample; 0 measures and draws nothing.
        episodes: number of newest finished episodes that represent the policy's states.

    Raises:
        UserError: for a negative number of points, or no episode.
    """

    def __init__(self, points: int = 400, episodes: int = 10) -> None:
        self.points, self.episodes = points, episodes
        self.rounds: list[Coverage] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: Method) -> None:  # type: ignore[override]
        if trainer.current_epoch == 0:  # known here, not yet in on_fit_start
            self.rounds = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Method, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        if batch_idx or not self.points or not pl_module.asked.this_round or not pl_module.source.forgets:
            return
        found = self.sample(pl_module, stream(pl_module.seed, "coverage", trainer.current_epoch))
        self.rounds.append(found)
        pl_module.log_dict({"query/distance_ratio": found.distance_ratio, "step": float(trainer.global_step)}, batch_size=1)
        if trainer.is_global_zero:
            run = run_at(trainer.default_root_dir)
            write_coverage(run.path, self.rounds, run_name(run))

    def sample(self, method: Method, rng: torch.Generator) -> Coverage:
        """Sample states of the whole replay, of the newest episodes, and of this round's questions."""
        source: Any = method.source
        obs = source.column("obs")

        def states(rows: Tensor) -> Any:
            return obs[rows.to(obs.device)].cpu().numpy()

        kinds = [labels.start for labels in (method.labels, method.ratings, *method.others.values()) if len(labels)]
        if len(kinds) < 2:
            start = kinds[0][-method.asked.this_round :].flatten() if kinds else method.labels.start.flatten()
        else:  # row ids follow the questions' numbers: the newest of all
            start = torch.cat([each.flatten() for each in kinds]).unique()[-method.asked.this_round :]
        asked = segment_rows(start.cpu(), method.labels.length).flatten()
        stored = source.uniform_rows(torch.rand(self.points, generator=rng, dtype=torch.float64).to(obs.device))
        visited = source.pool(1, recent=self.episodes).draw(self.points, rng)
        some = asked[torch.randperm(len(asked), generator=rng)[: self.points]]
        return Coverage(method.env_steps, states(stored), states(visited), states(some))

    def state_dict(self) -> dict[str, Any]:
        return {"rounds": [(found.env_steps, *(torch.from_numpy(states) for states in found[1:])) for found in self.rounds]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rounds = [Coverage(steps, *(states.numpy() for states in rest)) for steps, *rest in state_dict["rounds"]]
