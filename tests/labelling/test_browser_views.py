"""What the labelling page shows in a real Chromium: clips in step, every state with axe-core, the researcher's pages."""

from __future__ import annotations

import pytest
from fake_desk import FakeDesk
from in_browser import IN_BROWSER, PHONE, answer, until, until_question, violations

from lightning_pbrl.data.feedback import Status
from lightning_pbrl.labelling import wording
from lightning_pbrl.labelling.interface import Key

pytestmark = IN_BROWSER


def test_clips_play_in_step_on_one_timeline(site) -> None:
    page = site(FakeDesk(count=2)).visit("anna")
    times = "[...document.querySelectorAll('video')].map(video => video.currentTime)"
    until(page, f"Math.min(...{times}) > 0.5")
    for _ in range(10):
        left, right = page.evaluate(times)
        assert abs(left - right) < 0.15
        page.wait_for_timeout(150)
    page.keyboard.press("p")
    assert page.evaluate("[...document.querySelectorAll('video')].every(video => video.paused)")
    page.focus("#time")
    page.evaluate(
        "document.getElementById('time').value = 0.5; document.getElementById('time').dispatchEvent(new Event('input'))"
    )
    until(page, f"{times}.every(time => Math.abs(time - 1) < 0.02)")  # 20 frames at 10 per second
    page.keyboard.press("ArrowRight")  # moves the slider and answers nothing
    assert page.text_content("#name") == "run-1/0/0" and page.get_attribute("#time", "aria-valuetext").endswith("of 20")
    page.keyboard.press("+")
    page.focus("#ask")
    page.keyboard.press("+")
    assert page.evaluate("document.querySelector('video').playbackRate") in (2, 4)
    page.keyboard.press("Space")
    until(page, f"{times}.every(time => time > 0 && time < 0.9)")
    page.keyboard.press("l")
    until(page, "document.querySelector('video').ended && !document.getElementById('loop').checked")


def test_reduced_motion_plays_when_asked_only(site) -> None:
    page = site(FakeDesk(count=2)).visit("anna", reduced_motion="reduce")
    until(page, "[...document.querySelectorAll('video')].every(video => video.readyState > 2)")
    page.wait_for_timeout(300)
    assert page.evaluate("[...document.querySelectorAll('video')].every(video => video.paused && video.currentTime === 0)")
    page.keyboard.press("Space")
    until(page, "[...document.querySelectorAll('video')].every(video => video.currentTime > 0.3)")


def test_clips_that_are_made_later_or_never(site) -> None:
    desk = FakeDesk(count=3)
    opened = site(desk)
    opened.clips.making.add(0)
    opened.clips.impossible.add(1)
    page = opened.visit("anna")
    page.wait_for_selector("text=The clip is being made")
    opened.clips.making.clear()
    until(page, "[...document.querySelectorAll('video')].some(video => video.currentTime > 0)")
    answer(page, "a")
    page.wait_for_selector("text=The data of run.npz have no simulator states, so no clip can be drawn.")
    answer(page, "s")
    assert desk.given() == {0: [0.0], 1: [None]}


def test_a_page_without_a_trainer_goes_on_when_questions_come(site) -> None:
    desk = FakeDesk(count=1)
    kept, desk.questions = desk.questions, {}
    page = site(desk).visit("anna")
    page.wait_for_selector("text=ask the researcher whether it is running")
    assert page.text_content("#count") == "no question so far"
    desk.questions = kept
    page.wait_for_selector("#choices:not([hidden])")
    answer(page, "a")
    assert desk.given() == {0: [0.0]}


def test_a_run_that_asks_nothing_more_says_so_and_is_quiet_when_its_page_ends(site) -> None:
    desk = FakeDesk(count=2)
    later = {key: desk.questions.pop(key) for key in list(desk.questions)[1:]}
    opened = site(desk)
    page = opened.visit("anna")
    desk.over = "asked"
    answer(page, "a")
    page.wait_for_selector("h1:text('No more questions')")
    page.wait_for_selector("text=the run asks nothing more. Thank you")
    assert page.text_content("#count") == "1 of 1, nothing more is asked"
    desk.questions |= later  # the run goes on
    until_question(page, "run-1/0/1")
    desk.over = "ended"
    answer(page, "d")
    page.wait_for_selector("text=The run has ended, and asks nothing more. Thank you")
    opened.served.stop()
    page.wait_for_timeout(4000)
    assert page.text_content("#trouble") == wording.OVER["ended"]
    assert all("ERR_CONNECTION" in fault for fault in opened.faults)
    opened.faults.clear()


