"""robomimic's files: which demonstrations, in which order, with which observation, and every way a file can be wrong."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from robomimic_files import Demo, flat_demo, random_demo, write_robomimic

from lightning_pbrl.data.robomimic import OBS_KEYS, read_robomimic
from lightning_pbrl.datamodules.robomimic import RobomimicDataModule
from lightning_pbrl.envs.gym_mujoco import GymMuJoCo
from lightning_pbrl.envs.robosuite import Robosuite
from lightning_pbrl.errors import UserError

STEPS = {10: 3, 2: 4, 0: 2}
"""Demonstrations of the file and their steps, in the order they are written in."""


@pytest.fixture
def demos() -> dict[str, Demo]:
    return {f"demo_{number}": random_demo(number, steps) for number, steps in STEPS.items()}


@pytest.fixture
def path(tmp_path: Path, demos: dict[str, Demo]) -> Path:
    masks = {"train": ["demo_10", "demo_0"], "valid": ["demo_2"], "none": [], "lost": ["demo_2", "demo_7"]}
    return write_robomimic(tmp_path / "low_dim.hdf5", demos, masks)


def joined(demo: Demo, which: str) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([demo[which][key] for key in OBS_KEYS], axis=1)).float()


def test_demos_by_number_and_keys_in_the_papers_order(path: Path, demos: dict[str, Demo]):
    data = read_robomimic(path)
    assert data.about["demos"] == ["demo_0", "demo_2", "demo_10"]
    assert data.episodes.offsets.tolist() == [0, 2, 6, 9]
    ordered = [demos[name] for name in data.about["demos"]]
    assert torch.equal(data.column("obs"), torch.cat([joined(demo, "obs") for demo in ordered]))
    assert torch.equal(data.column("next_obs"), torch.cat([joined(demo, "next_obs") for demo in ordered]))
    assert (data.obs_dim, data.action_dim) == (49, 7)
    # by hand: entry 10 of the observation is robot0_joint_pos[0], the second key: 100 * 2 + 0 + 0 / 100 + 1 / 10
    assert data.column("obs")[2, 10].item() == pytest.approx(200.1)
    assert data.about["obs_keys"] == list(OBS_KEYS)
    assert data.about["env_args"]["env_kwargs"]["robots"] == ["Panda"]


def test_ends_rewards_and_success(path: Path):
    data = read_robomimic(path)
    assert data.column("terminated").tolist() == [0, 1, 0, 0, 0, 1, 0, 0, 1]
    assert data.column("truncated").sum() == 0
    assert data.reward.tolist() == [0, 1, 0, 0, 0, 1, 0, 0, 1]
    assert data.success is not None
    assert data.success.tolist() == [value == 1 for value in data.reward.tolist()]
    assert data.drawable is None


def test_the_last_step_can_be_dropped(path: Path):
    whole, data = read_robomimic(path), read_robomimic(path, last="drop")
    kept = torch.tensor([0, 2, 3, 4, 6, 7])
    assert data.episodes.offsets.tolist() == [0, 1, 4, 6]
    assert torch.equal(data.column("obs"), whole.column("obs")[kept])
    assert torch.equal(data.column("next_obs"), whole.column("next_obs")[kept])
    assert data.column("terminated").sum() == 0
    assert data.column("truncated").tolist() == [1, 0, 0, 1, 0, 1]


def test_demos_of_one_step_cannot_lose_it(tmp_path: Path):
    path = write_robomimic(tmp_path / "a.hdf5", {"demo_0": random_demo(0, 1), "demo_1": random_demo(1, 3)})
    data = read_robomimic(path, last="drop")
    assert data.episodes.offsets.tolist() == [0, 2]
    assert data.about["demos"] == ["demo_1"]
    path = write_robomimic(tmp_path / "b.hdf5", {"demo_0": random_demo(0, 1)})
    assert len(read_robomimic(path)) == 1
    with pytest.raises(UserError, match=r"b\.hdf5 has demonstrations of one step only"):
        read_robomimic(path, last="drop")
    path = write_robomimic(tmp_path / "c.hdf5", {"demo_0": {**random_demo(0, 1), "next_obs": None}})
    with pytest.raises(UserError, match=r"c\.hdf5 .* give it next_obs"):
        read_robomimic(path)


def test_filter_keys(path: Path):
    assert read_robomimic(path, "train").about["demos"] == ["demo_0", "demo_10"]
    assert read_robomimic(path, "valid").episodes.lengths.tolist() == [4]


def test_own_keys_in_own_order(path: Path, demos: dict[str, Demo]):
    data = read_robomimic(path, "valid", ["robot0_eef_pos", "object"])
    demo = demos["demo_2"]["obs"]
    assert torch.equal(data.column("obs"), torch.from_numpy(np.hstack([demo["robot0_eef_pos"], demo["object"]])).float())


def test_flat_observations(tmp_path: Path, path: Path, demos: dict[str, Demo]):
    flat = {name: flat_demo(demo, OBS_KEYS) for name, demo in demos.items()}
    data = read_robomimic(write_robomimic(tmp_path / "flat.hdf5", flat))
    assert data.fingerprint == read_robomimic(path).fingerprint
    assert data.about["obs_keys"] is None
    with pytest.raises(UserError, match="'data/demo_0/obs' is one flat array: leave obs_keys out"):
        read_robomimic(tmp_path / "flat.hdf5", obs_keys=["object"])


@pytest.mark.parametrize("flat", [False, True])
def test_missing_next_obs_is_the_next_steps_obs(tmp_path: Path, demos: dict[str, Demo], flat: bool):
    bare = {name: {**(flat_demo(demo, OBS_KEYS) if flat else demo), "next_obs": None} for name, demo in demos.items()}
    path = write_robomimic(tmp_path / "bare.hdf5", bare)
    data = read_robomimic(path)
    assert data.about["next_obs"] == "shifted"
    obs, next_obs = data.column("obs"), data.column("next_obs")
    assert data.drawable is not None
    assert data.drawable.tolist() == [0, 2, 3, 4, 6, 7]  # demos are rows 0-1, 2-5 and 6-8
    assert torch.equal(next_obs[data.drawable], obs[data.drawable + 1])
    ends = torch.tensor([1, 5, 8])
    assert torch.equal(next_obs[ends], obs[ends])
    dropped = read_robomimic(path, last="drop")
    assert dropped.drawable is None
    assert torch.equal(dropped.column("next_obs"), next_obs[data.drawable])


def test_actions_beyond_their_scale(tmp_path: Path, demos: dict[str, Demo]):
    demos["demo_2"]["actions"][1] = [1.5, -1.0, -2.0, 0, 0, 0, 1.0]
    demos["demo_10"]["actions"][0, 6] = -1.0  # at the border: clipped, but not out of range
    path = write_robomimic(tmp_path / "a.hdf5", demos)
    with pytest.raises(UserError, match=r"leaves \[-1, 1\] in 1 row\(s\) by up to 1, the first is row 3 with 2: rescale actions"):
        read_robomimic(path)
    data = read_robomimic(path, clip_actions=True)
    assert data.about["actions_clipped"] == 1
    bound = np.float32(1 - 1e-5).item()
    assert data.column("action")[3].tolist() == [bound, -bound, -bound, 0, 0, 0, bound]
    assert data.column("action")[6, 6].item() == -bound
    assert data.column("action").abs().max().item() < 1
    halved = read_robomimic(path, action_bounds=[-2.0, 2.0]).column("action")
    assert halved[3].tolist() == pytest.approx([0.75, -0.5, -bound, 0, 0, 0, 0.5])


OLD_ABSOLUTE = {"type": "OSC_POSE", "control_delta": False, "output_max": [0.05] * 3 + [0.5] * 3}
"""A controller as robosuite 1.4 and before writes it."""
ARM = {"type": "OSC_POSE", "input_type": "absolute", "input_ref_frame": "world"}
NEW_ABSOLUTE = {"type": "BASIC", "body_parts": {"right": {**ARM, "gripper": {"type": "GRIP"}}}}
"""The same as robosuite 1.5 writes it."""


def recorded_with(path: Path, demos: dict[str, Demo], **settings: Any) -> Path:
    return write_robomimic(path, demos, env_args={"env_name": "Lift", "type": 1, "env_kwargs": settings})


@pytest.mark.parametrize(
    ("controller", "said"),
    [(OLD_ABSOLUTE, "control_delta: false"), (NEW_ABSOLUTE, "input_type: absolute"), ([OLD_ABSOLUTE], "control_delta: false")],
)
def test_absolute_poses_are_not_taken_for_displacements(tmp_path: Path, demos: dict[str, Demo], controller: Any, said: str):
    """Even where all of them happen to lie in [-1, 1]."""
    low, high = [0.1, -0.3, 0.8, 2.5, -0.5, -0.25, -1.0], [0.3, 0.3, 1.0, 3.0, 0.5, 0.25, 1.0]
    rng = np.random.default_rng(0)
    for demo in demos.values():
        demo["actions"] = rng.uniform(low, high, demo["actions"].shape)
    demos["demo_0"]["actions"][0], demos["demo_0"]["actions"][1] = low, high
    path = recorded_with(tmp_path / "abs.hdf5", demos, controller_configs=controller)
    for settings in ({}, {"clip_actions": True}):
        with pytest.raises(UserError) as error:
            read_robomimic(path, **settings)
        assert str(error.value).startswith(
            f"{path}: attribute 'env_args' says {said}, so actions are absolute poses, not displacements in [-1, 1]: set "
        )
        assert re.search(r"those of this file, \[\[0\.09[89], -0\.30[12], 0\.79[89], 2\.49[89], ", str(error.value))
    data = read_robomimic(path, action_bounds=[low, high])
    assert data.column("action")[:2].tolist() == [[pytest.approx(sign * (1 - 1e-5))] * 7 for sign in (-1, 1)]
    assert data.about["action_bounds"] == [low, high]
    module = RobomimicDataModule(str(path), simulator=Robosuite("Lift"), cache_dir=None, action_bounds=[low, high])
    with pytest.raises(UserError, match=f"abs.hdf5 was recorded with {said}.*, and Lift plays robosuite's default controller"):
        module.setup("fit")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"control_freq": 50}, "control_freq: 50"),
        ({"robots": ["Sawyer"]}, r"robots: \['Sawyer'\]"),
        ({"controller_configs": {"type": "JOINT_VELOCITY"}}, "type: JOINT_VELOCITY"),
        ({"controller_configs": {"type": "OSC_POSE", "output_max": 0.1}}, r"output_max: \[0.1, 0.1"),
    ],
)
def test_another_controller_than_the_simulators(tmp_path: Path, demos: dict[str, Demo], settings: dict[str, Any], said: str):
    path = recorded_with(tmp_path / "a.hdf5", demos, **settings)
    assert len(read_robomimic(path)) == 9
    with pytest.raises(UserError, match=rf"a\.hdf5 was recorded with {said}.*set data.simulator to null"):
        RobomimicDataModule(str(path), simulator=Robosuite("Lift"), cache_dir=None).setup("fit")


def test_the_usual_controllers_are_the_simulators(tmp_path: Path, demos: dict[str, Demo]):
    old = {"type": "OSC_POSE", "control_delta": True, "output_max": [0.05] * 3 + [0.5] * 3, "kp": 150}
    new = {"type": "BASIC", "body_parts": {"right": {"type": "OSC_POSE", "input_type": "delta", "gripper": {"type": "GRIP"}}}}
    for number, controller in enumerate((old, new, None)):
        path = recorded_with(tmp_path / f"{number}.hdf5", demos, controller_configs=controller, robots="Panda", control_freq=20)
        RobomimicDataModule(str(path), simulator=Robosuite("Lift"), cache_dir=None).setup("fit")


def test_nothing_is_bootstrapped_from_a_demonstrations_last_next_obs(path: Path):
    """robomimic's own is up to 7.6 mm off: the row is terminated, or left out."""
    data = read_robomimic(path)
    ends = data.episodes.offsets[1:] - 1
    assert data.column("terminated")[ends].tolist() == [1, 1, 1]
    last = data.column("next_obs")[ends]
    dropped = read_robomimic(path, last="drop").column("next_obs")
    assert not (dropped.unsqueeze(1) == last).all(-1).any()


