"""Teacher that shows two clips to a vision-language model behind OpenAI's chat interface.

Source of the idea: Wang et al., "RL-VLM-F", ICML 2024 (arXiv 2402.03681), whose model compares two images by a text of the task.
"""

from __future__ import annotations

import base64
import re
import warnings
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_pbrl.data.feedback import Answer, Clips, Query, Status
from lightning_pbrl.data.guard import parse_json
from lightning_pbrl.errors import UserError
from lightning_pbrl.ranges import COUNT, COUNT_OR_NONE, POSITIVE, WEIGHT
from lightning_pbrl.rng import uniform
from lightning_pbrl.teachers.endpoint import Endpoint, Unavailable
from lightning_pbrl.teachers.function import Clip, FunctionTeacher, Opinion

DRAW_ORDER = 4
"""Index of the random number that decides which clip is shown first."""

PROMPT = """\
You compare two short clips, A and B, of an agent that learns a task. You see evenly spaced frames of each, in order of time.
Decide in which clip the agent does better at the task.
Answer with one JSON object and nothing else: {"answer": "A", "confidence": 0.9}
"answer" is "A", "B", "equal" (both are as good) or "cannot tell"; "confidence" is a number from 0 to 1."""

ANSWERS: dict[str, float | None] = {"A": 0.0, "B": 1.0, "equal": 0.5, "cannot tell": None}


