"""A desk in memory and a folder of small films, for tests of the page."""

from __future__ import annotations

import hmac
import statistics
import threading
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from lightning_pbrl.data.feedback import Status
from lightning_pbrl.errors import UserError
from lightning_pbrl.labelling.interface import Kept, Key, OpenQuestion, Overview, Person, PersonSummary, Progress, Reviewed

CLIPS = {"rating": 1, "best": 4}
"""Segments of a question by kind; two of any other."""


def starts(number: int, kind: str) -> tuple[int, ...]:
    return tuple(number + 50 * place for place in range(CLIPS.get(kind.partition(":")[0], 2)))


class FakeDesk:
    """Every question is for everybody; odd numbers are shown swapped."""

    def __init__(self, count: int = 5, kinds: tuple[str, ...] = ("pair",), practice: int = 0, bins: int = 6) -> None:
        self.questions = {
            (key := Key("run-1", 0, number)): OpenQuestion(
                key, kinds[number % len(kinds)], 20, starts(number, kinds[number % len(kinds)]), number % 2 == 1,
                purpose="practice" if number < practice else "label",
                expected=(1.0, Status.ANSWERED) if number < practice else None,
            )
            for number in range(count)
        }  # fmt: skip
        self.answers: dict[tuple[str, Key], list[tuple[float | None, Status, float]]] = {}
        self.strengths: dict[tuple[str, Key], float | None] = {}
        self.closed: set[Key] = set()
        self.order: dict[str, list[Key]] = {}
        self.tokens: dict[str, Person] = {}
        self.failing: str | None = None
        self.paused, self.over = False, None
        self._bins, self._lock = bins, threading.Lock()

    def invite(self, name, role="labeller"):
        self.tokens = {token: person for token, person in self.tokens.items() if person.name != name}
        token = f"token-{name}-{len(self.order)}-{sum(map(ord, name))}-{np.random.default_rng().integers(10**12)}"
        self.tokens[token] = Person(name, role)
        return token

    def people(self):
        return list(self.tokens.values())

    def person(self, token):
        return next(
            (person for known, person in self.tokens.items() if hmac.compare_digest(known.encode(), token.encode())), None
        )

    def next(self, person, count=2, without=()):
        self._check()
        if self.paused:
            return []
        waiting = [k for k in self.questions if (person, k) not in self.answers and k not in self.closed and k not in without]
        return [self.questions[key] for key in waiting[:count]]

    def question(self, key, person, repeat=False):
        if repeat:
            return None
        found, given = self.questions.get(key), self.answers.get((person, key))
        if found is None or given is None:
            return found
        return found._replace(answer=given[-1][:2], revision=len(given), strength=self.strengths.get((person, key)))

    def reviewed(self, key=None):
        labelled = sorted({each for _, each in self.answers})
        if key is None and labelled:
            key = labelled[0]
        if key not in labelled:
            return None
        place = labelled.index(key)
        by = next(person for person, each in self.answers if each == key)
        question = self.questions[key]._replace(swapped=False, answer=self.answers[by, key][-1][:2])
        before, after = labelled[place - 1] if place else None, (labelled[place + 1 :] or [None])[0]
        return Reviewed(question, by, place + 1, len(labelled), before, after)

    def answer(self, person, key, value, status, *, seconds, revision, strength=None, repeat=False):
        self._check()
        with self._lock:
            if key not in self.questions:
                return Kept("unknown", 0)
            given = self.answers.setdefault((person, key), [])
            if len(given) == revision + 1 and given[-1][:2] == (value, status):
                return Kept("again", revision)
            if key in self.closed and not given:
                del self.answers[person, key]
                return Kept("closed", 0)
            if revision != len(given):
                return Kept("late", len(given) - 1)
            given.append((value, status, seconds))
            self.strengths[person, key] = strength
            order = self.order.setdefault(person, [])
            if key not in order:
                order.append(key)
            return Kept("kept", revision)

    def together(self):
        return nullcontext()

    def last(self, person):
        order = self.order.get(person)
        return self.question(order[-1], person) if order else None

    def progress(self, person):
        done = len(self.order.get(person, []))
        left = len(self.next(person, 10**6))
        return Progress(done, len(self.questions), left, left)

    def ended(self):
        return self.over

    def bins(self, run):
        return self._bins

    def overview(self):
        people = []
        for name, keys in self.order.items():
            given = [self.answers[name, key][-1] for key in keys]
            left = [
                (v > 0.5) == self.questions[k].swapped for k, (v, s, _) in zip(keys, given, strict=True) if s == Status.ANSWERED
            ]
            skipped = sum(status == Status.SKIPPED for _, status, _ in given) / len(given)
            seconds = statistics.median(each[2] for each in given)
            people.append(PersonSummary(name, len(given), seconds, skipped, sum(left) / len(left) if left else None, None))
        closed = len(self.closed)
        return Overview(people, 0.62, None, len(self.questions) - closed, closed, len(self.questions), self.paused, self.over)

    def close(self, key, closed=True):
        if key is None:
            self.paused = closed
        else:
            (self.closed.add if closed else self.closed.discard)(key)

    def _check(self):
        if self.failing:
            raise UserError(self.failing)

    def given(self, person="anna"):
        """Number of a question -> the values of all revisions."""
        return {key.number: [value for value, *_ in given] for (name, key), given in self.answers.items() if name == person}


class FakeClips:
    """Two films in turn, the same for all questions; some questions wait for theirs, some have none."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.making, self.impossible = folder, set(), set()
        folder.mkdir(parents=True, exist_ok=True)
        for which in range(2):
            for codec in ("webm", "mp4"):
                (folder / f"{which}.{codec}").write_bytes(bytes(range(256)) * 8)

    def made(self, question, which, codec):
        hidden = self.making | self.impossible
        return None if question.key.number in hidden else self.folder / f"{which % 2}.{codec}"

    def path(self, question, which, codec):
        key = question.key
        if key.number in self.impossible:
            raise UserError("The data of /home/someone/data/run.npz have no simulator states, so no clip can be drawn.")
        return None if key.number in self.making else self.folder / f"{which % 2}.{codec}"


def draw(folder: Path, frames: int = 20, size: int = 128) -> None:
    """Write real films over those of :class:`FakeClips`: a square that goes right, and one that goes down."""
    import imageio.v2 as imageio

    for which in range(2):
        film = np.full((frames, size, size, 3), 235, np.uint8)
        for step in range(frames):
            at = 8 + step * (size - 40) // frames
            y, x = (at, size // 2 - 12) if which else (size // 2 - 12, at)
            film[step, y : y + 24, x : x + 24] = (31, 78, 140) if which == 0 else (190, 90, 20)
        for codec, extra in (("webm", {"codec": "libvpx-vp9"}), ("mp4", {"codec": "libx264"})):
            imageio.mimwrite(folder / f"{which}.{codec}", list(film), fps=10, macro_block_size=1, **extra)
