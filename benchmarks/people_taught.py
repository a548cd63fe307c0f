"""A run that a person teaches over HTTP while its trainer and its page are killed and started again."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import socket
import sqlite3
import time
from collections import Counter
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from benchmarks.kills import Forked

PERSON = "Ada"
CHOICES = ("left", "right", "equal", "skip")
PER_ROUND = 10
PATIENCE_S = 300.0
"""How long one step may take before the run counts as hung."""
LONG_EPOCHS = 100
"""Passes over the answers in a round that waits for none, so that it lasts while the person answers."""
FIT = ["fit", "-c", "small.yaml", "-c", "model/reward_ensemble.yaml", "-c", "teacher/human.yaml", "-c", "query/disagreement.yaml"]
FIT += ["--model.init_args.epochs=2", "--model.init_args.hidden=[16, 16]", "--data.init_args.held_out_pairs=10", "--resume"]


class Process:
    """A command that is killed and started again.

    Args:
        args: of ``lightning-pbrl``.
        output: file of what it prints.
    """

    def __init__(self, args: list[str], output: Path) -> None:
        self.args, self.output, self.starts = args, output, 0
        self.start()

    def start(self) -> None:
        self.starts, self.began = self.starts + 1, time.monotonic()
        with self.output.open("a") as output:
            self.forked = Forked(["lightning_pbrl", *self.args], stdout=output)

    @property
    def code(self) -> int | None:
        """Exit code; None while it runs."""
        return self.forked.poll()

    def kill(self) -> bool:
        """Send SIGKILL; return whether the process was still there to be killed."""
        if self.code is not None:
            return False
        os.kill(self.forked.pid, signal.SIGKILL)
        self.forked.wait()
        return True

    def said(self) -> str:
        return self.output.read_text() if self.output.exists() else ""


@dataclass
class Killer:
    """Random moments at which trainer and page are killed.

    Attributes:
        page: kills of the page that are left; ``trainer`` those of the trainer.
        answers: submissions over which they are spread.
        rng: random numbers.
        done: number of kills by kind.
    """

    page: int
    trainer: int
    answers: int
    rng: random.Random
    done: Counter[str] = field(default_factory=Counter)

    def wants(self, who: str, share: float = 1.0) -> bool:
        """Return whether to kill now, so that the kills are spread over the submissions that are left."""
        left = getattr(self, who)
        rate = left / max(self.answers, 1)
        return left > 0 and self.rng.random() < share * rate / (1 + rate)

    def kill(self, process: Process, who: str, kind: str) -> None:
        if process.kill():
            setattr(self, who, getattr(self, who) - 1)
            self.done[f"{who}: {kind}"] += 1


class Browser:
    """What a browser and the script on the page send; every connection is one request."""

    def __init__(self, port: int) -> None:
        self.port, self.cookie, self.csrf = port, "", ""

    def request(self, method: str, path: str, body: bytes = b"", kind: str = "application/json") -> bytes:
        """Return the bytes of a request."""
        head = {"Host": f"127.0.0.1:{self.port}", "Accept": "application/json", "Connection": "close"}
        head |= {"Cookie": self.cookie} if self.cookie else {}
        head |= {"X-CSRF-Token": self.csrf} if self.csrf else {}
        head |= {"Content-Type": kind, "Content-Length": str(len(body))} if method == "POST" else {}
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in head.items())]
        return "\r\n".join([*lines, "", ""]).encode() + body

    def ask(self, method: str, path: str, body: bytes = b"", kind: str = "application/json") -> tuple[int, str, str]:
        """Return status, text and cookie of the answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S) as wire:
            wire.sendall(self.request(method, path, body, kind))
            return self.read(wire)

    @staticmethod
    def read(wire: socket.socket) -> tuple[int, str, str]:
        response = HTTPResponse(wire)
        response.begin()
        text = response.read().decode()
        return response.status, text, (response.getheader("set-cookie") or "").split(";")[0]

    def join(self, link: str) -> None:
        """Open the link, agree, and read the page."""
        token = link.rsplit("/", 1)[1]
        assert self.ask("GET", f"/join/{token}")[0] == 200
        form = urlencode({"token": token}).encode()
        status, _, self.cookie = self.ask("POST", "/join", form, "application/x-www-form-urlencoded")
        assert status == 303, status
        found = re.search('name="csrf" content="([0-9a-f]+)"', self.ask("GET", "/")[1])
        assert found is not None
        self.csrf = found[1]