class VisionTeacher(
    FunctionTeacher,
    ranges={
        **dict.fromkeys(("images", "workers", "quality"), COUNT),
        "retries": COUNT_OR_NONE,
        "timeout": POSITIVE,
        "temperature": WEIGHT,
    },
):
    """Vision-language model that compares pairs by a text of the task; any server with OpenAI's chat interface.

    The order of the two clips is drawn from the question's key, so that a preference for a side averages out. The answer must be
    the JSON that :data:`PROMPT` asks for, alone or in a code block.

    ===============================================================  ==========================================
    outcome                                                          status
    ===============================================================  ==========================================
    A or B; equal                                                    answered; equal
    "cannot tell", a refusal, a content filter, any other text       skipped
    after ``retries``: HTTP 429, 5xx, time-out, no or broken JSON    as ``unavailable`` says
    HTTP 401 or 403, a wrong address, model or setting               error, which ends the run
    ===============================================================  ==========================================

    A repetition waits 1, 2, 4 ... s, or as long as the server's Retry-After asks for. Once a server has exhausted the
    repetitions, the rest of the batch is not tried.

    Args:
        base_url: address of the interface, such as ``http://localhost:8000/v1``.
        model: name of the model there.
        task: description of the task, one or two sentences.
        key_variable: environment variable that holds the key; the key itself is never stored.
        images: number of frames per clip, evenly spaced, first and last included.
        image_format: jpeg, or png without loss.
        quality: of jpeg, 1 to 95.
        prompt: instruction, in place of :data:`PROMPT`.
        temperature: of the model's sampling; None leaves it to the server. Above 0, repeated draws may differ.
        timeout: of one request, seconds.
        retries: repetitions of a failed request.
        workers: requests at a time.
        unavailable: pending leaves questions without an answer open, to be answered by a person or a file; skipped gives them
            up; stop ends the run, and ``--resume`` asks again.
        extra: further entries of the request, such as ``{max_tokens: 100}``.

    Raises:
        UserError: for settings out of range, clips without frames, and what the table says.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        task: str,
        key_variable: str = "OPENAI_API_KEY",
        images: int = 8,
        image_format: Literal["jpeg", "png"] = "jpeg",
        quality: int = 85,
        prompt: str = PROMPT,
        temperature: float | None = 0.0,
        timeout: float = 60.0,
        retries: int = 3,
        workers: int = 4,
        unavailable: Literal["pending", "skipped", "stop"] = "pending",
        extra: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(self.compare, frames=True, task=task, workers=workers)
        self._given.pop("fn", None)
        self.endpoint = Endpoint(base_url, model, key_variable, timeout, retries, extra=extra)
        self.images, self.image_format, self.quality, self.prompt = images, image_format, quality, prompt
        self.temperature, self.unavailable = temperature, unavailable
        self._lost: list[str] = []

    def confident(self, query: Query, clips: Clips, keys: Tensor) -> tuple[Answer, Tensor]:
        """Ask about each question, and warn once if the server was not available."""
        self._lost = []
        answer, confidence = super().confident(query, clips, keys)
        if self._lost:
            warnings.warn(f"{self._lost[0]}; {len(self._lost)} of {len(query)} questions are {self.unavailable}.", stacklevel=2)
        return answer, confidence

    def compare(self, first: Clip, second: Clip) -> Opinion:
        """Ask the model about one pair.

        Returns:
            0, 1, 0.5 or None with the model's confidence; ``Status.PENDING`` or None if the server is not available.
        """
        lost = Opinion(Status.PENDING if self.unavailable == "pending" else None, 0.0)
        if self._lost:
            self._lost.append("")
            return lost
        swapped = bool(uniform(torch.tensor([first.key]), DRAW_ORDER) < 0.5)
        shown = (second, first) if swapped else (first, second)
        settings = {} if self.temperature is None else {"temperature": self.temperature}
        try:
            choice = self.endpoint.chat(self._messages(*shown), seed=first.key % 2**31, **settings)
        except Unavailable as error:
            self._lost.append(str(error))
            if self.unavailable == "stop":
                raise UserError(f"{error}: start the server, then run the same command with --resume.") from error
            return lost
        value, confidence = parse(choice)
        return Opinion(1 - value if swapped and value is not None else value, confidence)

    def _messages(self, first: Clip, second: Clip) -> list[dict[str, Any]]:
        """Return the conversation that shows two clips."""
        content: list[dict[str, Any]] = [{"type": "text", "text": f"Task: {self.task}"}]
        for name, clip in (("A", first), ("B", second)):
            content.append({"type": "text", "text": f"Clip {name}:"})
            content += [{"type": "image_url", "image_url": {"url": url}} for url in self._pictures(clip)]
        return [{"role": "system", "content": self.prompt}, {"role": "user", "content": content}]

    def _pictures(self, clip: Clip) -> list[str]:
        """Return evenly spaced frames as data URLs."""
        import imageio.v3 as imageio

        frames: NDArray[np.uint8] = clip.frames if clip.frames is not None else np.empty((0, 1, 1, 3), np.uint8)
        places = np.unique(np.linspace(0, len(frames) - 1, min(self.images, len(frames))).round().astype(int))
        options: dict[str, Any] = {"quality": self.quality} if self.image_format == "jpeg" else {}
        found = [imageio.imwrite("<bytes>", frames[place], extension=f".{self.image_format}", **options) for place in places]
        return [f"data:image/{self.image_format};base64,{base64.b64encode(each).decode()}" for each in found]


def parse(choice: dict[str, Any]) -> Opinion:
    """Return the answer in a choice of the server, as shown; None for a refusal or any text but the JSON asked for."""
    message = choice["message"]
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    if message.get("refusal") or choice.get("finish_reason") == "content_filter" or not isinstance(content, str):
        return Opinion(None, 0.0)
    fenced = re.fullmatch(r"\s*```(?:json)?\s*\n(.*)\n\s*```\s*", content, flags=re.DOTALL)
    try:
        found = parse_json(fenced[1] if fenced else content)
    except (ValueError, RecursionError):
        return Opinion(None, 0.0)
    answer = found.get("answer") if isinstance(found, dict) else None
    confidence = found.get("confidence", 1.0) if isinstance(found, dict) else None
    number = isinstance(confidence, int | float) and not isinstance(confidence, bool) and 0 <= confidence <= 1
    if not isinstance(answer, str) or not number:
        return Opinion(None, 0.0)
    value = ANSWERS.get(answer)
    return Opinion(value, 0.0 if value is None or confidence is None else float(confidence))
