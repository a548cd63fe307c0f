"""A simulator by the id that its package knows it by."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

from lightning_pbrl.envs import dm_control, gym_mujoco, metaworld, robosuite
from lightning_pbrl.envs.base import Simulator, need
from lightning_pbrl.envs.gymnasium_env import GymnasiumEnv
from lightning_pbrl.errors import UserError, nearest

ROBOSUITE = {**{task: task for task in robosuite.TASKS}, **{name: task for task, (name, _) in robosuite.TASKS.items()}}
"""Our task by its own and by robosuite's name."""


def make(env_id: str, **settings: Any) -> Simulator:
    """Return the simulator of an environment, with the episode length that its package has registered.

    Nothing is simulated yet, and only an id that is looked up in Gymnasium imports a package.

    Args:
        env_id: ``Hopper-v5`` or any other id of Gymnasium or Gymnasium-Robotics, with the module that registers it where one must
            be imported (``my_package:Reach-v0``); ``plate-slide-v3`` or ``metaworld/plate-slide`` (500 steps);
            ``dm_control/walker-walk`` (1000 steps); ``robosuite/Lift`` or ``robosuite/PickPlaceCan`` (500 steps).
        **settings: arguments of the simulator's class, such as ``horizon``.

    Raises:
        UserError: for an unknown id, with the nearest names.
    """
    if not isinstance(env_id, str):
        raise UserError(f"make got {env_id!r}: give the id of an environment, such as 'Hopper-v5'.")
    package, slash, task = env_id.partition("/")
    family = _FAMILIES.get(package.lower().replace("-", "").replace("_", "")) if slash else None
    if family is not None:
        return family(task, settings)
    if env_id in gym_mujoco.SIZES:
        return gym_mujoco.GymMuJoCo(env_id, **settings)
    if _is_metaworld(env_id):
        return metaworld.MetaWorld(env_id, **settings)
    gymnasium = need("gymnasium", "install lightning-pbrl with its dependencies (gymnasium[mujoco]).")
    if env_id not in gymnasium.registry and ":" not in env_id and find_spec("gymnasium_robotics") is not None:
        gymnasium.register_envs(need("gymnasium_robotics", "install it with pip install 'lightning-pbrl[robotics]'."))
    if ":" in env_id or env_id in gymnasium.registry:
        found = gymnasium.registry.get(env_id)
        robotics = str(getattr(found, "entry_point", "")).startswith("gymnasium_robotics")
        return GymnasiumEnv(f"gymnasium_robotics:{env_id}" if robotics else env_id, **settings)  # for other processes, too
    raise UserError(f"There is no environment {env_id!r}; {nearest(env_id, {*_known(), *gymnasium.registry})}")


def _metaworld(task: str, settings: dict[str, Any]) -> Simulator:
    return metaworld.MetaWorld(task, **settings)


def _dm_control(task: str, settings: dict[str, Any]) -> Simulator:
    return dm_control.DMControl(task.removesuffix("-v0").replace("/", "-"), **settings)  # -v0: as shimmy registers it


def _robosuite(task: str, settings: dict[str, Any]) -> Simulator:
    return robosuite.Robosuite(ROBOSUITE.get(task, task), **settings)


_FAMILIES: dict[str, Callable[[str, dict[str, Any]], Simulator]] = {
    "metaworld": _metaworld,
    "dmcontrol": _dm_control,
    "robosuite": _robosuite,
}


def _is_metaworld(env_id: str) -> bool:
    return env_id.endswith(("-v2", "-v3")) and env_id[:-3] in metaworld.TASKS


def _known() -> Iterator[str]:
    """Ids that need no look at Gymnasium."""
    yield from gym_mujoco.SIZES
    yield from (f"{task}-v3" for task in metaworld.TASKS)
    yield from (f"dm_control/{task}" for task in dm_control.TASKS)
    yield from (f"robosuite/{task}" for task in robosuite.TASKS)
