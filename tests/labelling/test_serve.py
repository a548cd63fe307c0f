"""Starting the labelling page: the command line, links, ports, beside a run, in a notebook."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from fake_desk import FakeClips, FakeDesk

import lightning_pbrl
from lightning_pbrl.data.feedback import Answer, AskKey, Query, Status
from lightning_pbrl.data.store import LabelStore
from lightning_pbrl.errors import UserError
from lightning_pbrl.label_cli import opened
from lightning_pbrl.labelling import serve
from lightning_pbrl.labelling.beside import PageBeside, page_beside, port_of
from lightning_pbrl.labelling.desk import Desk
from lightning_pbrl.labelling.films import QuestionFilms
from lightning_pbrl.labelling.interface import Person

pytest.importorskip("fastapi", reason="the page is in the web extra")


def fetch(address: str) -> str:
    with urllib.request.urlopen(address, timeout=10) as answer:
        return answer.read().decode()


def test_links_are_made_once_and_renewed_when_asked() -> None:
    desk = FakeDesk()
    people = {"anna": "labeller", "rosa": "researcher"}
    links = serve.invitations(desk, people, "http://localhost:1")
    tokens = [str(link).removeprefix("http://localhost:1/join/") for link in links.values()]
    assert [desk.person(token) for token in tokens] == [Person("anna", "labeller"), Person("rosa", "researcher")]
    assert serve.invitations(desk, people, "http://localhost:1") == {"anna": None, "rosa": None}  # restarted
    renewed = serve.invitations(desk, people, "http://localhost:1", renew=["anna"])
    assert renewed["anna"] not in (None, links["anna"]) and renewed["rosa"] is None
    assert desk.person(tokens[0]) is None and desk.person(tokens[1]) is not None


def test_in_the_background(clips: FakeClips) -> None:
    desk = FakeDesk()
    served = serve.Served(serve.make_app(desk, clips))
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", served.address)
    assert "Welcome, anna" in fetch(f"{served.address}/join/{desk.invite('anna')}")
    with pytest.raises(UserError, match=r"port \d+ \(Address already in use\): choose another --port or --host\."):
        serve.Served(serve.make_app(desk, clips), port=int(served.address.rpartition(":")[2]))
    with pytest.raises(UserError, match=r"--port is 99999: give a number"):
        serve.Served(serve.make_app(desk, clips), port=99999)
    with pytest.raises(UserError, match=r"cannot listen on 203\.0\.113\.7"):  # no address of this machine
        serve.Served(serve.make_app(desk, clips), host="203.0.113.7")
    served.stop()
    with pytest.raises(OSError, match="refused"):
        fetch(served.address)


def test_in_a_notebook(clips: FakeClips) -> None:
    pytest.importorskip("IPython", reason="notebooks are in the notebooks extra")
    desk = FakeDesk()
    frame = serve.show_in_notebook(desk, clips, "anna", height=700)
    assert 'height="700"' in frame._repr_html_() and "Welcome, anna" in fetch(frame.src)
    frame.served.stop()


def test_a_missing_extra_is_named(clips: FakeClips, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(UserError, match=r"needs uvicorn: install the extra with pip install 'lightning-pbrl\[web\]'\."):
        serve.make_app(FakeDesk(), clips)


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ([], "required: RUN|STORE"),
        (["run", "--people", "a", "a"], "a is named twice"),
        (["run", "--people", "a", "--researcher", "a"], "a is named twice"),
        (["run", "--people", ""], "'' cannot be a person's name"),
        (["run", "--people", "a\nb"], "cannot be a person's name"),
        (["run", "--people", "x" * 101], "cannot be a person's name"),
        (["run", "--renew", "ben"], "--renew names ben, who is neither in --people nor in --researcher"),
        (["run", "--port", "many"], "invalid int value"),
    ],
)
def test_mistakes_on_the_command_line(args: list[str], sentence: str) -> None:
    def never(store: str):
        raise AssertionError(store)

    with pytest.raises(UserError, match=re.escape(sentence)):
        serve.label_command(args, never)


def test_settings_of_the_command_line(clips: FakeClips, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: dict = {}
    monkeypatch.setattr(serve, "label", lambda desk, clips, people, **settings: taken.update(settings, people=people))
    serve.label_command(
        ["runs/a", "--people", "anna", "ben", "--researcher", "rosa", "--task", "go"], lambda store: (store, clips)
    )
    assert taken["people"] == {"anna": "labeller", "ben": "labeller", "rosa": "researcher"}
    assert (taken["host"], taken["port"], taken["task"], taken["renew"]) == ("127.0.0.1", serve.PORT, "go", [])


SERVE = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from fake_desk import FakeClips, FakeDesk
from lightning_pbrl.labelling.serve import label_command
label_command(["run", "--people", "anna", "ben", "--port", "0"], lambda store: (FakeDesk(), FakeClips(Path({folder!r}))))
"""


