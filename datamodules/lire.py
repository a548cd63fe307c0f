"""LiRE's offline data: SAC replay buffers of Meta-World and DeepMind Control tasks (arXiv 2408.04190, also CLARIFY's)."""

from __future__ import annotations

from pathlib import Path

from lightning_pbrl.data.lire import read_lire
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.datamodules.base import OfflineDataModule
from lightning_pbrl.envs.base import Simulator


class LiREDataModule(OfflineDataModule):
    """Replay buffers of one task in LiRE's layout, and the simulator that judges policies.

    Expected files: ``<root>/saved_replay_buffer_*_seed{0,1,2}.pkl`` (read by an unpickler that builds arrays and nothing
    else) or the same names with ``.npz``.

    Args:
        root: the task's folder.
        simulator: where policies are rolled out, for instance MetaWorld(task) or DMControl(walker-walk).
        data_quality: rows per seed file in units of 100,000; more rows means later, better policies. None reads all.
        seeds: which replay buffers to concatenate, in this order.
        segment_length: steps per segment shown to a teacher (CLARIFY 50, LiRE 25).
        eval_episodes: episodes per evaluation while training (CLARIFY 20, LiRE 50).
        test_episodes: episodes of ``test``, never seen while training or choosing.
        num_envs: environments stepped together.
        held_out_pairs: pairs on which reward models are validated.
        evaluation_seed: names the evaluation episodes and held-out pairs.
    """

    def __init__(
        self,
        root: str,
        simulator: Simulator,
        data_quality: float | None = None,
        seeds: list[int] | None = None,
        segment_length: int = 50,
        eval_episodes: int = 20,
        test_episodes: int = 50,
        num_envs: int = 10,
        held_out_pairs: int = 1_000,
        evaluation_seed: int = 0,
    ) -> None:
        super().__init__(
            simulator, segment_length, eval_episodes, test_episodes, num_envs, held_out_pairs, evaluation_seed
        )
        self.root, self.data_quality = Path(root), data_quality
        self.seeds = [0, 1, 2] if seeds is None else seeds

    def load(self) -> Transitions:
        return read_lire(self.root, self.root.name, self.data_quality, seeds=self.seeds)
