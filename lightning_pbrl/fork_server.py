"""Fork jobs from a process that has imported the library: a job then costs its own work, not the seconds of an import.

:class:`ForkServer` is the side of the pool, :func:`serve` what the server runs. It holds no thread and no CUDA context, and only
forks. A child has the environment, session, log, working folder and exit of a new interpreter, and computes the same bits.
"""

from __future__ import annotations

import gc
import json
import mmap
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import IO, Any

from lightning_pbrl.errors import UserError
from lightning_pbrl.later import uncollected

LIBRARY = [sys.executable, "-P", "-m", "lightning_pbrl"]
"""Program of a process that can be forked instead."""
WORD = "fork-server"
"""Argument in place of a verb that makes a process the server; the number of its socket follows."""
SWITCH = "LIGHTNING_PBRL_FORK"
"""Environment variable; 0 starts a new interpreter for each job."""
OWN = ("LIGHTNING_PBRL_STAGE", "CUDA_VISIBLE_DEVICES")
"""Variables in which a job may differ from the server, because nothing has read them yet."""
LOST = 256
"""Exit code of a job whose server was killed, and the job with it; no process has it."""
PATIENCE_S = 10.0
"""Longest time for a process to end that was told to, seconds."""


def possible() -> bool:
    """Return True where a fork is safe and can be watched: on Linux, unless :data:`SWITCH` forbids it."""
    if sys.platform != "linux" or os.environ.get(SWITCH) == "0":
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:  # an old kernel, or a sandbox
        return False
    return True


class Forked:
    """Child of the server, with the part of :class:`subprocess.Popen` that a pool needs.

    Attributes:
        pid: its process id, and that of its group.
    """

    def __init__(self, server: ForkServer, pid: int) -> None:
        self.pid, self._server = pid, server
        self._handle: int | None = None
        with suppress(ProcessLookupError):  # it has ended already
            self._handle = os.pidfd_open(pid)

    def poll(self) -> int | None:
        """Return the exit code; None while it runs, :data:`LOST` if nobody knows."""
        self._server.read()
        code = self._server.codes.get(self.pid)
        if code is None and self._server.gone:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            code = self._server.codes[self.pid] = LOST if self._ended(PATIENCE_S) else None
        if code is not None and self._handle is not None:
            os.close(self._handle)
            self._handle = None
        return code

    def wait(self, timeout: float) -> int:
        """Return the exit code when it has ended.

        Raises:
            subprocess.TimeoutExpired: if it has not.
        """
        until = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() >= until:
                raise subprocess.TimeoutExpired("lightning-pbrl", timeout)
            self._ended(min(0.05, timeout))
        return code

    def _ended(self, timeout: float) -> bool:
        """Wait until it has ended; True if it has."""
        return self._handle is None or bool(select.select([self._handle], [], [], timeout)[0])


class ForkServer:
    """Server of one pool; started with the first job that it suits.

    Args:
        say: prints a sentence.

    Attributes:
        codes: exit code by process id, of the jobs that have ended.
        gone: whether the server has ended.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._process: subprocess.Popen[bytes] | None = None
        self._environment: dict[str, str] = {}
        self._control: socket.socket | None = None
        self._loaded = False
        self.codes: dict[int, int | None] = {}
        self.gone = not possible()

    def fork(self, command: Sequence[str], environment: Mapping[str, str], log: IO[str]) -> Forked | None:
        """Return a job's process; None where a new interpreter is needed.

        Args:
            command: program and arguments.
            environment: its variables.
            log: open file that takes its output.
        """
        control = self._socket(environment) if list(command[: len(LIBRARY)]) == LIBRARY else None
        if control is None:
            return None
        own = {name: environment[name] for name in OWN if name in environment}
        request = json.dumps({"arguments": command[len(LIBRARY) :], "variables": own}).encode()
        try:
            socket.send_fds(control, [request], [log.fileno()])
            while (started := self._receive()) is not None:
                if "started" in started:
                    return Forked(self, started["started"])
        except OSError:  # too long for a message, or just killed: the next look will tell
            pass
        return None

    def read(self) -> None:
        """Take in which jobs have ended."""
        while not self.gone and self._receive(socket.MSG_DONTWAIT) is not None:
            pass

    def close(self) -> None:
        """End the server, and jobs that nobody has ended."""
        if self._control is None or self._process is None:
            return
        self.gone = True
        with suppress(OSError):
            self._control.send(b"null")
        self._control.close()
        if not self._loaded:  # interrupted: it has no job
            self._process.kill()
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _socket(self, environment: Mapping[str, str]) -> socket.socket | None:
        """Return the connection to the server, which is started with the first job; None where it does not suit this one."""
        if self._control is None and not self.gone:
            self._start(environment)
        return None if self.gone or self._environment != _shared(environment) else self._control

    def _start(self, environment: Mapping[str, str]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [*LIBRARY, WORD, str(theirs.fileno())],
                stdout=subprocess.DEVNULL,  # each job has a log of its own
                stderr=subprocess.DEVNULL,
                env=dict(environment),
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is for the pool
            )
        self._control, self._environment = ours, _shared(environment)
        told = self._receive()
        self._loaded = True
        if told is not None and told["unfit"]:
            self.gone = True
            self._say(f"Each stage imports the library anew, because {told['unfit']}.")

    def _receive(self, flags: int = 0) -> dict[str, Any] | None:
        """Return the server's next message, exit codes put aside; None without one."""
        assert self._control is not None  # noqa: S101
        try:
            message = self._control.recv(1 << 16, flags)
        except BlockingIOError:
            return None
        except ConnectionError:
            message = b""
        if not message:
            self.gone = True
            self._say("The process from which stages are forked has ended: they start again, each in a new interpreter.")
            return None
        told: dict[str, Any] = json.loads(message)
        if "ended" in told:
            self.codes[told["ended"]] = told["code"]
        return told