@pytest.mark.slow
def test_the_command_prints_links_that_work_and_ends_when_told(tmp_path: Path) -> None:
    code = SERVE.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        lines = [process.stdout.readline() for _ in range(2)]
        links = dict(line.strip().split(": ", 1) for line in lines)
        assert list(links) == ["anna", "ben"] and "Welcome, ben" in fetch(links["ben"])
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=20)
    token = links["ben"].rpartition("/")[2]
    assert token not in out + errors  # no log of addresses, because they hold tokens
    assert process.returncode in (-signal.SIGINT, 130, 1)


@pytest.mark.skipif(not socket.has_ipv6 or not os.path.exists("/proc/net/if_inet6"), reason="no IPv6 here")
def test_ipv6(clips: FakeClips) -> None:
    desk = FakeDesk()
    served = serve.Served(serve.make_app(desk, clips), host="::1")
    assert served.address.startswith("http://[::1]:") and "Welcome" in fetch(f"{served.address}/join/{desk.invite('anna')}")
    served.stop()


# Beside a run ----------------------------------------------------------------------------------------------------------


class Fake(PageBeside):
    """A page that says something and ends with a code, or waits for the end of its input."""

    codes: list[int | None]

    def _started(self) -> subprocess.Popen[str]:
        code = self.codes.pop(0)
        script = "import sys; sys.stdin.read()" if code is None else f"print('me: http://here'); raise SystemExit({code})"
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        return subprocess.Popen([sys.executable, "-S", "-c", script], **pipes)

    @classmethod
    def attended(cls, run: Path, *codes: int | None) -> Fake:
        page = cls(run, {})
        page.codes = list(codes)
        page._process = page._started()
        page._attend()
        return page


def test_settings_of_a_page_beside_a_run(tmp_path: Path) -> None:
    assert page_beside(False, tmp_path) is None
    settings = [True, 8017, {"people": ["Ada", "Bob"], "researcher": ["Cy"], "task": "Slide the plate.", "port": 8018}]
    plain, numbered, full = (serve.label_options(page_beside(each, tmp_path)._args) for each in settings)
    assert plain.people == {"me": "labeller"} and plain.beside and plain.store == str(tmp_path)
    assert numbered.port == 8017 and full.port == 8018 and full.task == "Slide the plate."
    assert full.people == {"Ada": "labeller", "Bob": "labeller", "Cy": "researcher"}


def test_a_run_has_a_port_of_its_own_while_it_is_free(tmp_path: Path) -> None:
    port = port_of(tmp_path / "a")
    assert port == port_of(tmp_path / "a") and 20_000 <= port < 30_000
    with socket.create_server(("127.0.0.1", port)):
        assert port_of(tmp_path / "a") not in (0, port)


