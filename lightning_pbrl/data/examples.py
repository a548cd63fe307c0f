"""Success examples: states in which a task is solved, without actions, rewards or trajectories.

A set of examples is a safetensors file of its own beside the data. It is made once, named by a hash of everything that determines
it, and shared by all runs that are compared. :mod:`lightning_pbrl.data.example_choosers` chooses them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lightning_pbrl.data.atomic import replacing
from lightning_pbrl.data.guard import parse_json, reading
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.errors import UserError

_KEY = "lightning_pbrl_examples"
_VERSION = 1


class Examples(NamedTuple):
    """A set of success states, on the CPU.

    Attributes:
        states: success states, (K, O), float32; images (K, S, S, 3), uint8, for tasks with image observations.
        about: origin of the choice (chooser, seed, data fingerprint ...), plain JSON types.
        fingerprint: hash of the states.
    """

    states: Tensor
    about: dict[str, Any]
    fingerprint: str


def make_examples(states: Tensor, about: Mapping[str, Any]) -> Examples:
    """Create a set with the fingerprint of its states."""
    states = states.detach().cpu().contiguous()
    digest = hashlib.blake2b(repr(tuple(states.shape)).encode(), digest_size=16)
    digest.update(states.numpy().data)
    return Examples(states, dict(about), digest.hexdigest())


def check_states(states: Tensor, source: Transitions, where: str) -> Tensor:
    """Check states and convert them to the format of ``source``: float32 vectors, or images.

    Args:
        states: (K, ...), numbers.
        source: the data that learners see.
        where: file or chooser, for the messages.

    Raises:
        UserError: for another shape or type than the data's, and for NaN or infinity.
    """
    shape = (source.obs_dim,) if source.frames is None else tuple(source.frames.shape[1:])
    if states.dim() == 0 or tuple(states.shape[1:]) != shape:
        kind = "states" if source.frames is None else "pictures"
        raise UserError(
            f"{where} has an example of shape {tuple(states.shape[1:])}, and the {kind} of these data have shape {shape}: give "
            "examples as the data's own simulator shows them."
        )
    if source.frames is not None:
        if states.dtype != torch.uint8:
            raise UserError(f"{where} holds pictures of {states.dtype}: store them as uint8, 0 to 255, red, green, blue.")
        return states
    states = states.float()
    if not torch.isfinite(states).all():
        row = int((~torch.isfinite(states)).any(dim=1).int().argmax())
        raise UserError(f"{where} is NaN or infinite in example {row}: leave it out or repair it.")
    return states


def save_examples(examples: Examples, path: str | Path) -> Path:
    """Write a set to ``path``, replacing it atomically, and return ``path``.

    Raises:
        UserError: if the folder cannot be written.
    """
    record = {"version": _VERSION, "about": examples.about, "fingerprint": examples.fingerprint}
    with replacing(path) as temporary:
        try:
            save_file({"states": examples.states}, temporary, metadata={_KEY: json.dumps(record)})
        except SafetensorError as error:  # its name for an error of the file system
            raise OSError(str(error)) from error
    return Path(path)


def load_examples(path: str | Path) -> Examples:
    """Read a set that :func:`save_examples` wrote.

    Raises:
        UserError: if the file is missing, damaged, of another program or of a newer version.
    """
    damaged = reading(path, "is not a valid file of examples", "delete it, it is made anew")
    with damaged, safe_open(Path(path), framework="pt", device="cpu") as file:
        record = parse_json((file.metadata() or {})[_KEY])
        if record["version"] > _VERSION:
            raise UserError(f"{path} was written by a newer lightning-pbrl: upgrade, or delete the file.")
        found = make_examples(file.get_tensor("states"), record["about"])
    if found.fingerprint != record.get("fingerprint"):
        raise UserError(f"{path} is damaged, its states are not those that were written: delete it, it is made anew.")
    return found
