"""What a run folder says of itself: what its run was made from, who writes to it, what an earlier fit has left in it."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lightning_pbrl import run_folder
from lightning_pbrl.errors import UserError
from lightning_pbrl.reports.metrics import find_runs


def test_content_decides_and_not_the_time(tmp_path: Path) -> None:
    file, gone = tmp_path / "data", tmp_path / "gone"
    file.write_text("one")
    gone.write_text("x")
    was = run_folder.record([file, gone, tmp_path / "never"])
    assert list(was) == [str(file), str(gone)]
    gone.unlink()
    assert run_folder.changed(was) is None
    os.utime(file, (1, 1))
    assert run_folder.changed(was) is None
    stat = file.stat()
    file.write_text("two")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # size and time of change as they were
    assert run_folder.changed(was) == str(file)
    file.write_text("one")
    assert run_folder.changed(was) is None


def test_a_folder_in_use_is_refused_by_whoever_comes_second(tmp_path: Path) -> None:
    """The lock is another process's, and ends with it, however it ends."""
    script = "import sys, time; from pathlib import Path; from lightning_pbrl.run_folder import held\n"
    script += "with held(Path(sys.argv[1]), 'fit'):\n print('held', flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    since = json.loads((tmp_path / "lock.json").read_text())["since"]
    sentence = (
        f"The run folder {tmp_path} is in use by a fit (process {other.pid} on {socket.gethostname()}, since {since}): choose "
        "another run_dir, or wait until that has ended."
    )
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}$"), run_folder.held(tmp_path, "test"):
        pass
    other.kill()
    other.communicate()
    with run_folder.held(tmp_path, "test"):
        assert json.loads((tmp_path / "lock.json").read_text())["pid"] == os.getpid()


def test_a_fit_in_the_folder_of_another_run(tmp_path: Path) -> None:
    run_folder.refuse_second_fit(tmp_path)  # nothing is there
    (tmp_path / "labels.sqlite").touch()  # nor when a fit has only asked
    run_folder.refuse_second_fit(tmp_path)
    for name in ("checkpoints/last.ckpt", "csv/version_0/metrics.csv", "results.json", "config.yaml", "mine.txt", "a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(0))
    sentence = (
        f"The run folder {tmp_path} already holds a fit (of {when}), and a folder belongs to one run: choose another "
        "run_dir, set resume to go on with it, or set overwrite to begin anew and lose it (answers in its label store are kept)."
    )
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}$"):
        run_folder.refuse_second_fit(tmp_path)
    run_folder.begin_anew(tmp_path, everything=False)
    assert sorted(os.listdir(tmp_path)) == ["a.png", "checkpoints", "labels.sqlite", "mine.txt", "results.json"]
    run_folder.begin_anew(tmp_path, everything=True)
    assert sorted(os.listdir(tmp_path)) == ["labels.sqlite", "mine.txt"]
    (tmp_path / "results.json").touch()
    with pytest.raises(UserError, match=r"already holds a test \(of"):
        run_folder.refuse_second_fit(tmp_path)


def test_a_process_killed_while_it_begins_anew_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after any of the steps that move files: the next command finds the whole run before, until the new one trains."""

    def files() -> dict[str, str]:
        return {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*") if path.is_file()}

    for name in ("checkpoints/last.ckpt", "csv/version_0/metrics.csv", "results.json", "labels.sqlite"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("before")
    before, rename, left = files(), Path.rename, 0

    def killed(path: Path, target: Path) -> Path:
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", killed)
    for steps in range(10):
        left = steps
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - any of these steps
            run_folder.set_aside(tmp_path)
            for name in ("csv/version_0/metrics.csv", "config.yaml"):
                (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / name).write_text("after")
            run_folder.put_back(tmp_path)
            left = 0
            run_folder.set_aside(tmp_path)
        left = 100
        run_folder.recover(tmp_path, "fit")
        (tmp_path / "lock.json").unlink(missing_ok=True)
        assert files() == before, steps
    run_folder.set_aside(tmp_path)
    run_folder.let_go(tmp_path)
    assert files() == {"labels.sqlite": "before"}


@pytest.mark.parametrize("content", ['{"half": ', "[1]", '{"a": 1}', '{"a": {"size": 1}}', '{"inputs": 3}', "[" * 100_000, "\0"])
def test_damaged_records_say_nothing(tmp_path: Path, content: str) -> None:
    for name in ("inputs.json", "started.json", "done.json", "lock.json"):
        (tmp_path / name).write_text(content)
    assert run_folder.inputs(tmp_path) == {}
    assert run_folder.outdated(tmp_path) is None
    with run_folder.held(tmp_path, "fit"):
        pass


def test_reports_leave_out_what_was_made_from_something_else(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    reward = tmp_path / "reward.ckpt"
    reward.write_text("old")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text("{}")
    (tmp_path / "a/inputs.json").write_text(json.dumps(run_folder.record([reward])))
    assert [run.stage for run in find_runs(tmp_path)] == ["a", "b"]
    reward.write_text("new")
    assert [run.stage for run in find_runs(tmp_path)] == ["b"]
    find_runs(tmp_path)
    said = f"{tmp_path / 'a'} is left out: it was made from {reward}, which has changed since; run it again\n"
    assert capfd.readouterr().err == said  # once
    with pytest.raises(UserError, match=r"All runs below .* were made from files that have changed since: run them again"):
        find_runs(tmp_path / "a")