def _shared(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name not in OWN}


# The server ------------------------------------------------------------------------------------------------------------


def serve(number: int) -> None:
    """Import the library and fork a child for each request; return in the children alone, as the process of that job.

    Args:
        number: file descriptor of the socket to the pool.

    Raises:
        SystemExit: in the server, when the pool has closed its end.
    """
    control = socket.socket(fileno=number)
    control.set_inheritable(False)
    unfit = _load()
    from lightning_pbrl.compute import compiling

    control.send(json.dumps({"unfit": unfit}).encode())
    children: dict[int, int] = {}  # handle -> process id
    compiles = mmap.mmap(-1, 1)  # shared with the children, of which the first one that compiles sets it
    warm = False
    while not unfit:
        ready = select.select([number, *children], [], [])[0]
        for handle in children.keys() & set(ready):
            pid = children.pop(handle)
            os.close(handle)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            control.send(json.dumps({"ended": pid, "code": code}).encode())
        if number not in ready:
            continue
        message, logs, *_ = socket.recv_fds(control, 1 << 20, 1)
        request = json.loads(message or b"null")
        if request is None:
            for pid in children.values() if message else ():  # a pool that was killed leaves its jobs running
                with suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            break
        if compiles[0] and not warm:
            warm = True
            with uncollected():
                compiling.warm()  # others of this study will need it, too
            gc.freeze()
        if not (pid := os.fork()):
            for handle in children:
                os.close(handle)
            if not warm:
                compiling.observe(lambda: compiles.__setitem__(0, 1))
            _become(request, logs[0], control)
            return
        os.close(logs[0])  # the job alone holds its lock
        children[os.pidfd_open(pid)] = pid
    raise SystemExit


def _load() -> str:
    """Import what a run needs; return why this process must not fork, empty if it may."""
    from lightning_pbrl.registry import import_all, seeing_working_folder

    with seeing_working_folder(), uncollected():
        from lightning_pbrl.trainer import prepare

        prepare()  # before a plugin may import a simulator
        import torch

        import_all()
        _rehearse()
    if not (pid := os.fork()):  # libraries that mind forks, as OpenBLAS does, end their threads before the first one
        os._exit(0)
    os.waitpid(pid, 0)
    gc.collect()
    gc.freeze()  # no child looks at all this again, so it stays shared
    threads = max(threading.active_count(), len(os.listdir("/proc/self/task")))
    if torch.cuda.is_initialized():
        return "a plugin uses the GPU when it is imported"
    return f"a plugin holds {threads - 1} threads when it is imported" if threads > 1 else ""


def _rehearse() -> None:
    """Do once, for nothing, what each run does anew: later times find modules, parsers, fonts and caches ready."""
    import numpy as np
    import torch.utils.tensorboard.summary

    from lightning_pbrl import train_cli
    from lightning_pbrl.data.store import LabelStore
    from lightning_pbrl.envs.base import need
    from lightning_pbrl.reports.metrics import Series
    from lightning_pbrl.reports.plot import learning_curve

    for simulator in ("gymnasium.envs.mujoco.mujoco_env", "metaworld.env_dict"):
        with suppress(Exception):  # whoever needs it will say so
            need(simulator, "")
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as name, suppress(UserError, OSError):
        warnings.simplefilter("ignore")
        train_cli.rehearse()
        LabelStore(f"{name}/labels.sqlite", "")
        learning_curve({"eval/return_mean": Series(np.zeros(1), np.zeros(1))}, f"{name}/curve.png", "rehearsal")
    torch.utils.tensorboard.summary.hparams({}, {})


def _become(request: Mapping[str, Any], log: int, control: socket.socket) -> None:
    """Make this child what a new interpreter would be."""
    import numpy
    import torch

    os.setsid()
    control.send(json.dumps({"started": os.getpid()}).encode())
    control.close()
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)
    for name in OWN:
        os.environ.pop(name, None)
    os.environ.update(request["variables"])
    sys.argv[1:] = request["arguments"]
    for seed in (numpy.random.seed, torch.default_generator.seed):  # as in a new interpreter, no two children draw alike
        seed()
