"""Strength and repeats in a real Chromium, with a real label store behind the page."""

from __future__ import annotations

from pathlib import Path

import pytest
from desks import A, asked, desk, key
from fake_desk import FakeDesk
from in_browser import IN_BROWSER, PHONE, answer, until_question, violations

pytestmark = IN_BROWSER


@pytest.mark.parametrize("look", [{}, PHONE], ids=["desktop", "phone"])
def test_much_better(site, look: dict, tmp_path: Path) -> None:
    asked(tmp_path, 5)
    here = desk(tmp_path)
    page = site(here, strength=True).visit("anna", **look)
    assert violations(page) == [] and page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    shown = page.locator("#choices button").all_text_contents()
    assert [text.split(" ", 1)[0] for text in shown] == ["Left", "Left", "Equal", "Cannot", "Right", "Right"]
    answer(page, "Shift+A")
    page.wait_for_selector("text=Stored: left is much better.")
    answer(page, "d")
    answer(page, "Shift+ArrowRight")
    answer(page, "e")
    answer(page, "Shift+S")
    page.wait_for_selector("text=Everything that was asked so far is answered")
    assert [row["strength"] for row in here.answers()] == [1.0, 0.5, 1.0, None, None]
    page.keyboard.press("z")
    until_question(page, "ada/0/4")
    page.wait_for_timeout(400)
    page.get_by_role("button", name="Right is much better").click()
    page.wait_for_selector("text=Everything that was asked so far is answered")
    page.keyboard.press("z")
    until_question(page, "ada/0/4")
    pressed = page.locator("#choices button[aria-pressed=true]").all_text_contents()
    assert pressed == ["Right is much better Shift+D"] and here.answers()[-1]["strength"] == 1.0


def test_practice_checks_and_repeats_by_keyboard(site, tmp_path: Path) -> None:
    asked(tmp_path, 22)
    here = desk(tmp_path, gold="Gina", practice=1, check_every=4, repeat_every=3)
    for number in range(4):
        here.answer("Gina", key(number), 1.0, A)
    page = site(here).visit("anna")
    assert page.is_visible("#practice")
    answer(page, "e")
    assert page.text_content("#verdict").startswith("Not quite. The expected answer is the ")
    page.keyboard.press("Enter")
    end = page.locator("#trouble", has_text="Everything that was asked so far is answered")
    names: list[str] = []
    while not end.is_visible():
        assert page.is_hidden("#practice") and len(names) < 40
        names.append(page.text_content("#name"))
        answer(page, "e")
    given = [row for row in here.answers() if row["person"] == "anna"]
    counts = {purpose: sum(row["purpose"] == purpose for row in given) for purpose in ("practice", "check", "label", "repeat")}
    assert counts["practice"] == 1 and counts["check"] == 3 and counts["label"] == 18 and counts["repeat"] > 1
    assert [f"ada/0/{row['number']}" for row in given[1:]] == names  # what was shown is what was stored, in that order
    assert page.text_content("#count").startswith("18 of 22")


@pytest.mark.parametrize("look", [{}, PHONE], ids=["desktop", "phone"])
def test_graded_pairs_and_the_best_of_four(site, look: dict) -> None:
    desk = FakeDesk(count=6, kinds=("graded", "best:care"))
    page = site(desk).visit("anna", **look)
    shown = page.locator("#choices button").all_text_contents()
    assert [text.split(" ", 1)[0] for text in shown] == ["Left", "Left", "Equal", "Cannot", "Right", "Right"]
    answer(page, "Shift+A")
    page.wait_for_selector("text=Stored: left is much better.")
    assert page.text_content("#ask") == "Which clip is best in care?"
    assert violations(page) == [] and page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator("#stage figcaption").all_text_contents() == ["Clip 1", "Clip 2", "Clip 3", "Clip 4"]
    shown = page.locator("#choices button").all_text_contents()
    assert shown == [*(f"Clip {n} is best {n}" for n in (1, 2, 3, 4)), "Cannot tell S"]
    page.keyboard.press("5"), page.keyboard.press("a"), page.keyboard.press("e")  # none of the answers to this question
    answer(page, "3")
    page.wait_for_selector("text=Stored: clip 3.")
    answer(page, "d")
    page.wait_for_timeout(400)
    page.get_by_role("button", name="Clip 1 is best").click()
    page.wait_for_selector("text=Stored: clip 1.")
    given = {key.number: values[-1][0] for (_, key), values in desk.answers.items()}
    assert given == {0: 0.0, 1: 1.0, 2: 0.75, 3: 3.0}  # odd numbers are shown in reverse
    page.keyboard.press("z")
    until_question(page, "run-1/0/3")
    assert page.locator("#choices button[aria-pressed=true]").all_text_contents() == ["Clip 1 is best 1"]
