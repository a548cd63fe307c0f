"""A question and its answers as the page speaks of them: sides instead of the stored order, sentences instead of codes."""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import quote

from lightning_pbrl.data import kinds
from lightning_pbrl.data.feedback import Status
from lightning_pbrl.data.outcomes import Ended
from lightning_pbrl.errors import UserError
from lightning_pbrl.labelling.interface import Codec, Films, Kept, Key, OpenQuestion, Progress
from lightning_pbrl.labelling.security import Refusal, without_paths

CODECS: tuple[Codec, ...] = ("webm", "mp4")  # Chromium without H.264 plays the first, old Safari the second

Choice = Literal["left", "right", "equal", "skip"] | int
"""Answer on the page; an int is a rating from 0, or the place of the best clip from the left."""

OUTCOMES = {
    "kept": "",
    "again": "",
    "late": "You have already answered this question, perhaps in another tab: it stands. Undo shows the newest one again.",
    "closed": "This question was closed meanwhile: no answer is needed, and your other answers stand.",
    "unknown": "This question no longer exists: the page goes on with the next one.",
}

OVER: dict[Ended | None, str] = {
    None: "",
    "asked": "You have answered everything, and the run asks nothing more. Thank you: you can close this page.",
    "ended": "The run has ended, and asks nothing more. Thank you: you can close this page.",
}
"""Sentence for a person who has no question left, by the state of the run."""


MUCH = 1.0
"""Strength of "much better" on the page."""


def stored(question: OpenQuestion, choice: Choice, levels: int, strength: float | None = None) -> tuple[float | None, Status]:
    """Return (value, status) of a choice, in the stored order of the segments; the strength tells the level of a graded pair.

    Raises:
        Refusal: with status 422, when the choice does not fit the question.
    """
    if choice == "skip":
        return None, Status.SKIPPED
    if question.kind == "rating":
        if isinstance(choice, int) and 0 <= choice < levels:
            return float(choice), Status.ANSWERED
        raise Refusal(422, f"A rating is a number from 1 to {levels}, or 'cannot tell': nothing was stored.")
    if isinstance(kinds.of(question.kind), kinds.Best):
        if isinstance(choice, int) and 0 <= choice < places(question):
            return float(which(question, choice)), Status.ANSWERED
        raise Refusal(422, f"The best clip is a number from 1 to {places(question)}, or 'cannot tell': nothing was stored.")
    if choice == "equal":
        return 0.5, Status.EQUAL
    if isinstance(choice, int):
        raise Refusal(422, "Two clips are compared with left, right, equal or 'cannot tell': nothing was stored.")
    value = float((choice == "right") != question.swapped)
    if is_graded(question) and strength != MUCH:
        value = 0.5 + 0.5 * (value - 0.5)
    return value, Status.ANSWERED


def is_graded(question: OpenQuestion) -> bool:
    """Return True if a question asks for the strength of a preference."""
    return isinstance(kinds.of(question.kind), kinds.Graded)


def chosen(question: OpenQuestion, answer: tuple[float | None, Status] | None) -> Choice | None:
    """Return the choice on the page that means a stored answer; the inverse of :func:`stored`."""
    if answer is None or answer[1] == Status.PENDING:
        return None
    value, status = answer
    if status == Status.SKIPPED or value is None:
        return "skip"
    if question.kind == "rating":
        return int(value)
    if isinstance(kinds.of(question.kind), kinds.Best):
        return which(question, int(value))
    if status == Status.EQUAL:
        return "equal"
    return "right" if (value > 0.5) != question.swapped else "left"


def _spoken(choice: Choice | None) -> str:
    names = {"left": "the left clip", "right": "the right clip", "equal": "equal", "skip": "cannot tell"}
    return f"{choice + 1}" if isinstance(choice, int) else names.get(choice or "", "")


def described(question: OpenQuestion, clips: Films, levels: int) -> dict[str, Any]:
    """Return a question as JSON for the page; it tells neither which segment is stored first nor what is a check."""
    urls, waiting, sentence = _clips(question, clips)
    return {
        "key": str(question.key),
        "kind": kinds.base_of(question.kind),
        "axis": kinds.axis_of(question.kind),
        "length": question.length,
        "levels": levels if question.kind == "rating" else 0,
        "practice": question.practice,
        "repeat": question.repeat,
        "answer": chosen(question, question.answer),
        "places": places(question),
        "strength": _strength(question),
        "revision": question.revision,
        "clips": urls,
        "waiting": waiting,
        "sentence": sentence,
    }


