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

import pytest
from fake_desk import FakeClips, FakeDesk

from lightning_pbrl.errors import UserError
from lightning_pbrl.labelling import serve
from lightning_pbrl.labelling.interface import Person

pytest.importorskip("fastapi", reason="the page is in the web extra")


@pytest.fixture
def clips(tmp_path: Path) -> FakeClips:
    return FakeClips(tmp_path / "clips")


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
