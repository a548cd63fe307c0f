"""The BALD benchmark runs, and both sides compute the same numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import bald
from benchmarks.__main__ import main
from benchmarks.engine import transitions
from benchmarks.plain_bald import PlainReward, pair_scores, rating_scores
from lightning_pbrl.data.feedback import Query


def test_quick_run_writes_every_claim(tmp_path: Path) -> None:
    assert main(["bald", "--quick", "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "bald.json").read_text())
    assert [row["claim"] for row in result["claims"]] == [claim.text for claim in bald.CLAIMS]
    assert result["clips"] == {"pool": 4 * 491, "disjoint": 4 * 50} and result["machine"]["threads"] == 1


def test_both_sides_compute_the_same_returns() -> None:
    """Equal weights, no dropout: equal clip returns and variances; then nothing is left to be learnt."""
    size = bald.QUICK
    source = transitions(size.rows, size.obs_dim, size.action_dim)
    ours, plain = bald.unified(source, size), PlainReward(23, size.width, 0.0)
    bald.copy_weights(ours, plain)
    ours.network.rate = 0.0
    start = source.pool(size.length).draw(6, torch.Generator().manual_seed(0))
    clips = source.segments(start, size.length)
    sample = ours.posterior(Query("rating", start.unsqueeze(1), size.length), 3)
    for d in range(3):
        mean, variance = plain(clips)
        torch.testing.assert_close(sample[d, :, 0, 0].float(), mean.sum(1), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(sample[d, :, 0, 1].float(), variance.sum(1), rtol=1e-4, atol=1e-5)
    arrays = [clip.numpy() for clip in clips]
    assert rating_scores(plain, arrays, 4) == pytest.approx([0.0] * 6, abs=1.0)  # one sample of each component: noise about 0
    assert pair_scores(plain, arrays, 4) == pytest.approx([0.0] * 3, abs=1e-6)
