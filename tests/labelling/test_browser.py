"""Answers on the labelling page in a real Chromium: by keyboard alone, undone, reloaded, by two persons, on a phone."""

from __future__ import annotations

from fake_desk import FakeDesk
from in_browser import GUARD, IN_BROWSER, PHONE, answer, until, until_question

pytestmark = IN_BROWSER


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
