"""Human or scripted preferences about logged segments: IPL's and Preference Transformer's npz, or imitation's pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from lightning_pbrl.data.actions import Bounds
from lightning_pbrl.data.given_labels import hold_out, with_replay
from lightning_pbrl.data.imitation_preferences import read_imitation_preferences, recognises
from lightning_pbrl.data.preference_npz import Undecided, read_preference_npz
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.datamodules.base import FeedbackDataModule, check_sizes
from lightning_pbrl.envs.base import Simulator
from lightning_pbrl.errors import UserError
from lightning_pbrl.rng import stream


class PreferenceNPZDataModule(FeedbackDataModule):
    """Labelled pairs of segments in IPL's npz format (Hejna and Sadigh 2023), alone or beside a replay data set.

    The expected tree is that of IPL's repository (arXiv 2305.15363; MIT licence). It distributes the answers that Preference
    Transformer (Kim et al. 2023, arXiv 2303.00957; MIT licence) collected on D4RL and robomimic data::

        <root>/hopper-medium-expert-v2/num100_{human,script}_train.npz      also walker2d-..., ...-medium-replay-v2 (num500)
        <root>/Lift/num100_q50_{human,script}_train.npz                     also Can, Square; mh: num500_q100

    ``human`` and ``script`` hold the same pairs, answered by people or by the larger true return. The ``eval`` files of that
    repository repeat the last tenth of the ``train`` files. They are no hold-out; use ``fold``.
    :func:`lightning_pbrl.data.preference_npz.write_preference_npz` converts your own pairs to this format.

    Args:
        path: an .npz file, or a file of imitation's ``PreferenceDataset.save`` (without ``obs_keys``); or a task's folder, in
            which ``answered_by`` selects the ``num*_train.npz`` file.
        simulator: simulator for evaluation; None for none.
        answered_by: source of the answers if ``path`` is a folder: ``human`` or ``script``.
        capacity: read only this many of the first pairs; None reads all.
        undecided: meaning of a label of 0.5: ``equal``, ``skip`` (cannot be compared) or ``drop`` (leave the pair out).
        obs_keys: parts of a dict observation in the order of concatenation; None for all, sorted by name.
        fold: fold of the answers that is held out for validation, 0 .. ``folds`` - 1; None learns from all of them. Segments
            of held-out pairs stay in the data. ``evaluation_seed`` determines the folds.
        folds: number of parts into which the answers are split.
        action_bounds: low and high of the file's actions, each a number or one per entry; null if they are in [-1, 1].
        clip_actions: whether the recorded environment itself clips actions; otherwise those beyond [-1, 1] are refused.
        replay: data set of the same task from which learners draw single transitions, such as D4RLDataModule. Learners then
            see the segments through their answers alone. Its own simulator is not used.
        **offline: the other arguments of :class:`FeedbackDataModule`; ``segment_length`` is that of the file.

    Raises:
        UserError: as :func:`lightning_pbrl.data.preference_npz.read_preference_npz`; also if a folder does not have exactly
            one file of that kind, or the file does not fit the simulator.
    """

    def __init__(
        self,
        path: str,
        simulator: Simulator | None = None,
        answered_by: Literal["human", "script"] = "human",
        capacity: int | None = None,
        undecided: Undecided = "equal",
        obs_keys: list[str] | None = None,
        fold: int | None = None,
        folds: int = 5,
        replay: FeedbackDataModule | None = None,
        action_bounds: Bounds | None = None,
        clip_actions: bool = False,
        **offline: Any,
    ) -> None:
        super().__init__(simulator, segment_length=0, **offline)  # load() finds the length of the segments
        self.path, self.answered_by = Path(path), answered_by
        self.capacity, self.undecided, self.obs_keys = capacity, undecided, obs_keys
        self.fold, self.folds, self.replay = fold, folds, replay
        self.action_bounds, self.clip_actions = action_bounds, clip_actions

    def prepare_data(self) -> None:
        if self.replay is not None:
            self.replay.prepare_data()

    def files(self) -> list[Path]:
        return [self._file(), *([] if self.replay is None else self.replay.files())]

    def load(self) -> Transitions:
        path = self._file()
        actions = (self.action_bounds, self.clip_actions)
        if recognises(path):
            if self.obs_keys is not None:
                raise UserError(f"{path} is imitation's, whose observations have no parts: leave obs_keys null.")
            source, labels = read_imitation_preferences(path, self.capacity, self.undecided, *actions)
        else:
            source, labels = read_preference_npz(path, self.capacity, self.undecided, self.obs_keys, *actions)
        check_sizes(source, self.simulator, path, "set data.simulator to the task of the file")
        self.segment_length, self.labels = labels.length, labels
        if self.fold is not None:
            rng = stream(self.evaluation_seed, "folds")
            self.labels, self.held_out_labels = hold_out(labels, self.fold, self.folds, rng)
        if self.replay is None:
            return source
        self.replay.setup("fit")
        return with_replay(source, labels, self.replay.source)[0]

    def _file(self) -> Path:
        """Return the file itself, or the one of the requested kind in a folder."""
        if not self.path.is_dir():
            return self.path
        pattern = f"num*_{self.answered_by}_train.npz"
        found = sorted(self.path.glob(pattern))
        if len(found) != 1:
            there = ", ".join(path.name for path in found) or "none"
            raise UserError(f"{self.path} must have one file {pattern} and has {there}: give the file itself as data.path.")
        return found[0]
