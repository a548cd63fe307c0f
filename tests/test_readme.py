"""The Python example of README.md runs as printed, with smaller numbers."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lightning_pbrl
from lightning_pbrl import MetaWorldDataModule
from lightning_pbrl.configs import packaged_config, read_config

README = Path(__file__).resolve().parents[1] / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.S)


def test_the_five_lines_teach_a_policy(no_ink: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = blocks("python")
    lines = [line for line in code.splitlines() if line.strip() and not re.match(r"import |from ", line)]
    assert len(lines) <= 5
    small = code
    for printed, tiny in (
        ("budget=200)", "budget=20, per_round=10)"),
        ("RewardEnsemble(data.spec)", "RewardEnsemble(data.spec, hidden=(8, 8), epochs=3)"),
        ("updates=20_000", "hidden=(8, 8), updates=20, eval_interval=10"),
    ):
        assert printed in small
        small = small.replace(printed, tiny)
    original = MetaWorldDataModule.__init__

    def tiny_data(self: MetaWorldDataModule, task: str) -> None:
        sizes = {"horizon": 30, "episodes": 6, "segment_length": 10, "held_out_pairs": 40}
        original(self, task, **sizes, eval_episodes=2, test_episodes=3, num_envs=2, cache_dir=str(tmp_path / "data"))

    monkeypatch.setattr(MetaWorldDataModule, "__init__", tiny_data)
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    exec(compile(small, str(README), "exec"), scope)
    assert scope["reward"].asked.total == 20
    assert scope["policy"].engine.updates["policy"] == 20
    metrics = json.loads(Path("runs/policy/results.json").read_text())["metrics"]
    assert {"test/return_mean", "test/success_rate"} <= set(metrics)

    # "A saved policy needs no Trainer"
    (sentence,) = re.findall(r"`(lightning_pbrl\.load\(.*?)`", README.read_text())
    obs = np.zeros((2, 39))
    assert np.array_equal(eval(sentence, {"lightning_pbrl": lightning_pbrl, "obs": obs}), scope["policy"].predict(obs))
    (made,) = re.findall(r"`(lightning_pbrl\.make\(.*?)`", README.read_text())
    assert eval(made, {"lightning_pbrl": lightning_pbrl}).horizon == 1000


def _lines(block: str) -> list[str]:
    return block.replace("\\\n", " ").splitlines()


def test_the_shell_lines_name_what_exists() -> None:
    lines = [shlex.split(line, comments=True) for block in blocks("bash") for line in _lines(block)]
    commands = [line for line in lines if line and line[0] == "lightning-pbrl"]
    assert len(commands) >= 5
    verbs = {command[1] for command in commands}
    assert {"list", "run", "plot", "fit"} <= verbs
    for command in commands:
        for word in command:
            if word.endswith(".yaml"):
                assert Path(packaged_config(word)).is_file() or read_config(packaged_config(word))
