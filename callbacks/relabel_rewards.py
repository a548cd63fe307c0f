"""Write the column that policy learners read, once, before training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_pbrl.data.relabel import control_reward
from lightning_pbrl.data.reward_scaling import rescale
from lightning_pbrl.data.steps import check_pictures
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.errors import UserError
from lightning_pbrl.finite import check_finite
from lightning_pbrl.fitting.answers import check_learned
from lightning_pbrl.methods.base import Method
from lightning_pbrl.methods.loading import load_method
from lightning_pbrl.ranges import ANY
from lightning_pbrl.settings import Checked

CONTROLS = ("true", "zero", "random", "negated")


class RelabelRewards(Checked, pl.Callback, ranges={"bonus": ANY}):
    """Fill ``learned_reward`` at the start of a fit from a trained reward model or from a control, and print how it was scaled.

    Args:
        reward: path of a reward model's checkpoint, or a control: "true", "zero", "random", "negated"; null leaves the
            column alone.
        normalize: true scales to [0, 1] over the data set (constant rewards become zeros); "return_range" by ``horizon`` /
            (largest - smallest return of an episode), as IQL and Preference Transformer do in locomotion; "antmaze" is their
            variant for AntMaze, which also shifts, by the smallest return and by -1; false leaves the reward as it is.
        horizon: steps of a full episode, for "return_range" and "antmaze".
        bonus: added to every step at last; Preference Transformer adds 0.5 on hopper, walker2d and halfcheetah, a reward for
            surviving that its results depend on.
        weights: weight of each axis in the reward of a model with several, by name; axes that are not named have weight 0. None
            takes the model's own weights.

    Raises:
        UserError: for weights of a control or of a reward without axes.
    """

    def __init__(
        self,
        reward: str | bool | Method | None = None,
        normalize: bool | Literal["return_range", "antmaze"] = True,
        horizon: int = 1_000,
        bonus: float = 0.0,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        self.reward = str(reward).lower() if isinstance(reward, bool) else reward  # YAML reads an unquoted true as a bool
        self.normalize, self.horizon, self.bonus, self.weights = normalize, horizon, bonus, weights

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Method) -> None:  # type: ignore[override]
        if self.reward is None:
            return
        source = pl_module.source.to(pl_module.device)
        if isinstance(self.reward, str) and self.reward in CONTROLS:
            _weigh(None, self.reward, self.weights)
            values = control_reward(source, self.reward, pl_module.seed)  # type: ignore[arg-type]
        else:
            if isinstance(self.reward, str) and not self.reward.endswith(".ckpt") and not Path(self.reward).is_dir():
                raise UserError(f"relabel.reward is {self.reward!r}: give a .ckpt file, or one of {', '.join(CONTROLS)}.")
            model = self.reward if isinstance(self.reward, Method) else load_method(self.reward)
            if model.reward_model is not None and not vars(model).get("_built"):
                raise UserError(
                    f"relabel.reward is a {type(model).__name__} that was never fitted: fit it first, or give its checkpoint."
                )
            read = source if model.reward_model is not None and model.reward_model.side else _read(trainer, source)
            _check_sizes(model, read)
            check_learned(model, "relabel.reward")
            _weigh(model.reward_model, type(model).__name__, self.weights)
            with torch.no_grad():
                values = model.to(source.device).eval().relabel(read)
            _check_values(type(model).__name__, source.drawable_part(values))
        said, before = self.reward if isinstance(self.reward, str) else type(self.reward).__name__, _span(source, values)
        if self.normalize:
            values = rescale(values, source, "min_max" if self.normalize is True else self.normalize, self.horizon)
        check_finite(
            source.drawable_part(values),
            f"The reward of relabel.reward scaled by relabel.normalize={self.normalize}",
            "its values are too far apart for float32, so train the reward with a bounded output or a smaller lr",
        )
        source.write("learned_reward", values + self.bonus)
        how = f"scaled to {_span(source, values)}" if self.normalize else "not scaled"
        more = f", then {self.bonus:+g}" if self.bonus else ""
        say = getattr(trainer, "print", print)  # beside the progress bar, on one rank
        say(f"relabel: reward {said} of {len(source):,} rows, {before}, {how} (normalize={self.normalize}){more}")


def _read(trainer: pl.Trainer, source: Transitions) -> Transitions:
    """Return what rewards read of the data: the data themselves, or their features of a frozen network."""
    features = getattr(getattr(trainer, "datamodule", None), "features", None)
    return source if features is None else features.to(source.device)


def _weigh(model: Any, name: str, weights: Mapping[str, float] | None) -> None:
    """Set the weights of a model's axes, if there are any."""
    if weights is None:
        return
    if not hasattr(model, "weigh"):
        raise UserError(
            f"relabel.weights names the axes {', '.join(weights)} and relabel.reward, {name}, has none: leave it null."
        )
    model.weigh(weights)


def _span(source: Transitions, values: Tensor) -> str:
    """Return the smallest and the largest reward, for people."""
    known = source.drawable_part(values)
    return f"[{float(known.min()):.3g}, {float(known.max()):.3g}]" if len(known) else "[]"


def _check_values(model: str, values: Tensor) -> None:
    """Refuse rewards from which nothing can be learned: NaN, infinite, or the same everywhere."""
    check_finite(
        values,
        f"The reward that relabel.reward, a {model}, predicts",
        "its training has diverged, so train it again with a smaller lr",
    )
    if len(values) > 1 and values.min() == values.max():
        raise UserError(
            f"relabel.reward, a {model}, predicts the same reward, {float(values[0]):.6g}, for all {len(values)} rows, so a "
            "policy could learn nothing from it: train it on more answers, or use relabel.reward=zero for a control."
        )


def _check_sizes(model: Method, source: Transitions) -> None:
    """Raise a UserError unless the data have the sizes, and the images, that the reward model was trained on."""
    side = 0 if model.reward_model is None else model.reward_model.side
    if side:
        check_pictures(source, side, f"relabel.reward, a {type(model).__name__},")
        return
    learned, there = (model.spec["obs_dim"], model.spec["action_dim"]), (source.obs_dim, source.action_dim)
    if learned != there:
        raise UserError(
            f"relabel.reward is a {type(model).__name__} for observations of size {learned[0]} and actions of size {learned[1]}, "
            f"and these data have sizes {there[0]} and {there[1]}: give a reward model that was trained on data of this task."
        )
