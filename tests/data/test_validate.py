"""Validation: each mistake is named with its file, key and row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lightning_pbrl.data.d4rl import read_d4rl
from lightning_pbrl.data.imitation import read_imitation
from lightning_pbrl.data.lerobot import read_lerobot
from lightning_pbrl.data.lire import read_lire
from lightning_pbrl.data.preference_npz import read_preference_npz
from lightning_pbrl.data.robomimic import read_robomimic
from lightning_pbrl.data.validate import check_columns
from lightning_pbrl.errors import UserError


def columns(**changes: object) -> dict[str, np.ndarray]:
    base = {
        "obs": np.zeros((4, 3)),
        "action": np.zeros((4, 2)),
        "next_obs": np.ones((4, 3)),
        "reward": np.zeros((4, 1)),
    }
    return {name: value for name, value in {**base, **changes}.items() if value is not None}


def test_good_columns_become_float32():
    checked = check_columns(columns(done=np.array([0, 0, 0, 1], dtype=bool), action=np.ones((4, 2), int)), "f")
    assert all(values.dtype == np.float32 for values in checked.values())
    assert checked["reward"].shape == (4,)
    assert checked["done"].tolist() == [0, 0, 0, 1]
    assert checked["action"].tolist() == [[1, 1]] * 4


def test_rounding_beyond_one_is_clipped():
    action = np.array([[1.00005, -1.00005]] * 4)
    assert check_columns(columns(action=action), "f")["action"].tolist() == [[1, -1]] * 4


def spoilt(shape: tuple[int, ...], row: int, value: float) -> np.ndarray:
    array = np.zeros(shape)
    array[row] = value
    return array


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"obs": spoilt((4, 3), 2, np.nan)},
            r"data\.pkl: key 'observations' is NaN or infinite in 1 row.*first is row 2",
        ),
        ({"reward": spoilt((4,), 1, np.inf)}, "key 'reward' is NaN or infinite in 1 row.*first is row 1"),
        ({"reward": spoilt((4,), 3, 1e300)}, "key 'reward' is NaN or infinite"),  # beyond float32
        ({"action": spoilt((4, 2), 1, 1.5)}, r"key 'action' leaves \[-1, 1\] in 1 row.*row 1 with 1.5: rescale"),
        ({"action": spoilt((4, 2), 0, -1.001)}, r"leaves \[-1, 1\]"),
        ({"obs": np.full((4, 3), "a")}, "key 'observations' holds <U1 instead of numbers"),
        ({"obs": np.full((4, 3), None)}, "holds object instead of numbers"),
        ({"obs": np.zeros((4, 3), complex)}, "holds complex128 instead of numbers"),
        ({"action": np.zeros((3, 2))}, "key 'action' has 3 rows and 'observations' has 4: cut both"),
        ({"next_obs": np.zeros((4, 2))}, r"key 'next_obs' has shape \(4, 2\) and 'observations' has \(4, 3\)"),
        (
            {"obs": np.zeros(4), "next_obs": np.zeros(4)},
            r"key 'observations' has shape \(4,\): it must be \(rows, size\)",
        ),
        ({"action": np.zeros((4, 0))}, "key 'action' has shape"),
        ({"reward": np.zeros((4, 2))}, r"key 'reward' has shape \(4, 2\): it must be \(rows,\) or \(rows, 1\)"),
        ({"reward": np.float32(0)}, "key 'reward' has 1 rows and 'observations' has 4"),
        ({"action": None}, "data.pkl has no key 'action'"),
        ({"obs": np.zeros((0, 3))}, "key 'observations' has no rows"),
    ],
)
def test_bad_columns(changes: dict, message: str):
    with pytest.raises(UserError, match=message):
        check_columns(columns(**changes), "data.pkl", {"obs": "observations"})


@pytest.mark.parametrize(
    ("reader", "name", "choices"),
    [
        (read_d4rl, "terminals", "end, goal"),
        (read_imitation, "complete", "truncated, terminated"),
        (read_lerobot, "end", "success, terminated, truncated"),
        (read_lerobot, "action_bounds", "stats"),
        (read_lire, "early_end", "truncated, terminated"),
        (read_preference_npz, "undecided", "equal, skip, drop"),
        (read_robomimic, "last", "terminated, drop"),
    ],
)
def test_a_misspelt_choice_of_a_reader_is_not_another_one(reader: Callable[..., Any], name: str, choices: str):
    with pytest.raises(UserError, match=f"{name} is 'terminate': give one of {choices}"):
        reader("nowhere", **{name: "terminate"})
