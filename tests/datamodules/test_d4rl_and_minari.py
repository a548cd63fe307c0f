"""The data modules of D4RL and Minari files: which settings reach the reader, and what must fit the simulator."""

from __future__ import annotations

import numpy as np
import pytest
from command_line import QUIET
from d4rl_files import episodes, write_d4rl

from lightning_pbrl.configs import packaged_config, read_config
from lightning_pbrl.datamodules import minari as minari_module
from lightning_pbrl.datamodules.d4rl import D4RLDataModule
from lightning_pbrl.datamodules.minari import MinariDataModule
from lightning_pbrl.envs.gym_mujoco import GymMuJoCo
from lightning_pbrl.envs.gymnasium_robotics import GymnasiumRobotics
from lightning_pbrl.errors import UserError


def test_a_file_its_copy_and_its_simulator(tmp_path):
    path = write_d4rl(tmp_path / "hopper.hdf5", episodes(("timeout", "terminal"), (4, 3), obs_dim=11, action_dim=3))
    module = D4RLDataModule(str(path), GymMuJoCo("Hopper-v5"), cache_dir=str(tmp_path / "cache"), segment_length=3)
    assert module.spec == {"obs_dim": 11, "action_dim": 3, "horizon": 1000}  # known before the file is read
    module.setup("fit")
    assert module.source.episodes.offsets.tolist() == [0, 4, 7]
    assert len(list((tmp_path / "cache").glob("hopper-*.safetensors"))) == 1
    with pytest.raises(UserError, match=r"hopper\.hdf5 has 11 observation and 3 action entries and Walker2d-v5 has 17 and 6"):
        D4RLDataModule(str(path), GymMuJoCo("Walker2d-v5"), cache_dir=None).load()
    assert D4RLDataModule(str(path), cache_dir=None).spec["obs_dim"] == 11  # without a simulator the file tells


def test_missing_timeouts_are_counted_to_the_simulators_horizon(tmp_path):
    columns = episodes(("timeout", "timeout", "nothing"), (5, 5, 2), obs_dim=11, action_dim=3)
    path = str(write_d4rl(tmp_path / "a.hdf5", columns, without=["timeouts"]))
    module = D4RLDataModule(path, GymMuJoCo("Hopper-v5", horizon=5), cache_dir=None)
    assert module.load().episodes.offsets.tolist() == [0, 5, 10]
    path = str(write_d4rl(tmp_path / "b.hdf5", columns, without=["timeouts", "next_observations"]))
    module = D4RLDataModule(path, GymMuJoCo("Hopper-v5", horizon=5), max_episode_steps=4, cache_dir=None)
    assert module.load().episodes.offsets.tolist() == [0, 3, 6, 9]
    with pytest.raises(UserError, match="no key 'timeouts': set max_episode_steps"):
        D4RLDataModule(path, cache_dir=None).load()


def test_ants_contact_forces_are_left_out(tmp_path):
    columns = episodes(("timeout",), (4,), obs_dim=111, action_dim=8)
    path = str(write_d4rl(tmp_path / "ant.hdf5", columns))
    settings = read_config(packaged_config("data/d4rl/ant.yaml"))["data"]["init_args"]
    simulator = GymMuJoCo(**settings["simulator"]["init_args"])
    assert D4RLDataModule(path, simulator, obs_dim=settings["obs_dim"], cache_dir=None).load().obs_dim == simulator.obs_dim == 27
    with pytest.raises(UserError, match=r"111 observation .* Ant-v5 has 27 .* obs_dim"):
        D4RLDataModule(path, simulator, cache_dir=None).load()


def test_antmaze_goals(tmp_path):
    columns = episodes(("timeout",), (4,), obs_dim=29, action_dim=8)
    columns["terminals"][1] = True
    path = str(write_d4rl(tmp_path / "antmaze.hdf5", columns, without=["next_observations"]))
    module = D4RLDataModule(path, GymnasiumRobotics("antmaze-umaze"), terminals="goal", cache_dir=None)
    table = module.load()
    assert table.episodes.offsets.tolist() == [0, 3]
    assert table.success.tolist() == [False, True, False]


def test_minari_reads_by_name_and_downloads_once_per_machine(monkeypatch):
    class Table:
        obs_dim, action_dim, shown_dim = 11, 3, 11

    calls = []
    monkeypatch.setattr(minari_module, "open_minari", lambda *a, **k: calls.append(("open", a, k)))
    monkeypatch.setattr(minari_module, "read_minari", lambda *a, **k: calls.append(("read", a, k)) or Table())
    module = MinariDataModule("mujoco/hopper/medium-v0", GymMuJoCo("Hopper-v5"), cache_dir="here")
    module.prepare_data()
    assert calls == []  # nothing is fetched unasked
    assert module.load().obs_dim == 11
    settings = {"cache_dir": "here", "action_bounds": None, "clip_actions": False}
    assert calls.pop() == ("read", ("mujoco/hopper/medium-v0",), settings)
    MinariDataModule("x/y-v0", cache_dir=None, action_bounds=[-5.0, 5.0], clip_actions=True).load()
    assert calls.pop() == ("read", ("x/y-v0",), {"cache_dir": None, "action_bounds": [-5.0, 5.0], "clip_actions": True})
    MinariDataModule("mujoco/hopper/medium-v0", download=True).prepare_data()
    assert calls == [("open", ("mujoco/hopper/medium-v0",), {"download": True})]
    with pytest.raises(UserError, match="mujoco/hopper/medium-v0 has 11 observation and 3 action entries and Ant-v5"):
        MinariDataModule("mujoco/hopper/medium-v0", GymMuJoCo("Ant-v5")).load()


@QUIET
def test_a_shipped_config_reads_a_file_of_that_name(tmp_path, monkeypatch):
    from lightning_pbrl.train_cli import train_cli

    monkeypatch.setenv("D4RL_ROOT", str(tmp_path))
    columns = episodes(("timeout",) * 3, (10, 8, 6), obs_dim=17, action_dim=6)
    columns["rewards"] = np.ones(24, dtype=np.float32)
    write_d4rl(tmp_path / "walker2d_medium_expert-v2.hdf5", columns)
    args = ["-c", "data/d4rl/walker2d.yaml", "-c", "model/bc.yaml", "--trainer.accelerator=cpu", f"--run_dir={tmp_path}/run"]
    bounds = "[[-2, -2, -2, -2, -2, -2], [2, 2, 2, 2, 2, 4]]"
    args += [f"--data.init_args.cache_dir={tmp_path}/cache", f"--data.init_args.action_bounds={bounds}"]
    module = train_cli(args, run=False).datamodule
    module.setup("fit")
    scaled = (columns["actions"] + [0, 0, 0, 0, 0, 2]) / [2, 2, 2, 2, 2, 3] - [0, 0, 0, 0, 0, 1]
    assert np.allclose(module.source.column("action").numpy(), scaled, atol=1e-6)
    assert len(module.source) == 24
    assert module.simulator.d4rl_task == "walker2d"
