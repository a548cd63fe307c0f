"""The benchmark of answers runs, and its known reward is the one that its teachers and held-out pairs go by."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import answers


def test_a_quick_run_measures_every_arm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "QUICK", answers.QUICK._replace(questions=(10, 20, 30), epochs=1))
    assert answers.main(["--quick", "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "answers.json").read_text())
    assert list(result["arms"]["rational"]) == list(answers.arms(0)) and len(result["arms"]["noisy"]) == len(answers.arms(0)) - 1
    for noise, by_arm in result["arms"].items():
        assert list(by_arm) == [name for name, arm in answers.arms(0).items() if getattr(arm, noise) is not None]
        for name, arm in by_arm.items():
            assert arm["clips"] == (4 if name == "best of 4" else 2)
            assert all(0 <= value <= 1 for values in arm["accuracy"].values() for value in values)


def test_questions_needed_by_hand() -> None:
    curve = {25: 0.6, 50: 0.7, 100: 0.9}
    assert (
        answers.needed(curve, 0.8) == pytest.approx(75)
        and answers.needed(curve, 0.5) == 25
        and answers.needed(curve, 0.95) is None
    )


def test_the_axes_make_the_reward() -> None:
    data = answers.Known(answers.QUICK, 3).load()
    clips = data.clips(data.pool(5).pairs(4, torch.Generator().manual_seed(0)))
    first, second = (answers.axis_reward(3, place, clips) for place in (0, 1))
    torch.testing.assert_close(first + 0.5 * second, clips.reward)
    everything = answers.axis_reward(3, 0, answers.Clips(data.column("obs"), data.column("action"), data.reward))
    assert abs(float(everything.mean())) < 0.1 and float(everything.std()) == pytest.approx(1, abs=0.1)