def test_an_interrupted_demonstration(tmp_path: Path, demos: dict[str, Demo]):
    for which in ("obs", "next_obs"):
        demos["demo_2"][which]["object"] = demos["demo_2"][which]["object"] + np.array([0, 0, 1, 1.0])[:, None]
    rebuilt = demos["demo_10"]["obs"]["robot0_joint_pos"].copy()
    rebuilt[1] += 0.1  # from a stored state; a step is 1.0 long in every entry
    demos["demo_10"]["obs"]["robot0_joint_pos"] = rebuilt
    with pytest.raises(UserError) as error:
        read_robomimic(write_robomimic(tmp_path / "a.hdf5", demos))
    assert str(error.value) == (
        f"{tmp_path}/a.hdf5: key 'data/demo_2/next_obs' does not lead to the next row of 'obs' in 1 row(s), the first is row 1: "
        "write what was recorded without interruption as a demonstration of its own."
    )


def test_a_copy_equals_a_fresh_read(tmp_path: Path, demos: dict[str, Demo]):
    bare = {name: {**demo, "next_obs": None} for name, demo in demos.items()}
    path = write_robomimic(tmp_path / "low_dim.hdf5", bare, {"train": ["demo_0", "demo_2"]})
    fresh = read_robomimic(path, "train")
    for _ in range(2):
        copy = read_robomimic(path, "train", cache_dir=tmp_path / "copies")
        assert copy.fingerprint == fresh.fingerprint
        assert copy.about == fresh.about
        assert torch.equal(copy.column("action"), fresh.column("action"))
        assert copy.drawable is not None
        assert copy.drawable.tolist() == fresh.drawable.tolist()
        assert torch.equal(copy.success, fresh.success)
    read_robomimic(path, cache_dir=tmp_path / "copies")
    assert len(list((tmp_path / "copies").glob("*.safetensors"))) == 2


