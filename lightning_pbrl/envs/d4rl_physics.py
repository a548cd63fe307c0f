"""The bodies and rewards of D4RL's locomotion tasks (Gym's version 2 on MuJoCo 2.0) in Gymnasium's version 5.

Before version 2.1.2 MuJoCo's compiler took a capsule for a cylinder longer by half the radius at either end (changelog of
MuJoCo 2.1.2, bug fix 7). Made of the same XML, links weigh 2 to 8 % more today and their rotational inertia is up to 25 %
larger; HalfCheetah, whose total mass is given, is balanced differently. Contacts and integrators did not change: on
the restored bodies today's MuJoCo repeats the recorded steps of Hopper and Walker2d to the rounding of the data (float32).
"""

from __future__ import annotations

from typing import Any

import numpy as np

VERSION_2: dict[str, dict[str, Any]] = {
    "Ant-v5": {},
    "HalfCheetah-v5": {},
    "Hopper-v5": {},
    "Walker2d-v5": {"xml_file": "walker2d.xml"},  # versions 2 to 4: friction of the right foot 0.9, of the left 1.9
}
"""The tasks of D4RL's locomotion data, and what Gymnasium's constructor needs to build them of version 2's XML."""


def restore_bodies(model: Any, path: str) -> None:
    """Give a compiled model the masses and inertias that MuJoCo computed before version 2.1.2.

    Bodies with explicit inertias, and those without a capsule, keep theirs (unless the total mass is given).

    Args:
        model: ``mujoco.MjModel`` made of the file; its masses, inertias and the constants that follow from them are replaced.
        path: the XML file.
    """
    import mujoco

    spec = mujoco.MjSpec.from_file(path)
    for geom in spec.geoms:
        if geom.type == mujoco.mjtGeom.mjGEOM_CAPSULE:
            geom.type = mujoco.mjtGeom.mjGEOM_CYLINDER
            if np.isnan(geom.fromto[0]):
                geom.size[1] += geom.size[0] / 2  # half the length
            else:
                start, end = geom.fromto[:3], geom.fromto[3:]
                beyond = (end - start) / np.linalg.norm(end - start) * geom.size[0] / 2
                geom.fromto = np.concatenate([start - beyond, end + beyond])
    before = spec.compile()
    for name in ("body_mass", "body_inertia", "body_ipos", "body_iquat"):
        getattr(model, name)[:] = getattr(before, name)
    mujoco.mj_setConst(model, mujoco.MjData(model))


def missing_reward(info: dict[str, Any]) -> float:
    """What version 2 pays more than version 5: 1 for being alive also in the step of a fall.

    Args:
        info: of a step of version 5.
    """
    return 1.0 - float(info.get("reward_survive", 1.0))  # HalfCheetah does not fall
