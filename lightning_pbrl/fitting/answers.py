"""Answers that a method may learn from, and the errors of a method that has none.

One rule for all learners: a round without a usable answer changes nothing, since better ones may follow. Once no more answers can
come, a method without any is refused, so that nothing untrained is saved, evaluated or used for relabelling.
"""

from __future__ import annotations

import warnings
from typing import Any

from lightning_pbrl.data.feedback import Asked as Asked
from lightning_pbrl.data.feedback import Labels, Status
from lightning_pbrl.errors import UserError


def usable(method: Any) -> int:
    """Return the number of a method's answers that it, or the reward model that it holds, can learn from."""
    if method.reward_model is not None:
        hand_over(method)
        return int(method.reward_model.usable())
    pairs = len(method.labels.preferences()) if "pair" in method.kinds else 0
    pairs += len(method.ratings.preferences()) if "rating" in method.kinds else 0
    return pairs + sum(len(found.preferences()) for kind, found in method.others.items() if kind in method.kinds)


def hand_over(method: Any) -> None:
    """Give a method's data and answers to the reward model that it holds."""
    model = method.reward_model
    if model is not None:
        model.source, model.labels, model.ratings = getattr(method, "source", None), method.labels, method.ratings
        model.others = method.others


def check_answers(method: Any) -> None:
    """Count what a new round can learn from; raise a UserError if nothing, or if only open questions are left."""
    if "labels" not in method.needs:
        return
    before, method.learned_from = method.learned_from, method.usable()
    if not method.learned_from and not may_come(method):
        raise nothing_learned(method)
    if left_waiting(method) and not method.asked.this_round and before == method.learned_from:
        raise unanswered(method)


def may_come(method: Any) -> bool:
    """Return True if a later round asks."""
    return method.asked.remaining > 0 and not method.asked.over


def left_waiting(method: Any) -> bool:
    """Return True if no round asks any more and answers are missing that the method waits for."""
    return method.waits and method.pending > 0 and not may_come(method)


def conclude(method: Any, done: bool) -> bool:
    """Return True if the fit ends here and waits for answers; raise a UserError if it ends without having learned from any."""
    if done and "labels" in method.needs and not method.learned_from:
        raise nothing_learned(method)
    return done and left_waiting(method)


def end(method: Any) -> None:
    """Raise a UserError if the ended fit waits for answers; warn of questions that nobody answered."""
    if method.waiting:
        raise unanswered(method)
    if method.finished and method.pending:
        name = type(method).__name__
        warnings.warn(f"{method.pending} questions were never answered: {name} has learned from the others.", stacklevel=3)


def nothing_learned(method: Any, labels: Labels | None = None) -> UserError:
    """Return the error of a learner without a usable answer; ``labels`` are its pairs if these are not its own."""
    labels = method.labels if labels is None else labels
    name, count = type(method).__name__, _count(labels, method)
    if not count:
        return UserError(f"{name} learns from answers and there are none: set ask.budget and ask.teacher, or give labels.")
    if method.pending:
        return unanswered(method)
    rates = " or rates one" if "rating" in method.kinds else ""
    compares = "compares segments" if any(map(len, method.others.values())) else "compares two segments"
    return UserError(
        f"None of the {count} answers {compares}{rates}, and {name} learns from such "
        f"answers alone ({_told(labels, method)}): raise ask.per_round, or use a teacher who skips less."
    )


def unanswered(method: Any) -> UserError:
    """Return the error of a fit that can only wait."""
    name, count = type(method).__name__, _count(method.labels, method)
    where = f" in the label store {method.answers_from}" if method.answers_from else ""
    others = f"has learned from {method.learned_from} others" if method.learned_from else "has nothing else to learn from"
    return UserError(
        f"{method.pending} of {count} questions{where} have not been answered yet, and {name} {others}: answer them, "
        "then the same command with --resume goes on."
    )


def _count(labels: Labels, method: Any) -> int:
    """Return the number of questions of all kinds."""
    return sum(map(len, (labels, method.ratings, *method.others.values())))


def _told(labels: Labels, method: Any) -> str:
    """Return how many answers are of which kind and status, as ``"38 skipped, 2 ratings answered"``."""
    parts = []
    for found, kind in (
        (labels, ""),
        (method.ratings, "ratings "),
        *((found, f"{kind} ") for kind, found in method.others.items()),
    ):
        for status in Status:
            number = int((found.status == status).sum())
            parts += [f"{number} {kind}{status.name.lower()}"] if number else []
    return ", ".join(parts)


def check_learned(method: Any, what: str) -> None:
    """Raise a UserError that begins with ``what`` if a model has been fitted and has learned from no answer."""
    if method.learned_from == 0:
        raise UserError(
            f"{what} is a {type(method).__name__} that has not learned from a single answer, so its reward is that of initial "
            "weights: go on with its fit until it has, or give another reward model."
        )
