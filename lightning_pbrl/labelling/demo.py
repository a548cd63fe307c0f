"""A simulated person who answers by keys on the real page, in a headless Chromium."""

from __future__ import annotations

import os
import random
import shutil
import time
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

from torch import Tensor

from lightning_pbrl.data import kinds
from lightning_pbrl.data.feedback import Status
from lightning_pbrl.errors import UserError
from lightning_pbrl.labelling.interface import AnyDesk, Key, OpenQuestion
from lightning_pbrl.labelling.wording import Choice, chosen, is_graded

Returns = Callable[[OpenQuestion], Tensor]
"""True returns of the segments of a question, in the stored order, (C,)."""
KEYS = {"left": "a", "right": "d", "equal": "e", "skip": "s"}
GUARD = 0.4
"""Seconds for which the page takes no answer to a new question."""
SHOWN = """() => {
  const id = (name) => document.getElementById(name), stage = [...id('stage').children];
  if (!id('feedback').hidden) return 'feedback';
  if (id('choices').hidden || id('stage').hidden) return '';
  const making = stage.some((each) => each.textContent.startsWith('The clip is being made'));
  const loading = [...document.querySelectorAll('#stage video')].some((video) => video.readyState < 3);
  return making || loading ? '' : id('name').textContent;
}"""
"""Name of the question on the page once its clips can be played; empty before."""
OPEN = "() => document.getElementById('choices').hidden ? '' : document.getElementById('name').textContent"
"""Name of the question that the page has open, also while its clips load or begin again."""


class TrueOpinion:
    """Answers of somebody who sees the true return of each segment.

    A rating is the rank of a segment among all that were seen so far, on the scale of the page. Of a graded pair a segment is
    much better beyond a third of the range of returns that were seen.

    Args:
        returns: true returns of a question's segments.
    """

    def __init__(self, returns: Returns) -> None:
        self._returns = returns
        self._seen: list[float] = []

    def __call__(self, question: OpenQuestion, levels: int) -> tuple[float | None, Status]:
        """Return value and status, in the stored order of the segments.

        Args:
            question: of any kind.
            levels: number of levels of a rating.

        Raises:
            UserError: for data without a true reward.
        """
        found = self._returns(question).tolist()
        if any(each != each for each in found):
            raise UserError("The demo answers by the true reward, and these data have none: let people answer.")
        for each in found:
            insort(self._seen, each)
        if question.kind == "rating":
            rank = bisect_left(self._seen, found[0]) / max(len(self._seen) - 1, 1)
            return float(min(int(rank * levels), levels - 1)), Status.ANSWERED
        if len(found) > 2 or isinstance(kinds.of(question.kind), kinds.Best):
            return float(found.index(max(found))), Status.ANSWERED
        if found[0] == found[1]:
            return 0.5, Status.EQUAL
        much = not is_graded(question) or abs(found[1] - found[0]) > (self._seen[-1] - self._seen[0]) / 3
        return 0.5 + (0.5 if much else 0.25) * (1 if found[1] > found[0] else -1), Status.ANSWERED


class SimulatedPerson:
    """A person in front of the page, with a keyboard alone.

    Args:
        tab: tab of a browser (a Playwright page).
        desk: the questions, of which the person knows the true returns.
        name: name of the person.
        opinion: answers.
        seconds: mean time per answer, seconds.
    """

    def __init__(self, tab: Any, desk: AnyDesk, name: str, opinion: TrueOpinion, seconds: float = 2.0) -> None:
        self.tab, self.desk, self.name, self.opinion, self.seconds = tab, desk, name, opinion, seconds
        self._pauses = random.Random(name)

    def join(self, link: str) -> None:
        """Open the personal link and agree."""
        self.tab.goto(link)
        self.tab.keyboard.press("Tab")
        self.tab.keyboard.press("Enter")
        self.tab.wait_for_selector("#ask", timeout=60_000)

    def shown(self) -> OpenQuestion | None:
        """Return the question on the page once its clips can be played; None while there is none."""
        text = self.tab.evaluate(SHOWN)
        if text == "feedback":  # of a practice question
            self.tab.keyboard.press("Enter")
            return None
        key = Key.parse(text)
        return None if key is None else self.desk.question(key, self.name)

    def choice(self, question: OpenQuestion) -> tuple[Choice, bool]:
        """Return the answer to a question, by the sides on which this person sees its clips, and whether one is much better."""
        told = self.opinion(question, self.desk.bins(question.key.run))
        found = chosen(question, told)
        assert found is not None  # noqa: S101
        return found, is_graded(question) and told[0] in (0, 1)

    def press(self, question: OpenQuestion, choice: Choice, much: bool = False) -> None:
        """Look for a while, press the key of an answer, and wait until the page has left the question; ``much`` holds Shift."""
        self.look(self.seconds * self._pauses.uniform(0.6, 1.4))
        key = str((choice + 1) % 10) if isinstance(choice, int) else KEYS[choice]
        self.tab.keyboard.press(f"Shift+{key}" if much else key)
        end = time.monotonic() + 30
        while self.tab.evaluate(OPEN) == str(question.key) and time.monotonic() < end:
            self.tab.wait_for_timeout(50)

    def look(self, seconds: float) -> None:
        """Look at the page for so long."""
        self.tab.wait_for_timeout(1000 * max(seconds, GUARD))

    def step(self) -> bool:
        """Answer the question on the page, if there is one; return whether there was."""
        if (question := self.shown()) is None:
            self.tab.wait_for_timeout(100)
            return False
        self.press(question, *self.choice(question))
        return True


@contextmanager
def chromium() -> Iterator[Any]:
    """Start a headless Chromium: the system's, or the one that Playwright has installed.

    Raises:
        UserError: if Playwright or Chromium is missing.
    """
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError as error:
        _missing("playwright", error)
    with sync_playwright() as started:
        system = shutil.which("chromium") or shutil.which("chromium-browser")
        try:
            browser = started.chromium.launch(executable_path=system, args=[] if os.getuid() else ["--no-sandbox"])
        except Error as error:
            _missing("Chromium", error)
        yield browser
        browser.close()


def _missing(what: str, error: Exception) -> NoReturn:
    raise UserError(
        f"The demo needs {what}: install both with pip install playwright and playwright install --with-deps chromium."
    ) from error


def demo(desk: AnyDesk, links: Mapping[str, str], returns: Returns, seconds: float = 2.0, answers: int = 0) -> None:
    """Let simulated persons answer on a page that is served.

    Args:
        desk: the questions.
        links: personal link by name.
        returns: true returns of a question's segments.
        seconds: mean time per answer.
        answers: number of answers after which they stop; 0: go on until interrupted.
    """
    with chromium() as browser:
        people = []
        for name, link in links.items():
            people.append(SimulatedPerson(browser.new_context().new_page(), desk, name, TrueOpinion(returns), seconds))
            people[-1].join(link)
        given = 0
        while not answers or given < answers:
            given += sum(person.step() for person in people)
