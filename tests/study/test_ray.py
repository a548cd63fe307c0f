"""The Ray launcher: against a stub of the calls that it makes, and on a real cluster of two nodes where Ray is installed."""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import QUIET, mistake, write_two_tasks
from ray_stub import RayError, Stub
from shell_jobs import Shell

from lightning_pbrl import signals
from lightning_pbrl.cli import main
from lightning_pbrl.errors import UserError
from lightning_pbrl.jobs import Job
from lightning_pbrl.study import ray as ray_launcher
from lightning_pbrl.study.file import Point
from lightning_pbrl.study.plan import Trial
from lightning_pbrl.study.ray import Ray

pytestmark = QUIET
SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


def launcher(*args: str) -> Ray:
    parser = argparse.ArgumentParser()
    Ray.add_arguments(parser)
    return Ray(parser.parse_args(args))


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Stub:
    found = Stub()
    monkeypatch.setitem(sys.modules, "ray", found)
    return found


def trial(folder: Path, *scripts: str) -> Trial:
    """One trial whose stages run these scripts, each after the one before."""
    jobs: list[Job] = []
    for k, script in enumerate(scripts):
        jobs.append(Shell(f"stage{k}", 0, folder / f"stage{k}/seed0", "fit", [], {"script": script}, jobs[-1:]))
    return Trial("trial", Point("", (), {}, 0), folder, jobs)


def test_stages_wait_for_each_other_and_a_failure_stops_what_needs_it(
    tmp_path: Path, stub: Stub, capfd: pytest.CaptureFixture[str]
) -> None:
    fine = trial(tmp_path / "a", "echo one > out; env > env", "cat ../../stage0/seed0/out > out")
    broken = trial(tmp_path / "b", "echo this is why >&2; exit 3", "true")
    failed = launcher("--cpus", "2", "--resources", "a100=0.5").launch([fine, broken], tmp_path, "test")
    assert [(failure.job, failure.reason) for failure in failed] == [
        (broken.jobs[0], "exit code 3"),
        (broken.jobs[1], "not run, because a stage it needs has failed"),
    ]
    assert (fine.jobs[1].folder / "out").read_text() == "one\n"
    assert all(job.finished() for job in fine.jobs)
    assert "OMP_NUM_THREADS=2" in (fine.jobs[0].folder / "env").read_text().splitlines()
    assert "CUDA_VISIBLE_DEVICES=" in (fine.jobs[0].folder / "env").read_text().splitlines()
    given = stub.submitted[0][1]
    assert (given["num_cpus"], given["num_gpus"], given["resources"], given["max_retries"]) == (2, 0.0, {"a100": 0.5}, 3)
    assert stub.addresses == ["auto"] and stub.down == 1
    assert "stage0/seed0: exit code 3" in capfd.readouterr().out.splitlines()
    assert launcher().launch([fine], tmp_path, "test") == []
    assert len(stub.submitted) == 3  # what has finished is not submitted again


def test_a_killed_job_is_resumed_and_one_that_fails_is_not(tmp_path: Path, stub: Stub) -> None:
    killed = trial(tmp_path / "a", "echo try >> tries; [ $(wc -l < tries) -gt 2 ] || kill -9 $$")
    assert launcher().launch([killed], tmp_path, "test") == []
    assert stub.tries == 3 and killed.jobs[0].finished()
    assert killed.jobs[0].failure() is None
    always = trial(tmp_path / "b", "kill -9 $$")
    (failure,) = launcher("--retries", "1").launch([always], tmp_path, "test")
    assert failure.reason == "killed by SIGKILL, and so each time"
    assert stub.tries == 5


def test_parts_of_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Stub(cores=8, gpus=1)
    monkeypatch.setitem(sys.modules, "ray", found)
    asks = launcher("--gpus", "0.25")
    job = trial(tmp_path, "echo $CUDA_VISIBLE_DEVICES > gpu")
    assert asks.launch([job], tmp_path, "test") == []
    assert (job.jobs[0].folder / "gpu").read_text() == "0\n"
    assert found.submitted[0][1]["num_gpus"] == 0.25
    assert asks._room(found) == 4  # the GPU allows four jobs, the cores eight
    assert launcher("--cpus", "3")._room(found) == 2
    assert launcher("--resources", "tpu=1")._room(found) == 0


def test_a_lost_node_and_an_interrupt(tmp_path: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: Any) -> None:
        raise RayError("The node died\nunexpectedly.")

    monkeypatch.setattr(ray_launcher, "run_job", lost)
    (failure,) = launcher().launch([trial(tmp_path, "true")], tmp_path, "test")
    assert failure.reason == "its task was lost (RayError: The node died unexpectedly.)"

    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(stub, "get", interrupted)
    monkeypatch.setattr(ray_launcher, "run_job", lambda *_: time.sleep(0.5) if stub.tries > 2 else None)
    with pytest.raises(KeyboardInterrupt):
        launcher().launch([trial(tmp_path / "x", "true"), trial(tmp_path / "y", "true")], tmp_path, "test")
    assert len(stub.cancelled) == 1  # the one that was still running
    assert stub.down == 2