class Run:
    """A run that a person teaches while it is killed.

    Args:
        home: folder with the inputs.
        name: names its files.
        wait: ``HumanTeacher``'s setting.
        budget: questions.
        seed: of the person's choices.
        killer: kills; None for a quiet run.
        recorded: answers to give, choice by question; drawn at random when None.
        changes: share of answers that are changed later.
    """

    def __init__(
        self,
        home: Path,
        name: str,
        wait: str,
        budget: int,
        seed: int,
        killer: Killer | None = None,
        recorded: dict[str, str] | None = None,
        changes: float = 0.0,
    ) -> None:
        self.out, self.wait, self.budget, self.killer, self.recorded = home / name, wait, budget, killer, recorded
        self.changes, self.rng = changes, random.Random(seed)
        self.store = self.out / "store" / "labels.sqlite"
        self.store.parent.mkdir(parents=True)
        self.log = (self.out / "person.jsonl").open("a")
        self.confirmed: dict[str, list[str]] = {}
        self.shown_again: list[str] = []
        self.asked: dict[tuple[int, int], tuple[int, int]] = {}
        self.changed_questions: list[str] = []
        self.late = self.stored_unconfirmed = 0
        self.latency: list[float] = []

    def fit_args(self, folder: str = "run", store: Path | None = None) -> list[str]:
        ask = [f"--ask.budget={self.budget}", f"--ask.per_round={PER_ROUND}", f"--ask.store={store or self.store}"]
        longer = [f"--model.init_args.epochs={LONG_EPOCHS}"] if self.wait == "none" else []
        return [*FIT, *longer, *ask, f"--ask.teacher.init_args.wait={self.wait}", f"--run_dir={self.out / folder}"]

    # The whole run -------------------------------------------------------------------------------------------------------

    def teach(self) -> None:
        """Answer until the trainer has come to its end; start again what was killed."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.trainer = Process(self.fit_args(), self.out / "trainer.txt")
        self.until(lambda: self.snapshot() > 0, "the trainer asks nothing")
        self.page = Process(["label", str(self.store), "--people", PERSON, "--port", str(port)], self.out / "page.txt")
        self.until(lambda: "/join/" in self.page.said(), "the page prints no link")
        self.browser = Browser(port)
        self.until(lambda: self.reachable(), "the page does not answer")
        self.browser.join(re.findall(r"http\S+/join/\S+", self.page.said())[0])
        idle_since = time.monotonic()
        while True:
            if (code := self.trainer.code) == 0:
                break
            if code is not None and code not in (-9, 2):
                raise SystemExit(f"The trainer ended with {code}: {self.trainer.said()[-3000:]}")
            question = self.next_question()
            if question is not None:
                self.answer(question)
                idle_since = time.monotonic()
                if self.wait == "none":  # the trainer goes on meanwhile
                    self.kill_between(idle_since)
                    if self.trainer.code == -9:
                        self.trainer.start()
                continue
            if self.trainer.code not in (None, 0):  # killed, or everything is answered that it had stopped for
                self.trainer.start()
            self.kill_between(idle_since)
            if time.monotonic() - idle_since > PATIENCE_S:
                raise SystemExit(f"Nothing happens any more: {self.trainer.said()[-3000:]}")
            time.sleep(0.02)
        self.snapshot()
        self.page.kill()
        self.log.close()

    def until(self, holds: Any, otherwise: str) -> None:
        end = time.monotonic() + PATIENCE_S
        while not holds():
            if time.monotonic() > end or self.trainer.code not in (None, 0):
                raise SystemExit(f"{otherwise}: {self.trainer.said()[-3000:]}")
            time.sleep(0.02)

    def reachable(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.browser.port), timeout=1):
            return True
        return False

    # The person ----------------------------------------------------------------------------------------------------------

    def next_question(self) -> dict[str, Any] | None:
        """Return the next question; None if there is none."""
        found: list[dict[str, Any]] = json.loads(self.insist("GET", "/questions")[1])["questions"]
        self.snapshot()
        self.shown_again += [each["key"] for each in found if each["key"] in self.confirmed]
        return found[0] if found else None

    def answer(self, question: dict[str, Any]) -> None:
        """Answer a question, and sometimes change an earlier answer."""
        key = question["key"]
        choice = self.rng.choice(CHOICES) if self.recorded is None else self.recorded[key]
        self.submit(key, choice, question["revision"])
        if self.rng.random() < self.changes:
            last = json.loads(self.insist("GET", "/last")[1])
            self.submit(last["key"], self.rng.choice([each for each in CHOICES if each != last["answer"]]), last["revision"])
        if self.wait != "all":
            time.sleep(0.1)

    def submit(self, key: str, choice: str, revision: int) -> None:
        """Send an answer until it is confirmed; then note it on disk."""
        body = json.dumps({"key": key, "choice": choice, "seconds": 0.5, "revision": revision}).encode()
        status, text, _ = self.insist("POST", "/answers", body)
        said = json.loads(text)
        if status == 409:
            self.late += 1
            return
        assert status == 200, (status, said)
        self.stored_unconfirmed += said["how"] == "again"
        self.confirmed.setdefault(key, []).append(choice)
        self.log.write(json.dumps({"key": key, "choice": choice, "revision": revision, "how": said["how"]}) + "\n")
        self.log.flush()
        os.fsync(self.log.fileno())
        if self.killer is not None:
            self.killer.answers -= 1

    def insist(self, method: str, path: str, body: bytes = b"") -> tuple[int, str, str]:
        """Repeat a request until there is an answer that is not "try again", as the page's script does."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            if self.page.code is not None:
                self.page.start()
            try:
                began = time.monotonic()
                said = self.disturbed(body) if self.killer is not None and body else self.browser.ask(method, path, body)
                if body:
                    self.latency.append(time.monotonic() - began)
                if said[0] < 500 and said[0] != 429:
                    return said
            except (OSError, HTTPException):
                pass
            if self.trainer.code == -9:
                self.trainer.start()
            time.sleep(0.03)
        raise SystemExit(f"The page does not answer {method} {path}: {self.page.said()[-3000:]}")

    # Kills ---------------------------------------------------------------------------------------------------------------

    def disturbed(self, body: bytes) -> tuple[int, str, str]:
        """Send an answer, perhaps with kills on the way, and return what the page has said."""
        killer, rng = self.killer, self.rng
        assert killer is not None
        usual = sorted(self.latency)[len(self.latency) // 2] if self.latency else 0.05
        sent = self.browser.request("POST", "/answers", body)
        in_request = killer.wants("page", 0.25)
        after = not in_request and killer.wants("page", 0.75)
        of_trainer = killer.wants("trainer", 0.5)
        with socket.create_connection(("127.0.0.1", self.browser.port), timeout=PATIENCE_S) as wire:
            if in_request:
                cut = rng.randrange(1, len(sent))
                wire.sendall(sent[:cut])
                time.sleep(rng.uniform(0, 0.01))
                killer.kill(self.page, "page", "between two bytes of an answer")
                wire.sendall(sent[cut:])
                return self.browser.read(wire)
            wire.sendall(sent)
            moments = [("page", self.page, rng.uniform(0, 1.5 * usual))] if after else []
            moments += [("trainer", self.trainer, rng.uniform(0, 1.5 * usual))] if of_trainer else []
            began = time.monotonic()
            for who, process, moment in sorted(moments, key=lambda each: each[2]):
                time.sleep(max(0.0, began + moment - time.monotonic()))
                killer.kill(process, who, "after an answer was sent")
            return self.browser.read(wire)

    def kill_between(self, idle_since: float) -> None:
        """Kill while no question is open: the trainer learns, asks or starts, and the page waits."""
        killer = self.killer
        if killer is None or self.trainer.code is not None:
            return
        if killer.rng.random() < 0.02 and killer.wants("page"):
            killer.kill(self.page, "page", "without a request")
        if killer.rng.random() < 0.05 and killer.wants("trainer", 4.0):
            starting = time.monotonic() - self.trainer.began < 2.0
            killer.kill(self.trainer, "trainer", "as it started" if starting else "while it learned or asked")

    # What has come of it -------------------------------------------------------------------------------------------------

    def rows(self, table: str, store: Path | None = None, order: str = "number, rowid") -> list[dict[str, Any]]:
        path = store or self.store
        if not path.exists():
            return []
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)) as db:
            db.row_factory = sqlite3.Row
            try:
                return [dict(row) for row in db.execute(f"select * from {table} order by {order}")]
            except sqlite3.OperationalError:  # the store is being made
                return []

    def snapshot(self) -> int:
        """Compare what the store asks with what it has asked before; return the number of questions."""
        rows = self.rows("pbrl_questions")
        found = {(row["round"], row["number"]): (row["start_0"], row["start_1"]) for row in rows}
        for name, pair in self.asked.items():
            if found.get(name) != pair:
                self.changed_questions.append(f"{name}: {pair}, then {found.get(name)}")
        self.asked |= found
        return len(found)
