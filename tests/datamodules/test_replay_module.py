"""The replay of a run as logged data, in a Trainer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from online_toys import WalkSimulator, _Actor
from toys import make_trainer

from lightning_pbrl.callbacks.ask_teacher import AskTeacher
from lightning_pbrl.datamodules.online import OnlineDataModule
from lightning_pbrl.datamodules.replay import ReplayDataModule
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.bc import BC
from lightning_pbrl.teachers.simulated import SimulatedTeacher


def test_the_data_of_a_run(tmp_path: Path) -> None:
    online = OnlineDataModule(WalkSimulator(), segment_length=3, eval_episodes=2, num_envs=2)
    ask = AskTeacher(SimulatedTeacher(), budget=10, per_round=5, first_round=1)
    make_trainer(tmp_path, [ask]).fit(_Actor(online.spec, seed=3), online)
    path = str(tmp_path / "checkpoints" / "last.ckpt")
    found = ReplayDataModule(path, WalkSimulator(), segment_length=3)
    found.setup("fit")
    source, log = found.source, online.source.log.finished
    assert len(source) == int((log[:, 2] - log[:, 1]).sum()) and len(source.episodes.lengths) == len(log)
    returns = torch.stack([part.double().sum() for part in source.reward.split(source.episodes.lengths.tolist())])
    assert torch.allclose(returns, log[:, 3]) and source.about["replay of"] == "_Actor"
    assert bool(source.success.any()) == bool((log[:, 4] > 0).any())
    with pytest.raises(TypeError, match="action_bounds"):  # its actions are in [-1, 1], so neither would act
        ReplayDataModule(path, action_bounds=[0, 2], clip_actions=True)
    half = ReplayDataModule(path, steps=30)
    half.setup("fit")
    assert 0 < len(half.source) <= 30
    with pytest.raises(UserError, match="got steps=0"):
        ReplayDataModule(path, steps=0)
    bc = make_trainer(tmp_path / "bc")
    bc.fit(BC(found.spec, updates=64, hidden=[8]), found)
    with pytest.raises(UserError, match="no replay"):
        ReplayDataModule(str(tmp_path / "bc" / "checkpoints" / "last.ckpt")).setup("fit")
