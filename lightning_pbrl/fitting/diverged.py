"""Checks that stop a method when numbers are no longer finite, before they reach a checkpoint or a result.

Losses are checked once a block, weights and moments once a round and before every checkpoint, actions whenever they are taken.
The error says what is not finite, since when, and which checkpoint is left. If the data are at fault it names their column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_pbrl.errors import UserError
from lightning_pbrl.finite import all_finite, check_finite
from lightning_pbrl.fitting import lightning_glue as glue
from lightning_pbrl.fitting.checkpoints import upgraded

Policy = Callable[[Tensor], Tensor]
BLAMED = "the data are at fault and not the training, so repair these rows or leave their episodes out"
PAID = "the reward model that pays these rows has diverged, so lower its lr (model.init_args.reward_model)"
READ = ("obs", "action", "next_obs", "terminated", "truncated")
"""Columns of a replay that learners read beside the learned reward."""


def check_losses(method: Any, program: str, meters: Mapping[str, Tensor], updates: int) -> None:
    """Raise a UserError, on all ranks, if a loss of the last ``updates`` updates is not finite; it names losses and data column.

    A metric beside the losses may be NaN: it need not be defined.
    """
    losses = {key: value for key, value in meters.items() if key in method.running.moved(program)}
    fine = not losses or bool(torch.isfinite(torch.stack(list(losses.values()))).all())
    if glue.on_all_ranks(method.trainer, fine):
        return
    bad = [key for key, value in losses.items() if not torch.isfinite(value).all()] or ["another rank"]
    check_columns(method)
    done = method.running.updates[program]
    since = f"in the updates {done - updates + 1} to {done} of {program!r}"
    raise diverged(method, f"the loss of {', '.join(bad)} became NaN or infinite {since}")


def check_finite_weights(method: Any) -> None:
    """Raise a UserError that names the first weight, moment of an optimiser or statistic that is not finite."""
    for part, values in _numbers(method.running.state):
        if not all_finite(values):
            check_columns(method)
            raise diverged(method, f"{part} became NaN or infinite by update {sum(method.running.updates.values())}")
    for name, value in method.named_buffers():
        if value.is_floating_point() and value.isnan().any():  # masks may hold infinity
            raise diverged(method, f"the statistic {name} became NaN")


def check_columns(method: Any) -> None:
    """Raise a UserError that names the first column of the data with a number that is not finite."""
    source = method.source
    names = READ if source.forgets else ()  # logged data have been checked when they were loaded
    if source.forgets or "learned_reward" in method.needs:  # else it is NaN where nothing has relabelled
        names = (*names, "learned_reward")
    for name in names:
        cure = PAID if source.forgets and name == "learned_reward" else BLAMED
        check_finite(source.drawable_part(source.column(name)), f"Column {name!r} of the data", cure)
    known = source.reward.nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf)  # NaN marks what is unknown
    check_finite(source.drawable_part(known), "The true reward of the data", BLAMED)


def finite_actions(method: Any, act: Policy, when: Callable[[], str]) -> Policy:
    """Return ``act`` with a check that stops at an action that is not finite; ``when`` ends the sentence's first part."""

    def checked(obs: Tensor) -> Tensor:
        actions = act(obs).cpu()
        if not np.isfinite(actions.numpy()).all():  # a third of the time that PyTorch takes
            raise diverged(method, f"the policy's action is NaN or infinite {when()}, where all observations are finite")
        return actions

    return checked


def diverged(method: Any, what: str) -> UserError:
    """Return the error of a lost training: what is not finite and since when, the round, the checkpoint left, the cure."""
    trainer = method._trainer
    round_number = f" (round {trainer.current_epoch})" if trainer is not None and trainer.training else ""
    left = None if trainer is None else glue.last_checkpoint(trainer)
    kept = f"; {left} of an earlier round is kept" if left else ""
    return UserError(
        f"{type(method).__name__} has diverged: {what}{round_number}: lower model.init_args.lr, or look for values of the data "
        f"that are far from the others{kept}."
    )


def _numbers(state: Any) -> Iterator[tuple[str, Any]]:
    """Yield the weights of every part and the memory of every optimiser, each with its name."""
    for key, rows in state.storage.items():
        yield f"a weight of {key!r}", rows
    for optimizers in state.optimizers:
        for group, optimizer in optimizers.items():
            yield f"a moment in the optimiser of {group!r}", list(optimizer.state.values())


def check_saved(checkpoint: Mapping[str, Any], what: str) -> None:
    """Raise a UserError that begins with ``what`` and names a weight if a checkpoint's weights are not finite."""
    engine = (upgraded(checkpoint) or {}).get("engine")
    replicas = engine["state"]["weights"] if engine else ()
    bad = [name for weights in replicas for name, value in weights.items() if not all_finite(value)]
    bad += [name for name, value in checkpoint["state_dict"].items() if value.is_floating_point() and value.isnan().any()]
    if bad:
        raise UserError(f"{what} has NaN or infinity in {bad[0]}, so its training has diverged: use an earlier one.")
