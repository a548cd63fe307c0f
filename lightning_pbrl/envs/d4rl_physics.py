"""Bodies and rewards of D4RL's locomotion tasks (Gym's version 2 on MuJoCo 2.0) in Gymnasium's version 5.

Before version 2.1.2, MuJoCo's compiler treated a capsule as a cylinder that is longer by half the radius at either end (changelog
of MuJoCo 2.1.2, bug fix 7). From the same XML, links weigh 2 to 8 % more today and have up to 25 % more rotational inertia.
HalfCheetah, whose total mass is given, is balanced differently. Contacts and integrators did not change. With the restored
bodies, today's MuJoCo repeats the recorded steps of Hopper and Walker2d up to the rounding of the data (float32).
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
"""Tasks of D4RL's locomotion data, with the constructor arguments that build them from version 2's XML."""


def restore_bodies(model: Any, path: str) -> None:
    """Set a compiled model's masses and inertias to those that MuJoCo computed before version 2.1.2.

    Bodies with explicit inertias and bodies without a capsule keep theirs (unless the total mass is given).

    Args:
        model: ``mujoco.MjModel`` compiled from the file; masses, inertias and the constants derived from them are replaced.
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
    """Return the reward that version 2 adds to version 5's: 1 for being alive, in the step of a fall, too.

    Args:
        info: info of a step of version 5.
    """
    return 1.0 - float(info.get("reward_survive", 1.0))  # HalfCheetah does not fall
