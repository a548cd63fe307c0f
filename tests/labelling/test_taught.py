"""Whole runs taught through the page by keyboard alone: `lightning-pbrl fit`, the page it serves, the real desk, Chromium."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from in_browser import IN_BROWSER, PHONE, axe

from lightning_pbrl.data.feedback import Status
from lightning_pbrl.fitting.saving import read_checkpoint
from lightning_pbrl.label_cli import opened, true_returns
from lightning_pbrl.labelling.demo import SimulatedPerson, TrueOpinion, chromium
from lightning_pbrl.labelling.exchange import open_store
from lightning_pbrl.labelling.interface import OpenQuestion
from lightning_pbrl.labelling.settling import majority

pytestmark = IN_BROWSER
PATIENCE = 240.0  # s; each part takes some seconds on an idle machine
REACHER = {"class_path": "GymMuJoCo", "init_args": {"env_id": "Reacher-v5"}}
LOGGED = {"mixture": [{"expert": False, "random": 1.0}], "episodes": 6, "segment_length": 10, "held_out_pairs": 20}
OFFLINE = {
    "data": {"class_path": "CollectedDataModule", "init_args": {"simulator": REACHER, **LOGGED}},
    "model": {"class_path": "RewardEnsemble", "init_args": {"hidden": [16], "epochs": 3}},
    "ask": {
        "budget": 6,
        "per_round": 3,
        "teacher": {
            "class_path": "HumanTeacher",
            "init_args": {"overlap": 2, "serve": {"people": ["Ada", "Bob"], "researcher": ["Cy"], "task": "Reach the dot."}},
        },
    },
}
STEPS = {"env_steps": 700, "seed_steps": 150, "explore_steps": 50, "round_steps": 200}
ONLINE = {
    "data": {
        "class_path": "OnlineDataModule",
        "init_args": {"simulator": REACHER, "segment_length": 10, "eval_episodes": 1},
    },
    "model": {
        "class_path": "QPA",
        "init_args": {**STEPS, "hidden": [16], "batch_size": 16, "recent": 4}
        | {"reward_model": {"crop": [8, 10], "crop_copies": 2, "epochs": 3, "hidden": [16]}},
    },
    "ask": {"budget": 6, "per_round": 2, "teacher": {"class_path": "HumanTeacher", "init_args": {"serve": True}}},
}


def until(found: Callable[[], Any], what: str) -> Any:
    end = time.monotonic() + PATIENCE
    while not (answer := found()):
        assert time.monotonic() < end, f"{what} within {PATIENCE:g} s"
        time.sleep(0.1)
    return answer


class Run:
    """A fit in a process of its own, which serves its page."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        self.folder, self.log = folder / "run", folder / "log.txt"
        (folder / "fit.yaml").write_text(yaml.safe_dump(config))
        command = [
            sys.executable,
            "-m",
            "lightning_pbrl",
            "fit",
            "-c",
            "fit.yaml",
            f"--run_dir={self.folder}",
            "--trainer.accelerator=cpu",
        ]
        if "ollected" in config["data"]["class_path"]:
            command.append(f"--data.init_args.cache_dir={folder / 'data'}")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)

    def link(self, name: str) -> str:
        def found() -> str | None:
            text = self.log.read_text()
            assert self.process.poll() is None, text
            link = re.search(rf"^{name}: (http\S+)$", text, re.M)
            return link and link[1]

        return until(found, f"the link of {name}")

    def page(self) -> int:
        """Process of the page."""
        pid = self.process.pid
        found = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
        (page,) = [int(child) for children in found for child in children]
        return page

    def ended(self) -> str:
        """What the process said, once it has ended well."""
        self.process.wait(PATIENCE)
        text = self.log.read_text()
        assert self.process.returncode == 0, text
        return text


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    runs: list[Run] = []

    def start(config: dict[str, Any]) -> Run:
        runs.append(Run(tmp_path, config))
        return runs[-1]

    yield start
    for run in runs:
        run.process.kill()
        run.process.wait()