def test_variables_of_the_settings_reach_the_node(tmp_path: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PBRL_TEST_STORE", "postgresql+psycopg://user@host/labels")
    one = trial(tmp_path, "true", "true")
    one.jobs[0].own |= {"ask": {"store": "${oc.env:PBRL_TEST_STORE}", "other": "${oc.env:PBRL_TEST_ABSENT,none}"}}
    assert launcher().launch([one], tmp_path, "test") == []
    wanted = {"PBRL_TEST_STORE": "postgresql+psycopg://user@host/labels"}
    assert [args[2] for args, _ in stub.submitted] == [wanted, wanted]  # the second stage's check looks at the first
    assert ray_launcher.run_job(one.jobs[0], str(tmp_path / "none"), {}, 1, "test") == (
        f"the node {os.uname().nodename} does not see the folder {tmp_path}/none: start in a folder that all nodes share"
    )


def test_a_search_on_ray(tmp_path: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job without prospects, which would take an hour, is ended by the pool that runs it."""
    pytest.importorskip("optuna", reason="the extra `optuna` is not installed")
    import optuna

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PBRL_TEST_EVERY", "0.02")
    monkeypatch.setattr(
        Job, "process_arguments", lambda _, overlay: [sys.executable, f"{SCRIPTS}/fit_by_formula.py", str(overlay)]
    )
    content = {
        "base": [["data/metaworld.yaml", "model/bc.yaml"]],
        "model.init_args.lr": {"choice": [1e-5]},
        "model.init_args.updates": [180_000],
        "optuna": {
            "n_trials": 1,
            "window": 1,
            "pruner": {"class_path": "ThresholdPruner", "init_args": {"lower": 0.05}},
        },
    }
    Path("small.yaml").write_text(yaml.safe_dump(content))
    main(["sweep", "small.yaml", "--launcher", "ray"])
    (trial,) = optuna.load_study(study_name="small", storage="sqlite:///runs/small/optuna.sqlite").trials
    assert trial.state.name == "PRUNED"
    assert not Path("/proc", Path("runs/small/trial0/seed0/starts").read_text().strip()).exists()


def test_mistakes(tmp_path: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    for flags, words in (
        (["--gpus", "1.5"], "--gpus 1.5: give a part of one GPU, such as 0.25, or a whole number of them"),
        (["--gpus", "-1"], "--gpus -1: give a part of one GPU"),
        (["--retries", "-1"], "give at least 1 core, 0 retries, 1 job"),
        (["--resources", "a100"], "--resources 'a100' is not understood: write NAME=AMOUNT, such as a100=1"),
    ):
        with pytest.raises(UserError, match=words):
            launcher(*flags)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(UserError, match=r"No Ray cluster answers at nowhere \(Could not find any running Ray instance\.\)"):
        launcher("--address", "nowhere").launch([], tmp_path, "test")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"The Ray launcher needs Ray: pip install 'lightning-pbrl\[ray\]'"):
        launcher().launch([], tmp_path, "test")


def served(what: bytes | None) -> Iterator[str]:
    """Address of a server on this machine that says ``what`` and closes, or says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    line, _ = server.accept()
                    if what is None:
                        held.append(line)
                        continue
                    with line:
                        line.sendall(what)
                        line.recv(100)

        held: list[socket.socket] = []
        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)  # closed alone, it would go on as long as a thread waits in it
        for line in held:
            line.close()


SAYS = {
    "HTTP/1": (b"HTTP/1.1 400 Bad Request\r\n\r\n", "what listens there is not Ray"),
    "bye": (b"", "what listens there is not Ray"),
    "mute": (None, "no answer within 0.2 s"),
}


@pytest.mark.parametrize("says", SAYS)
@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_somebody_else_listens(says: str, scheme: str, stub: Stub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ray would wait for minutes; ``RAY_ADDRESS``, which it prefers, does not hide what was given."""
    monkeypatch.setenv("RAY_ADDRESS", "other:1")
    monkeypatch.setattr(ray_launcher, "ANSWER_S", 0.2)
    what, why = SAYS[says]
    with contextmanager(served)(what) as address, pytest.raises(UserError) as caught:
        launcher("--address", scheme + address).launch([], tmp_path, "test")
    assert str(caught.value) == (
        f"No Ray cluster answers at {scheme}{address} ({why}): start one with `ray start --head`, or use --launcher local."
    )
    assert stub.addresses == []


def test_nobody_listens_and_ray_does(stub: Stub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "")
    with contextmanager(served)(b"\0\0\0\x04\0\0\0\0\0") as address:
        assert launcher("--address", address).launch([], tmp_path, "test") == []
        assert stub.addresses == [address]
    with pytest.raises(UserError, match=r"answers at 127\.0\.0\.1:\d+ \(.*refused\): start one with `ray start --head`"):
        launcher("--address", address).launch([], tmp_path, "test")
    monkeypatch.setenv("RAY_ADDRESS", address)  # as for the commands of a job that Ray runs
    with pytest.raises(UserError, match="No Ray cluster answers at auto"):
        launcher().launch([], tmp_path, "test")


def test_a_lost_worker_leaves_no_process_behind(tmp_path: Path) -> None:
    """A job dies with the process that has started it, and so does what it has started itself."""
    job = "import subprocess, sys, time; from lightning_pbrl import signals; signals.end_with_parent(); "
    job += "own = subprocess.Popen(['sleep', '600']); print(own.pid, flush=True); time.sleep(600)"
    worker = (
        "import os, subprocess, sys, time; from lightning_pbrl import signals; os.environ[signals.ENDS_WITH] = str(os.getpid()); "
    )
    worker += (
        "print(subprocess.Popen([sys.executable, '-c', sys.argv[1]], start_new_session=True).pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", worker, job], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pids = [int(process.stdout.readline()) for _ in range(2)]
        process.kill()
    until = time.monotonic() + 60
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < until
        time.sleep(0.1)


def alive(pid: int) -> bool:
    stat = Path("/proc", str(pid), "stat")
    return stat.is_file() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_what_a_signal_has_cut_off() -> None:
    for code, cut in ((-9, True), (143, True), (130, True), (2, False), (1, False)):
        assert signals.cut_off(signals.reason(code)) is cut


# The real thing -------------------------------------------------------------------------------------------------------


@pytest.fixture
def two_nodes(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Two raylets with a core each, on this machine; yields the environment for commands that are to find them."""
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(SCRIPTS.parents[1])}
    script = [sys.executable, str(SCRIPTS / "two_raylets.py"), str(tmp_path / "address")]
    with (tmp_path / "cluster.log").open("w") as log:
        cluster = subprocess.Popen(script, env=environment, stdin=subprocess.PIPE, stdout=log, stderr=log)
    try:
        until = time.monotonic() + 300
        while not (tmp_path / "address").is_file():
            assert time.monotonic() < until and cluster.poll() is None, (tmp_path / "cluster.log").read_text()
            time.sleep(0.2)
        yield {**environment, "RAY_ADDRESS": (tmp_path / "address").read_text()}
    finally:
        assert cluster.stdin is not None
        cluster.stdin.close()
        cluster.wait(120)


@pytest.mark.slow
@pytest.mark.ray
def test_a_sweep_on_two_nodes(tmp_path: Path, two_nodes: dict[str, str]) -> None:
    """Two seeds, one on each node: one's process is killed, the other's worker; both resume. A third trial fails."""
    write_two_tasks(tmp_path / "small.yaml", 4000, exclude=[{"data.init_args.task": "no-such-task", "seed": 1}])
    command = [sys.executable, "-m", "lightning_pbrl", "sweep", "small.yaml", "--launcher", "ray"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    runs = [tmp_path / f"runs/small/drawer-close/seed{seed}" for seed in (0, 1)]
    with subprocess.Popen(command, cwd=tmp_path, env=two_nodes, text=True, **pipes) as sweep:
        until = time.monotonic() + 400
        pids = []
        for run in runs:
            while not (run / "checkpoints/last.ckpt").is_file():
                assert time.monotonic() < until and sweep.poll() is None
                time.sleep(0.1)
            pids.append(json.loads((run / "started.json").read_text())["pid"])
        worker = int(Path(f"/proc/{pids[1]}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(pids[0], signal.SIGKILL)
        os.kill(worker, signal.SIGKILL)
        out, err = sweep.communicate(timeout=400)
    assert sweep.returncode == 2, out + err
    assert "Meta-World has no task 'no-such-task'" in err
    assert "1 of 3 jobs failed: no-such-task/seed0" in err
    for run in runs:
        assert json.loads((run / "done.json").read_text())["digest"], out + err
        assert (run / "csv/version_1").is_dir()  # it was started twice
    assert not alive(pids[1])
    assert json.loads((tmp_path / "runs/small/no-such-task/seed0/failed.json").read_text())["reason"] == "exit code 2"


def test_no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    Path("small.yaml").write_text(yaml.safe_dump({"base": [["data/metaworld.yaml", "model/bc.yaml"]], "seed": [0]}))
    assert "No Ray cluster answers at auto" in mistake(capfd, "sweep", "small.yaml", "--launcher", "ray")
