"""A trained reward as a function of arrays or tensors, without a Trainer and without a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_pbrl.data.actions import ROUNDING
from lightning_pbrl.data.relabel import CPU_PICTURES
from lightning_pbrl.data.steps import joined
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.errors import UserError
from lightning_pbrl.fitting.answers import check_learned
from lightning_pbrl.learned_reward.export import write
from lightning_pbrl.learned_reward.facts import collected
from lightning_pbrl.methods.base import Method
from lightning_pbrl.rewards.base import RewardModel
from lightning_pbrl.rewards.history import HistoryReward


class LearnedReward:
    """Learned reward: the reward that a model gives to a step when it relabels data, without the scaling to a data set.

    Args:
        model: a reward model, or a method that has learned a reward.
        facts: how it was made, plain JSON types; None to collect this from the run folder of a method when it is saved.

    Attributes:
        model: the reward model, or a method that is one itself.
        looks_back: number of steps that the reward of a step is computed from, its own included. 1 for a reward of states and
            actions; None for one that reads its whole episode.
        method: the method that has learned it; None for a reward model that nobody holds.

    Raises:
        UserError: for a method that has learned no reward, or from no answer.
    """

    def __init__(self, model: RewardModel | Method, facts: Mapping[str, Any] | None = None) -> None:
        self.model: Any = model
        self.facts = facts
        self.method: Method | None = None
        markov: Any = RewardModel.relabel
        if not isinstance(model, RewardModel):
            if not model.rewards:
                name = type(model).__name__
                raise UserError(f"{name} learns a policy, not a reward: give a run or a checkpoint of a reward model.")
            check_learned(model, "The learned reward")
            model.configure_model()
            self.method = model
            if model.reward_model is not None and type(model).reward is Method.reward:
                self.model = model.reward_model
            else:
                markov = Method.relabel
        if isinstance(self.model, HistoryReward):
            self.looks_back: int | None = self.model.hparams.window or int(self.model.trained_length)
        else:
            self.looks_back = 1 if type(self.model).relabel is markov else None

    @property
    def obs_dim(self) -> int:
        """Size of an observation, O."""
        return int(self.model.spec["obs_dim"])

    @property
    def action_dim(self) -> int:
        """Size of an action, A."""
        return int(self.model.spec["action_dim"])

    @property
    def side(self) -> int:
        """Side of the images that it sees in place of observations, pixels; 0 for observations."""
        return int(getattr(self.model, "side", 0))

    def compute_reward(self, obs: Any, action: Any, frames: Any = None) -> Any:
        """Return the reward of steps.

        A reward that looks back (``looks_back`` other than 1) reads the last axis but one as the consecutive steps of an
        episode, from its beginning.

        Args:
            obs: raw observations before the action, (..., O), an array or a tensor; a reward of images does not read them.
            action: actions in [-1, 1], (..., A).
            frames: images before the action, (..., S, S, 3), uint8, for a reward of images; None for others.

        Returns:
            Rewards, (...,), float32; a tensor on the device of ``obs`` if that is one, else a NumPy array or scalar. With
            images ``action`` decides.

        Raises:
            UserError: for arrays of other sizes, NaN, infinity, actions beyond [-1, 1], and frames that are missing or not read.
        """
        done = self._checked("action", action, self.action_dim)
        if done.numel() and (largest := float(done.abs().max())) > 1 + ROUNDING:
            raise UserError(
                f"action reaches {largest:.4g}, and rewards are learned of actions in [-1, 1]: scale actions from the bounds of "
                "their space, or use LearnedRewardWrapper, which does."
            )
        if self.side:
            reward = self._of_images(frames, done)
            return reward.to(action.device) if torch.is_tensor(action) else reward.cpu().numpy()[()]
        if frames is not None:
            raise UserError("compute_reward was given frames, and this reward was learned of observations: leave frames out.")
        seen = self._checked("obs", obs, self.obs_dim)
        if seen.shape[:-1] != done.shape[:-1]:
            raise UserError(f"obs is {tuple(seen.shape)} and action {tuple(done.shape)}: give one action per observation.")
        steps = seen.shape[-2] if self.looks_back != 1 and seen.dim() > 1 else 1
        flat, rows = seen.reshape(-1, self.obs_dim), seen[..., 0].numel()
        reward = torch.zeros(0)
        if rows:
            reward = self._relabelled(flat, done.reshape(-1, self.action_dim), torch.arange(0, rows + 1, steps))
        reward = reward.view(seen.shape[:-1])
        return reward.to(obs.device) if torch.is_tensor(obs) else reward.cpu().numpy()[()]

    @torch.no_grad()
    def _of_images(self, frames: Any, action: Tensor) -> Tensor:
        """Return the rewards of images and actions, (..., S, S, 3) and (..., A) -> (...,)."""
        side = self.side
        images = torch.as_tensor(frames) if frames is not None else torch.zeros(0)
        if images.dtype != torch.uint8 or images.shape != (*action.shape[:-1], side, side, 3):
            found = "none" if frames is None else f"{tuple(images.shape)} of {images.dtype}"
            raise UserError(
                f"This reward was learned of images of {side} pixels, and frames is {found}: give one image per action, "
                f"(..., {side}, {side}, 3), uint8."
            )
        device = self.model.device
        steps = joined(images.reshape(-1, side, side, 3).to(device), action.reshape(-1, self.action_dim).to(device))
        parts = [self.model.combine(self.model.reward(part)) for part in steps.split(CPU_PICTURES)]
        return torch.cat(parts).float().view(action.shape[:-1])

    def of_last(self, episodes: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """Return the reward of the last step of each episode so far, n of (T, O) and (T, A) -> (n,), on the CPU."""
        offsets = torch.tensor([0, *(len(obs) for obs, _ in episodes)]).cumsum(0)
        obs, action = (torch.cat(column) for column in zip(*episodes, strict=True))
        return self._relabelled(obs, action, offsets, offsets[1:] - 1).cpu()

    def save(self, folder: str | Path, licence: str | None = None) -> Path:
        """Write weights, settings and a model card to a folder that :func:`lightning_pbrl.rewards.load` opens.

        Args:
            folder: made if it is not there; the three files are replaced.
            licence: under which others may use it, by its SPDX name such as "mit"; None says that it is not stated.

        Returns:
            The folder, with ``model.safetensors``, ``config.json`` and ``README.md``.

        Raises:
            UserError: for weights that are not finite, and for a folder that cannot be written.
        """
        facts = self.facts
        if facts is None:
            facts = {} if self.method is None else collected(self.method)
        write(self.model, facts, Path(folder).expanduser(), licence)
        return Path(folder).expanduser()

    def _relabelled(self, obs: Tensor, action: Tensor, offsets: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return the model's rewards of ``rows`` of these episodes, of all when None."""
        steps = Transitions.from_columns(obs, action, obs, offsets).to(self.model.device)
        reward: Tensor = self.model.relabel(steps, None if rows is None else rows.to(self.model.device))
        if not bool(reward.isfinite().all()):
            what = next((name for name, given in (("obs", obs), ("action", action)) if not bool(given.isfinite().all())), None)
            raise UserError(
                f"{what} is NaN or infinite, so its reward is: look at the environment, or at what comes before the reward."
                if what
                else "The reward of these steps is not finite: they are far from what it has learned from; scale obs as there."
            )
        return reward.float()

    def _checked(self, name: str, values: Any, width: int) -> Tensor:
        """Return an argument as float32 on the CPU, where rows are packed."""
        array = values.detach().float().cpu() if torch.is_tensor(values) else torch.from_numpy(np.array(values, dtype=np.float32))
        if array.dim() == 0 or array.shape[-1] != width:
            raise UserError(
                f"{name} is {tuple(array.shape)} and the reward was learned for {name}_dim {width}: give (..., {width})."
            )
        return array
