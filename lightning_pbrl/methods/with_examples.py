"""Base of methods that learn from examples of success: the examples, kept in checkpoints as well."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_pbrl.engine import Program
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.base import Method, Spec


class WithExamples(Method, ABC):
    """Base of methods with a buffer ``examples``, (K, O) float32 or (K, S S 3) uint8, from data module or checkpoint."""

    needs = frozenset({"examples"})
    examples: Tensor

    def __init__(self, spec: Spec, **engine: Any) -> None:
        super().__init__(spec, **engine)
        self.register_buffer("examples", torch.empty(0, 0))

    @abstractmethod
    def programs(self) -> dict[str, Program]:
        """Return the kinds of update by name."""

    def on_data(self) -> None:
        super().on_data()
        self.use_examples(self.trainer.datamodule.examples.states)  # type: ignore[attr-defined]

    @property
    def sought(self) -> Tensor:
        """Examples for methods that cannot act without; raises a UserError if there are none yet."""
        if not len(self.examples):
            raise UserError(
                f"{type(self).__name__} was asked for actions and has no examples of success yet: give them to use_examples "
                "first, or load a checkpoint, which brings its own."
            )
        return self.examples

    def use_examples(self, states: Tensor | NDArray[np.generic]) -> None:
        """Learn from a copy of these examples from now on.

        Args:
            states: (K, O), or images (K, S, S, 3) uint8.

        Raises:
            UserError: if there is none, one is NaN or infinite, or shape or type is not that of what the method sees.
        """
        states, size = torch.as_tensor(states), self.pixels
        shape, kind = ((size, size, 3), "pictures") if size else ((self.spec["obs_dim"],), "states")
        if tuple(states.shape[1:]) != shape or not len(states):
            raise UserError(
                f"{type(self).__name__} got examples of success of shape {tuple(states.shape)} and sees {kind} of shape {shape}: "
                f"give at least one, (K, {', '.join(map(str, shape))})."
            )
        if size and states.dtype != torch.uint8:
            name = type(self).__name__
            raise UserError(f"{name} got pictures of success of {states.dtype}: give them as uint8, 0 to 255, red, green, blue.")
        states = states.detach().clone() if size else states.detach().float().clone()
        if not size and not torch.isfinite(states).all():
            row = int((~torch.isfinite(states)).any(dim=1).int().argmax())
            raise UserError(f"{type(self).__name__} got an example of success, number {row}, with NaN or infinity: leave it out.")
        self.examples = states.to(self.device).flatten(1)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        """Allocate as many examples as were saved."""
        saved = state_dict.get(f"{prefix}examples")
        if saved is not None:
            self.examples = torch.empty_like(saved, device=self.device)
        super()._load_from_state_dict(state_dict, prefix, *args)
