"""The SLURM launcher: its options by hand, and a sweep on a real SLURM of one node."""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from command_line import SWEPT_DATA, write_two_tasks
from one_node_slurm import cluster, missing

from lightning_pbrl.errors import UserError
from lightning_pbrl.jobs import Job, Slot, usable_cores
from lightning_pbrl.study import slurm, slurm_nodes
from lightning_pbrl.study.slurm import Slurm, _submitted, divide, minutes, shares


def launcher(*args: str) -> Slurm:
    parser = argparse.ArgumentParser()
    Slurm.add_arguments(parser)
    return Slurm(parser.parse_args(args))


def test_every_flag_reaches_slurm(tmp_path: Path) -> None:
    (tmp_path / "setup.sh").write_text("module load python\n")
    flags = ["--partition", "gpu", "--time", "1-12:30:00", "--nodes", "2", "--ntasks-per-node", "3", "--cpus", "4"]
    flags += ["--gpus", "a100:2", "--mem", "8G", "--output", f"{tmp_path}/out", "--error", f"{tmp_path}/err"]
    flags += ["--job-name", "mine", "--exclude", "n1", "--nodelist", "n[2-3]", "--account", "lab"]
    flags += ["--setup", str(tmp_path / "setup.sh"), "--parallel", "5"]
    assert launcher(*flags).parameters("demo", elements=7) == {
        "partition": "gpu",
        "time": 36 * 60 + 30,
        "nodes": 2,
        "ntasks_per_node": 3,
        "cpus_per_task": 4,
        "gres": "gpu:a100:2",
        "mem": "8G",
        "srun_args": [f"--output={tmp_path}/out/mine_%A_%a_%t.out", f"--error={tmp_path}/err/mine_%A_%a_%t.err"],
        "job_name": "mine",
        "exclude": "n1",
        "nodelist": "n[2-3]",
        "account": "lab",
        "setup": [f"source {tmp_path}/setup.sh"],
        "array_parallelism": 5,
        "additional_parameters": {"requeue": True},
    }
    plain = launcher().parameters("demo", elements=1)
    assert plain["job_name"] == "demo"
    assert not {"partition", "gres", "mem", "account", "setup", "srun_args"} & set(plain)
    one = launcher("--output", str(tmp_path)).parameters("demo", elements=1)
    assert one["srun_args"] == [f"--output={tmp_path}/demo_%j_%t.out", f"--error={tmp_path}/demo_%j_%t.err"]


def test_submitit_accepts_the_parameters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    submitit = pytest.importorskip("submitit", reason="the extra `slurm` is not installed")
    monkeypatch.setattr(submitit.SlurmExecutor, "affinity", classmethod(lambda cls: 1))  # as if srun were on PATH
    executor = submitit.SlurmExecutor(tmp_path)
    flags = ["--partition", "p", "--gpus", "1", "--mem", "2G", "--account", "a", "--exclude", "x", "--nodelist", "n"]
    executor.update_parameters(**launcher(*flags, "--cpus", "3", "--output", str(tmp_path)).parameters("demo", 2))
    text = executor._make_submission_file_text("true", "id").splitlines()
    for line in ("partition=p", "gres=gpu:1", "mem=2G", "account=a", "exclude=x", "nodelist=n", "cpus-per-task=3", "time=2880"):
        assert f"#SBATCH --{line}" in text
    assert {"#SBATCH --requeue", "#SBATCH --job-name=demo"} <= set(text)


def test_times() -> None:
    cases = {"90": 90, "90:30": 91, "48:00:00": 2880, "00:00:01": 1, "2-0": 2880, "1-2:3": 1563, "1-02:03:04": 1564}
    assert {text: minutes(text) for text in cases} == cases
    for text in ("", "two", "1:2:3:4", "-1", "1-2-3"):
        with pytest.raises(UserError, match=r"--time .* write 48:00:00"):
            minutes(text)


def test_trials_are_divided() -> None:
    seven: Any = list("abcdefg")
    joined = {rest: ["".join(group) for group in divide(seven, 3, rest)] for rest in ("new", "split")}
    assert joined == {"new": ["abc", "def", "g"], "split": ["abcd", "efg"]}
    assert divide(seven[:2], 3, "split") == divide(seven[:2], 3, "new") == [["a", "b"]]  # fewer than one element holds
    assert divide([], 3, "split") == []


