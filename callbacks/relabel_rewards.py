"""Write the column that policy learners read, once, before training."""

from __future__ import annotations

import pytorch_lightning as pl
import torch

from lightning_pbrl.data.relabel import control_reward, min_max, predict_reward
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.base import Method
from lightning_pbrl.methods.loading import load_method

CONTROLS = ("true", "zero", "random", "negated")


class RelabelRewards(pl.Callback):
    """Fill ``learned_reward`` at the start of a fit from a trained reward model or from a control.

    Args:
        reward: path of a reward model's checkpoint, or a control: "true", "zero", "random", "negated"; null leaves the
            column alone.
        normalize: scale to [0, 1] over the data set (constant rewards become zeros).
    """

    def __init__(self, reward: str | bool | Method | None = None, normalize: bool = True) -> None:
        self.reward = str(reward).lower() if isinstance(reward, bool) else reward  # YAML reads an unquoted true as a bool
        self.normalize = normalize

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Method) -> None:  # type: ignore[override]
        if self.reward is None:
            return
        source = pl_module.source.to(pl_module.device)
        if isinstance(self.reward, str) and self.reward in CONTROLS:
            values = control_reward(source, self.reward, pl_module.seed)  # type: ignore[arg-type]
        else:
            if isinstance(self.reward, str) and not self.reward.endswith(".ckpt"):
                raise UserError(f"relabel.reward is {self.reward!r}: give a .ckpt file, or one of {', '.join(CONTROLS)}.")
            model = self.reward if isinstance(self.reward, Method) else load_method(self.reward)
            with torch.no_grad():
                values = predict_reward(source, model.to(source.device).eval().reward, combine=model.combine)
        source.write("learned_reward", min_max(values) if self.normalize else values)
