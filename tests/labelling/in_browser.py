"""Visit the labelling page in a real Chromium; modules that import this are skipped where it cannot be started."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fake_desk import FakeClips, FakeDesk

from lightning_pbrl.labelling.serve import Served, make_app

pytest.importorskip("fastapi", reason="the page is in the web extra")
playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is installed by .ci/run")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-core is installed by .ci/run")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
IN_BROWSER = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}
GUARD = 400  # ms: a question takes no answer before that, against double clicks


@contextmanager
def started() -> Iterator[Any]:
    """A Chromium, until the end of the ``with``."""
    with playwright.sync_playwright() as here:
        sandbox = [] if os.getuid() else ["--no-sandbox"]  # as root Chromium has none
        browser = here.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        yield browser
        browser.close()


class Site:
    """A served page and its visitors."""

    def __init__(self, browser, films: Path, desk: FakeDesk, **settings) -> None:
        self.browser, self.desk = browser, desk
        self.clips = FakeClips.__new__(FakeClips)
        self.clips.folder, self.clips.making, self.clips.impossible = films, set(), set()
        self.served = Served(make_app(desk, self.clips, task="Slide the plate into the goal.", **settings))
        self.faults: list[str] = []

    def visit(self, name: str, role: str = "labeller", keyboard: bool = False, **context):
        page = self.browser.new_context(**context).new_page()
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("console", lambda said: self.faults.append(said.text) if said.type == "error" else None)
        page.goto(f"{self.served.address}/join/{self.desk.invite(name, role)}")
        if keyboard:
            page.keyboard.press("Tab")
            page.keyboard.press("Enter")
        else:
            page.get_by_role("button", name="I agree, start").click()
        if role == "labeller":
            page.wait_for_selector("#choices:not([hidden]), #ask:text('No question')")
        return page

    def close(self) -> None:
        for context in self.browser.contexts:
            context.close()
        self.served.stop()


def until(page, expression: str) -> None:
    """Wait for an expression to be true; Playwright's own wait needs `eval`, which the page's policy forbids."""
    end = time.monotonic() + 10
    while not true_by_now(page, expression):
        assert time.monotonic() < end, f"never true: {expression}"
        page.wait_for_timeout(30)


def true_by_now(page, expression: str) -> bool:
    """Evaluate an expression; one that fails belongs to the page before, or to one half loaded."""
    try:
        return bool(page.evaluate(expression))
    except playwright.Error:
        return False


def until_question(page, name: str) -> None:
    until(page, f"document.getElementById('name').textContent === '{name}' && !document.getElementById('choices').hidden")


def answer(page, key: str) -> None:
    """Press a key on the present question, and wait until the next one is there."""
    now = page.text_content("#name")
    page.wait_for_timeout(GUARD)
    page.keyboard.press(key)
    until(page, f"document.getElementById('name').textContent !== '{now}' || document.getElementById('choices').hidden")


def violations(page) -> list[str]:
    found = axe.Axe().run(page).response["violations"]
    return [f"{each['impact']}: {each['help']}" for each in found]