def test_a_page_that_dies_is_started_again_and_given_up_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    Fake.attended(tmp_path, 3, 247, 2)  # the third is a mistake that a user has to mend
    again = "and is started again; no answer is lost."
    assert capsys.readouterr().out.splitlines() == [
        "me: http://here",
        f"The labelling page has ended (exit code 3) {again}",
        "me: http://here",
        f"The labelling page has ended (exit code 247) {again}",
        "me: http://here",
        "The labelling page has ended (exit code 2) and is given up: mend that, and start it with lightning-pbrl label "
        f"{tmp_path}; the run goes on.",
    ]
    assert Fake.attended(tmp_path, 3, 3, 3, 3, 3, 3).codes == [3]  # not for ever
    assert "(exit code 3) and is given up" in capsys.readouterr().out


def test_a_page_ends_with_the_trainer_and_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    page = Fake(tmp_path, {})
    page.close()  # never opened
    page = Fake(tmp_path, {})
    page.codes = [None]
    page.open()
    page.open()  # with every round
    page.close()
    assert page._process.returncode == 0 and capsys.readouterr().out == ""


@pytest.mark.slow
def test_the_command_ends_with_its_input(tmp_path: Path) -> None:
    code = SERVE.format(tests=str(Path(__file__).parent), folder=str(tmp_path)).replace('"--port"', '"--beside", "--port"')
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as process:
        link = process.stdout.readline().split()[1]
        assert "Welcome, anna" in fetch(link)
        _, errors = process.communicate(timeout=20)  # closes the input
    assert process.returncode == 0 and errors == ""


def ask(folder: Path, *start: list[int]) -> Path:
    """A label store with open pairs of segments of 10 steps."""
    pending = Answer(torch.full((len(start),), torch.nan), torch.full((len(start),), int(Status.PENDING)))
    about = {"strategy": {}, "teacher": {}, "seed": 0, "answered_by": "HumanTeacher"}
    store = folder / "labels.sqlite"
    LabelStore(store, "data").put(AskKey("run", 0, 0), Query("pair", torch.tensor(start), 10), pending, **about)
    return store


def test_films_are_begun_before_anybody_asks(tmp_path: Path) -> None:
    wanted: list[list[tuple[int, int]]] = []
    films = QuestionFilms(Desk(ask(tmp_path, [0, 30], [60, 90])), SimpleNamespace(want=wanted.append))
    films.draw_ahead()
    assert wanted == [[(0, 10), (30, 10), (60, 10), (90, 10)]]
    QuestionFilms(films.desk, None, "nothing can be drawn").draw_ahead()  # nor begun


def test_the_store_that_a_run_names_is_served(tmp_path: Path) -> None:
    """Of a store that several runs share, the questions of this run, by the rules of its teacher."""
    (tmp_path / "shared").mkdir()
    shared, config = ask(tmp_path / "shared", [0, 30]), tmp_path / "config.yaml"
    teacher = {"class_path": "HumanTeacher", "init_args": {"overlap": 2, "timeout": 7.0}}
    config.write_text(yaml.safe_dump({"seed_everything": 3, "ask": {"store": str(shared), "teacher": teacher}}))
    desk, _ = opened(str(tmp_path))
    assert (desk.name, desk.run, desk.overlap, desk.timeout) == (str(shared), "seed3", 2, 7.0)
    router = {"class_path": "RouterTeacher", "init_args": {"person": teacher}}
    config.write_text(yaml.safe_dump({"ask": {"store": str(shared), "run": "run", "teacher": router}}))
    assert (opened(str(tmp_path))[0].run, opened(str(tmp_path))[0].overlap) == ("run", 2)
    assert opened(str(shared))[0].run is None and len(opened(str(shared))[0].waiting(9)) == 1


def test_a_run_in_a_notebook(tmp_path: Path) -> None:
    pytest.importorskip("IPython", reason="notebooks are in the notebooks extra")
    ask(tmp_path, [0, 30])
    frame = lightning_pbrl.label(tmp_path, "Ada", task="Reach the dot.")
    assert frame.src.startswith("http://localhost:") and "Welcome, Ada" in fetch(frame.src)
    frame.served.stop()
    with pytest.raises(UserError, match=r"has no labels\.sqlite: name the run folder of a fit that asked"):
        lightning_pbrl.label(tmp_path.parent)
