"""The plain loop of IPL learns the preference that is there, and says so in its means."""

from __future__ import annotations

import torch

from benchmarks.ipl_losses import SEEN, train


def test_a_clear_preference_is_learned():
    rng = torch.Generator().manual_seed(0)
    obs, action = torch.randn(32, 2, 18, 3, generator=rng), torch.randn(32, 2, 18, 2, generator=rng)
    label = (action[:, 1, :, 0].sum(-1) > action[:, 0, :, 0].sum(-1)).float()
    first, *_, last = train(obs, action, label, 120, every=20)
    assert set(first) == {"updates", *SEEN} and (first["updates"], last["updates"]) == (20, 120)
    assert last["accuracy"] > 0.95 > first["accuracy"]
    assert last["preference_loss"] < first["preference_loss"]
