"""The labelling page in a real Chromium: by keyboard alone, undone, reloaded, by two persons, on a phone, with axe-core."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_desk import FakeClips, FakeDesk, draw

from lightning_pbrl.data.feedback import Status
from lightning_pbrl.labelling.interface import Key

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytest.importorskip("fastapi", reason="the page is in the web extra")
playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is installed by .ci/run")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-core is installed by .ci/run")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]
from lightning_pbrl.labelling import wording  # noqa: E402
from lightning_pbrl.labelling.serve import Served, make_app  # noqa: E402

PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}
GUARD = 400  # ms: a question takes no answer before that, against double clicks


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    FakeClips(folder)
    draw(folder)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with playwright.sync_playwright() as started:
        sandbox = [] if os.getuid() else ["--no-sandbox"]  # as root Chromium has none
        browser = started.chromium.launch(executable_path=CHROMIUM, args=sandbox)
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


@pytest.fixture
def site(browser, films: Path) -> Iterator[Callable[..., Site]]:
    opened: list[Site] = []

    def make(desk: FakeDesk, **settings) -> Site:
        opened.append(Site(browser, films, desk, **settings))
        return opened[-1]

    yield make
    for each in opened:
        each.close()
        assert each.faults == []  # no error in the console, no breach of the content security policy


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


def test_a_whole_questionnaire_by_keyboard_alone(site) -> None:
    desk = FakeDesk(count=8, kinds=("pair", "pair", "rating"), practice=2)
    page = site(desk).visit("anna", keyboard=True)
    until(page, "[...document.querySelectorAll('video')].every(video => video.currentTime > 0)")  # it plays by itself
    assert page.is_visible("#practice") and page.text_content("#count") == "0 of 8, the model waits for 8"
    answer(page, "a")  # practice: expected is the right one
    assert page.text_content("#verdict") == "Not quite. The expected answer is the right clip."
    page.keyboard.press("Enter")
    until_question(page, "run-1/0/1")
    answer(page, "ArrowLeft")  # swapped
    assert page.text_content("#verdict") == "Right."
    page.keyboard.press("Enter")
    until_question(page, "run-1/0/2")
    assert page.is_hidden("#practice") and page.text_content("#ask") == "How good is this clip, from 1 (worst) to 6 (best)?"
    page.keyboard.press("a")  # no answer to a rating
    page.keyboard.press("7")  # six levels only
    answer(page, "6")
    for key in ("e", "S", "1", "ArrowRight", "d"):
        answer(page, key)
    page.wait_for_selector("text=Everything that was asked so far is answered")
    assert page.text_content("#count") == "8 of 8, the model goes on without waiting"
    assert desk.given() == {0: [0.0], 1: [1.0], 2: [5.0], 3: [0.5], 4: [None], 5: [0.0], 6: [1.0], 7: [0.0]}
    seconds = [given[-1][2] for given in desk.answers.values()]
    assert all(GUARD / 1000 * 0.9 < each < 10 for each in seconds)


def test_undo_shows_the_last_question_and_its_answer(site) -> None:
    desk = FakeDesk(count=3)
    page = site(desk).visit("anna")
    page.keyboard.press("z")
    page.wait_for_selector("text=There is no answer of yours to undo yet.")
    answer(page, "a")
    answer(page, "z")
    assert page.text_content("#name") == "run-1/0/0"
    assert page.get_attribute("#choices .left", "aria-pressed") == "true"
    answer(page, "d")
    assert page.text_content("#name") == "run-1/0/1" and desk.given() == {0: [0.0, 1.0]}
    answer(page, "z")
    answer(page, "z")  # leaves it as it is
    assert page.text_content("#name") == "run-1/0/1" and desk.given() == {0: [0.0, 1.0]}
    answer(page, "e")
    answer(page, "e")
    page.wait_for_selector("text=Everything that was asked so far is answered")
    page.keyboard.press("z")  # also when nothing is open
    until_question(page, "run-1/0/2")
    answer(page, "s")
    page.wait_for_selector("text=Everything that was asked so far is answered")
    assert desk.given() == {0: [0.0, 1.0], 1: [0.5], 2: [0.5, None]}


def test_reload_and_back_in_the_middle(site) -> None:
    desk = FakeDesk(count=4)
    page = site(desk).visit("anna")
    answer(page, "a")
    page.reload()
    until_question(page, "run-1/0/1")
    answer(page, "a")
    page.go_back()
    page.wait_for_selector("text=Welcome, anna")
    page.go_forward()
    until_question(page, "run-1/0/2")
    answer(page, "a")
    answer(page, "a")
    assert desk.given() == {0: [0.0], 1: [1.0], 2: [0.0], 3: [1.0]}


def test_an_answer_given_while_the_store_fails_is_sent_again_even_after_a_reload(site) -> None:
    desk = FakeDesk(count=3)
    opened = site(desk)
    page = opened.visit("anna")
    desk.failing = "disk full"
    page.wait_for_timeout(GUARD)
    page.keyboard.press("d")
    page.wait_for_selector("text=The answers cannot be stored at the moment")
    page.reload()
    page.wait_for_selector("text=The answers cannot be stored at the moment")
    assert desk.given() == {}
    desk.failing = None
    until_question(page, "run-1/0/1")
    assert desk.given() == {0: [1.0]}
    assert {fault for fault in opened.faults if "503" not in fault} == set()
    opened.faults.clear()


def test_a_store_that_is_locked_for_a_while(site) -> None:
    desk = FakeDesk(count=2)
    page = site(desk).visit("anna")
    page.wait_for_timeout(GUARD)
    desk._lock.acquire()
    page.keyboard.press("d")
    page.wait_for_selector("text=The server is slow to answer")
    page.keyboard.press("a")  # ignored: one answer is on its way
    desk._lock.release()
    until_question(page, "run-1/0/1")
    assert desk.given() == {0: [1.0]}


def test_a_server_that_is_away_for_a_while(site) -> None:
    desk = FakeDesk(count=2)
    opened = site(desk)
    page = opened.visit("anna")
    page.context.set_offline(True)
    page.wait_for_timeout(GUARD)
    page.keyboard.press("d")
    page.wait_for_selector("text=The page does not reach its server")
    page.context.set_offline(False)
    until_question(page, "run-1/0/1")
    assert desk.given() == {0: [1.0]}
    opened.faults.clear()


def test_two_tabs_and_a_double_click(site) -> None:
    desk = FakeDesk(count=4)
    opened = site(desk)
    first = opened.visit("anna")
    second = first.context.new_page()
    second.goto(opened.served.address)
    until_question(second, "run-1/0/0")
    answer(first, "a")
    answer(second, "d")
    second.wait_for_selector("text=You have already answered this question, perhaps in another tab")
    until_question(second, "run-1/0/1")
    second.wait_for_timeout(GUARD)
    second.get_by_role("button", name="Left is better").dblclick()
    until_question(second, "run-1/0/2")
    second.wait_for_timeout(GUARD)
    assert desk.given() == {0: [0.0], 1: [1.0]}
    assert all("409" in fault for fault in opened.faults)
    opened.faults.clear()


def test_two_persons_and_a_link_of_another_in_the_same_browser(site) -> None:
    desk = FakeDesk(count=2)
    opened = site(desk)
    anna, ben = opened.visit("anna"), opened.visit("ben")
    for page, keys in ((anna, "ad"), (ben, "ee")):
        for key in keys:
            answer(page, key)
    assert desk.given("anna") == {0: [0.0], 1: [0.0]} and desk.given("ben") == {0: [0.5], 1: [0.5]}
    desk.answers.clear()
    desk.order.clear()
    anna.reload()
    until_question(anna, "run-1/0/0")
    other = anna.context.new_page()
    other.goto(f"{opened.served.address}/join/{desk.invite('cleo')}")
    other.get_by_role("button", name="I agree, start").click()
    other.wait_for_selector("#choices:not([hidden])")
    anna.wait_for_timeout(GUARD)
    anna.keyboard.press("a")
    anna.wait_for_selector("text=This tab belongs to another link")
    assert desk.answers == {}  # neither Anna's nor Cleo's
    assert all("403" in fault for fault in opened.faults)
    opened.faults.clear()


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


def test_letter_keys_can_be_switched_off(site) -> None:
    desk = FakeDesk(count=2)
    page = site(desk).visit("anna")
    page.get_by_text("Keys", exact=True).click()
    page.get_by_label("Letter and digit keys answer").uncheck()
    page.wait_for_timeout(GUARD)
    page.keyboard.press("a")
    page.wait_for_timeout(GUARD)
    assert desk.given() == {}
    page.reload()
    page.wait_for_selector("#choices:not([hidden])")
    assert not page.is_checked("#usekeys")
    page.wait_for_timeout(GUARD)
    page.get_by_role("button", name="Left is better").focus()
    page.keyboard.press("Enter")
    until_question(page, "run-1/0/1")
    assert desk.given() == {0: [0.0]}
    assert page.evaluate("document.activeElement.id") == "ask"  # the new question is read out, and Space replays


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


def test_a_phone_answers_by_touch(site) -> None:
    desk = FakeDesk(count=2)
    page = site(desk).visit("anna", **PHONE)
    boxes = page.evaluate("[...document.querySelectorAll('#choices button')].map(each => each.getBoundingClientRect().toJSON())")
    assert all(box["height"] >= 44 and box["bottom"] <= 844 for box in boxes)  # in sight without scrolling
    left, right = page.evaluate("[...document.querySelectorAll('video')].map(each => each.getBoundingClientRect().toJSON())")
    assert left["right"] <= right["left"] and left["top"] == right["top"] and left["width"] > 150
    page.wait_for_timeout(GUARD)
    page.get_by_role("button", name="Right is better").tap()
    until_question(page, "run-1/0/1")
    assert desk.given() == {0: [1.0]}


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
