"""The bar, the plain lines and the heartbeat."""

from __future__ import annotations

import io
import json
import re
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from online_toys import WalkSimulator
from rich.console import Console
from toys import ToyData, callbacks_for, make_trainer

from lightning_pbrl.callbacks import progress as module
from lightning_pbrl.callbacks.progress import RoundProgress
from lightning_pbrl.datamodules.online import OnlineDataModule
from lightning_pbrl.methods.bc import BC
from lightning_pbrl.methods.learn_reward import RewardEnsemble
from lightning_pbrl.methods.sac import SAC

SMALL = {"updates": 40, "eval_interval": 20, "block": 5, "hidden": (8,)}


def with_console(bar: RoundProgress, terminal: bool) -> io.StringIO:
    out = io.StringIO()
    bar.console = Console(file=out, force_terminal=terminal, width=160, color_system=None)
    return out


def trainer_with(folder, bar, *callbacks):
    return make_trainer(folder, [*callbacks, bar], enable_progress_bar=True)


def test_it_is_the_bar_and_one_plain_line_per_round_without_a_terminal(tmp_path):
    bar, data = RoundProgress(), ToyData()
    out = with_console(bar, terminal=False)
    trainer = trainer_with(tmp_path / "bc" / "seed4", bar)
    assert trainer.progress_bar_callback is bar
    policy = BC(data.spec, **SMALL)
    trainer.fit(policy, data)
    first, second = out.getvalue().splitlines()
    shape = r"bc/seed4 · round {} · 20 updates · [\d,]+ updates/s · actor_loss [\d.e-]+ · return {} · success {}"
    returns = sum(3 * (seed % 97) for seed in data.episode_seeds("validation", 4)) / 4
    solved = sum(seed % 2 for seed in data.episode_seeds("validation", 4)) / 4
    for number, line in enumerate((first, second)):
        assert re.fullmatch(shape.format(number, f"{returns:.3g}", f"{solved:.3g}"), line), line
    out.truncate(0)
    out.seek(0)
    trainer.test(policy, data, verbose=False)
    (line,) = out.getvalue().splitlines()
    assert line.startswith("bc/seed4 · test · 50 episodes · return ")
    assert "loss" not in line
    assert not (tmp_path / "bc" / "seed4" / "progress.json").exists()


def test_a_fit_that_has_nothing_to_do_says_so(tmp_path):
    bar, data = RoundProgress(), ToyData()
    out = with_console(bar, terminal=False)
    make_trainer(tmp_path / "bc" / "seed4", [bar], enable_progress_bar=True, max_epochs=0).fit(BC(data.spec, **SMALL), data)
    assert out.getvalue().splitlines() == ["bc/seed4 · no round is left to run · 0 updates were made before"]


def test_the_live_line_shows_phase_updates_and_a_second_line_for_episodes(tmp_path):
    bar = RoundProgress(refresh_rate=1e9, name="mine")
    out = with_console(bar, terminal=True)
    data = ToyData()
    trainer_with(tmp_path, bar).fit(BC(data.spec, **SMALL), data)
    shown = out.getvalue()
    for done in (0, 5, 10, 15):
        assert re.search(rf"mine · round 1 · policy[\s━╸╺]+{done}/20", shown)
    assert re.search(r"mine · round 1 · evaluate[\s━╸╺]+20/20", shown)
    for done in (0, 2, 4):  # two environments in step
        assert re.search(rf"episodes[\s━╸╺]+{done}/4", shown)
    assert "updates/s" in shown and "actor_loss" in shown and "success" in shown
    assert bar._bars is None  # the terminal is given back


def test_a_round_that_stops_early_finishes_cleanly(tmp_path):
    """The stop rule fires after the first pass: the total shrinks to what was done."""
    bar = RoundProgress(refresh_rate=1e9)
    out = with_console(bar, terminal=True)
    data = ToyData()
    reward = RewardEnsemble(data.spec, hidden=(8,), epochs=7, stop_accuracy=0.0)
    trainer_with(tmp_path, bar, *callbacks_for(RewardEnsemble, budget=10)).fit(reward, data)
    bars = re.findall(r"round 0 · (\w+)[\s━╸╺]+(\d+)/(\d+)", out.getvalue())
    assert bars[0] == ("reward", "0", "7")
    assert bars[-1] == ("evaluate", "1", "1")
    assert re.search(r"round 0 · 1 updates", out.getvalue())
    assert re.search(r"pairs[\s━╸╺]+50/50", out.getvalue())


def test_redraws_and_waits_for_the_device_are_limited(tmp_path, monkeypatch):
    """200 blocks: one wait where a round or an evaluation begins and ends, none per block."""
    waits = []
    bar = RoundProgress(refresh_rate=1e-9)
    read = bar._metrics
    monkeypatch.setattr(bar, "_metrics", lambda: waits.append(1) or read())
    with_console(bar, terminal=True)
    data = ToyData()
    trainer_with(tmp_path, bar).fit(BC(data.spec, **{**SMALL, "updates": 200, "eval_interval": 200, "block": 1}), data)
    assert len(waits) == 4  # round begins, evaluation begins, round ends, fit ends


