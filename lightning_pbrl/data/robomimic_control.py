"""Meaning of the actions in a robomimic file: the file's ``env_args`` name the controller that executed them.

Most files hold displacements of the hand on a scale of [-1, 1]. Files of absolute poses (robosuite up to 1.4 says
``control_delta: false``, 1.5 ``input_type: absolute``) hold metres and radians instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_pbrl.data.actions import Bounds
from lightning_pbrl.errors import UserError

ARM = ("OSC_POSE", "OSC_POSITION", "IK_POSE", "JOINT_POSITION", "JOINT_VELOCITY", "JOINT_TORQUE")
"""robosuite's controllers of an arm; a gripper has its own."""

PLAYED: dict[str, Any] = {"robots": ["Panda"], "control_freq": 20, "type": "OSC_POSE", "output_max": [0.05] * 3 + [0.5] * 3}
"""Controller of :class:`lightning_pbrl.envs.robosuite.Robosuite`: the default of robosuite for these tasks, and of robomimic."""


def absolute(env_args: Mapping[str, Any] | None) -> str | None:
    """Return the setting, such as ``control_delta: false``, that makes actions absolute poses; None for displacements."""
    for part in _parts(_kwargs(env_args).get("controller_configs")):
        if part.get("control_delta") is False:
            return "control_delta: false"
        if part.get("input_type") == "absolute":
            return "input_type: absolute"
    return None


def check_scale(env_args: Mapping[str, Any] | None, low: NDArray, high: NDArray, bounds: Bounds | None, path: object) -> None:
    """Refuse absolute poses without bounds from the user: they are not displacements in [-1, 1].

    Args:
        env_args: description of the environment in the file.
        low: smallest actions of the file, (A,).
        high: largest actions of the file, (A,).
        bounds: bounds that the user gave.
        path: the file.
    """
    setting = absolute(env_args)
    if setting is None or bounds is not None:
        return
    lowest = (np.floor(low.astype(np.float64) * 1e3 - 1.0) / 1e3).tolist()
    highest = (np.ceil(high.astype(np.float64) * 1e3 + 1.0) / 1e3).tolist()
    raise UserError(
        f"{path}: attribute 'env_args' says {setting}, so actions are absolute poses, not displacements in [-1, 1]: set "
        f"action_bounds to [low, high] of every entry, for instance those of this file, [{lowest}, {highest}]."
    )


def difference(env_args: Mapping[str, Any] | None) -> str | None:
    """Return the first setting in which the recorded controller differs from :data:`PLAYED`, such as ``control_freq: 50``.

    The result is None if there is no difference. Settings that a file does not give count as equal.
    """
    if (setting := absolute(env_args)) is not None:
        return setting
    told = _kwargs(env_args)
    robots = told.get("robots", PLAYED["robots"])
    found = {"robots": [robots] if isinstance(robots, str) else robots, "control_freq": told.get("control_freq")}
    for name, value in found.items():
        if value is not None and value != PLAYED[name]:
            return f"{name}: {value}"
    for part in _parts(told.get("controller_configs")):
        if part.get("type") not in ARM:  # a gripper, or a group of parts
            continue
        for name in ("type", "output_max"):
            value = part.get(name, PLAYED[name])
            if isinstance(value, int | float):
                value = [value] * 6
            if value != PLAYED[name]:
                return f"{name}: {value}"
    return None


def _kwargs(env_args: Mapping[str, Any] | None) -> Mapping[str, Any]:
    found = (env_args or {}).get("env_kwargs")
    return found if isinstance(found, Mapping) else {}


def _parts(config: Any) -> Iterator[Mapping[str, Any]]:
    """Yield every controller of a configuration: one, a list, or those of the parts of a body (robosuite 1.5)."""
    if isinstance(config, Mapping):
        yield config
        for inner in config.values():
            yield from _parts(inner)
    elif isinstance(config, list):
        for inner in config:
            yield from _parts(inner)
