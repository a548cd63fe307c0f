"""What every method that learns from examples of success keeps: the examples themselves, in its checkpoints as well."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from lightning_pbrl.engine import Program
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.base import Method, Spec


class WithExamples(Method, ABC):
    """A method with the buffer ``examples``, (K, O) float32 or (K, S S 3) uint8, from the data module or from a checkpoint."""

    needs = frozenset({"examples"})
    examples: Tensor

    def __init__(self, spec: Spec, **engine: Any) -> None:
        super().__init__(spec, **engine)
        self.register_buffer("examples", torch.empty(0, 0))

    @abstractmethod
    def programs(self) -> dict[str, Program]:
        """The kinds of update this method has, by name."""

    def on_data(self) -> None:
        super().on_data()
        self.use_examples(self.trainer.datamodule.examples.states)  # type: ignore[attr-defined]

    def use_examples(self, states: Tensor) -> None:
        """Seek these from now on.

        Args:
            states: (K, O), or pictures (K, S, S, 3) uint8.

        Raises:
            UserError: when there is none, or their shape is not that of what the method sees.
        """
        size = self.pixels
        shape, kind = ((size, size, 3), "pictures") if size else ((self.spec["obs_dim"],), "states")
        if tuple(states.shape[1:]) != shape or not len(states):
            raise UserError(
                f"{type(self).__name__} got examples of success of shape {tuple(states.shape)} and sees {kind} of shape {shape}: "
                f"give at least one, (K, {', '.join(map(str, shape))})."
            )
        self.examples = states.to(self.device).flatten(1)
        if not size:
            self.examples = self.examples.float()

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        """Make room for as many examples as were saved."""
        saved = state_dict.get(f"{prefix}examples")
        if saved is not None:
            self.examples = torch.empty_like(saved, device=self.device)
        super()._load_from_state_dict(state_dict, prefix, *args)
