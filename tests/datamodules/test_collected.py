"""Data that any simulator's scripts make, under names that hold a hash of what decides them."""

from __future__ import annotations

import pytest
import torch

from lightning_pbrl.data import archive
from lightning_pbrl.datamodules.collected import DEFAULT_MIXTURE, CollectedDataModule
from lightning_pbrl.datamodules.metaworld import MetaWorldDataModule
from lightning_pbrl.datamodules.metaworld_comparisons import MetaWorldComparisonsDataModule
from lightning_pbrl.envs.behaviour import Behaviour
from lightning_pbrl.envs.fetch import Fetch
from lightning_pbrl.envs.gym_mujoco import GymMuJoCo
from lightning_pbrl.envs.metaworld import MetaWorld
from lightning_pbrl.errors import UserError


def test_names_of_collections_stay():
    """Files that exist are found again, where what they hold would be collected again today."""
    assert MetaWorldDataModule("button-press").path.name == "button-press-v3-200-c01e6b2106.safetensors"
    mixture = [
        Behaviour(0.2, noise=0.2),
        Behaviour(0.4, expert="reach", noise=0.2),
        Behaviour(0.2, random=0.6, hold=10),
        Behaviour(0.2, object_shift=0.1, noise=0.3),
    ]
    demo = MetaWorldDataModule("plate-slide", horizon=150, mixture=mixture)
    assert demo.path.name == "plate-slide-v3-200-f6327fc648.safetensors"


def test_collections_of_discarded_scenes_are_not_read():
    """Old names: drawer-open-v3-200-c16ae86493, dial-turn-v3-200-c20c38dea5 and, by other tasks' experts, ...-400-e030da1b05."""
    assert MetaWorldDataModule("drawer-open").path.name == "drawer-open-v3-200-f0ba411084.safetensors"
    assert MetaWorldDataModule("dial-turn").path.name == "dial-turn-v3-200-8f9bdaf943.safetensors"
    assert MetaWorldComparisonsDataModule("plate-slide").path.name == "plate-slide-v3-400-b07b359686.safetensors"


def test_content_of_collections_stays(tmp_path):
    """The same episodes, whatever has been rebuilt around them (metaworld 3.1.1, mujoco 3.3.0; sums, as processors differ)."""
    mixture = [*DEFAULT_MIXTURE, Behaviour(expert="reach"), Behaviour(expert=False), Behaviour(twin="task")]
    data = MetaWorldDataModule(
        "plate-slide",
        horizon=10,
        goal_observable=False,
        episodes=6,
        mixture=mixture,
        stop_after_success=3,
        cache_dir=str(tmp_path),
    )
    assert data.path.name == "plate-slide-v3-6-2cd6321487.safetensors"
    table = data.load()
    assert table.about["behaviours"] == [7, 7, 3, 5, 7, 2]
    assert table.about["reset_seeds"][:2] == [3288346366, 319825366]
    assert table.column("action").double().sum().item() == pytest.approx(57.555747764, abs=1e-4)
    assert table.column("next_obs").double().sum().item() == pytest.approx(405.532071963, abs=1e-3)
    assert table.reward.double().sum().item() == pytest.approx(46.328458101, abs=1e-3)


def test_metaworld_is_the_general_module_with_a_task(tmp_path):
    settings = {"episodes": 2, "mixture": [Behaviour()], "cache_dir": str(tmp_path)}
    special = MetaWorldDataModule("reach", horizon=5, **settings)
    general = CollectedDataModule(MetaWorld("reach", horizon=5), **settings)
    assert special.path == general.path
    assert special.spec == general.spec == {"obs_dim": 39, "action_dim": 4, "horizon": 5}
    assert special.load().fingerprint == general.load().fingerprint


def test_chosen_entries_make_another_file(tmp_path):
    settings = {"horizon": 5, "episodes": 2, "mixture": [Behaviour()], "cache_dir": str(tmp_path)}
    full = MetaWorldDataModule("window-open", **settings)
    few = MetaWorldDataModule("window-open", entries=[0, 1, 2, 4], **settings)
    assert few.spec["obs_dim"] == 4
    assert few.path != full.path
    assert torch.equal(few.load().column("obs"), full.load().column("obs")[:, [0, 1, 2, 4]])
    assert torch.equal(few.load().column("next_obs"), full.load().column("next_obs")[:, [0, 1, 2, 4]])
    assert torch.equal(few.load().column("action"), full.load().column("action"))


def test_fetch_data(tmp_path):
    pytest.importorskip("gymnasium_robotics", reason="needs the extra robotics")
    data = CollectedDataModule(Fetch("push", horizon=6), 2, [Behaviour(), Behaviour(expert="reach")], cache_dir=str(tmp_path))
    data.prepare_data()
    data.setup("fit")
    assert data.path.name.startswith("fetch-push-2-")
    assert data.source.obs_dim == data.spec["obs_dim"] == 25
    assert archive.describe(data.path)["about"]["simulator"]["task"] == "push"


def test_what_a_simulator_does_not_have_is_refused_at_once():
    with pytest.raises(UserError, match="no scripted expert for Hopper-v5; give 'expert: false'"):
        CollectedDataModule(GymMuJoCo("Hopper-v5"))
    with pytest.raises(UserError, match="did you mean reach"):
        MetaWorldDataModule("push", mixture=[Behaviour(expert="reech")])
    assert CollectedDataModule(GymMuJoCo("Hopper-v5"), mixture=[Behaviour(expert=False)]).spec["obs_dim"] == 11
