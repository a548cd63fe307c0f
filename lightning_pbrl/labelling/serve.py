"""Start the labelling page: from the command line, beside a run, or in a notebook."""

from __future__ import annotations

import argparse
import gc
import os
import socket
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from lightning_pbrl.arguments import Arguments
from lightning_pbrl.errors import UserError

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI
    from IPython.display import IFrame

    from lightning_pbrl.labelling.demo import Returns
    from lightning_pbrl.labelling.interface import AnyDesk, Films, Role

PORT = 8017
"""Port of the page unless another is given."""
NICE = 5
"""Steps by which the command's priority is below that of a training on the same machine."""


def give_way() -> None:
    """Lower the priority of this process, and of those it starts, below that of a training."""
    if hasattr(os, "setpriority"):
        os.setpriority(os.PRIO_PROCESS, 0, max(NICE, os.getpriority(os.PRIO_PROCESS, 0)))


def make_app(desk: AnyDesk, clips: Films, **settings: Any) -> FastAPI:
    """Return the application of :func:`lightning_pbrl.labelling.page.app`.

    Raises:
        UserError: when the packages of the extra ``web`` are missing.
    """
    check_extra()
    from lightning_pbrl.labelling.page import app

    return app(desk, clips, **settings)


def check_extra() -> None:
    """Refuse to go on without the packages of the extra ``web``.

    Raises:
        UserError: names the first that is missing.
    """
    try:
        import uvicorn  # noqa: F401

        import lightning_pbrl.labelling.page  # noqa: F401 (imports the others)
    except ImportError as error:
        missing = error.name or error
        raise UserError(
            f"The labelling page needs {missing}: install the extra with pip install 'lightning-pbrl[web]'."
        ) from error


def invitations(desk: AnyDesk, people: Mapping[str, Role], address: str, renew: Collection[str] = ()) -> dict[str, str | None]:
    """Return one link per person; None for a person who has one already and is not to get a new one.

    Only hashes of tokens are stored, so a link cannot be shown twice.
    """
    known = {person.name for person in desk.people()} - set(renew)
    return {name: None if name in known else f"{address}/join/{desk.invite(name, role)}" for name, role in people.items()}


class Served:
    """The page in a thread of this process.

    Args:
        application: what :func:`make_app` has returned.
        host: address to listen on.
        port: port to listen on; 0 takes a free one.

    Attributes:
        address: where it is, ``http://host:port``.
    """

    def __init__(self, application: FastAPI, host: str = "127.0.0.1", port: int = 0) -> None:
        listening = _listen(host, port)
        self.address = _address(host, listening)
        self._server = _server(application)
        self._thread = threading.Thread(target=self._server.run, args=([listening],), name="labelling page", daemon=True)
        self._thread.start()  # connections wait in the socket's queue until the server takes them

    def stop(self) -> None:
        """End the page; requests that are under way are answered first."""
        self._server.should_exit = True
        self._thread.join(timeout=10)


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port < 65536:
        raise UserError(f"--port is {port}: give a number from 0 (a free port) to 65535.")
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=512)
    except OSError as error:
        number = error.errno or 0
        why = os.strerror(number) if number > 0 else error.strerror  # errors of names have numbers below 0
        raise UserError(f"The page cannot listen on {host}, port {port} ({why}): choose another --port or --host.") from error


def _address(name: str, listening: socket.socket) -> str:
    return f"http://{f'[{name}]' if ':' in name else name}:{listening.getsockname()[1]}"


def _server(application: FastAPI) -> uvicorn.Server:
    import uvicorn

    # No log of requests: their addresses hold tokens.
    return uvicorn.Server(
        uvicorn.Config(
            application,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            timeout_graceful_shutdown=3,
        )
    )


def label(
    desk: AnyDesk,
    clips: Films,
    people: Mapping[str, Role],
    *,
    host: str = "127.0.0.1",
    port: int = PORT,
    name: str = "",
    renew: Collection[str] = (),
    task: str = "",
    strength: bool = False,
    export: Callable[[], Iterable[str]] | None = None,
    beside: bool = False,
) -> None:
    """Serve the page in this process until it is interrupted; print one link per person.

    Args:
        desk: questions and answers.
        clips: films of the questions.
        people: role by name.
        host: address to listen on; only this machine reaches the default.
        port: port to listen on; 0 takes a free one.
        name: name under which others reach this machine, for the links; default ``host``, or the machine's own when that is any.
        renew: persons who get a new link although they have one.
        task: description of what is good, shown above the clips.
        strength: offer "much better" beside "better".
        export: lines of the label store's export.
        beside: end when the standard input does, which the trainer has opened.

    Raises:
        UserError: when the port is taken or the extra ``web`` is not installed.
    """
    if not name:
        name = socket.gethostname() if host in ("", "0.0.0.0", "::") else host
    application = make_app(desk, clips, task=task, strength=strength, export=export, hosts=[f"[{name}]" if ":" in name else name])
    listening = _listen(host, port)
    address = _address(name, listening)
    for person, link in invitations(desk, people, address, renew).items():
        print(f"{person}: {link or f'the link given before, at {address} (--renew {person} makes a new one)'}", flush=True)
    server = _server(application)
    if beside:
        threading.Thread(target=_end_with_input, args=(server,), name="end with the trainer", daemon=True).start()
    gc.freeze()  # a full search for garbage among all that was imported would let everybody wait for half a second
    server.run([listening])