# Mistakes --------------------------------------------------------------------------------------------------------------


def renamed(old: str, new: str) -> Callable[[h5py.File], None]:
    return lambda file: file.move(old, new)


def without(key: str) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[key]

    return change


def replaced(key: str, values: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[key]
        file[key] = values

    return change


def attribute(key: str, name: str, value: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        file[key].attrs[name] = value

    return change


HOLE = np.zeros((4, 10))
HOLE[2, 3] = np.nan


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("data"), ["no group 'data'", "mask", "robomimic"]),
        (without("data/demo_2/actions"), ["no key 'data/demo_2/actions'", "rewards, states", "write the file again"]),
        (without("data/demo_0/obs"), ["no key 'data/demo_0/obs", "actions, dones, next_obs"]),
        (without("data/demo_0/obs/object"), ["no key 'data/demo_0/obs/object'", "data/demo_0/obs has robot0_eef_pos"]),
        (without("data/demo_2/next_obs"), ["no key 'data/demo_2/next_obs/object'", "write the file again"]),
        (replaced("data/demo_2/rewards", np.array([b"x"] * 4)), ["'data/demo_2/rewards' holds |S1", "float32"]),
        (replaced("data/demo_2/obs/object", HOLE), ["'data/demo_2/obs/object'", "NaN", "row 2", "drop those"]),
        (replaced("data/demo_2/rewards", np.zeros(3)), ["'data/demo_2/rewards' has 3 rows where 4 belong"]),
        (replaced("data/demo_2/obs/object", np.zeros((4, 9))), ["'data/demo_2/obs/object' has 9 entries per row", "10"]),
        (replaced("data/demo_2/actions", np.zeros((4, 6))), ["'data/demo_2/actions' has 6 entries per row", "7"]),
        (replaced("data/demo_2/obs/object", np.zeros((4, 8, 8, 3))), ["'data/demo_2/obs/object' has shape (4, 8, 8, 3)"]),
        (replaced("data/demo_2/dones", np.array([0, 0, 2, 1])), ["'data/demo_2/dones' holds 2 in row 2", "store 0 and 1"]),
        (attribute("data/demo_2", "num_samples", 9), ["'data/demo_2/actions' has 4 rows", "num_samples says 9", "again"]),
        (attribute("data", "total", 40), ["the demonstrations read have 9 rows", "'total' of 'data' says 40", "again"]),
        (attribute("data", "total", "all"), ["'total' of 'data' says all"]),
        (attribute("data", "env_args", "{"), ["'env_args' of 'data' is not JSON", "delete it"]),
        (attribute("data", "env_args", "3"), ["'env_args' of 'data' is '3'", "JSON object"]),
        (renamed("data/demo_2", "data/second"), ["'data/second' has no number", "rename it to demo_<i>"]),
        (lambda file: [file["data"].pop(name) for name in list(file["data"])], ["'data' has no demonstrations"]),
    ],
)
def test_bad_files(path: Path, change: Callable[[h5py.File], None], words: list[str]):
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(UserError) as error:
        read_robomimic(path)
    for word in ["low_dim.hdf5", *words]:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_a_part_has_no_more_rows_than_the_file(path: Path):
    with h5py.File(path, "r+") as file:
        file["data"].attrs["total"] = 4
    assert len(read_robomimic(path, "valid")) == 4
    with pytest.raises(UserError, match="the demonstrations read have 5 rows and attribute 'total' of 'data' says 4"):
        read_robomimic(path, "train")
    with h5py.File(path, "r+") as file:
        del file["data"].attrs["total"]
    assert len(read_robomimic(path)) == 9


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("trian", ["no filter key 'mask/trian'", "lost, none, train, valid", "filter_key"]),
        ("lost", ["'mask/lost' names demo_7", "not in 'data'"]),
        ("none", ["'mask/none' has no demonstrations"]),
    ],
)
def test_bad_filter_keys(path: Path, key: str, words: list[str]):
    with pytest.raises(UserError) as error:
        read_robomimic(path, key)
    for word in ["low_dim.hdf5", *words]:
        assert word in str(error.value)