def test_heartbeat(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "HEARTBEAT_SECONDS", 0.0)
    beats = []
    bar = RoundProgress(heartbeat=True)
    with_console(bar, terminal=False)
    write = bar._write_heartbeat

    def spy(*args):
        write(*args)
        beats.append(json.loads((tmp_path / "progress.json").read_text()))

    monkeypatch.setattr(bar, "_write_heartbeat", spy)
    data = ToyData()
    trainer_with(tmp_path, bar).fit(BC(data.spec, **SMALL), data)
    second = [beat for beat in beats if beat["round"] == 1]
    policy = [(beat["done"], beat["total"], beat["updates"]) for beat in second if beat["phase"] == "policy"]
    assert policy == [(0, 20, 20), (5, 20, 25), (10, 20, 30), (15, 20, 35)]
    episodes = [(beat["done"], beat["total"]) for beat in second if beat["phase"] == "evaluate"]
    assert episodes == [(0, 4), (2, 4), (4, 4)]
    last = beats[-1]
    assert {key: last[key] for key in ("run", "stage", "phase", "updates", "planned")} == {
        "run": tmp_path.name,
        "stage": "fit",
        "phase": "finished",
        "updates": 40,
        "planned": 40,
    }
    assert last["metrics"].keys() == {"train/actor_loss", "eval/return_mean", "eval/success_rate"}
    assert abs(last["time"] - time.time()) < 60
    assert not list(tmp_path.glob("*.part"))


def test_at_most_one_heartbeat_per_second(tmp_path, monkeypatch):
    written = []
    bar = RoundProgress(heartbeat=True)
    with_console(bar, terminal=False)
    monkeypatch.setattr(bar, "_write_heartbeat", lambda *args: written.append(time.monotonic()))
    clock = iter(range(100_000))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock) / 100)  # every look at the clock costs 10 ms
    data = ToyData()
    trainer_with(tmp_path, bar).fit(BC(data.spec, **{**SMALL, "updates": 500, "eval_interval": 500, "block": 1}), data)
    gaps = [b - a for a, b in pairwise(written)]
    assert len(written) > 5
    assert min(gaps[:-1]) >= 1.0  # the last one tells that the run has ended


def test_a_full_disk_stops_the_heartbeat_only(tmp_path, monkeypatch):
    bar = RoundProgress(heartbeat=True)
    with_console(bar, terminal=False)

    replace = module.os.replace

    def full(source, target):
        if Path(target).name == "progress.json":
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(module.os, "replace", full)
    data = ToyData()
    trainer = trainer_with(tmp_path, bar)
    trainer.fit(BC(data.spec, **SMALL), data)
    assert trainer.global_step == 40
    assert not bar.heartbeat


def test_other_ranks_say_nothing(tmp_path):
    bar = RoundProgress(heartbeat=True)
    out = with_console(bar, terminal=True)
    bar.disable()
    data = ToyData()
    trainer_with(tmp_path, bar).fit(BC(data.spec, **SMALL), data)
    assert out.getvalue() == ""
    assert not (tmp_path / "progress.json").exists()


def test_the_terminal_is_given_back_after_an_error(tmp_path):
    bar = RoundProgress()
    with_console(bar, terminal=True)
    data = ToyData()
    policy = BC(data.spec, **SMALL)

    def broken(obs: torch.Tensor, sample: bool = False) -> torch.Tensor:
        raise ZeroDivisionError

    policy.act = broken
    with pytest.raises(ZeroDivisionError):
        trainer_with(tmp_path, bar).fit(policy, data)
    assert bar._bars is None


def test_env_steps_and_answers_of_a_method_that_acts(tmp_path):
    bar = RoundProgress(heartbeat=True, refresh_rate=1e9, name="mine")
    out = with_console(bar, terminal=True)
    settings = {"env_steps": 40, "seed_steps": 12, "round_steps": 14, "hidden": (8,), "batch_size": 8, "block": 4}
    data = OnlineDataModule(WalkSimulator(), segment_length=3, eval_episodes=1)
    trainer_with(tmp_path, bar).fit(SAC(data.spec, **settings), data)
    shown = out.getvalue()
    assert "round 0 · random" in shown and re.search(r" 4/12 ", shown)  # a phase without updates counts env steps
    assert re.search(r"mine · round 1 · 14 updates · 26 env steps · ", shown)
    assert re.search(r"mine · round 2 · 14 updates · 40 env steps · ", shown)
    assert json.loads((tmp_path / "progress.json").read_text())["env_steps"] == 40
