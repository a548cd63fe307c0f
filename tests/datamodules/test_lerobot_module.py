"""The data module of LeRobot's data sets: its config, its files and pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import QUIET
from lerobot_files import CAMERA, episodes, write_lerobot

from lightning_pbrl.commands import data_module
from lightning_pbrl.datamodules.lerobot import LeRobotDataModule
from lightning_pbrl.envs.gym_mujoco import GymMuJoCo
from lightning_pbrl.errors import UserError
from lightning_pbrl.testing import check_datamodule

pytest.importorskip("pyarrow", reason="needs the extra lerobot (pyarrow)")
pytest.importorskip("av", reason="needs the extra lerobot (PyAV)")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_lerobot(tmp_path / "toy", episodes((12, 9, 14, 8)), camera="video")


def test_it_keeps_what_is_promised_of_a_data_module(root, tmp_path):
    settings = {"cache_dir": str(tmp_path / "cache"), "segment_length": 4}
    check_datamodule(LeRobotDataModule(str(root), **settings))
    check_datamodule(LeRobotDataModule(str(root), camera=CAMERA, size=8, tasks=["push"], **settings))


def test_pictures_are_what_policies_see(root):
    module = LeRobotDataModule(str(root), camera=CAMERA, size=16, cache_dir=None, segment_length=4)
    assert module.spec == {"obs_dim": 16 * 16 * 3, "action_dim": 3, "horizon": 0, "pixels": 16}
    assert LeRobotDataModule(str(root), cache_dir=None, segment_length=4).spec["obs_dim"] == 2


def test_a_run_depends_on_the_files_that_it_reads(root):
    names = {file.relative_to(root).parts[0] for file in LeRobotDataModule(str(root)).files()}
    assert names == {"meta", "data"}
    names = {file.relative_to(root).parts[0] for file in LeRobotDataModule(str(root), camera=CAMERA).files()}
    assert names == {"meta", "data", "videos"}


def test_a_simulator_of_other_sizes_is_refused(root):
    with pytest.raises(UserError, match=r"toy has 2 observation and 3 action entries and Hopper-v5 has 11 and 3: give the"):
        LeRobotDataModule(str(root), GymMuJoCo("Hopper-v5"), cache_dir=None).load()


@QUIET
def test_the_shipped_config_reads_any_folder(root, tmp_path, monkeypatch):
    monkeypatch.setenv("LEROBOT_DATA", str(root))
    cache = f"--data.init_args.cache_dir={tmp_path / 'cache'}"
    module = data_module(["-c", "data/lerobot.yaml", cache, "--data.init_args.tasks=[lift]"], "check", "")
    module.setup("fit")
    assert module.source.about["demos"] == [1] and module.source.about["action_bounds"] == [[-1.5, -1, -0.75], [0.5, 1, 1.25]]
    module = data_module(["-c", "data/lerobot.yaml", cache, "--data.init_args.action_bounds=[-2, 2]"], "check", "")
    module.setup("fit")
    assert module.source.column("action")[0].tolist() == [-0.25, 0, 0.125]
