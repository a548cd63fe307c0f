"""Models are read from their file once, and copies are as good as another reading."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest

from lightning_pbrl.envs.metaworld import MetaWorld
from lightning_pbrl.envs.models import models_read_once

BALL = "<mujoco><worldbody><body><joint type='free'/><geom name='ball' size='{size}'/></body></worldbody></mujoco>"


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Files that MuJoCo has been asked to read."""
    read, found = mujoco.MjModel.from_xml_path, []

    def counted(path: str, *assets: Any) -> Any:
        found.append(path)
        return read(path, *assets)

    monkeypatch.setattr(mujoco.MjModel, "from_xml_path", counted)
    return found


def ball(folder: Path, size: float, changed: int) -> str:
    file = folder / "ball.xml"
    file.write_text(BALL.format(size=size))
    os.utime(file, ns=(changed, changed))
    return str(file)


def test_a_copy_is_not_its_original(tmp_path: Path, readings: list[str]) -> None:
    file = ball(tmp_path, 0.25, changed=1)
    with models_read_once():
        first, second = (mujoco.MjModel.from_xml_path(file) for _ in range(2))
        first.geom_size[:] = 7.0  # what one environment makes of its model is its own
        assert second.geom_size[0, 0] == mujoco.MjModel.from_xml_path(file).geom_size[0, 0] == 0.25
        assert second.geom("ball").id == 0
    assert readings == [file]


def test_a_file_that_has_changed_is_read_again(tmp_path: Path, readings: list[str]) -> None:
    for size, changed in ((0.25, 1), (0.5, 2)):
        file = ball(tmp_path, size, changed)
        with models_read_once():
            assert mujoco.MjModel.from_xml_path(file).geom_size[0, 0] == size
    assert len(readings) == 2


def test_afterwards_mujoco_reads_as_it_did(tmp_path: Path, readings: list[str]) -> None:
    read, file = mujoco.MjModel.from_xml_path, ball(tmp_path, 0.25, changed=1)
    with pytest.raises(ValueError, match="nowhere"), models_read_once():
        mujoco.MjModel.from_xml_path(str(tmp_path / "nowhere.xml"))
    assert mujoco.MjModel.from_xml_path is read
    mujoco.MjModel.from_xml_path(file), mujoco.MjModel.from_xml_path(file)
    assert readings[-2:] == [file, file]


def test_environments_of_a_simulator_share_a_reading(readings: list[str]) -> None:
    simulator = MetaWorld("plate-slide", horizon=20)
    envs = [simulator.make() for _ in range(3)]
    assert len(readings) <= 1  # an earlier test may have read it
    action = np.array([0.3, -0.2, 0.1, 1.0], np.float32)
    paths = []
    for env in (envs[0], envs[2]):
        seen, _ = env.reset(seed=3)
        paths.append([seen, *(env.step(action)[0] for _ in range(10))])
    np.testing.assert_array_equal(*paths)