def _end_with_input(server: uvicorn.Server) -> None:
    while os.read(0, 1024):
        pass
    server.should_exit = True


def label_options(args: list[str]) -> argparse.Namespace:
    """Return the parsed arguments of ``lightning-pbrl label``; ``people`` has the role by name.

    Raises:
        UserError: for arguments that do not fit.
    """
    parser = Arguments("lightning-pbrl label", description="Let people answer a run's questions in a browser.")
    parser.add_argument("store", metavar="RUN|STORE", help="run folder, label store, or URL of a database")
    parser.add_argument(
        "-c", "--config", action="append", default=[], metavar="DATA.yaml", help="the data, of a store outside a run folder"
    )
    parser.add_argument("--people", nargs="+", default=["me"], metavar="NAME", help="who answers, a link each (default: me)")
    parser.add_argument("--researcher", nargs="+", default=[], metavar="NAME", help="who sees the overview")
    parser.add_argument("--renew", nargs="+", default=[], metavar="NAME", help="make a new link; the old one stops working")
    parser.add_argument("--task", default="", help="what is good, in a sentence that stands above the clips")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=PORT, help=f"port to listen on (default {PORT}; 0: a free one)")
    parser.add_argument("--name", default="", help="name under which others reach this machine, for the links")
    parser.add_argument("--strength", action="store_true", help='offer "much better" beside "better"')
    _add_desk(parser)
    parser.add_argument("--demo", type=int, nargs="?", const=0, metavar="N", help="let a simulated person give N answers, or all")
    parser.add_argument("--seconds-per-answer", type=float, default=2.0, metavar="S", help="of the demo (default 2)")
    parser.add_argument("--beside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(args)
    for name in (names := [*options.people, *options.researcher]):
        if not name.strip() or len(name) > 100 or not name.isprintable():
            raise UserError(f"{name!r} cannot be a person's name: give up to 100 printable characters.")
        if names.count(name) > 1:
            raise UserError(f"{name} is named twice: a person has one role, and a researcher may answer too.")
    if unknown := set(options.renew) - set(names):
        raise UserError(f"--renew names {min(unknown)}, who is neither in --people nor in --researcher.")
    options.people = {**dict.fromkeys(options.people, "labeller"), **dict.fromkeys(options.researcher, "researcher")}
    return options


def label_command(
    args: list[str], opened: Callable[..., tuple[AnyDesk, Films]], returns: Callable[..., Returns] | None = None
) -> None:
    """``lightning-pbrl label RUN|STORE``: serve the labelling page and print one link per person.

    Args:
        args: the command line.
        opened: returns the desk and the clips of a run folder, a file or a database's URL, and of configs of the data; it takes
            the desk's settings as well.
        returns: returns the true returns of its questions, for the demo, from the same.
    """
    options = label_options(args)
    settings = {name: value for name in DESK if (value := getattr(options, name)) is not None}
    desk, clips = opened(options.store, *options.config, **settings)
    if options.demo is not None and returns is not None:
        from lightning_pbrl.labelling.demo import demo

        served = Served(make_app(desk, clips, task=options.task, strength=options.strength), options.host, options.port)
        links = {name: f"{served.address}/join/{desk.invite(name, role)}" for name, role in options.people.items()}
        print(f"{', '.join(links)} in a headless Chromium at {served.address}", flush=True)
        demo(desk, links, returns(options.store, *options.config), options.seconds_per_answer, options.demo)
        return served.stop()
    settings = {key: getattr(options, key) for key in ("host", "port", "name", "renew", "task", "strength", "beside")}
    label(desk, clips, options.people, **settings)


DESK = ("run", "gold", "practice", "check_every", "repeat_every")
"""Settings of the desk that are options of the command."""


def _add_desk(parser: Arguments) -> None:
    """Add the settings of the desk, which has their defaults."""
    parser.add_argument("--run", metavar="NAME", help="questions of this run alone (default: of all runs in the store)")
    about = "expert, whose answers stand, and are expected from others in practice and checks (default: nobody)"
    parser.add_argument("--gold", metavar="NAME", help=about)
    for name, what in (
        ("practice", "gold questions that a new person answers first, with feedback (default 5)"),
        ("check-every", "one in N questions is a gold one, without feedback (default 20; 0: none)"),
        ("repeat-every", "one in N questions is one that the person has answered before (default 0: none)"),
    ):
        parser.add_argument(f"--{name}", type=int, metavar="N", help=what)


def show_in_notebook(
    desk: AnyDesk, clips: Films, name: str = "me", *, task: str = "", host: str = "localhost", port: int = 0, height: int = 900
) -> IFrame:
    """Serve the page beside a notebook and show it in a frame of the cell.

    Args:
        desk: questions and answers.
        clips: films of the questions.
        name: name of the person; an older link of that name stops working.
        task: description of what is good, shown above the clips.
        host: the name of this machine in the notebook's address; a browser keeps the cookie from a frame of another name.
        port: port to listen on; 0 takes a free one.
        height: height of the frame, pixels.

    Returns:
        The frame; its ``served`` attribute has ``stop()``, and its ``src`` is a link for a window of its own.
    """
    from IPython.display import IFrame

    served = Served(make_app(desk, clips, task=task, framed=True), host, port)
    frame = IFrame(f"{served.address}/join/{desk.invite(name, 'labeller')}", width="100%", height=height)
    frame.served = served  # type: ignore[attr-defined]
    return frame
