"""The pool of processes: cores and GPUs taken and given back, crashes, resuming, interruption."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from shell_jobs import Shell

from lightning_pbrl.errors import UserError
from lightning_pbrl.jobs import Job, Outcome, Slot, run_jobs, seed_slots, usable_cores
from lightning_pbrl.study.launch import LocalPool, find_launcher, number_ranges, place, visible_gpus

SLEEPERS = Path(__file__).resolve().parents[1] / "scripts" / "pool_of_sleepers.py"


def shell(folder: Path, number: int, script: str, *after: Job) -> Shell:
    return Shell("trial", number, folder / f"seed{number}", "fit", [], {"script": script}, list(after))


def run(jobs: list[Shell], slots: list[Slot]) -> Outcome:
    return run_jobs(jobs, slots, "test")


def written(job: Job, name: str) -> str:
    return (job.folder / name).read_text().strip()


def test_both_slots_are_used_and_given_back(tmp_path: Path) -> None:
    """Each job waits for its partner, so each pair has to run side by side, and the second pair after the first."""
    cores = usable_cores()
    slots = place(1, cores[:2], 0, [], 1) if len(cores) > 1 else seed_slots(2)
    script = "touch here; env > env; i=0; "
    script += "until [ -e ../seed{0}/here ]; do sleep .05; i=$((i + 1)); [ $i -lt 600 ] || exit 1; done; "
    script += "sleep .5; grep Cpus_allowed_list /proc/self/status > cores; touch ../seed{0}/met"  # pinned soon after its start
    jobs = [shell(tmp_path, k, script.format(k ^ 1) + "; until [ -e met ]; do sleep .05; done") for k in range(4)]
    before = dict(os.environ)
    outcome = run(jobs, slots)
    assert outcome.failed == []
    assert outcome.wall_s > 0 and outcome.cpu_s > 0
    for pair in ((0, 1), (2, 3)):
        used = {written(jobs[k], "cores").split()[-1] for k in pair}
        assert used == {str(core) for core in cores[:2]}
    for job in jobs:
        variables = dict(line.split("=", 1) for line in written(job, "env").splitlines() if "=" in line)
        assert variables["OMP_NUM_THREADS"] == variables["MKL_NUM_THREADS"] == "1"
        assert variables.get("CUDA_VISIBLE_DEVICES", "") == ("" if len(cores) > 1 else before.get("CUDA_VISIBLE_DEVICES", ""))
    assert dict(os.environ) == before


def test_never_more_than_the_slots(tmp_path: Path) -> None:
    """Three jobs on one slot with GPU 7: each finds no other at work."""
    script = "mkdir ../at-work && sleep .1 && rmdir ../at-work && echo $CUDA_VISIBLE_DEVICES $OMP_NUM_THREADS > used"
    jobs = [shell(tmp_path, k, script) for k in range(3)]
    assert run(jobs, [Slot((), 3, ("7",))]).failed == []
    assert [written(job, "used") for job in jobs] == ["7 3"] * 3


def test_a_killed_trial_is_listed_and_goes_on_with_the_next_call(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    killed = shell(tmp_path, 0, "echo working; [ -e started ] || { touch started; kill -9 $$; }; echo resumed")
    needs = shell(tmp_path, 1, "true", killed)
    broken = shell(tmp_path, 2, "echo this is why >&2; exit 3")
    fine = shell(tmp_path, 3, "echo once >> count")
    outcome = run([killed, needs, broken, fine], [Slot()])
    reasons = {failure.job: failure.reason for failure in outcome.failed}
    assert reasons == {
        killed: "killed by SIGKILL",
        needs: "not run, because a stage it needs has failed",
        broken: "exit code 3",
    }
    assert json.loads(written(killed, "failed.json")) == {"exit_code": -9, "reason": "killed by SIGKILL"}
    assert broken.failure() == "exit code 3"
    assert broken.tail() == "this is why"
    assert not needs.folder.exists()
    assert "this is why" in capfd.readouterr().out

    outcome = run([killed, needs, broken, fine], [Slot()])
    assert [failure.job for failure in outcome.failed] == [broken]
    assert killed.finished() and needs.finished()
    assert killed.failure() is None
    assert written(killed, "log.txt").splitlines() == ["working", "working", "resumed"]
    assert written(fine, "count") == "once"  # what has finished is not run again


@pytest.mark.parametrize("content", ["{", "[1]", '{"metrics": 1}', '{"metrics": {"eval/a": "b"}}', '{"done": {}, "total": []}'])
def test_a_damaged_heartbeat_or_failure_stops_no_pool(tmp_path: Path, content: str) -> None:
    job = shell(tmp_path, 0, f"echo '{content}' > progress.json; cp progress.json failed.json; sleep .6; echo end > count")
    assert run([job], [Slot()]).failed == []
    assert written(job, "count") == "end"
    assert job.failure() is None


def test_what_a_trial_leaves_behind_is_ended(tmp_path: Path) -> None:
    job = shell(tmp_path, 0, "sleep 300 & echo $! > pid")
    assert run([job], [Slot()]).failed == []
    until = time.monotonic() + 10
    while Path(f"/proc/{written(job, 'pid')}").exists():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_trial_that_runs_elsewhere_is_waited_for(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Two pools at once: one runs the first job, the other waits for it, says who runs it, and then runs what needs it."""
    pools = [[shell(tmp_path, 0, "echo once >> ran; sleep 1.5"), shell(tmp_path, 1, "cat ../seed0/ran > seen")] for _ in range(2)]
    for first, second in pools:
        second.after.append(first)
    with ThreadPoolExecutor() as threads:
        one = threads.submit(run, pools[0], [Slot()])
        until = time.monotonic() + 10
        while not (pools[0][0].folder / "started.json").exists():
            assert time.monotonic() < until
            time.sleep(0.02)
        assert threads.submit(run, pools[1], [Slot()]).result().failed == one.result().failed == []
    assert written(pools[0][0], "ran") == written(pools[0][1], "seen") == "once"
    said = json.loads((pools[0][0].folder / "started.json").read_text())
    lines = [line.strip() for line in capfd.readouterr().out.splitlines()]
    who = f"process {said['pid']} on {socket.gethostname()}, since {said['since']}"
    assert f"{pools[0][0].label}: {who} is running it; waiting for its end" in lines
    assert f"{pools[0][0].label}: finished elsewhere" in lines


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupting_leaves_no_orphan(number: signal.Signals, tmp_path: Path) -> None:
    marker = f"PBRL_TEST_MARKER={tmp_path}"
    environment = {**os.environ, "PBRL_TEST_MARKER": str(tmp_path), "PYTHONPATH": str(SLEEPERS.parents[2])}
    pool = subprocess.Popen([sys.executable, SLEEPERS, tmp_path], env=environment, stdout=subprocess.DEVNULL)

    def family() -> list[str]:
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                if marker.encode() in path.read_bytes():
                    found.append((path.parent / "comm").read_text().strip())
            except OSError:  # it has just ended
                continue
        return sorted(found)

    until = time.monotonic() + 60
    while not all((tmp_path / f"seed{seed}/ready").exists() for seed in (0, 1)) or family().count("sleep") < 2:  # one each
        assert time.monotonic() < until and pool.poll() is None
        time.sleep(0.05)
    pool.send_signal(number)
    assert pool.wait(120) == 130
    assert family() == []