def test_shares_of_an_element(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "usable_cores", lambda: [4, 5, 6, 7])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,3")
    two = shares(2, cpus=4)
    assert [slot.cores for slot in two] == [(4, 5), (6, 7)]
    assert [slot.threads for slot in two] == [2, 2]
    assert [slot.gpus for slot in shares(3, cpus=4)] == [("1",), ("3",), ("1",)]
    assert shares(1, cpus=4)[0].gpus is None  # it sees what the element sees
    assert [slot.cores for slot in shares(6, cpus=4)] == [(4,), (5,), (6,), (7,), (4,), (5,)]
    assert [slot.cores for slot in shares(2, cpus=2)] == [(), ()]  # four cores for two: which are ours is not known
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert shares(2, cpus=4)[0].gpus is None


def test_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="--jobs-per-instance 0: give at least 1"):
        launcher("--scripts-per-job", "0")
    with pytest.raises(UserError, match=r"--setup .*nothing\.sh: there is no such file"):
        launcher("--setup", str(tmp_path / "nothing.sh"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="no sbatch on PATH"):
        launcher().launch([], tmp_path, "demo")


@pytest.mark.parametrize("content", ['{"12_0": ["a"', "[1]", '{"12_0": 3}'])
def test_a_damaged_list_of_what_was_submitted(tmp_path: Path, content: str) -> None:
    path = tmp_path / "submitted.json"
    assert _submitted(path) == {}
    path.write_text(content)
    with pytest.raises(UserError, match=r"submitted\.json is damaged \(.*\): when no element of this sweep is in the queue any"):
        _submitted(path)


# One fit over two nodes, with stand-ins for SLURM's commands ---------------------------------------------------------------


SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``sbatch``, ``srun`` and ``squeue`` on this machine; returns the folder of what they leave."""
    folder = tmp_path / "stub"
    folder.mkdir()
    for program in ("sbatch", "srun", "squeue"):
        path = folder / program
        path.write_text(f'#!/bin/sh\nexec {sys.executable} {SCRIPTS}/stub_slurm.py {program} "$@"\n')
        path.chmod(0o755)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        (folder / "number").write_text(str(1_000 + free.getsockname()[1] % 9_000))  # Lightning takes 15,000 + this as its port
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("STUB_SLURM", str(folder))
    monkeypatch.setenv("PYTHONPATH", str(SCRIPTS.parents[1]))
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    for name in [name for name in os.environ if name.startswith(("SLURM_", "SUBMITIT_")) or name in ("LOCAL_RANK", "NODE_RANK")]:
        monkeypatch.delenv(name)
    return folder


def two_stages(folder: Path, **second: Any) -> str:
    """A policy on one device, then one on two nodes."""
    bc = ["data/metaworld.yaml", "model/bc.yaml"]
    content = {
        "name": "wide",
        "stages": {
            "narrow": {"config": bc},
            "wide": {"config": bc, "with": {"trainer": {"num_nodes": 2, "devices": 1}, **second}},
        },
        **SWEPT_DATA,
        "model.init_args.hidden": [[16, 16]],
        "model.init_args.updates": [20],
        "model.init_args.eval_interval": [20],
        "trainer.accelerator": ["cpu"],
        "seed": [0],
    }
    (folder / "wide.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return "wide.yaml"


@pytest.mark.slow
def test_a_fit_over_two_nodes(tmp_path: Path, stub: Path) -> None:
    """The tasks of an element are the ranks of its wide stage, and the narrow one is run once, by the first."""
    pytest.importorskip("submitit", reason="the extra `slurm` is not installed")
    command = [
        sys.executable,
        "-m",
        "lightning_pbrl",
        "sweep",
        two_stages(tmp_path),
        "--launcher",
        "slurm",
        "--wait",
        "--cpus",
        "1",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    logs = "\n".join(f"{path.name}: {path.read_text()[-2000:]}" for path in stub.glob("*.log"))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    options = json.loads((stub / "sbatch.json").read_text())
    assert (options["nodes"], options["ntasks-per-node"]) == ("2", "1")
    assert "--kill-on-bad-exit=1" in json.loads((stub / "srun.json").read_text())
    runs = tmp_path / "runs/wide"
    wide, narrow = runs / "wide/seed0", runs / "narrow/seed0"
    assert (wide / "done.json").is_file() and (narrow / "done.json").is_file(), logs
    assert "GLOBAL_RANK: 0, MEMBER: 1/2" in (wide / "log.txt").read_text()
    assert "GLOBAL_RANK: 1, MEMBER: 2/2" in (stub / "task1.log").read_text()
    assert "MEMBER" not in (narrow / "log.txt").read_text()


class Shell(Job):
    """A job over two nodes that runs its key ``script`` in a shell."""

    def process_arguments(self, overlay: Path) -> list[str]:
        return ["sh", "-c", self.own["script"]]

    @property
    def settings(self) -> dict[str, Any]:
        return {"trainer": {"num_nodes": 2}}


def test_tasks_of_a_wide_fit_end_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_nodes, "PATIENCE_S", 0.1)
    monkeypatch.setattr(slurm_nodes, "POLL_S", 0.02)
    monkeypatch.setenv("SLURM_PROCID", "1")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_NAME", "other")

    def script(text: str, *after: Job) -> Job:
        return Shell("fit", 0, tmp_path / "run", "fit", [], {"script": text}, list(after))

    def run(*jobs: Job) -> dict[str, str]:
        return slurm_nodes.run(jobs, [Slot()], "demo", tmp_path)

    assert run(script(f"touch {tmp_path}/beside")) == {} and (tmp_path / "beside").is_file()
    with pytest.raises(RuntimeError, match=r"fit/seed0: a rank on .* has failed \(exit code 3\)"):
        run(script("exit 3"))  # the first task would wait for it
    threading.Timer(0.3, (tmp_path / "7-0.over").touch).start()
    assert run(script("sleep 600"), script("exit 3", Job("before", 0, tmp_path / "never", "fit", [], {}))) == {}
    (tmp_path / "7-0.over").unlink()

    monkeypatch.setenv("SLURM_PROCID", "0")
    first = script("exit 3")
    second = Shell("next", 0, tmp_path / "next", "fit", [], {"script": "true"}, [first])
    assert run(first, second) == {"fit/seed0": "exit code 3", "next/seed0": "not run, because a stage it needs has failed"}
    assert (tmp_path / "7-0.over").is_file()


def test_the_size_of_a_wide_fit(tmp_path: Path) -> None:
    def trials(*trainers: dict[str, Any]) -> Any:
        jobs = [Job("fit", seed, tmp_path, "fit", [], {"trainer": trainer}) for seed, trainer in enumerate(trainers)]
        return [SimpleNamespace(jobs=[job]) for job in jobs]

    assert launcher().ranks(trials({}, {"devices": 2}, {"devices": "auto"})) is None
    assert launcher("--nodes", "2").ranks(trials({"num_nodes": 2, "devices": [0, 1, 2]}, {})) == (2, 3)
    given = launcher("--cpus", "4").parameters("demo", 1, (2, 3))
    assert (given["nodes"], given["ntasks_per_node"], given["srun_args"]) == (2, 3, ["--kill-on-bad-exit=1"])
    two = {"num_nodes": 2, "devices": 2}
    for flags, others in ((["--nodes", "3"], {}), (["--jobs-per-instance", "2"], {}), ([], {"num_nodes": 3, "devices": 2})):
        with pytest.raises(
            UserError, match=r"Fits over several nodes ask for trainer\.num_nodes 2 with devices 2.*leave --nodes"
        ):
            launcher(*flags).ranks(trials(two, others))
    with pytest.raises(
        UserError, match=r"fit/seed0 has trainer\.num_nodes 2 and trainer\.devices auto: give a number of devices"
    ):
        launcher().ranks(trials({"num_nodes": 2, "devices": "auto"}))


@pytest.mark.slow
@pytest.mark.slurm
def test_a_fit_over_two_real_nodes(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The same on a SLURM of two nodes, whose names this machine cannot resolve."""
    if absent := missing():
        pytest.skip(f"SLURM is not installed here (no {', '.join(absent)}): apt-get install slurm-wlm munge")
    pytest.importorskip("submitit", reason="the extra `slurm` is not installed")
    command = [sys.executable, "-m", "lightning_pbrl", "sweep", two_stages(tmp_path), "--launcher", "slurm", "--wait"]
    with cluster(tmp_path_factory.mktemp("slurm"), cpus=1, nodes=2) as environment:
        own = {"PYTHONPATH": str(SCRIPTS.parents[1]), "GLOO_SOCKET_IFNAME": "lo", "MASTER_ADDR": "127.0.0.1"}
        done = subprocess.run(command, cwd=tmp_path, env=environment | own, capture_output=True, text=True, timeout=900)
    logs = "\n".join(f"{path.name}: {path.read_text()[-2000:]}" for path in (tmp_path / "runs/wide/slurm").glob("*_log.*"))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    wide, narrow = (tmp_path / f"runs/wide/{stage}/seed0" for stage in ("wide", "narrow"))
    assert (wide / "done.json").is_file() and (narrow / "done.json").is_file()
    assert "GLOBAL_RANK: 0, MEMBER: 1/2" in (wide / "log.txt").read_text()
    (other,) = (tmp_path / "runs/wide/slurm").glob("*_1_log.err")
    assert "GLOBAL_RANK: 1, MEMBER: 2/2" in other.read_text()
    assert "MEMBER" not in (narrow / "log.txt").read_text()


# The real thing ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def slurm_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    if absent := missing():
        pytest.skip(f"SLURM is not installed here (no {', '.join(absent)}): apt-get install slurm-wlm munge")
    pytest.importorskip("submitit", reason="the extra `slurm` is not installed")
    with cluster(tmp_path_factory.mktemp("slurm"), cpus=min(2, len(usable_cores()))) as environment:
        yield environment


@pytest.mark.slow
@pytest.mark.slurm
def test_a_sweep_on_slurm(tmp_path: Path, slurm_environment: dict[str, str]) -> None:
    """Two elements of two trials; one element fails, the other is interrupted, requeued and resumes."""
    write_two_tasks(tmp_path / "small.yaml", 6000)
    (tmp_path / "setup.sh").write_text(f"touch {tmp_path}/set-up\n")
    command = [sys.executable, "-m", "lightning_pbrl", "sweep", "small.yaml", "--launcher", "slurm", "--partition", "debug"]
    command += ["--jobs-per-instance", "2", "--time", "30", "--setup", "setup.sh", "--output", "logs"]
    root = Path(__file__).resolve().parents[2]
    settings: dict[str, Any] = {"cwd": tmp_path, "env": {**slurm_environment, "PYTHONPATH": str(root)}, "text": True}
    first = subprocess.run(command, capture_output=True, **settings)
    assert first.returncode == 0, first.stderr
    assert "4 trials in 2 elements" in first.stdout
    submitted = json.loads((tmp_path / "runs/small/slurm/submitted.json").read_text())
    element, other = submitted
    assert submitted == {
        element: ["drawer-close/seed0", "drawer-close/seed1"],
        other: ["no-such-task/seed0", "no-such-task/seed1"],
    }
    good = [tmp_path / f"runs/small/drawer-close/seed{seed}" for seed in (0, 1)]
    until = time.monotonic() + 600
    while not all((run / "checkpoints/last.ckpt").is_file() for run in good):
        assert time.monotonic() < until, (good[0] / "log.txt").read_text()
        time.sleep(0.2)
    subprocess.run(["scancel", "--signal=USR2", element], check=True, **settings)  # what SLURM sends before a time limit
    state = ["squeue", "--noheader", "--array", f"--jobs={element}", "--format=%T"]
    while subprocess.run(state, capture_output=True, **settings).stdout.strip() != "PENDING":
        assert time.monotonic() < until
        time.sleep(0.2)

    # The same command again, while the element waits: nothing is started twice. It comes back with what failed.
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([*command, "--wait"], **pipes, **settings) as second:
        assert second.stdout is not None
        said = second.stdout.readline()
        now = ["scontrol", "update", f"JobId={element}", "StartTime=now"]  # not in two minutes
        subprocess.run(now, check=True, **settings)
        rest, errors = second.communicate(timeout=600)
    assert "2 trials are in the queue already" in said, said + rest + errors
    assert second.returncode == 2
    assert errors.count("exit code 2") == 2
    assert "Meta-World has no task 'no-such-task'" in errors  # the tail of their logs
    assert "2 of 4 jobs failed" in errors
    for run in good:
        assert (run / "done.json").is_file(), (run / "log.txt").read_text()
        assert (run / "csv/version_1").is_dir()  # it was started twice
    for seed in (0, 1):
        failed = json.loads((tmp_path / f"runs/small/no-such-task/seed{seed}/failed.json").read_text())
        assert failed == {"exit_code": 2, "reason": "exit code 2"}
    assert (tmp_path / "set-up").is_file()
    assert list((tmp_path / "logs").glob("small_*.out"))
    assert os.environ.get("SLURM_CONF") != slurm_environment["SLURM_CONF"]
