"""Replay buffer of a method that acts: a ring that forgets, and copies of the asked segments, which stay.

It has the packed rows of :class:`~lightning_pbrl.data.transitions.Transitions`. First comes the **ring**, ``lane`` rows per
environment: the row of environment i at its step p is ``i * lane + p % lane``. All environments step together, so that one
number, ``steps``, gives the number of rows and the age of each; no row is ever moved. Then come logged rows, if the replay begins
with some (:class:`~lightning_pbrl.data.logged_rows.LoggedRows`), and the copies
(:class:`~lightning_pbrl.data.segment_copies.SegmentCopies`), so that labels stay valid whatever the ring overwrites.

On a CPU memory is allocated when it is first written, so that a large capacity costs nothing. Unwritten rows are never used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightning_pbrl.data.episode_log import EpisodeLog
from lightning_pbrl.data.logged_rows import LoggedRows
from lightning_pbrl.data.next_images import NextImages
from lightning_pbrl.data.replay_state import moved, restore, saved, zeros
from lightning_pbrl.data.segment_copies import Places, SegmentCopies
from lightning_pbrl.data.segments import SegmentPool
from lightning_pbrl.data.transitions import Transitions, row_layout, unpack
from lightning_pbrl.errors import UserError

Array = npt.NDArray[Any]
RECENT_EPISODES = 10
"""Newest finished episodes that count as the present behaviour: adaptive teachers scale with their reward (B-Pref, arXiv
2111.03026, and its released code), and logs of recent behaviour are about them."""


class Replay(Transitions):
    """Replay buffer: a ring of transitions with their episodes, and copies of the segments that were asked about.

    Args:
        capacity: rows of the ring, rounded up to a multiple of ``num_envs``.
        num_envs: environments that step together.
        obs_dim: observation size O.
        action_dim: action size A.
        horizon: most steps of an episode.
        about: description of the simulator and policy, plain JSON types; its hash is the ``fingerprint``.
        logged: logged data to begin with; their rows are copied, stay, and count as older than all others.
        share: share of every minibatch that is drawn from them; None draws uniformly from all rows.
        pictures: side S of the image that is stored of every row's observation, pixels; None without images. They stay on the
            CPU, 3 S^2 bytes of each, and batches are moved.

    Raises:
        UserError: if an environment's part of the ring is shorter than an episode, which could not be asked about or restored.

    Bias: once the ring is full, an episode that crosses the end of its environment's part lies in two parts. Segments that would
    cross as well cannot be drawn. A ring of all env steps has no such episode.
    """

    forgets = True

    def __init__(
        self,
        capacity: int,
        num_envs: int,
        obs_dim: int,
        action_dim: int,
        horizon: int,
        about: Mapping[str, Any] | None = None,
        logged: Transitions | None = None,
        share: float | None = None,
        pictures: int | None = None,
    ) -> None:
        self.num_envs, self.lane, self.horizon = num_envs, -(-capacity // num_envs), horizon
        if self.lane < horizon:
            raise UserError(
                f"The replay's capacity of {capacity} rows leaves each of {num_envs} environments {self.lane}, and an episode "
                f"may have {horizon} steps: raise data.init_args.capacity to at least {horizon * num_envs}."
            )
        layout = row_layout(obs_dim, action_dim)
        width = sum(layout["truncated"])
        self.ring = self.lane * num_envs
        self.logged, nothing = LoggedRows(self.ring, logged, share), torch.zeros(1, dtype=torch.int64)
        rows = self.logged.end
        super().__init__(zeros(rows, width), nothing, zeros(rows), None, obs_dim, action_dim, about)
        self.logged.fill(self)
        if pictures:
            self.frames = zeros(self.ring, pictures, pictures, 3, dtype=torch.uint8)
        self.steps, self.first = 0, 0  # done, and before the first of which rows were ever here (more from a smaller ring)
        self.after = NextImages(num_envs, self.lane)
        self._staged = torch.zeros(num_envs, width)  # the rows of one step, on the CPU
        self._columns = [view.numpy() for view in unpack(self._staged, layout).values()]
        self.log = EpisodeLog(num_envs)
        self.places = Places()
        self._bind()

    def _bind(self) -> None:
        """Set views of the ring by environment and step."""
        self._rows = self.packed[: self.ring].view(self.num_envs, self.lane, -1)
        self._rewards = self.reward[: self.ring].view(self.num_envs, self.lane)
        self._solved = None if self.success is None else self.success[: self.ring].view(self.num_envs, self.lane)
        images = self._stored
        self._images = None if images is None else images[: self.ring].view(self.num_envs, self.lane, *images.shape[1:])

    def tables(self) -> dict[str, Tensor | None]:
        """Return the tables of the ring by environment and step, (n, L, ...); None for what is not stored."""
        return {"rows": self._rows, "reward": self._rewards, "success": self._solved, "pictures": self._images}

    def keep_success(self) -> None:
        """Make room for successes, which are unknown until a simulator tells one."""
        self.success = zeros(len(self.packed), dtype=torch.bool, device=self.device)
        self._bind()

    # Writing -----------------------------------------------------------------------------------------------------------

    def append(
        self,
        obs: Array | Tensor,
        action: Array | Tensor,
        next_obs: Array | Tensor,
        reward: Array | Tensor,
        terminated: Array | Tensor,
        truncated: Array | Tensor,
        success: Array | Tensor | None = None,
        learned_reward: Array | Tensor | float = 0.0,
        pictures: Array | None = None,
        next_pictures: Array | None = None,
    ) -> None:
        """Append one step of every environment, n rows; all arguments on the CPU.

        Args:
            obs: (n, O).
            action: (n, A), in [-1, 1].
            next_obs: next observations, also at an episode's end (not those after the reset), (n, O).
            reward: true reward, environment units, (n,).
            terminated: True if the episode ended in a terminal state, (n,), bool.
            truncated: True if it was cut off and would have gone on, (n,), bool.
            success: 1 if the task was solved at this step, else 0, (n,); NaN if an environment did not say, None if none did.
            learned_reward: reward that learners read until the rows are relabelled, (n,).
            pictures: images of ``obs``, (n, S, S, 3), uint8, of a replay that stores them.
            next_pictures: images of ``next_obs``, where policies see images.
        """
        for column, value in zip(self._columns, (obs, action, next_obs, learned_reward, terminated, truncated), strict=True):
            column[...] = value
        slot, reward = self.steps % self.lane, np.asarray(reward)
        self._rows.select(1, slot).copy_(self._staged)
        self._rewards.select(1, slot).copy_(torch.from_numpy(reward))
        ended = np.asarray(terminated) | np.asarray(truncated)
        if self._images is not None:
            self._images[:, slot] = torch.from_numpy(pictures)
        self.after.add(self.steps, next_pictures, ended)
        if success is not None:
            success = np.asarray(success)
            if self._solved is None:
                self.keep_success()
            self._solved[:, slot] = torch.from_numpy(success > 0)  # type: ignore[index]
        self.steps += 1
        self.version += 1
        self.log.add(self.steps, reward, success, ended)

    def relabel(self, model: Any) -> None:
        """Write the reward of every stored row, and of no other: ``model.relabel(replay, ids)``, (n,) -> (n,)."""
        rows = self.stored
        self.write("learned_reward", model.relabel(self, rows), rows)

    # Rows --------------------------------------------------------------------------------------------------------------

    @property
    def oldest(self) -> int:
        """Oldest step whose rows are stored."""
        return max(self.first, self.steps - self.lane)

    @property
    def filled(self) -> list[slice]:
        """Slots of every environment's part of the ring that hold rows, ascending."""
        begin, count = self.oldest % self.lane, self.steps - self.oldest
        before = max(begin + count - self.lane, 0)  # rows that lie before the oldest
        return (
            [slice(0, self.lane)]
            if count == self.lane
            else [slice(0, before), slice(begin, begin + count - before)][not before :]
        )

    @property
    def own(self) -> int:
        """Number of rows in the ring: the policy's own."""
        return (self.steps - self.oldest) * self.num_envs

    @property
    def size(self) -> int:
        """Number of stored rows, logged ones included."""
        return self.own + self.logged.count

    @property
    def newest(self) -> Tensor:
        """Ids of the newest row of every environment, (n,)."""
        return torch.arange((self.steps - 1) % self.lane, self.ring, self.lane, device=self.device)

    def rows_of_age(self, age: Tensor) -> Tensor:
        """Return the ids of the rows of these ages, same shape; 0 is the newest, ages in [0, :attr:`own`).

        The age of environment i's row of k steps ago is k * num_envs + i.
        """
        if self.num_envs == 1:
            return (self.steps - 1 - age) % self.lane
        return age % self.num_envs * self.lane + (self.steps - 1 - age // self.num_envs) % self.lane

    def age(self, rows: Tensor) -> Tensor:
        """Return how many steps ago these rows were written, same shape: 0 for the newest, ``steps`` for logged rows."""
        return torch.where(rows < self.ring, (self.steps - 1 - rows % self.lane) % self.lane, self.steps)

    def uniform_rows(self, u: Tensor) -> Tensor:
        """Return ids of rows drawn uniformly from all that are stored: ``u`` in [0, 1), float64, any shape -> ids.

        With a share of logged rows these come first in the last axis, and either part is drawn uniformly.
        """
        if self.logged.share is None:
            return self.drawable_rows((u * self.drawable_count).long())
        first, rest = self.logged.drawn(u, alone=not self.own)
        return torch.cat([first, self.rows_of_age((rest * self.own).long())], -1)

    def recent_rows(self, u: Tensor, n: int) -> Tensor:
        """Return ids drawn uniformly from the ``n`` newest rows (all, while there are fewer): ``u`` in [0, 1), float64 -> ids."""
        return self.rows_of_age((u * min(n, self.own)).long())

    @property
    def stored(self) -> Tensor:
        """Ids of all stored rows, ascending, (:attr:`size`,)."""
        first = torch.arange(self.num_envs, device=self.device) * self.lane
        slots = torch.cat([torch.arange(part.start, part.stop, device=self.device) for part in self.filled])
        own = (first[:, None] + slots).flatten()
        return torch.cat([own, self.logged.rows(self.device)])

    @property
    def written(self) -> Tensor:
        """Ids of all stored rows and of those of the copies, ascending."""
        return torch.cat([self.stored, self.logged.end + torch.arange(self.places.written, device=self.device)])

    def seen(self) -> list[Tensor]:
        """Return the observations of every stored row, views per environment and one of the logged rows."""
        own = [rows[part, : self.obs_dim] for rows in self._rows for part in self.filled]
        return [*own, *([self.packed[self.ring : self.logged.end, : self.obs_dim]] if self.logged.count else [])]

    def first_of(self, rows: Tensor) -> Tensor:
        """Return the first of the rows that precede each of these without a gap in its episode, (n,), on the CPU."""
        rows = rows.cpu()
        if (rows >= self.ring).any():
            return self.logged.first_of(rows, self.first_of)
        env, slot = rows // self.lane, rows % self.lane
        step = self.steps - 1 - (self.steps - 1 - slot) % self.lane
        return rows - (step - torch.maximum(self.log.begin(env, step), (step - slot).clamp(min=self.oldest)))

    def frame_ids(self, rows: Tensor) -> Tensor:
        """Return the image ids of rows: a row's image, of its observation, has its id."""
        return rows

    def stored_column(self, name: str) -> Tensor:
        """Return one column of all stored rows, in the order of :attr:`stored`."""
        return self.column(name)[self.stored]

    @property
    def drawable_count(self) -> int:
        return self.own + self.logged.drawable_count

    def drawable_rows(self, number: Tensor) -> Tensor:
        """Return row ids of the drawable rows: those of the ring by age, then the logged ones."""
        number = number.to(self.device)
        own = self.rows_of_age(number)
        return torch.where(number < self.own, own, self.logged.drawable(number - self.own)) if self.logged.count else own

    def drawable_part(self, values: Tensor) -> Tensor:
        own = self.stored[: self.own]
        return values[torch.cat([own, self.logged.drawable(torch.arange(self.logged.drawable_count, device=self.device))])]

    # Episodes ----------------------------------------------------------------------------------------------------------

    @property
    def finished(self) -> int:
        """Episodes that have ended so far."""
        return len(self.log)

    @property
    def open_steps(self) -> list[int]:
        """Steps so far of each environment's open episode, (n,)."""
        return self.log.open_steps(self.steps)

    def recent_returns(self, n: int) -> Tensor:
        """Return undiscounted true returns of the ``n`` newest finished episodes, oldest first, (at most n,), float64."""
        return self.log.recent(n)[0]

    def recent_success(self, n: int) -> Tensor:
        """Return 1 for the same episodes if a step solved the task, else 0; NaN if undefined, (at most n,), float64."""
        return self.log.recent(n)[1]

    def recent_lengths(self, n: int) -> Tensor:
        """Return the number of steps of the same episodes, (at most n,), float64."""
        return self.log.recent(n)[2]

    def mean_reward(self) -> float:
        """Return mean true reward per step of the newest finished episodes; before the first one, of logged rows."""
        if not self.finished:
            return self.logged.mean_reward()
        returns, _, steps = self.log.recent(RECENT_EPISODES)
        return float(returns.sum() / steps.sum())

    def pool(self, length: int, recent: int | None = None, context: int = 0) -> SegmentPool:
        """Return all stored segments of finished episodes, ``context`` more steps on each side.

        Args:
            length: steps per segment.
            recent: number of newest finished episodes to use, logged ones last; those too short for a segment are not counted.
            context: steps that must be free on each side.

        Raises:
            UserError: if no episode has ended yet, or none is long enough.
        """
        if not self.finished and not self.logged.count:
            raise UserError(
                "No episode has ended yet, so there is nothing to ask about: act for at least one episode before the first "
                "questions (seed_steps and explore_steps, or a later ask.first_round)."
            )
        pieces = self.log.pieces(self.oldest, self.lane, length + 2 * context, recent)
        return SegmentPool(self.logged.before(pieces, length + 2 * context, recent), length, context=context)

    @property
    def copies(self) -> SegmentCopies:
        """Copies of the segments that were asked about: kept, placed and restored."""
        return SegmentCopies(self)

    # Moving and saving -------------------------------------------------------------------------------------------------

    def to(self, device: torch.device | str) -> Replay:
        """Move what is written to ``device`` (in place)."""
        if torch.device(device) != self.device:
            self.move(device)
        return self

    def move(self, device: torch.device | str) -> None:
        """Make new tables on ``device`` with room for all copies, and write to them what was written."""
        moved(self, device)

    @property
    def fingerprint(self) -> str:
        """Hash of ``about``, not of the rows: a resumed run belongs to its labels whatever it has stored."""
        text = json.dumps(self.about, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def state_dict(self) -> dict[str, Any]:
        """Return what :func:`~lightning_pbrl.data.replay_state.saved` returns."""
        return saved(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore it, as :func:`~lightning_pbrl.data.replay_state.restore` does."""
        restore(self, state)
