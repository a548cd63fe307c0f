"""Choosers of success examples: by a predicate on the data's steps, from a file, or from a folder filled by hand.

An example is the state that a successful step *reached* (its ``next_obs``), because success is evaluated there. Every chooser
draws without replacement from a stream of its own seed, and a smaller ``count`` gives the first of a larger one.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from lightning_pbrl.data.examples import Examples, check_states, make_examples
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.describe import Described, describe
from lightning_pbrl.errors import UserError
from lightning_pbrl.ranges import ANY
from lightning_pbrl.rng import stream


class ExampleChooser(Described, ABC):
    """Base class of choosers of success examples for a learner's data.

    Args:
        count: number of examples; None takes all.
        seed: seed of the choice among more candidates.

    Raises:
        UserError: for a count below 1.
    """

    def __init__(self, count: int | None = 200, seed: int = 0) -> None:
        self.count, self.seed = count, seed

    @abstractmethod
    def choose(self, source: Transitions) -> Examples:
        """Choose the examples.

        Args:
            source: the episodes that learners may see, without those for validation.

        Raises:
            UserError: if there are none, or fewer than requested.
        """

    def prepare(self) -> None:
        """Prepare what is needed before choosing; called once per machine."""

    def key(self, source: Transitions) -> Any:
        """Return everything besides the settings that determines the choice, as plain JSON types; it names the stored set."""
        return source.about.get("features", source.fingerprint)

    def draw(self, found: int, what: str) -> Tensor:
        """Draw the numbers of ``count`` of ``found`` candidates, (count,); ``what`` describes them in the message.

        Raises:
            UserError: if there are too few.
        """
        if self.count is not None and self.count > found:
            raise UserError(
                f"Only {found} of the {self.count} requested examples exist: {what}; lower the chooser's count to at most "
                f"{found}, or collect more."
            )
        order = torch.randperm(found, generator=stream(self.seed, "examples"))
        return order if self.count is None else order[: self.count]


class StepExamples(ExampleChooser):
    """Base class of choosers that select steps of the data by a predicate, which a subclass defines."""

    @property
    @abstractmethod
    def predicate(self) -> str:
        """The predicate in words, as it follows "no step with"."""

    @abstractmethod
    def solved(self, source: Transitions) -> Tensor:
        """Return True for steps that succeed, (N,), bool."""

    def choose(self, source: Transitions) -> Examples:
        rows = source.drawable_rows(torch.arange(source.drawable_count))  # the next observation of other rows is unknown
        rows = rows[self.solved(source).to(rows.device)[rows]].cpu()
        episodes = len(source.episodes)
        if not len(rows):
            raise UserError(
                f"No example of success found: no step with {self.predicate} in the {episodes} episodes searched; choose another "
                "predicate or threshold, collect episodes that succeed, or give examples from a file or folder."
            )
        searched = f"{len(rows)} steps with {self.predicate} in {episodes} episodes"
        chosen = rows[self.draw(len(rows), searched)]
        about = {
            "chooser": self.describe(),
            "data": source.fingerprint,
            "episodes_searched": episodes,
            "steps_found": len(rows),
            "rows": chosen.tolist(),
        }
        return make_examples(states_after(source, chosen), about)


def states_after(source: Transitions, rows: Tensor) -> Tensor:
    """Return the states reached by the steps ``rows``, (K,): (K, O) float32, or (K, S, S, 3) uint8 if there are images."""
    rows = rows.to(source.device)
    if source.has_pictures:
        return source.pictures(source.frame_ids(rows) + 1)
    return source.column("next_obs")[rows]


class SuccessExamples(StepExamples):
    """Success examples from steps that the environment reports as a success."""

    predicate = "success"

    def solved(self, source: Transitions) -> Tensor:
        if source.success is None:
            raise UserError(
                "No example of success found: these data do not record which steps succeed; choose by reward (RewardExamples), "
                "or give examples from a file or folder."
            )
        return source.success


class RewardExamples(StepExamples, ranges={"threshold": ANY}):
    """Success examples from steps whose true reward is at least a threshold.

    Args:
        threshold: smallest reward, environment units per step.
        count: number of examples; None takes all.
        seed: seed of the choice among more candidates.
    """

    def __init__(self, threshold: float, count: int | None = 200, seed: int = 0) -> None:
        super().__init__(count, seed)
        self.threshold = threshold

    @property
    def predicate(self) -> str:
        """The predicate in words."""
        return f"a reward of at least {self.threshold:g}"

    def solved(self, source: Transitions) -> Tensor:
        return source.reward >= self.threshold


class LastSuccessExamples(SuccessExamples):
    """Success examples from the last successful steps of each episode, where a task is not only reached but completed.

    Args:
        last: largest number of steps per episode.
        count: total number of examples; None takes all.
        seed: seed of the choice among more candidates.
    """

    def __init__(self, last: int = 10, count: int | None = 200, seed: int = 0) -> None:
        super().__init__(count, seed)
        self.last = last

    @property
    def predicate(self) -> str:  # type: ignore[override]
        """The predicate in words."""
        return f"success among the last {self.last} of its episode that succeed"

    def solved(self, source: Transitions) -> Tensor:
        solved = super().solved(source).cpu()
        until = solved.long().cumsum(0)  # number of successes up to and including each step
        lengths, ends = source.episodes.lengths, source.episodes.offsets[1:] - 1
        after = until[ends].repeat_interleave(lengths) - until
        return solved & (after < self.last)


class FileExamples(ExampleChooser):
    """Success examples from a file: .npy, .npz or .safetensors, (K, O), or uint8 images (K, S, S, 3).

    Args:
        path: the file.
        key: name of the array in an .npz or .safetensors file; None if the file holds a single array.
        count: number of examples; None takes all.
        seed: seed of the choice among more candidates.
    """

    def __init__(self, path: str, key: str | None = None, count: int | None = None, seed: int = 0) -> None:
        super().__init__(count, seed)
        self.path, self.array = Path(path), key

    def key(self, source: Transitions) -> Any:
        return [_content(self.path), self.array, source.obs_dim, source.shown_dim]

    def describe(self) -> dict[str, Any]:
        return {**describe(self), "path": str(self.path), "key": self.array}

    def choose(self, source: Transitions) -> Examples:
        states = check_states(self._read(), source, str(self.path))
        if not len(states):
            raise UserError(f"{self.path} holds no example: give a file with at least one state.")
        chosen = self.draw(len(states), f"the states in {self.path}")
        return make_examples(states[chosen], {"chooser": self.describe(), "content": _content(self.path)})

    def _read(self) -> Tensor:
        """Read the array of states."""
        path = self.path
        if path.suffix.lower() not in _READERS:
            raise UserError(f"{path} is not a file of examples: give .npy, .npz or .safetensors.")
        arrays = _sound(path, _READERS[path.suffix.lower()], "as examples", "give a valid .npy, .npz or .safetensors file")
        if not isinstance(arrays, dict):
            return _tensor(arrays, str(path))
        if not arrays:
            raise UserError(f"{path} holds no array: save the states into it, one array (K, O).")
        if self.array is None and len(arrays) == 1:
            return _tensor(next(iter(arrays.values())), str(path))
        if self.array not in arrays:
            wanted = "several arrays and no key was given" if self.array is None else f"no key {self.array!r}"
            raise UserError(f"{path} has {wanted}: set the chooser's key to one of {', '.join(sorted(arrays))}.")
        return _tensor(arrays[self.array], f"{path}: key {self.array!r}")


class FolderExamples(ExampleChooser):
    """Success examples from a folder with one file per state: .npy (O,), or images .png or .jpg of S x S pixels.

    Args:
        path: the folder; hidden files are ignored, all others have to be states.
        count: number of examples; None takes all.
        seed: seed of the choice among more candidates.
    """

    SUFFIXES = (".npy", ".png", ".jpg", ".jpeg")

    def __init__(self, path: str, count: int | None = None, seed: int = 0) -> None:
        super().__init__(count, seed)
        self.path = Path(path)

    def key(self, source: Transitions) -> Any:
        return [[(file.name, _content(file)) for file in self._files()], source.obs_dim, source.shown_dim]

    def describe(self) -> dict[str, Any]:
        return {**describe(self), "path": str(self.path)}

    def choose(self, source: Transitions) -> Examples:
        files = self._files()
        if not files:
            raise UserError(f"The folder {self.path} holds no example: put states into it, one .npy, .png or .jpg file each.")
        states = torch.cat([check_states(self._read(file), source, str(file)) for file in files])
        chosen = self.draw(len(states), f"the files in {self.path}").tolist()
        about = {"chooser": self.describe(), "files": {files[i].name: _content(files[i]) for i in chosen}}
        return make_examples(states[chosen], about)

    def _files(self) -> list[Path]:
        try:
            if not self.path.is_dir():
                raise UserError(f"There is no folder {self.path} of examples: check the path, or make it and put states into it.")
            return sorted(file for file in self.path.iterdir() if not file.name.startswith("."))
        except OSError as error:
            raise UserError(
                f"The folder {self.path} cannot be read ({error.strerror or error}): check its permissions."
            ) from error

    def _read(self, file: Path) -> Tensor:
        """Read one state, (1, ...)."""
        if file.suffix.lower() not in self.SUFFIXES:
            raise UserError(
                f"{file} is not an example: only {', '.join(self.SUFFIXES)} files may lie in the folder; move it elsewhere."
            )
        reader = _npy if file.suffix.lower() == ".npy" else _picture
        state = _sound(file, reader, "as an example", "save it again or take it out of the folder")
        return _tensor(state, str(file)).unsqueeze(0)


def _tensor(values: Any, where: str) -> Tensor:
    """Convert numbers to a tensor."""
    if isinstance(values, Tensor):
        return values
    if values.dtype.kind not in "biuf" or values.dtype.itemsize > 8:
        raise UserError(f"{where} holds {values.dtype} instead of plain numbers: store it as float32, pictures as uint8.")
    return torch.from_numpy(np.ascontiguousarray(values, values.dtype.newbyteorder("=")))  # torch knows this machine's order


def _sound(path: Path, reader: Callable[[Path], Any], what: str, cure: str) -> Any:
    """Return the content that ``reader`` finds in a file.

    Raises:
        UserError: if the file is damaged or has another format.
    """
    try:
        return reader(path)
    except Exception as error:  # readers fail on damaged files in many ways
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UserError(f"{path} cannot be read {what} ({reason}): {cure}.") from error


def _npy(path: Path) -> Any:
    """Read the array of a .npy file; numpy itself would leave a damaged file open."""
    with path.open("rb") as file:
        found = np.load(file, allow_pickle=False)
    if not isinstance(found, np.ndarray):
        raise ValueError("it is an .npz file by another name")
    return found


def _npz(path: Path) -> dict[str, Any]:
    """Read the arrays of an .npz file."""
    with path.open("rb") as opened:
        file = np.load(opened, allow_pickle=False)
        if isinstance(file, np.ndarray):
            raise ValueError("it is a .npy file by another name")
        return {name: file[name] for name in file.files}


def _picture(path: Path) -> Any:
    """Read the pixels of an image, (S, S, 3)."""
    import imageio.v3

    return imageio.v3.imread(path, plugin="pillow")


_READERS: dict[str, Callable[[Path], Any]] = {".npy": _npy, ".npz": _npz, ".safetensors": load_file}
"""Readers of example files, by file extension."""


def _content(path: Path) -> str:
    """Return a hash of a file.

    Raises:
        UserError: if there is none, or it cannot be read.
    """
    try:
        if path.is_dir():
            raise UserError(
                f"{path} is a folder, not a file of examples: give a file; FolderExamples reads a folder of files, without "
                "folders inside."
            )
        if not path.is_file():
            raise UserError(f"There is no file {path} of examples: check the path.")
        return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): check its permissions.") from error
