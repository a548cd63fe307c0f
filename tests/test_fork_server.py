"""Jobs that are forked: what a new interpreter would do, bit for bit, and nobody is harmed by who is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.kills import outcome, stages, write_inputs
from lightning_pbrl import fork_server
from lightning_pbrl.fork_server import LOST, Forked, ForkServer
from lightning_pbrl.jobs import Job, Slot, run_jobs

ROOT = Path(__file__).parents[1]
LIGHT = [*fork_server.LIBRARY[:2], str(Path(__file__).parent / "scripts/light_server.py")]

pytestmark = pytest.mark.skipif(not fork_server.possible(), reason="jobs are forked on Linux only")

MODULES = {
    "tells": """
import json, os, sys, numpy, torch
json.dump({
    "argv": sys.argv[1:], "server": "fork-server" in sys.orig_argv, "folder": os.getcwd(), "leads": os.getsid(0) == os.getpid(),
    "stage": os.environ.get("LIGHTNING_PBRL_STAGE"), "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
    "threads": torch.get_num_threads(), "tasks": len(os.listdir("/proc/self/task")), "cuda": torch.cuda.is_initialized(),
    "renderer": bool({"OpenGL", "mujoco.egl"} & {*sys.modules}), "draw": numpy.random.random(), "torch": torch.initial_seed(),
    "sockets": sum("socket:" in os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")),
}, open("told.json", "w"))
print("said", flush=True)
print("complained", file=sys.stderr, flush=True)
""",
    "sleeps": "import os, pathlib, time\npathlib.Path(f'sleeping{os.getpid()}').touch()\ntime.sleep(600)",
    "exits": "raise SystemExit(7)",
    "breaks": "raise RuntimeError('a bug')",
    "killed": "import os\nos.kill(os.getpid(), 9)",
    "once": """
import os, pathlib, time
print('started', flush=True)
if not pathlib.Path('begun').exists():
    pathlib.Path('begun').write_text(str(os.getppid()))
    time.sleep(600)
""",
    "quick": "print('quick')",
    "compiles": """
import json, os, sys
from lightning_pbrl.compute import compiling
ready = "torch._inductor.compile_fx" in sys.modules
compiling.prepare()
json.dump({"ready": ready, "tasks": len(os.listdir("/proc/self/task"))}, open("told.json", "w"))
""",
}
"""Modules that ``lightning-pbrl list --imports`` imports: any code as a job."""


def listing(module: str) -> list[str]:
    return [*fork_server.LIBRARY, "list", "data", "--imports", module]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("forks")
    for name, text in MODULES.items():
        (path / f"{name}.py").write_text(text)
    return path


class Server(ForkServer):
    """A server with what it has said and the variables of its jobs."""

    def __init__(self, folder: Path) -> None:
        self.said: list[str] = []
        super().__init__(self.said.append)
        self.folder = folder
        self.variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}

    def job(self, module: str, log: str = "log.txt", **more: str) -> Forked:
        with (self.folder / log).open("a") as file:
            process = self.fork(listing(module), {**self.variables, **more}, file)
        assert process is not None
        return process

    def code(self, module: str, **more: str) -> int:
        (self.folder / "log.txt").unlink(missing_ok=True)
        return self.job(module, **more).wait(60)

    def sleeper(self) -> Forked:
        process = self.job("sleeps")
        wait_for(self.folder / f"sleeping{process.pid}")
        return process


def wait_for(path: Path, seconds: float = 90) -> None:
    until = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < until, path
        time.sleep(0.02)


def lives(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    here = os.getcwd()
    os.chdir(folder)  # a pool's processes work where it does
    try:
        found = Server(folder)
        assert found.code("quick") == 0
        yield found
        found.close()
    finally:
        os.chdir(here)


def told(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "told.json").read_text())
    return found


def test_a_child_is_what_a_new_interpreter_is(server: Server, folder: Path) -> None:
    own = {"LIGHTNING_PBRL_STAGE": "a/seed1", "CUDA_VISIBLE_DEVICES": "3,5"}
    assert server.code("tells", **own) == 0
    forked, log = told(folder), (folder / "log.txt").read_text()
    assert log.startswith("said\ncomplained\n") and "D4RLDataModule" in log
    assert (forked["stage"], forked["gpus"]) == ("a/seed1", "3,5")
    again = {**own, "LIGHTNING_PBRL_STAGE": "a/seed2"}
    assert server.code("tells", **again) == 0
    other = told(folder)
    assert other["stage"] == "a/seed2" and other["draw"] != forked["draw"] and other["torch"] != forked["torch"]

    with (folder / "fresh.txt").open("w") as file:
        environment = {**server.variables, **own}
        subprocess.run(listing("tells"), env=environment, stdout=file, stderr=file, check=True, start_new_session=True)
    fresh = told(folder)
    assert (folder / "fresh.txt").read_text() == log
    assert forked["server"] and not fresh["server"]
    assert forked["tasks"] == 1 and not forked["cuda"] and not forked["renderer"]
    differ = ("server", "draw", "torch", "tasks")
    assert {key: forked[key] for key in forked if key not in differ} == {key: fresh[key] for key in fresh if key not in differ}


@pytest.mark.parametrize(("module", "code", "text"), [("exits", 7, ""), ("breaks", 1, "RuntimeError: a bug"), ("killed", -9, "")])
def test_exit_codes(server: Server, folder: Path, module: str, code: int, text: str) -> None:
    assert server.code(module) == code
    assert text in (folder / "log.txt").read_text()


def test_a_killed_child_harms_nobody(server: Server) -> None:
    first, second = server.sleeper(), server.sleeper()
    os.kill(first.pid, signal.SIGKILL)
    assert first.wait(30) == -signal.SIGKILL
    assert second.poll() is None and lives(second.pid)
    os.killpg(second.pid, signal.SIGTERM)
    assert second.wait(30) == 128 + signal.SIGTERM
    third = server.sleeper()
    with pytest.raises(subprocess.TimeoutExpired):
        third.wait(0.2)
    os.killpg(third.pid, signal.SIGKILL)
    assert third.wait(30) == -signal.SIGKILL
    assert server.code("quick") == 0 and server.said == []


def test_what_needs_a_new_interpreter(server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (folder / "log.txt").open("a") as file:
        assert server.fork(["sh", "-c", "true"], server.variables, file) is None
        assert server.fork(listing("quick"), {**server.variables, "MUJOCO_GL": "osmesa"}, file) is None
        assert server.fork(listing("quick" * 100_000), server.variables, file) is None  # longer than a message may be
        assert not server.gone
        monkeypatch.setenv(fork_server.SWITCH, "0")
        assert ForkServer(print).fork(listing("quick"), server.variables, file) is None
        monkeypatch.delenv(fork_server.SWITCH)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "platform", "darwin")
            assert ForkServer(print).fork(listing("quick"), server.variables, file) is None
        monkeypatch.setattr(os, "pidfd_open", lambda pid: os.open(f"/nowhere/{pid}", os.O_RDONLY))
        assert ForkServer(print).fork(listing("quick"), server.variables, file) is None


def test_after_a_job_that_compiles_others_find_the_compiler_imported(server: Server, folder: Path) -> None:
    for ready in (False, True, True):  # no job before has compiled
        assert server.code("compiles") == 0
        assert told(folder) == {"ready": ready, "tasks": 1}


@pytest.fixture
def light(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server is there soon, and works in the folder."""
    monkeypatch.setattr(fork_server, "LIBRARY", LIGHT)
    monkeypatch.chdir(folder)


def test_a_killed_server_takes_its_jobs_with_it_and_says_so(folder: Path, light: None) -> None:
    mine = Server(folder)
    sleeper = mine.sleeper()
    assert mine._process is not None
    mine._process.kill()
    assert sleeper.wait(30) == LOST
    assert not lives(sleeper.pid)
    with (folder / "log.txt").open("a") as file:
        assert mine.fork(listing("quick"), mine.variables, file) is None
    assert mine.said == ["The process from which stages are forked has ended: they start again, each in a new interpreter."]
    mine.close()


def test_closing_ends_what_nobody_has_ended(folder: Path, light: None) -> None:
    mine = Server(folder)
    sleeper = mine.sleeper()
    mine.close()
    assert not lives(sleeper.pid) and mine._process is not None and mine._process.returncode == 0


def test_a_plugin_with_threads_is_not_forked(folder: Path, light: None) -> None:
    code = "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()"
    plugin = folder / "busy"
    plugin.mkdir()
    (plugin / "busy_plugin.py").write_text(code)
    (plugin / "busy-1.dist-info").mkdir()
    (plugin / "busy-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: busy\nVersion: 1\n")
    (plugin / "busy-1.dist-info" / "entry_points.txt").write_text("[lightning_pbrl.plugins]\nbusy = busy_plugin\n")
    mine = Server(folder)
    mine.variables["PYTHONPATH"] = os.pathsep.join([str(plugin), *filter(None, [os.environ.get("PYTHONPATH")])])
    with (folder / "log.txt").open("a") as file:
        assert mine.fork(listing("quick"), mine.variables, file) is None
    assert mine.said == ["Each stage imports the library anew, because a plugin holds 1 threads when it is imported."]
    mine.close()


# The pool --------------------------------------------------------------------------------------------------------------


class Listing(Job):
    """A job that imports the module that its stage is called after."""

    def process_arguments(self, overlay: Path) -> list[str]:
        return listing(self.stage)


def test_a_pool_starts_the_jobs_of_a_killed_server_again(
    folder: Path, tmp_path: Path, light: None, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "begun").unlink(missing_ok=True)
    jobs = [Listing(stage, 0, tmp_path / stage, "fit", [], {}) for stage in ("once", "quick", "breaks")]
    killer = "import os, time, pathlib\np = pathlib.Path('begun')\nwhile not (p.exists() and p.read_text()): time.sleep(.05)\n"
    with subprocess.Popen([sys.executable, "-c", killer + "os.kill(int(p.read_text()), 9)"]) as other:
        outcome = run_jobs(jobs, [Slot((), 1)], "test")
    assert other.returncode == 0
    assert [(failure.job, failure.reason) for failure in outcome.failed] == [(jobs[2], "exit code 1")]
    assert (tmp_path / "once/log.txt").read_text().count("started") == 2
    assert jobs[0].finished() and jobs[1].finished()
    assert capfd.readouterr().out.count("The process from which stages are forked has ended") == 1
    assert outcome.cpu_s > 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupting_leaves_no_orphan(number: signal.Signals, folder: Path, tmp_path: Path) -> None:
    marker = f"PBRL_TEST_MARKER={tmp_path}"
    script = """
import sys
from pathlib import Path
from test_fork_server import LIGHT, Listing, fork_server
from lightning_pbrl.jobs import Slot, run_jobs
from lightning_pbrl.signals import told
fork_server.LIBRARY = LIGHT
try:
    run_jobs([Listing("sleeps", k, Path(sys.argv[1]) / str(k), "fit", [], {}) for k in (0, 1)], [Slot((), 1)] * 2, "x")
except KeyboardInterrupt as error:
    sys.exit(128 + told(error))
"""
    environment = {**os.environ, "PBRL_TEST_MARKER": str(tmp_path)}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    command = [sys.executable, "-c", script, str(tmp_path)]
    pool = subprocess.Popen(command, env=environment, cwd=folder, stdout=subprocess.DEVNULL)

    def family() -> int:
        found = 0
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                found += marker.encode() in path.read_bytes()
            except OSError:  # it has just ended
                continue
        return found

    for each in (0, 1):
        wait_for(tmp_path / str(each) / "started.json")
        wait_for(folder / f"sleeping{json.loads((tmp_path / str(each) / 'started.json').read_text())['pid']}")
    assert family() == 4  # pool, server, two jobs
    pool.send_signal(number)
    assert pool.wait(120) == 128 + number
    assert family() == 0


@pytest.mark.slow
def test_forked_stages_equal_fresh_ones_bit_by_bit(tmp_path: Path) -> None:
    """Reward and policy with their simulator: checkpoints, answers and results of a run by fork, and one without."""
    found = {}
    (tmp_path / "tells_how.py").write_text("import sys\nprint('fork-server' in sys.orig_argv, flush=True)\n")
    for switch in ("1", "0"):
        folder = tmp_path / switch
        folder.mkdir()
        write_inputs(folder)
        with (folder / "cut.yaml").open("a") as study:
            study.write("imports: [tells_how]\n")
        environment = {**os.environ, fork_server.SWITCH: switch, "OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
        command = [*fork_server.LIBRARY, "run", "cut.yaml", "--out", "out"]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        runs = stages(folder / "out")
        assert list(runs) == ["policy/seed0", "reward/seed0"]
        assert all(str(switch == "1") in (run / "log.txt").read_text() for run in runs.values())
        found[switch] = {name: outcome(run) for name, run in runs.items()}
    assert found["1"] == found["0"]