# Slots -----------------------------------------------------------------------------------------------------------------


def test_slots_by_hand() -> None:
    assert place(2, [0, 1, 2, 3, 8], 0, [], 1) == [Slot((0, 1), 2, ()), Slot((2, 3), 2, ())]
    two_gpus = place(1, [0, 1, 2, 3, 4, 5], 1, ["0", "1"], 2)  # four trials fit, although there are six cores
    assert two_gpus == [Slot((0,), 1, ("0",)), Slot((1,), 1, ("1",)), Slot((2,), 1, ("0",)), Slot((3,), 1, ("1",))]
    assert place(1, [0, 1, 2], 2, ["0", "1", "2", "3", "4"], 1) == [Slot((0,), 1, ("0", "1")), Slot((1,), 1, ("2", "3"))]
    assert len(place(1, [0], 1, ["0"], 8)) == 1  # one core is all there is
    assert seed_slots(1) == [Slot()]
    assert [len(slot.cores) for slot in seed_slots(3)] == [1, 1, 1]


def test_numbers() -> None:
    assert number_ranges(["0-3", "10", "2"]) == [0, 1, 2, 3, 10]
    for text in ("a", "3-1", "-1", "1-", "1-2-3"):
        with pytest.raises(UserError, match=r"--valid-cpus .* write numbers and ranges"):
            number_ranges([text])


def test_gpus_that_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-a")
    assert visible_gpus() == ["2", "GPU-a"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((3, [0, 1], 0, [], 1), "asks for 3 cores, but there are 2"),
        ((1, [0], 2, ["0"], 1), "asks for 2 GPUs, but there are 1"),
        ((0, [0], 0, [], 1), "at least 1 core"),
        ((1, [0], 1, ["0"], 0), "at least 1 trial per GPU"),
    ],
)
def test_slots_that_do_not_fit(args: tuple[int, list[int], int, list[str], int], words: str) -> None:
    with pytest.raises(UserError, match=words):
        place(*args)


def test_launchers_by_name() -> None:
    assert find_launcher("local") is LocalPool
    assert find_launcher("lightning_pbrl.study.launch.LocalPool") is LocalPool
    for name in ("lokal", "json.JSONDecoder", "no_such_package.Launcher"):
        with pytest.raises(UserError, match=f"There is no launcher '{name}'"):
            find_launcher(name)
