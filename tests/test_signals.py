"""A process that is told to end: with the code of the signal, nothing marked as finished, and to go on from the last round."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from toys import SPEC, ToyData, assert_same, callbacks_for, make_trainer

from lightning_pbrl import cli, signals
from lightning_pbrl.callbacks.write_results import WriteResults
from lightning_pbrl.methods.bc import BC
from lightning_pbrl.trainer import RoundCheckpoint

CODES = [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)]


class Ends(pl.Callback):
    """Sends this process a signal in a block of the third round."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.current_epoch == 2:
            os.kill(os.getpid(), self.number)


def fit(folder: Path, *more: pl.Callback) -> BC:
    """Five rounds of ten updates and a test, as ``fit --resume --then_test`` runs them."""
    method, data = BC(SPEC, updates=50, eval_interval=10, hidden=(16,), batch_size=8, block=5), ToyData(test_episodes=2)
    trainer = make_trainer(folder, [RoundCheckpoint(), WriteResults(), *callbacks_for(BC), *more])
    last = folder / "checkpoints/last.ckpt"
    trainer.fit(method, data, ckpt_path=last if last.exists() else None)
    trainer.test(method, data, verbose=False)
    return method


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize(("number", "code"), CODES)
def test_a_fit_that_is_told_to_end(
    number: signal.Signals, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "_dispatch", lambda _: fit(tmp_path / "cut", Ends(number)))
    handlers = [signal.getsignal(number) for number, _ in CODES]
    with pytest.raises(SystemExit) as stop:
        cli.main([])
    assert stop.value.code == code
    what = "interrupted" if number == signal.SIGINT else f"ended by {number.name}"
    said = f"{what}; the same command goes on where a `run` or `sweep` was, and --resume where a fit was\n"
    assert capfd.readouterr().err.endswith(said)
    assert [signal.getsignal(number) for number, _ in CODES] == handlers
    assert not (tmp_path / "cut/results.json").exists()
    resumed, whole = fit(tmp_path / "cut"), fit(tmp_path / "whole")
    assert_same(whole.state_dict(), resumed.state_dict())
    assert_same(whole.engine.state_dict(), resumed.engine.state_dict())
    assert (tmp_path / "cut/results.json").read_text() == (tmp_path / "whole/results.json").read_text()


def test_a_test_that_is_told_to_end_leaves_no_results(tmp_path: Path) -> None:
    class DuringTest(pl.Callback):
        def on_test_batch_end(self, *_: Any) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as stop, signals.listening():
        fit(tmp_path, DuringTest())
    assert signals.told(stop.value) == signal.SIGTERM
    assert (tmp_path / "checkpoints/last.ckpt").is_file()
    assert not (tmp_path / "results.json").exists()


def test_other_handlers_are_left_alone() -> None:
    """submitit passes SIGTERM over, and nohup SIGHUP."""
    before = [signal.signal(signal.SIGTERM, lambda *_: None), signal.signal(signal.SIGHUP, signal.SIG_IGN)]
    try:
        with signals.listening():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGHUP, before[1])


def test_reasons() -> None:
    codes = {-9: "killed by SIGKILL", -15: "killed by SIGTERM", 143: "ended by SIGTERM", 130: "ended by SIGINT"}
    codes |= {2: "exit code 2", 137: "exit code 137"}
    assert {code: signals.reason(code) for code in codes} == codes
    assert signals.told(SystemExit(2)) is None
