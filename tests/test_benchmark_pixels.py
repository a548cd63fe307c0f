"""The benchmark of rewards from images compares loops that compute the same numbers, and fills a replay."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import pixels


def test_the_loops_compute_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "SIDE", 16)
    model = pixels.model_of(pixels.mapped(tmp_path, 2))
    each, once = (pixels.plain(model, 150, way) for way in (True, False))
    torch.testing.assert_close(each, once)
    torch.testing.assert_close(once, model.relabel(model.source, torch.arange(150)), rtol=1e-4, atol=1e-5)
    found = pixels.speed(model, 1, 50)
    assert [claim["goal"] for claim in found["claims"]] == [3.0, None]
    assert pixels.memory(model)["images"] == 202
    assert pixels.replay_memory(300)["images_MiB"] == pytest.approx(300 * 768 / 2**20)
