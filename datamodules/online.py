"""Online data: a simulator, a replay buffer that starts empty, and a collector that fills it."""

from __future__ import annotations

from typing import Any

from lightning_pbrl.data.replay import Replay
from lightning_pbrl.datamodules.base import FeedbackDataModule, Share
from lightning_pbrl.envs.base import Simulator
from lightning_pbrl.envs.collector import Collector
from lightning_pbrl.envs.rollout import VectorEnvs
from lightning_pbrl.errors import UserError


class OnlineDataModule(FeedbackDataModule):
    """Environments and replay buffer of a method that acts while it learns (SAC, PEBBLE, QPA ...).

    Policies are evaluated in separate environments, so evaluation does not affect training. A checkpoint holds the replay; open
    episodes are restored exactly.

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
    ) -> None:
        if segment_length < 1:
            raise UserError(f"data.init_args.segment_length is {segment_length}: a segment has at least one step.")
        super().__init__(simulator, segment_length, eval_episodes, test_episodes, eval_envs, evaluation_seed=evaluation_seed)
        self.capacity, self.collecting_envs = capacity, num_envs
        self._collector: Collector | None = None

    def setup(self, stage: str) -> None:
        if stage == "fit":  # transitions of another fit belong to that fit
            self.source = self.load()
            if self._collector is not None:
                self._collector.close()
            self._collector = None
        super().setup(stage)

    def load(self) -> Replay:
        """Create an empty replay.

        Raises:
            UserError: for several processes, or if neither ``capacity`` nor the method defines the number of transitions.
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
        about = {"replay of": sim.describe()}
        images = None if sim.pixels else sim.frames
        return Replay(capacity, self.collecting_envs, sim.obs_dim, sim.action_dim, sim.horizon, about, images)

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
