"""Log of episodes in a ring buffer: their steps, returns, success and lengths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightning_pbrl.data.segments import Pieces

Array = npt.NDArray[Any]
UNKNOWN = -1.0
"""Success of an episode without any report of success (a state without NaN can be compared)."""


class EpisodeLog:
    """Finished and open episodes of synchronous environments, by step number, independent of the rows that are stored.

    Args:
        num_envs: number of environments n.
    """

    def __init__(self, num_envs: int) -> None:
        self._begin = np.zeros(num_envs, np.int64)  # of the open episodes: first step, true return, success
        self._return, self._success = np.zeros(num_envs), np.full(num_envs, UNKNOWN)
        self._table, self._count = torch.zeros(0, 5, dtype=torch.float64), 0

    def add(self, steps: int, reward: Array, success: Array | None, over: Array) -> None:
        """Add one step.

        Args:
            steps: number of steps so far, this one included.
            reward: true reward, (n,).
            success: 1 if the task was solved at this step, else 0, (n,); NaN for environments without a report, None if none
                reported it.
            over: True if the episode ended with this step, (n,), bool.
        """
        self._return += reward
        if success is not None:
            np.fmax(self._success, success, out=self._success)
        if over.any():
            ended = over.nonzero()[0]
            end = np.full(len(ended), steps)
            rows = np.stack([ended, self._begin[over], end, self._return[over], self._success[over]], 1)
            while self._count + len(rows) > len(self._table):
                self._table = torch.cat([self._table, self._table.new_zeros(max(len(self._table), 64), 5)])
            self._table[self._count : self._count + len(rows)] = torch.from_numpy(rows)
            self._count += len(rows)
            self._begin[over], self._return[over], self._success[over] = steps, 0.0, UNKNOWN

    def __len__(self) -> int:
        return self._count

    @property
    def finished(self) -> Tensor:
        """Environment, first step, step after the last, true return and success of every finished episode, (M, 5), float64."""
        return self._table[: self._count]

    def open_steps(self, steps: int) -> list[int]:
        """Return the number of steps so far in each environment's open episode, (n,)."""
        return (steps - self._begin).tolist()

    def begin(self, env: Tensor, step: Tensor) -> Tensor:
        """Return the first step of the episode that each environment's step is of: two of (n,), int64 -> (n,)."""
        found = torch.empty_like(step)
        for number in env.unique().tolist():
            mine, ended = env == number, self.finished[self.finished[:, 0] == number]
            begins = torch.cat([ended[:, 1].long(), torch.tensor([self._begin[number]])])
            found[mine] = begins[torch.searchsorted(begins, step[mine], right=True) - 1]
        return found

    def recent(self, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return undiscounted true return, success and length of the ``n`` newest finished episodes.

        Oldest first, each (at most n,), float64. Success is NaN if the task defines none. Some tasks report success only when it
        happens; their episodes without a report count as failures.
        """
        _, begin, end, returns, success = self.finished[-n:].unbind(1)
        told = bool((self.finished[:, 4] != UNKNOWN).any()) or bool((self._success != UNKNOWN).any())
        return returns, success.where(success != UNKNOWN, 0.0 if told else float("nan")), end - begin

    def pieces(self, oldest: int, lane: int, shortest: int, recent: int | None) -> Pieces:
        """Locate the finished episodes in a ring buffer of ``lane`` rows per environment, without steps that are not stored.

        Args:
            oldest: oldest step that is stored.
            lane: number of rows per environment; the row of environment i's step p is ``i * lane + p % lane``.
            shortest: with ``recent``, ignore episodes without this many consecutive rows.
            recent: return only this many of the newest episodes; None for all.
        """
        env, begin, end = self.finished[:, :3].long().unbind(1)
        begin = begin.clamp(min=oldest)
        cut = torch.minimum(end, (begin // lane + 1) * lane)  # the end of the environment's rows, if the episode wraps around
        lengths = torch.stack([cut - begin, end - cut], 1).clamp(min=0)
        first = env[:, None] * lane + torch.stack([begin, cut], 1) % lane
        if recent is not None and (long := (lengths.amax(1) >= shortest).nonzero().squeeze(1)).numel():
            lengths, first = lengths[long[-recent:]], first[long[-recent:]]
        return Pieces(first.flatten(), lengths.flatten())

    def state_dict(self) -> dict[str, Tensor]:
        """Return the whole log as tensors."""
        return {
            "finished": self.finished.clone(),
            "begin": torch.from_numpy(self._begin.copy()),
            "open": torch.from_numpy(np.stack([self._return, self._success])),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load the state of a log with as many environments."""
        self._table, self._count = state["finished"].clone(), len(state["finished"])
        self._begin = state["begin"].numpy().copy()
        self._return, self._success = state["open"].numpy().copy()
