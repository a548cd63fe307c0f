"""Examples of success: states, without actions or trajectories, that show what a policy is to bring about."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor


class Examples(NamedTuple):
    """A set of example states.

    Attributes:
        states: (K, O) float32, or pictures (K, S, S, 3) uint8.
        about: where they come from, plain JSON types only.
        fingerprint: a hash of the content.
    """

    states: Tensor
    about: dict[str, Any]
    fingerprint: str
