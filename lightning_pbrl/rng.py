"""Random number streams: one named stream per component, one reproducible draw per question.

A run has a single integer seed. Every component (``init``, ``sampler``, ``query``, ``evaluation`` ...) derives its own generator
from that seed and its name. An extra draw in one component therefore changes no other. A teacher's draws belong to the question
(run seed, question number), so a resumed or re-ordered run gets the same answers.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

_MASK = (1 << 63) - 1


def derive(seed: int, *names: str | int) -> int:
    """Derive a seed in [0, 2^63) for the component ``names`` of the run ``seed``."""
    digest = hashlib.blake2b(repr((int(seed), *names)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") & _MASK


def stream(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """Create the generator of the component ``names``; equal arguments give equal streams."""
    generator = torch.Generator(device=device)
    generator.manual_seed(derive(seed, *names))
    return generator


def question_keys(seed: int, first: int, count: int) -> Tensor:
    """Return the keys of the questions ``first .. first + count - 1`` of a run, (count,), int64."""
    return torch.tensor([derive(seed, "question", first + i) for i in range(count)], dtype=torch.int64)


def uniform(keys: Tensor, draw: int) -> Tensor:
    """Return one uniform number in [0, 1) per key, (B,), float64.

    Counter based (SplitMix64, Steele et al. 2014): the value depends on (key, draw) alone.

    Args:
        keys: question keys, (B,), int64.
        draw: index of the question's number; give every use its own constant.
    """
    with np.errstate(over="ignore"):
        state = keys.cpu().numpy().astype(np.uint64) + np.uint64(draw + 1) * np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return torch.from_numpy((state >> np.uint64(11)).astype(np.float64) * 2.0**-53)