class Person(SimulatedPerson):
    """Remembers the keys that were pressed, newest last by question, and whether the page was usable."""

    def __init__(self, run: Run, browser: Any, name: str, **look: Any) -> None:
        link, tab = run.link(name), browser.new_context(**look).new_page()
        super().__init__(tab, opened(str(run.folder))[0], name, TrueOpinion(true_returns(str(run.folder))), 0.5)
        self.pressed: dict[int, str] = {}
        self.faults: list[str] = []
        self.tab.on("pageerror", lambda error: self.faults.append(str(error)))
        self.tab.goto(link)
        self.check()
        self.join(link)

    def press(self, question: OpenQuestion, choice: Any, much: bool = False) -> None:
        self.pressed[question.key.number] = choice
        super().press(question, choice, much)

    def waited(self) -> OpenQuestion:
        """The next question, once its clips play."""

        def found() -> OpenQuestion | None:
            self.tab.wait_for_timeout(50)
            return self.shown()

        return until(found, f"a question for {self.name}")

    def undo(self) -> OpenQuestion:
        """Ask for the last question again."""
        self.tab.keyboard.press("z")
        self.tab.wait_for_selector("text=You answered", timeout=30_000)
        return self.waited()

    def check(self) -> None:
        """Nothing to mend for axe-core, and no wider than the screen."""
        self.faults += [
            each["id"] for each in axe.Axe().run(self.tab).response["violations"] if each["impact"] in ("serious", "critical")
        ]
        assert self.tab.evaluate("document.documentElement.scrollWidth <= innerWidth")


def meant(choice: str, swapped: bool) -> tuple[float | None, Status]:
    """Value and status that a key stands for; `swapped` if the second segment was on the left."""
    if choice == "skip":
        return None, Status.SKIPPED
    return (0.5, Status.EQUAL) if choice == "equal" else (float((choice == "right") != swapped), Status.ANSWERED)


def check_stored(run: Run, people: list[Person], budget: int) -> None:
    """The store has every answer as it was pressed, and the fit has learned from all of them."""
    desk, _ = opened(str(run.folder))
    newest = {(row["person"], row["number"]): row for row in desk.answers()}
    assert {name for name, _ in newest} == {person.name for person in people}
    for person in people:
        assert sorted(person.pressed) == list(range(budget)) and person.faults == []
        for number, choice in person.pressed.items():
            row = newest[person.name, number]
            assert (row["value"], row["status"]) == meant(choice, row["swapped"]), (person.name, number, choice)
            assert 0.3 < row["seconds"] < PATIENCE
    store = open_store(run.folder)
    asked, labels = store.records(), store.labels("pair", 10)
    assert [row["number"] for row in asked] == list(range(budget))
    given = [[(row["value"], Status(row["status"])) for key, row in newest.items() if key[1] == n] for n in range(budget)]
    assert [(row["value"], Status(row["status"])) for row in asked] == [majority("pair", each) for each in given]
    learned = read_checkpoint(run.folder / "checkpoints" / "last.ckpt")["lightning_pbrl"]
    assert learned["finished"] and learned["asked"][0] == budget and learned["asked"][2] == 0  # in total, and left
    assert torch.isfinite(labels.preferences().value).all()


def test_two_people_teach_a_reward(started: Callable[..., Run]) -> None:
    """Overlap 2, one of them on a phone; undo and reload in the middle, and the page is killed."""
    run = started(OFFLINE)
    with chromium() as browser:
        people = ada, bob = Person(run, browser, "Ada"), Person(run, browser, "Bob", **PHONE)
        ada.press(ada.waited(), "left")
        ada.press(ada.waited(), "right")
        for person in people:
            person.waited()
            person.check()
        ada.press(ada.undo(), "equal")  # question 1 again
        assert ada.pressed == {0: "left", 1: "equal"}
        ada.tab.reload()
        assert ada.waited().key.number == 2
        ada.press(ada.waited(), "skip")
        for choice in ("left", "right", "skip"):
            bob.press(bob.waited(), choice)
        for choice in ("right", "left", "right"):
            for person in people:
                person.press(person.waited(), choice if person is ada else "right")
            if choice == "left":
                os.kill(run.page(), signal.SIGKILL)  # it is started again, and the links stay
        told = run.ended()
    check_stored(run, people, budget=6)
    assert "The labelling page has ended (killed by SIGKILL) and is started again; no answer is lost." in told
    assert "Ada: the link given before, at " in told
    assert told.count("3 of 3 questions of this round are answered") == 2
    assert len(opened(str(run.folder))[0].answers()) == 13  # 12, and one revision


def test_a_person_teaches_a_policy_while_it_acts(started: Callable[..., Run]) -> None:
    """By the true reward, as the demo does; undo and reload in the middle."""
    run = started(ONLINE)
    with chromium() as browser:
        me = Person(run, browser, "me")
        while len(me.pressed) < 3:
            me.step()
        me.press(me.waited(), "equal")  # a mistake
        question = me.undo()
        me.press(question, *me.choice(question))
        me.tab.reload()
        me.waited()
        me.check()
        while len(me.pressed) < 6:
            me.step()
        run.ended()
    check_stored(run, [me], budget=6)
    store = open_store(run.folder)
    first, second = store.clips(range(6), "seed0").reward.sum(-1).T
    assert [row["value"] for row in store.records()] == (second > first).float().tolist()
