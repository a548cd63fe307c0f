"""From a run folder, a checkpoint or an exported folder to a learned reward."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lightning_pbrl.errors import UserError
from lightning_pbrl.learned_reward.export import CONFIG, read
from lightning_pbrl.learned_reward.reward import LearnedReward
from lightning_pbrl.methods.loading import load as load_method
from lightning_pbrl.run_folder import LAST


def load(path: str | Path, replica: int = 0, device: str = "cpu", weights: Mapping[str, float] | None = None) -> LearnedReward:
    """Return a trained reward as a function of arrays; no code of a file is run.

    Args:
        path: a run folder, a checkpoint, or a folder that :meth:`LearnedReward.save` has written.
        replica: which of the run's replicas.
        device: where to put it.
        weights: weight of each axis of a reward with several, by name; axes that are not named have weight 0. None takes those
            that it was saved with.

    Raises:
        UserError: for a path that is none of these, a damaged file, a method that learns no reward, one that has learned from no
            answer, and weights of a reward without axes.
    """
    found = _opened(Path(path).expanduser(), replica, device)
    if weights is not None:
        if not hasattr(found.model, "weigh"):
            raise UserError(f"weights names the axes {', '.join(weights)}, and this reward has none: leave weights out.")
        found.model.weigh(weights)
    return found


def _opened(path: Path, replica: int, device: str) -> LearnedReward:
    if (path / CONFIG).is_file():
        return LearnedReward(*read(path, device))
    file = path / LAST if path.is_dir() else path
    if not file.is_file():
        raise UserError(
            f"There is no learned reward at {path}: give a run folder (with {LAST}), a checkpoint, or a folder that "
            "LearnedReward.save has written."
        )
    return LearnedReward(load_method(file, replica, device))
