"""From a run folder, a checkpoint or an exported folder to a learned reward."""

from __future__ import annotations

from pathlib import Path

from lightning_pbrl.errors import UserError
from lightning_pbrl.learned_reward.export import CONFIG, read
from lightning_pbrl.learned_reward.reward import LearnedReward
from lightning_pbrl.methods.loading import load as load_method
from lightning_pbrl.run_folder import LAST


def load(path: str | Path, replica: int = 0, device: str = "cpu") -> LearnedReward:
    """Return a trained reward as a function of arrays; no code of a file is run.

    Args:
        path: a run folder, a checkpoint, or a folder that :meth:`LearnedReward.save` has written.
        replica: which of the run's replicas.
        device: where to put it.

    Raises:
        UserError: for a path that is none of these, a damaged file, a method that learns no reward, and one that has learned from
            no answer.
    """
    path = Path(path).expanduser()
    if (path / CONFIG).is_file():
        return LearnedReward(*read(path, device))
    file = path / LAST if path.is_dir() else path
    if not file.is_file():
        raise UserError(
            f"There is no learned reward at {path}: give a run folder (with {LAST}), a checkpoint, or a folder that "
            "LearnedReward.save has written."
        )
    return LearnedReward(load_method(file, replica, device))
