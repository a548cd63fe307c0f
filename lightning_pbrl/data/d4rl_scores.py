"""D4RL's normalised score: 0 is a random policy's return, 100 an expert's.

    score = 100 (R - R_min) / (R_max - R_min)

Source: Fu et al., "D4RL: Datasets for Deep Data-Driven Reinforcement Learning", arXiv 2004.07219; the reference returns are
those of ``d4rl/infos.py`` in github.com/Farama-Foundation/D4RL, the same for every quality and version of a task's data.

Limits: the references were measured in D4RL's own environments (MuJoCo 2.0, Gym v2). A score is comparable with papers' if
the simulator has D4RL's physics (``Simulator.d4rl_physics``); returns of other bodies use the same formula.
"""

from __future__ import annotations

import re
from typing import TypeVar

from torch import Tensor

from lightning_pbrl.errors import UserError, nearest

Return = TypeVar("Return", float, Tensor)

_QUALITIES = ("random", "medium", "expert", "medium-replay", "full-replay", "medium-expert")
_ADROIT = ("human", "cloned", "expert")
_ANTMAZE = ("umaze", "umaze-diverse", "medium", "medium-play", "medium-diverse", "large", "large-play", "large-diverse")
_KITCHEN = ("complete", "partial", "mixed")

_FAMILIES: dict[str, tuple[float, float, tuple[str, ...]]] = {
    "hopper": (-20.272305, 3234.3, _QUALITIES),
    "walker2d": (1.629008, 4592.3, _QUALITIES),
    "halfcheetah": (-280.178953, 12135.0, _QUALITIES),
    "ant": (-325.6, 3879.7, (*_QUALITIES, "random-expert")),
    "antmaze": (0.0, 1.0, _ANTMAZE),
    "maze2d-open": (0.01, 20.66, ()),
    "maze2d-umaze": (23.85, 161.86, ()),
    "maze2d-medium": (13.13, 277.39, ()),
    "maze2d-large": (6.7, 273.99, ()),
    "maze2d-open-dense": (11.17817, 27.166538620695782, ()),
    "maze2d-umaze-dense": (68.537689, 193.66285642381482, ()),
    "maze2d-medium-dense": (44.264742, 297.4552547777125, ()),
    "maze2d-large-dense": (30.569041, 303.4857382709002, ()),
    "pen": (96.262799, 3076.8331017826877, _ADROIT),
    "hammer": (-274.856578, 12794.134825156867, _ADROIT),
    "door": (-56.512833, 2880.5693087298737, _ADROIT),
    "relocate": (-6.425911, 4233.877797728884, _ADROIT),
    "kitchen": (0.0, 4.0, _KITCHEN),
}

REFERENCE_RETURNS: dict[str, tuple[float, float]] = {
    name: (low, high)
    for task, (low, high, flavours) in _FAMILIES.items()
    for name in (task, *(f"{task}-{flavour}" for flavour in flavours))
}
"""R_min and R_max, undiscounted returns of an episode.

Keys are tasks (``hopper``) and data sets without their version (``hopper-medium-replay``).
"""


def reference_returns(task: str) -> tuple[float, float]:
    """Return R_min and R_max of a task or data set, for instance ``hopper``, ``antmaze-large-play-v2`` or ``pen-human-v1``.

    Raises:
        UserError: if D4RL has no such task, with the nearest names.
    """
    name = re.sub(r"-v\d+$", "", task)
    if name not in REFERENCE_RETURNS:
        raise UserError(f"D4RL has no reference returns for {task!r}; {nearest(name, REFERENCE_RETURNS)}")
    return REFERENCE_RETURNS[name]


def normalized_score(task: str, episode_return: Return) -> Return:
    """Return the normalised score of a return (or of a mean of returns) in environment units.

    Raises:
        UserError: as :func:`reference_returns`.
    """
    low, high = reference_returns(task)
    return (episode_return - low) * (100.0 / (high - low))