def test_masks_of_numbers_and_no_masks(tmp_path: Path, path: Path, demos: dict[str, Demo]):
    with h5py.File(path, "r+") as file:
        file["mask/odd"] = np.arange(3)
    with pytest.raises(UserError, match="'mask/odd' holds int64: store names"):
        read_robomimic(path, "odd")
    with pytest.raises(UserError, match=r"no filter key 'mask/train' \(it has none\)"):
        read_robomimic(write_robomimic(tmp_path / "b.hdf5", demos), "train")


def test_files_of_no_use(tmp_path: Path, path: Path):
    with pytest.raises(UserError, match=r"no file .*nowhere\.hdf5"):
        read_robomimic(tmp_path / "nowhere.hdf5")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=r"low_dim\.hdf5 is truncated or damaged"):
        read_robomimic(path)


def test_a_file_that_says_nothing_of_its_environment(path: Path):
    with h5py.File(path, "r+") as file:
        del file["data"].attrs["env_args"]
        del file["data/demo_0"].attrs["num_samples"]
    assert read_robomimic(path).about["env_args"] is None


# The data module -------------------------------------------------------------------------------------------------------


def module(path: Path, tmp_path: Path, **settings: Any) -> RobomimicDataModule:
    return RobomimicDataModule(str(path), cache_dir=str(tmp_path / "copies"), **settings)


