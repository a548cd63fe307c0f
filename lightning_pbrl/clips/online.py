"""Clips of episodes that a method has acted out itself.

A replay forgets, so a clip is drawn, or at least its :class:`Recording` taken, when the question is asked. A recording is the
episode's reset seed and its actions up to the end of the segment: some kilobytes, from which the clip can be drawn later and in
another process, exactly. Where the replay has overwritten the beginning of the episode, or the simulator does not repeat it, the
states are rebuilt from observations, if these determine them.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from lightning_pbrl.clips.base import ClipRenderer, Frames
from lightning_pbrl.clips.rebuilt import RebuiltStates, state_of
from lightning_pbrl.clips.replayed import check_repeated
from lightning_pbrl.clips.stage import Stage
from lightning_pbrl.data.atomic import replacing
from lightning_pbrl.data.guard import reading
from lightning_pbrl.data.kinds.base import MOST
from lightning_pbrl.data.npz import read_npz
from lightning_pbrl.data.segments import segment_rows
from lightning_pbrl.envs.base import Array, Simulator
from lightning_pbrl.envs.collector import Collector
from lightning_pbrl.errors import UserError


class Recording(NamedTuple):
    """Everything that a clip of an acting method's episode is drawn from.

    Attributes:
        seed: reset seed of the episode; None where the replay has forgotten the beginning of the episode.
        first: step of the episode at which the segment begins; 0 without a seed.
        action: actions from the beginning of the episode (without a seed, of the segment) to the end of the segment, (n, A).
        obs: observations of the segment, (T, O), float32.
    """

    seed: int | None
    first: int
    action: Array
    obs: Array


def recording(collector: Collector, start: int, length: int) -> Recording:
    """Take the recording of a segment of the replay.

    Args:
        collector: collector whose replay holds the segment.
        start: row of the ring at which the segment begins, as a query names it (not a row of the kept copies).
        length: steps of the segment.

    Raises:
        UserError: if there is no such segment in the ring.
    """
    replay = collector.replay
    if replay.logged.first <= start < replay.logged.end:
        return _logged(collector, start, length)
    env, slot = start // replay.lane, start % replay.lane
    if not (0 <= start < replay.ring and slot + length <= replay.lane):
        raise UserError(f"The replay has no segment of {length} steps from row {start} on: take clips when questions are asked.")
    step = replay.steps - 1 - (replay.steps - 1 - slot) % replay.lane
    if step < replay.oldest or step + length > replay.steps:
        raise UserError(f"The replay has no segment of {length} steps from row {start} on: take clips when questions are asked.")
    index = segment_rows(torch.tensor(start, device=replay.device), length)
    obs = replay.column("obs")[index].cpu().numpy().copy()
    begin = int(replay.log.begin(torch.tensor([env]), torch.tensor([step])))
    if begin < replay.oldest:
        return Recording(None, 0, replay.column("action")[index].cpu().numpy().copy(), obs)
    finished = replay.log.finished
    number = int(((finished[:, 0] == env) & (finished[:, 1] < begin)).sum())
    rows = env * replay.lane + torch.arange(begin, step + length) % replay.lane
    action = replay.column("action")[rows.to(replay.device)].cpu().numpy().copy()
    return Recording(collector.reset_seed(env, number), step - begin, action, obs)


def _logged(collector: Collector, start: int, length: int) -> Recording:
    """Take the recording of a logged segment: from its reset seed, if it was collected in the simulator that is acted in."""
    logged, row = collector.replay.logged.data, start - collector.replay.logged.first
    assert logged is not None  # noqa: S101 - there are logged rows
    first, about = int(logged.first_of(torch.tensor([row]))[0]), logged.about
    obs, action = (logged.column(name)[:].cpu().numpy() for name in ("obs", "action"))
    seeds = about.get("reset_seeds", ())
    if len(seeds) != len(logged.episodes) or about.get("simulator") != collector.envs.simulator.describe():
        return Recording(None, 0, action[row : row + length].copy(), obs[row : row + length].copy())
    seed = int(seeds[int(logged.episodes.of(torch.tensor([row]))[0])])
    return Recording(seed, row - first, action[first : row + length].copy(), obs[row : row + length].copy())


MORE = 1 << 40
"""Number of the first recording of a third segment: each question has two numbers below, and :data:`BEYOND` from here on."""
BEYOND = MOST - 2


def recording_of(number: int, which: int) -> int:
    """Return the number of the recording of segment ``which`` of a question."""
    return 2 * number + which if which < 2 else MORE + BEYOND * number + which - 2


def asked_of(recording: int) -> tuple[int, int]:
    """Return number of the question and of its segment; the inverse of :func:`recording_of`."""
    if recording < MORE:
        return recording // 2, recording % 2
    return (recording - MORE) // BEYOND, 2 + (recording - MORE) % BEYOND


class RecordedClips(ClipRenderer):
    """Renderer of recordings, and of a collector's replay as it is now.

    Args:
        simulator: simulator that was acted in.
        collector: collector whose segments :meth:`frames` draws; None to :meth:`draw` recordings only.
        size: height and width of a frame, pixels.
        camera: name of a camera of the model; None for that of videos.
    """

    how = "episode repeated from its reset seed and actions, exact"

    def __init__(
        self, simulator: Simulator, collector: Collector | None = None, size: int = 256, camera: str | None = None
    ) -> None:
        self.collector, self.size, self.camera = collector, size, camera
        self.stage = Stage(simulator, size, camera)
        self._rebuilt: RebuiltStates | None = None

    def frames(self, start: int, length: int) -> Frames:
        if self.collector is None:
            raise UserError("There is no replay to draw from: draw recordings instead.")
        return self.draw(recording(self.collector, start, length))

    def draw(self, taken: Recording) -> Frames:
        """Draw a recording, (T, size, size, 3), uint8.

        Raises:
            UserError: if the simulator does not repeat it, or the beginning of the episode was forgotten and observations do
                not determine the state.
        """
        simulator = self.stage.simulator
        if taken.seed is None and state_of(simulator) is None:
            raise UserError(
                f"The replay has overwritten the beginning of this episode, and an observation of {simulator.name} does not "
                "determine its state: raise data.init_args.capacity, or leave it out."
            )
        if taken.seed is not None:
            frames, seen = self.stage.replay(taken.seed, taken.action[:-1], taken.first)
            try:
                check_repeated(seen, taken.obs, simulator, f"the episode with reset seed {taken.seed}", taken.first)
                return frames
            except UserError:
                if state_of(simulator) is None:
                    raise
        if self._rebuilt is None:
            self._rebuilt = RebuiltStates(None, simulator, self.size, self.camera)
        return self._rebuilt.draw(taken.obs, taken.action[taken.first :])

    def close(self) -> None:
        self.stage.close()
        if self._rebuilt is not None:
            self._rebuilt.close()


class RecordingFolder(ClipRenderer):
    """Recordings as files, written by the process that acts and drawn by another, for instance by the worker of a cache.

    A number names a recording: an acting method gives each asked segment the next one. ``frames(number, length)`` draws it, so
    that ``ClipCache(folder, partial(RecordingFolder, recordings, simulator), run)`` makes the clips of a run beside it.

    Args:
        folder: folder of the recordings; made with the first.
        simulator: simulator that was acted in.
        size: height and width of a frame, pixels.
        camera: name of a camera of the model; None for that of videos.
    """

    how = RecordedClips.how

    def __init__(self, folder: str | Path, simulator: Simulator, size: int = 256, camera: str | None = None) -> None:
        self.folder, self.size = Path(folder), size
        self._clips = RecordedClips(simulator, size=size, camera=camera)

    def put(self, number: int, taken: Recording) -> Path:
        """Write a recording, replacing one of the same number, and return its file, which appears only when complete.

        Raises:
            UserError: if the folder cannot be written.
        """
        path = self._path(number)
        seed = -1 if taken.seed is None else taken.seed
        with replacing(path) as part, part.open("wb") as file:
            np.savez(file, place=np.array([seed, taken.first]), action=taken.action, obs=taken.obs)
        return path

    def __contains__(self, number: int) -> bool:
        """Return True if there is a recording of that number."""
        return self._path(number).is_file()

    def get(self, number: int) -> Recording:
        """Read a recording.

        Raises:
            UserError: if there is none, or its file is damaged.
        """
        path = self._path(number)
        if number not in self:
            raise UserError(f"There is no recording {path}: its segment was asked about without one.")
        with reading(path, "is damaged", "delete it; its clip cannot be drawn any more"):
            arrays = read_npz(path, "delete it", lambda key: key in ("place", "action", "obs"))
            seed, first = (int(value) for value in arrays["place"])
            return Recording(None if seed < 0 else seed, first, arrays["action"], arrays["obs"])

    def frames(self, start: int, length: int) -> Frames:
        taken = self.get(start)
        if len(taken.obs) != length:
            raise UserError(f"{self._path(start)} is of {len(taken.obs)} steps, not of {length}: ask for clips of that length.")
        return self._clips.draw(taken)

    def close(self) -> None:
        self._clips.close()

    def _path(self, number: int) -> Path:
        return self.folder / f"{number}.npz"
