"""The cache of clips: files from a worker, in order, whatever happens to it."""

from __future__ import annotations

import logging
import os
import signal
import time
from functools import partial

import imageio.v3 as imageio
import pytest
from clip_ramps import Ramp, broken
from warm import CONTEXT, PATIENCE

from lightning_pbrl.clips import cache as module
from lightning_pbrl.clips.cache import ClipCache


@pytest.fixture
def cache(tmp_path):
    with ClipCache(tmp_path, partial(Ramp, 32), "data", fps=20, size=32) as made:
        yield made


def test_clips_are_made_in_the_wanted_order_by_another_process(cache):
    wanted = [(40, 10), (0, 10), (999, 5)]
    assert cache.path(0, 10, "webm") is None and not list(cache.folder.parent.iterdir())
    cache.want(wanted)
    assert cache.wait(300)
    files = [cache.path(*each, codec) for each in wanted for codec in ("webm", "mp4")]
    made = [path.stat().st_mtime_ns for path in files]
    assert made == sorted(made)
    assert [round(float(frame.mean())) for frame in imageio.imread(files[0])] == pytest.approx(range(40, 50), abs=3)
    names = {path.name for path in cache.folder.iterdir()}
    assert names - {"drawing.lock"} == {path.name for path in files}


def test_what_is_there_is_not_made_again(cache, tmp_path):
    cache.want([(3, 4)])
    assert cache.wait(300)
    before = cache.path(3, 4, "mp4").stat().st_mtime_ns
    with ClipCache(tmp_path, broken, "data", fps=20, size=32) as other:
        other.want([(3, 4)])
        assert other.wait(0.0) and other.path(3, 4, "mp4").stat().st_mtime_ns == before
    assert ClipCache(tmp_path, broken, "data", fps=10, size=32).path(3, 4, "mp4") is None
    assert ClipCache(tmp_path, broken, "others", fps=20, size=32).path(3, 4, "mp4") is None
    assert ClipCache(tmp_path, broken, "data", fps=20, size=32, camera="a/b").path(3, 4, "mp4") is None


def test_a_crash_is_told_the_worker_starts_again_and_the_rest_is_made(cache, caplog):
    with caplog.at_level(logging.WARNING, module.log.name):
        cache.want([(666, 5), (1, 5)])
        assert cache.wait(300)
    assert [record.message for record in caplog.records] == [
        f"The worker that draws clips was ended by SIGSEGV at the segment of 5 steps from row 666 on; {what}."
        for what in ("it is started again", "that clip is given up")
    ]
    assert cache.problem(666, 5) == (
        "The worker that draws clips was ended by SIGSEGV at the segment of 5 steps from row 666 on, 2 times: show other data or "
        "another camera."
    )
    assert cache.path(666, 5, "mp4") is None and cache.path(1, 5, "mp4") is not None and cache.problem(1, 5) is None


def test_clips_that_cannot_be_drawn_are_told_and_a_killed_worker_loses_nothing(cache):
    cache.want([(777, 5), *((start, 5) for start in range(8))])
    while cache.path(1, 5, "webm") is None:
        time.sleep(0.02)
    os.kill(cache._worker._process.pid, signal.SIGKILL)
    assert cache.wait(300)
    assert cache.problem(777, 5) == "Row 777 cannot be drawn: ask about another."
    assert all(cache.path(start, 5, codec) for start in range(8) for codec in ("webm", "mp4"))
    cache.want([(5, 5)])  # only the present list is remembered
    assert cache.problem(777, 5) is None and cache.wait(300)
    assert (len(cache._problems), len(cache._crashes), len(cache._wanted)) == (0, 0, 0)


def test_a_clip_that_takes_too_long_is_given_up(tmp_path):
    with ClipCache(tmp_path, partial(Ramp, 32), "data", size=32, seconds=6.0) as cache:
        cache.want([(888, 5)])
        assert cache.wait(300)
        assert cache.problem(888, 5).startswith("The worker that draws clips has taken more than 6 s at the segment")
        process = cache._worker
    assert process is None


def test_renderers_that_cannot_be_made(tmp_path):
    with ClipCache(tmp_path, broken, "data") as cache:
        cache.want([(0, 5)])
        assert cache.wait(300)
        assert cache.problem(0, 5) == "No clip can be drawn: There is no simulator: set data.simulator."
    with ClipCache(tmp_path, lambda: Ramp(), "data") as cache:
        cache.want([(0, 5)])
        assert cache.wait(300)
        assert "give a function that can be pickled" in cache.problem(0, 5)


def make_six(folder, said):
    with ClipCache(folder, partial(Ramp, 32), "data", fps=20, size=32) as cache:
        cache.want([(start, 5) for start in range(6)])
        said.put((cache.wait(300), cache._problems))


def test_two_processes_share_a_folder(tmp_path):
    """Each file is made once, and either process sees all of them."""
    said = CONTEXT.SimpleQueue()
    started = [CONTEXT.Process(target=make_six, args=(tmp_path, said)) for _ in range(2)]
    for process in started:
        process.start()
    for process in started:
        process.join(PATIENCE)
        assert process.exitcode == 0
    assert [said.get(), said.get()] == [(True, {})] * 2
    (folder,) = tmp_path.iterdir()
    files = sorted(path.name for path in folder.iterdir() if path.name != "drawing.lock")
    assert files == sorted(f"{start}-5.{codec}" for start in range(6) for codec in ("webm", "mp4"))
    for file in files:
        assert imageio.imread(folder / file).shape == (5, 32, 32, 3)


def test_closing_ends_the_worker(tmp_path):
    with ClipCache(tmp_path, partial(Ramp, 32), "data", size=32) as cache:
        cache.want([(888, 5)])
        while cache._worker is None:
            time.sleep(0.01)
        process = cache._worker._process
    assert process.poll() == -signal.SIGKILL
