"""A reward fit and a policy fit on two CPU processes: ``two_ranks.py FOLDER``; each rank leaves FOLDER/rank{r}.pt."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch
from pytorch_lightning.strategies import DDPStrategy

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from preference_toys import OneSided
from toys import SPEC, callbacks_for, make_trainer

from lightning_pbrl.methods.iql import IQL
from lightning_pbrl.methods.learn_reward import RewardEnsemble


def main(folder: Path) -> None:
    """Fit both methods, one after the other, in one launch."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    out = {}
    for method in (
        RewardEnsemble(SPEC, hidden=(16,), epochs=5, batch_size=8),
        IQL(SPEC, updates=30, eval_interval=15, hidden=(16,), batch_size=16, block=7, lr=3e-3),
    ):
        name = type(method).__name__
        trainer = make_trainer(
            folder / name,
            callbacks_for(type(method), budget=20, per_round=10),
            devices=2,
            strategy=DDPStrategy(broadcast_buffers=False, process_group_backend="gloo"),
            use_distributed_sampler=False,
        )
        method.configure_model()
        before = {key: value.clone() for key, value in method.named_parameters()}
        data = OneSided(eval_episodes=5, test_episodes=1)
        trainer.fit(method, data)
        trainer.test(method, data, verbose=False)
        out[name] = {
            "weights": {key: value.clone() for key, value in method.state_dict().items()},
            "drawn": method.running.drawn(next(iter(method.running.programs)), 1, 0),
            "labels": tuple(method.labels),
            "metrics": {key: value.clone() for key, value in trainer.callback_metrics.items()},
            "step": trainer.global_step,
            "updates": sum(method.running.updates.values()),
            "before": before,
        }
    torch.save(out, folder / f"rank{trainer.global_rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
