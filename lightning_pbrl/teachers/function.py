"""Teacher that asks a Python function: a model, a rule, or a program of yours."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_pbrl.data import kinds
from lightning_pbrl.data.feedback import Answer, Clips, Kind, Query, Status
from lightning_pbrl.data.guard import reason
from lightning_pbrl.errors import UserError
from lightning_pbrl.ranges import COUNT
from lightning_pbrl.teachers.base import Teacher


class Clip(NamedTuple):
    """One segment as the function sees it; the true reward is not part of it.

    Attributes:
        obs: (T, O), float32.
        action: (T, A), float32.
        frames: (T, H, W, 3), uint8, RGB; None unless the teacher wants them.
        task: description of the task, as the config gives it.
        key: key of the question, the only source of randomness (a seed for whatever the function draws).
    """

    obs: NDArray[np.float32]
    action: NDArray[np.float32]
    frames: NDArray[np.uint8] | None
    task: str
    key: int


class Opinion(NamedTuple):
    """Answer of a function that knows how sure it is.

    Attributes:
        value: as a function returns it without an opinion.
        confidence: in [0, 1].
    """

    value: float | Status | None
    confidence: float = 1.0


class FunctionTeacher(Teacher, ranges={"workers": COUNT}):
    """Teacher that asks a function of the clips of one question.

    For a pair the function gets two :class:`Clip` objects. It returns 0 (first preferred), 1 (second), 0.5 (equal) or None
    (cannot tell). For a rating it gets one and returns a number or None. It may also return ``Status.PENDING`` (no answer
    yet), or an :class:`Opinion`, from which :class:`~lightning_pbrl.teachers.router.RouterTeacher` takes the confidence. The
    answer must depend on the arguments alone, because a resumed run may ask again::

        def faster(first: Clip, second: Clip) -> float:
            return float(second.obs[:, 3].mean() > first.obs[:, 3].mean())

    Args:
        fn: the function, or "module:function" in a config. A module of the working folder can be named.
        kind: kind of question that it answers.
        bins: number of rating levels, which are 0 .. ``bins`` - 1; None allows any finite number.
        frames: give it the frames of the segments as well.
        task: description of the task, handed on in each clip.
        workers: questions asked at a time, in threads.

    Raises:
        UserError: if there is no such function; if it fails or returns anything else, with the question; if frames are wanted
            and there are none.
    """

    simulated: ClassVar[bool] = False

    def __init__(
        self,
        fn: str | Callable[..., Any],
        kind: Literal["pair", "rating", "graded", "best"] = "pair",
        bins: int | None = None,
        frames: bool = False,
        task: str = "",
        workers: int = 1,
    ) -> None:
        self.call = load(fn) if isinstance(fn, str) else fn
        self.fn = fn if isinstance(fn, str) else name_of(fn)
        self._given["fn"] = self.fn  # so that a record and a config name it
        self.kind, self.kinds = kind, frozenset({kind})  # type: ignore[misc]
        self.bins, self.frames, self.task, self.workers = bins, frames, task, workers
        self.wants_frames = frames

    def answer(self, query: Query, clips: Clips, keys: Tensor) -> Answer:
        """Ask the function about each question."""
        return self.confident(query, clips, keys)[0]

    def confident(self, query: Query, clips: Clips, keys: Tensor) -> tuple[Answer, Tensor]:
        """Ask the function about each question, and return how sure it is; 1 where it does not say."""
        if self.wants_frames and clips.frames is None:
            raise UserError(
                f"{type(self).__name__} looks at frames and these clips have none: set frames to false, or ask about data whose "
                "segments can be drawn."
            )

        def ask(i: int) -> Opinion:
            shown = [self._clip(clips, i, c, int(keys[i])) for c in range(clips.obs.shape[1])]
            rows = " and ".join(map(str, query.start[i].tolist()))
            return self._checked(shown, f"question {i} of {len(query)}, about the segments from row {rows}")

        if self.workers > 1:
            with ThreadPoolExecutor(self.workers) as pool:
                opinions = list(pool.map(ask, range(len(query))))
        else:
            opinions = [ask(i) for i in range(len(query))]
        return together(opinions, query.kind)

    def _clip(self, clips: Clips, i: int, c: int, key: int) -> Clip:
        frames = clips.frames[i, c].numpy() if self.wants_frames and clips.frames is not None else None
        return Clip(clips.obs[i, c].numpy(), clips.action[i, c].numpy(), frames, self.task, key)

    def _checked(self, shown: list[Clip], where: str) -> Opinion:
        """Ask about one question, and check what comes back."""
        try:
            found = self.call(*shown)
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"{type(self).__name__}: {self.fn} failed at {where} ({type(error).__name__}: {reason(error)}): correct it, or "
                "let it return None where it cannot tell."
            ) from error
        value, confidence = found if isinstance(found, Opinion) else Opinion(found)
        if value is None or value is Status.SKIPPED or value is Status.PENDING:
            return Opinion(value, confidence)
        try:
            number, sure = (math.nan if isinstance(each, str | Status) else float(each) for each in (value, confidence))
        except (TypeError, ValueError):
            number = sure = math.nan
        good = math.isfinite(number) and kinds.of(self.kind).takes(number, len(shown))
        if self.kind == "rating" and self.bins is not None:
            good = number in range(self.bins)
        if not good or not 0 <= sure <= 1:
            ratings = f"a number{f' 0 .. {self.bins - 1}' if self.bins else ''}"
            wanted = {"pair": "0, 1, 0.5 (equal)", "rating": ratings}.get(self.kind) or kinds.of(self.kind).values
            raise UserError(
                f"{type(self).__name__}: {self.fn} returned {found!r:.200} at {where}: return {wanted} or None, or an Opinion "
                "with a confidence in [0, 1]."
            )
        return Opinion(number, sure)


def together(opinions: list[Opinion], kind: Kind) -> tuple[Answer, Tensor]:
    """Return opinions as a batch of answers, with the confidence in each, (B,), float64; 0 where there is no answer."""
    value = torch.full((len(opinions),), torch.nan)
    status = torch.full((len(opinions),), int(Status.SKIPPED))
    confidence = torch.zeros(len(opinions), dtype=torch.float64)
    for i, each in enumerate(opinions):
        if each.value is Status.PENDING:
            status[i] = Status.PENDING
        elif each.value is not None and each.value is not Status.SKIPPED:
            value[i], confidence[i] = float(each.value), each.confidence
            status[i] = kinds.of(kind).status(float(each.value))
    return Answer(value, status), confidence


def load(name: str) -> Callable[..., Any]:
    """Return the function that "module:function" names.

    Raises:
        UserError: if there is none.
    """
    module, _, attribute = name.partition(":")
    try:
        found: Any = importlib.import_module(module) if module and attribute else None
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"There is no function {name!r} ({reason(error)}): name it as module:function, of an installed package or of a file "
            "in the working folder."
        ) from error
    if not callable(found):
        raise UserError(f"{name} is a {type(found).__name__}: name a function, as module:function.")
    return found


def name_of(fn: Callable[..., Any]) -> str:
    """Return the name of a function, module:function, or of the class of a callable object."""
    named = fn if hasattr(fn, "__qualname__") else type(fn)
    return f"{named.__module__}:{named.__qualname__}"
