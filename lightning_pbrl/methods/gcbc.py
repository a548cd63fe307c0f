"""Goal-conditioned behaviour cloning: imitate the actions that led to a state, given that state.

Sources: GCSL (Ghosh et al. 2019, arXiv 1912.06088) and the baseline GCBC of contrastive RL (arXiv 2206.07568). The examples of
success are the goals when it acts.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_pbrl.engine import Part, Program
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.base import Spec
from lightning_pbrl.methods.example_policy import Batch, ExamplePolicy


class GCBC(ExamplePolicy):
    """Goal-conditioned behaviour cloning of actions that led to a state (Ghosh et al. 2019).

    L = -E[log π(a | s, g)], with g a future state of the same episode.

    Args:
        spec: sizes, linked from the data module.
        bc_coef: 1, because the loss is nothing but cloning.
        **example_policy: arguments of :class:`ExamplePolicy`: ``hidden``, ``batch_size``, ``min_std`` ...
    """

    reads = frozenset({"goal"})

    def __init__(self, spec: Spec, bc_coef: float = 1.0, **example_policy: Any) -> None:
        super().__init__(spec, bc_coef=bc_coef, **example_policy)
        if bc_coef != 1.0:
            raise UserError(f"GCBC got bc_coef={bc_coef:g} and does nothing but clone: leave it at 1.")

    @property
    def goal_conditioned(self) -> bool:
        """True."""
        return True

    def groups(self) -> dict[str, Part]:
        return {"actor": self.group()}

    def programs(self) -> dict[str, Program]:
        return {"policy": Program([self.losses], **self.minibatches(self.source))}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        return {"actor": -self.actor.log_prob(self.policy_input(batch), batch["action"]).mean()}
