"""Online data: a simulator, a replay buffer that starts empty or with logged data, and a collector that fills it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_pbrl.data.feedback import Labels
from lightning_pbrl.data.given_labels import check_labels
from lightning_pbrl.data.replay import Replay
from lightning_pbrl.data.store import LabelStore
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.datamodules.base import FeedbackDataModule, Share, check_sizes, opened
from lightning_pbrl.envs.base import Simulator
from lightning_pbrl.envs.collector import Collector
from lightning_pbrl.envs.rollout import VectorEnvs
from lightning_pbrl.errors import UserError


class OnlineDataModule(FeedbackDataModule):
    """Environments and replay buffer of a method that acts while it learns (SAC, PEBBLE, QPA ...).

    Policies are evaluated in separate environments, so evaluation does not affect training. A checkpoint holds the replay; open
    episodes are restored exactly.

    With ``start_from`` the replay begins with logged episodes, which are never overwritten. They are learned from, relabelled and
    asked about beside the policy's own, and answers that come with them are learned from, too. A checkpoint does not hold these
    rows; a run goes on with the same data only.

    Args:
        simulator: simulator for collection and evaluation.
        capacity: number of transitions in the replay, after which the oldest are overwritten; None for all env steps of the
            method.
        num_envs: number of synchronous environments that collect; env steps count the steps of all.
        segment_length: steps per segment shown to a teacher.
        eval_episodes: number of episodes per evaluation during training.
        test_episodes: number of episodes of ``test``.
        eval_envs: number of synchronous environments in evaluation.
        evaluation_seed: seed of the evaluation episodes, the same for every run compared.
        start_from: logged data of the same task, another data module or a data file of this library; None for an empty replay.
        share: share of every minibatch that is drawn from logged rows (RLPD: 0.5); None draws uniformly from all rows.
        answers: label store of a run that has asked about the same logged data, such as that of a reward stage
            (``labels.sqlite`` in its run folder); its answers about pairs are learned from beside the run's own.
    """

    source: Replay

    def __init__(
        self,
        simulator: Simulator,
        capacity: int | None = None,
        num_envs: int = 1,
        segment_length: int = 50,
        eval_episodes: int = 10,
        test_episodes: int = 50,
        eval_envs: int = 10,
        evaluation_seed: int = 0,
        start_from: FeedbackDataModule | str | None = None,
        share: float | None = None,
        answers: str | None = None,
    ) -> None:
        super().__init__(simulator, segment_length, eval_episodes, test_episodes, eval_envs, evaluation_seed=evaluation_seed)
        self.capacity, self.collecting_envs = capacity, num_envs
        self._collector: Collector | None = None
        self.start_from, self.share, self.answers = start_from, share, answers
        for name, value in (("share", share), ("answers", answers)):
            if value is not None and start_from is None:
                raise UserError(f"data.init_args.{name} is about logged data and there are none: set data.init_args.start_from.")

    def prepare_data(self) -> None:
        if isinstance(self.start_from, FeedbackDataModule):
            self.start_from.prepare_data()

    def files(self) -> list[Path]:
        named = [Path(name) for name in (self.start_from, self.answers) if isinstance(name, str)]
        return named + (self.start_from.files() if isinstance(self.start_from, FeedbackDataModule) else [])

    def setup(self, stage: str) -> None:
        if stage == "fit":  # transitions of another fit belong to that fit
            self.source = self.load()
            if self._collector is not None:
                self._collector.close()
            self._collector = None
        super().setup(stage)

    def load(self) -> Replay:
        """Create a replay, empty or with the logged rows.

        Raises:
            UserError: for several processes, if neither ``capacity`` nor the method defines the number of transitions, and for
                logged data that do not fit the simulator, the answers or the method.
        """
        sim, capacity = self.simulator, self.capacity
        assert sim is not None  # noqa: S101
        fitting = self.trainer is not None and self.trainer.state.fn == "fit"
        if fitting and self.trainer.world_size > 1:  # type: ignore[union-attr]
            raise UserError("OnlineDataModule collects in one process: set trainer.devices to 1 and run seeds as processes.")
        if capacity is None:
            steps = self.method.hparams.get("env_steps") if fitting else 0
            if steps is None:
                raise UserError(
                    f"{type(self.method).__name__} has no env_steps, so the replay's size is unknown: choose a method "
                    "that acts, such as SAC or PEBBLE, or set data.init_args.capacity."
                )
            capacity = max(steps, sim.horizon * self.collecting_envs)
        about: dict[str, Any] = {"replay of": sim.describe()}
        sizes = (self.collecting_envs, sim.state_dim, sim.action_dim, sim.horizon)
        if self.start_from is None or not (fitting or self.trainer is None):
            return Replay(capacity, *sizes, about, pictures=sim.frames)
        logged = self._logged(self.start_from, sim)
        replay = Replay(capacity, *sizes, {**about, "logged": logged.fingerprint}, logged, self.share)
        given = self._told(logged)
        self.labels = None if given is None else Labels(given.start + replay.logged.first, *given[1:])
        return replay

    def _logged(self, data: FeedbackDataModule | str, simulator: Simulator) -> Transitions:
        """Load the logged data and check that they fit simulator and method."""
        logged = opened(data)
        where = data if isinstance(data, str) else type(data).__name__
        if logged.forgets or logged.has_pictures or simulator.frames:
            held = "no logged data" if logged.forgets else "to do with pictures, which logged rows of a replay do not have"
            raise UserError(f"data.init_args.start_from, {where}, has {held}: give logged data of states.")
        check_sizes(logged, simulator, where, "give logged data of the task of data.init_args.simulator")
        if self.trainer is not None and not hasattr(self.method, "replayed"):
            name = type(self.method).__name__
            if self.share is not None:
                raise UserError(
                    f"{name} learns from its newest steps alone: leave data.init_args.share out, or use SAC or PEBBLE."
                )
            if "labels" not in self.method.needs:
                raise UserError(f"{name} cannot learn from logged rows: leave data.init_args.start_from out, or use SAC.")
        return logged

    def _told(self, logged: Transitions) -> Labels | None:
        """Return the answers about the logged data: those that come with them, then those of the label store ``answers``."""
        given = None if not isinstance(self.start_from, FeedbackDataModule) else self.start_from.labels
        if self.answers is None:
            return given
        if not Path(self.answers).is_file():
            raise UserError(f"There is no label store {self.answers}: give the labels.sqlite of a run folder.")
        stored = LabelStore(self.answers, logged.fingerprint).labels("pair", self.segment_length)
        if not len(stored.preferences()):
            raise UserError(
                f"The label store {self.answers} has no answer about pairs of {self.segment_length} steps: set "
                "data.init_args.segment_length to that of the run that asked."
            )
        check_labels(stored, logged, self.answers)
        return stored if given is None else given.then(stored)

    @property
    def collector(self) -> Collector:
        """Collector that acts and fills ``source``, seeded by the method's seed."""
        if self._collector is None:
            assert self.simulator is not None  # noqa: S101
            self._collector = Collector(VectorEnvs(self.simulator, self.collecting_envs), self.source, self.method.seed)
        return self._collector

    def state_dict(self) -> dict[str, Any]:
        """Return replay and collector, for the checkpoint."""
        return {"replay": self.source.state_dict(), "collector": self.collector.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load replay and collector; testing a checkpoint needs neither."""
        if self.trainer is None or self.trainer.state.fn == "fit":
            self.source.load_state_dict(state_dict["replay"])
            self.collector.load_state_dict(state_dict["collector"])

    def predict_dataloader(self) -> Share:
        """Refuse to predict: rows exist only while a method learns."""
        raise UserError("OnlineDataModule has no logged data to predict for: use `lightning-pbrl test`, or logged data.")

    def teardown(self, stage: str) -> None:
        """Close the environments; a later step would restore their open episodes."""
        if self._collector is not None:
            self._collector.close()
