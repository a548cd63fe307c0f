"""Fits of offline methods on one of two nodes: ``one_of_two_nodes.py FOLDER``, with NODE_RANK; each leaves FOLDER/node{r}.pt."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch
from pytorch_lightning.strategies import DDPStrategy

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from toys import SPEC, ToyData, callbacks_for, make_trainer

from lightning_pbrl.methods.bc import BC
from lightning_pbrl.methods.iql import IQL


def main(folder: Path) -> None:
    """Fit both methods, one after the other."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    out = {}
    for method in (
        IQL(SPEC, updates=12, eval_interval=6, hidden=(16,), batch_size=16, block=5, lr=3e-3),
        BC(SPEC, updates=12, eval_interval=6, hidden=(16,), batch_size=16, block=5, lr=3e-3),
    ):
        name = type(method).__name__
        trainer = make_trainer(
            folder / name,
            callbacks_for(type(method), budget=20, per_round=10),
            devices=1,
            num_nodes=2,
            strategy=DDPStrategy(broadcast_buffers=False, process_group_backend="gloo"),
            use_distributed_sampler=False,
        )
        trainer.fit(method, ToyData(eval_episodes=2))
        out[name] = {
            "weights": {key: value.clone() for key, value in method.state_dict().items()},
            "drawn": method.running.drawn(next(iter(method.running.programs)), 1, 0),
            "world": (trainer.world_size, trainer.global_rank, trainer.local_rank),
            "step": trainer.global_step,
        }
    torch.save(out, folder / f"node{trainer.global_rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