def _strength(question: OpenQuestion) -> float | None:
    """Return the strength of the present answer; of a graded pair its value tells it."""
    if not is_graded(question) or question.answer is None or question.answer[1] != Status.ANSWERED:
        return question.strength
    return MUCH if question.answer[0] in (0, 1) else 0.5


def label(question: OpenQuestion) -> dict[str, Any]:
    """Return the words for a stored answer, with the first segment on the left: sentence, names of places, chosen ones, mark."""
    question = question._replace(swapped=False)
    choice = chosen(question, question.answer)
    if isinstance(choice, int) and question.kind != "rating":
        names = [f"Clip {place + 1}" for place in range(places(question))]
        return {"sentence": f"{names[choice]} is best", "places": names, "chosen": [choice], "mark": "best"}
    if question.kind == "rating":
        told = "Nobody could tell" if choice == "skip" or question.answer is None else f"Rated {1 + (question.answer[0] or 0):g}"
        return {"sentence": told, "places": ["Clip"], "chosen": [], "mark": ""}
    sentence = {"left": "The first clip is better", "right": "The second clip is better", "equal": "Both are equally good"}
    if is_graded(question) and question.answer is not None and question.answer[0] in (0, 1):
        sentence = {side: told.replace("better", "much better") for side, told in sentence.items()}
    marked = {"left": [0], "right": [1], "equal": [0, 1]}.get(str(choice), [])
    mark = "equal" if choice == "equal" else "better"
    return {
        "sentence": sentence.get(str(choice), "Nobody could tell"),
        "places": ["First", "Second"] if places(question) == 2 else [f"Clip {n + 1}" for n in range(places(question))],
        "chosen": marked,
        "mark": mark,
    }


def which(question: OpenQuestion, place: int) -> int:
    """Return the stored segment at a place on the page, from the left."""
    return places(question) - 1 - place if question.swapped else place


def places(question: OpenQuestion) -> int:
    """Return the number of clips of a question."""
    return len(question.start)


def _clips(question: OpenQuestion, clips: Films) -> tuple[list[dict[str, str]], bool, str]:
    """Return addresses by codec for each place, whether they are still being made, and a sentence when they cannot be."""
    each = range(places(question))
    try:
        paths = [clips.path(question, which(question, place), codec) for place in each for codec in CODECS]
    except UserError as error:
        return [], False, without_paths(str(error))
    name, again = quote(str(question.key)), "?repeat=true" if question.repeat else ""
    return [{codec: f"/clips/{name}/{place}.{codec}{again}" for codec in CODECS} for place in each], None in paths, ""


def outcome(question: OpenQuestion, kept: Kept, choice: Choice, progress: Progress) -> dict[str, Any]:
    """Return what became of an answer as JSON; of a practice question also whether it was the expected one."""
    feedback = None
    if question.practice and question.expected is not None and kept.how in ("kept", "again"):
        expected = chosen(question, question.expected)
        best = isinstance(expected, int) and question.kind != "rating"
        sentence = f"The expected answer is {'clip ' if best else ''}{_spoken(expected)}."
        feedback = {"right": choice == expected, "sentence": "Right." if choice == expected else f"Not quite. {sentence}"}
    said = {"how": kept.how, "revision": kept.revision, "sentence": OUTCOMES[kept.how]}
    return {**said, "feedback": feedback, "progress": counted(progress)}


def counted(progress: Progress, ended: Ended | None = None) -> dict[str, Any]:
    """Return progress as JSON, with its words."""
    model = f"the model waits for {progress.waits_for}" if progress.waits_for else "the model goes on without waiting"
    model = model if ended is None else "the run has ended" if ended == "ended" else "nothing more is asked"
    text = f"{progress.answered} of {progress.asked}, {model}" if progress.asked else "no question so far"
    return {"answered": progress.answered, "asked": progress.asked, "text": text}


def parsed(text: str) -> Key:
    """Return the key of a text from a request.

    Raises:
        Refusal: with status 404, when it is none.
    """
    if (key := Key.parse(text)) is None:
        raise Refusal(404, OUTCOMES["unknown"])
    return key