def test_a_question_by_its_address_shows_what_was_answered(site) -> None:
    desk = FakeDesk(count=4)
    opened = site(desk)
    page = opened.visit("anna")
    answer(page, "d")
    page.goto(f"{opened.served.address}/#%")  # no address of a question: as without it
    page.reload()
    until_question(page, "run-1/0/1")
    page.goto(f"{opened.served.address}/#run-1/0/0")
    page.wait_for_selector('text=You answered "right is better".')
    assert page.get_attribute("#choices .right", "aria-pressed") == "true"


@pytest.mark.parametrize("look", [{}, {"color_scheme": "dark", **PHONE}], ids=["light desktop", "dark phone"])
def test_accessibility_of_every_state(site, look: dict) -> None:
    desk = FakeDesk(count=4, kinds=("pair", "pair", "rating"), practice=1)
    opened = site(desk)
    opened.clips.impossible.add(3)
    found: dict[str, list[str]] = {}

    def check(name: str, page) -> None:
        if "viewport" in look:
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{name} is wider than the phone"
        found[name] = violations(page)

    page = opened.browser.new_context(**look).new_page()
    page.goto(f"{opened.served.address}/join/unknown")
    check("refusal", page)
    page.goto(f"{opened.served.address}/join/{desk.invite('anna')}")
    check("consent", page)
    page = opened.visit("anna", **look)
    page.get_by_text("Keys", exact=True).click()
    check("practice", page)
    answer(page, "d")
    check("feedback", page)
    page.keyboard.press("Enter")
    until_question(page, "run-1/0/1")
    check("pair", page)
    answer(page, "z")
    check("undo", page)
    answer(page, "z")
    answer(page, "a")
    check("rating", page)
    answer(page, "3")
    check("no clip", page)
    answer(page, "s")
    page.wait_for_selector("text=Everything that was asked so far is answered")
    check("nothing open", page)
    check("overview", opened.visit("rosa", "researcher", **look))
    assert found == {name: [] for name in found} and len(found) == 10


def test_the_researcher_pauses_and_closes(site) -> None:
    desk = FakeDesk(count=3)
    opened = site(desk)
    page = opened.visit("rosa", "researcher")
    page.get_by_role("button", name="Pause everything").click()
    page.wait_for_selector("text=Asking is paused")
    assert desk.paused
    page.get_by_role("button", name="Go on").click()
    page.get_by_label("Question").fill("run-1/0/0")
    page.get_by_role("button", name="Close it").click()
    until(page, "[...document.querySelectorAll('.figures dd')][1].textContent === '1'")
    assert not desk.paused and desk.closed == {Key("run-1", 0, 0)}
    page.get_by_role("link", name="Questions", exact=True).click()
    until_question(page, "run-1/0/1")


def test_the_researcher_walks_through_answered_questions_by_keyboard(site) -> None:
    desk = FakeDesk(count=3)
    for number, value in ((0, 0.0), (1, 1.0), (2, 1.0)):
        desk.answer("anna", Key("run-1", 0, number), value, Status.ANSWERED, seconds=1.0, revision=0)
    before = dict(desk.answers)
    page = site(desk).visit("rosa", role="researcher")
    page.get_by_role("link", name="Answered questions").click()
    for place, sentence in enumerate(("The first clip is better", "The second clip is better", "The second clip is better"), 1):
        page.wait_for_selector(f"text={place} of 3")
        assert page.text_content("h1") == sentence and page.locator("figure.chosen").count() == 1
        until(page, "[...document.querySelectorAll('video')].every(video => video.currentTime > 0)")
        films = page.evaluate("[...document.querySelectorAll('video')].map(video => video.currentSrc.split('/').pop())")
        swapped = place == 2  # for her as well, were she to answer
        assert films == (["1.webm", "0.webm"] if swapped else ["0.webm", "1.webm"])
        assert not [each for each in violations(page) if each.startswith(("serious", "critical"))]
        page.keyboard.press("p")
        until(page, "[...document.querySelectorAll('video')].every(video => video.paused)")
        for key in ("a", "e", "d", "ArrowRight"):  # letters that answer elsewhere do nothing
            page.keyboard.press(key)
    assert page.url.endswith("/review/run-1/0/2") and desk.answers == before
    page.get_by_role("link", name="answer it yourself").click()
    until_question(page, "run-1/0/2")