def test_module_knows_its_sizes(path: Path, tmp_path: Path):
    data = module(path, tmp_path, simulator=Robosuite("Lift"), filter_key="train", last="drop")
    assert data.spec == {"obs_dim": 49, "action_dim": 7, "horizon": 500}
    data.setup("fit")
    assert data.source.episodes.lengths.tolist() == [1, 2]
    assert module(path, tmp_path).spec == {"obs_dim": 49, "action_dim": 7, "horizon": 0}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"simulator": Robosuite("Can")}, ["49 observation and 7 action", "Can has 53 and 7", "obs_keys"]),
        ({"simulator": GymMuJoCo("Hopper-v5")}, ["49 observation", "Hopper-v5 has 11 and 3"]),
        (
            {"simulator": Robosuite("Square", list(OBS_KEYS[1:])), "obs_keys": list(OBS_KEYS[1:])},
            ["recorded in Lift, not in NutAssemblySquare"],
        ),
        ({"simulator": Robosuite("Lift", list(OBS_KEYS[::-1]))}, ["other obs_keys than Lift has"]),
    ],
)
def test_file_and_simulator_must_agree(path: Path, tmp_path: Path, settings: dict[str, Any], words: list[str]):
    with pytest.raises(UserError) as error:
        module(path, tmp_path, **settings).setup("fit")
    for word in ["low_dim.hdf5", *words]:
        assert word in str(error.value)
