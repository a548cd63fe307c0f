"""Types between the labelling page, the desk that keeps questions and answers, and the clips."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from lightning_pbrl.data.feedback import Kind, Status
from lightning_pbrl.data.outcomes import Ended

Role = Literal["labeller", "researcher"]
Codec = Literal["webm", "mp4"]
Purpose = Literal["label", "practice", "check", "repeat"]
"""Purpose of an answer: a label; practice with feedback; a check against a gold answer; the person's own answer once more."""


class Key(NamedTuple):
    """Name of a question, in text ``run/round/number``."""

    run: str
    round: int
    number: int

    def __str__(self) -> str:
        return f"{self.run}/{self.round}/{self.number}"

    @classmethod
    def parse(cls, text: str) -> Key | None:
        """Return the key of a text; None when the text is not one."""
        run, *numbers = text.rsplit("/", 2)
        if not run or len(numbers) != 2 or not all(part.isascii() and part.isdecimal() and len(part) < 19 for part in numbers):
            return None
        return cls(run, int(numbers[0]), int(numbers[1]))


class OpenQuestion(NamedTuple):
    """A question as one person sees it.

    Attributes:
        key: name of the question.
        kind: "pair", "rating", or another of :mod:`lightning_pbrl.data.kinds`.
        length: steps per segment.
        start: row ids of the segments' first steps, one or more; -1 where the data forgot them.
        swapped: whether the segments are shown in reverse, the last on the left; fixed by question and person.
        answer: the person's present answer, (value, status), if there is one.
        purpose: of the answer.
        revision: the revision that the next answer has: 0 for a first answer, n + 1 when ``answer`` is revision n.
        expected: right answer of a practice question, (value, status); never sent before it is answered.
        strength: of the present answer's preference, in [0, 1]; None where it was not told.
    """

    key: Key
    kind: Kind
    length: int
    start: tuple[int, ...]
    swapped: bool
    answer: tuple[float | None, Status] | None = None
    purpose: Purpose = "label"
    revision: int = 0
    expected: tuple[float | None, Status] | None = None
    strength: float | None = None

    @property
    def practice(self) -> bool:
        """True for a question for practice, with feedback; its answer does not count."""
        return self.purpose == "practice"

    @property
    def repeat(self) -> bool:
        """True for a question that the person has answered before."""
        return self.purpose == "repeat"


class Reviewed(NamedTuple):
    """A question that has a label, among all that have one.

    Attributes:
        question: the question, with the label as its ``answer``; the first segment is on the left.
        answered_by: who gave the label.
        place: place in the order of run, round and number, from 1.
        total: number of questions with a label.
        before: the one before it; None for the first.
        after: the one after it; None for the last.
    """

    question: OpenQuestion
    answered_by: str
    place: int
    total: int
    before: Key | None
    after: Key | None


class Person(NamedTuple):
    """A person by the name that was chosen for the link, and nothing else."""

    name: str
    role: Role


class Kept(NamedTuple):
    """Outcome of an answer: kept; the same again; a stale revision; closed meanwhile; no such question."""

    how: Literal["kept", "again", "late", "closed", "unknown"]
    revision: int


class Progress(NamedTuple):
    """Counts of one person; ``waits_for`` is the number of answers that the model waits for (0: it goes on)."""

    answered: int
    asked: int
    open: int
    waits_for: int


class PersonSummary(NamedTuple):
    """Numbers of one person's answers; None where there is nothing to count.

    Attributes:
        name: name of the person.
        answers: number of questions answered.
        seconds: median time per answer.
        skipped: share of "cannot tell", in [0, 1].
        first_side: share of strict preferences for the left clip, in [0, 1]; 0.5 without position bias.
        gold: share of the checks by gold questions that were answered as expected, in [0, 1].
        consistency: share of repeated questions that were answered alike, in [0, 1].
    """

    name: str
    answers: int
    seconds: float | None
    skipped: float | None
    first_side: float | None
    gold: float | None
    consistency: float | None = None


class Overview(NamedTuple):
    """Numbers for the researcher.

    Attributes:
        people: everyone who has answered.
        kappa: agreement, Cohen's or Fleiss' kappa, in [-1, 1]; None without questions that several have answered.
        alpha: Krippendorff's alpha, likewise.
        open: number of questions that still take answers.
        closed: number of the others.
        total: number of questions.
        paused: whether nothing is asked until the researcher says so.
        ended: "asked" if the runs ask nothing more, "ended" if they have come to their end; None if one may ask.
    """

    people: Sequence[PersonSummary]
    kappa: float | None
    alpha: float | None
    open: int
    closed: int
    total: int
    paused: bool = False
    ended: Ended | None = None


class AnyDesk(Protocol):
    """Storage behind the page; safe to call from several threads."""

    def invite(self, name: str, role: Role = "labeller") -> str:
        """Return a new token for a person; an older one stops working."""

    def people(self) -> list[Person]:
        """Return everyone who was invited."""

    def person(self, token: str) -> Person | None:
        """Return whose token it is; the time that this takes tells nothing about other tokens."""

    def next(self, person: str, count: int = 2, without: Collection[Key] = ()) -> list[OpenQuestion]:
        """Return open questions for a person, oldest first."""

    def question(self, key: Key, person: str, repeat: bool = False) -> OpenQuestion | None:
        """Return a question as a person sees it, for the first time or as a repeat."""

    def answer(
        self,
        person: str,
        key: Key,
        value: float | None,
        status: Status,
        *,
        seconds: float,
        revision: int,
        strength: float | None = None,
        repeat: bool = False,
    ) -> Kept:
        """Keep an answer in the stored order of the segments; it is on disk when this returns."""

    def together(self) -> AbstractContextManager[None]:
        """Let the answers that a thread gives in a block share a flush to the disk; all fail where that fails."""

    def last(self, person: str) -> OpenQuestion | None:
        """Return the newest question that a person has answered."""

    def progress(self, person: str) -> Progress:
        """Return the counts of a person."""

    def ended(self) -> Ended | None:
        """Return "asked" if the runs ask nothing more, "ended" if they have come to their end; None if one may ask."""

    def bins(self, run: str) -> int:
        """Return the number of levels of a run's ratings."""

    def overview(self) -> Overview:
        """Return the numbers for the researcher."""

    def reviewed(self, key: Key | None = None) -> Reviewed | None:
        """Return a question that has a label, or the first when None; None if there is no such question."""

    def close(self, key: Key | None, closed: bool = True) -> None:
        """Close or reopen one question; pause or continue everything with None."""


class Films(Protocol):
    """Films of the questions' segments."""

    def made(self, question: OpenQuestion, which: int, codec: Codec) -> Path | None:
        """Return the file of a question's segment ``which`` if it is made; waits for nothing, and asks for nothing."""

    def path(self, question: OpenQuestion, which: int, codec: Codec) -> Path | None:
        """Return the file of a question's segment ``which`` (from 0, in the stored order); None while it is being made.

        Raises:
            UserError: one sentence for the person on the page, when it cannot be drawn.
        """
