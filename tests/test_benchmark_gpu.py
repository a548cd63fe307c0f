"""``make gpu-check`` where there is no GPU: it says so, and runs its own table at tiny sizes."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import gpu_check


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_it_says_that_there_is_no_gpu_and_checks_itself(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gpu_check, "REPLICAS", (1, 3))
    assert gpu_check.main(["--out", str(tmp_path / "gpu.json")]) == 0
    assert capsys.readouterr().out.startswith("There is no GPU here, so nothing is measured")
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert result["device"] == "cpu" and result["left_out"] == [] and list(result["rows"]) == list(gpu_check.CASES)
    for by_replicas in result["rows"].values():
        assert list(by_replicas) == ["1", "3"]
        for row in by_replicas.values():
            assert list(row) == list(gpu_check.WAYS)
            assert row["graph"]["graphs"] >= 1 and row["graph"]["difference"] == 0.0
            assert all(way["min"] <= way["updates_per_s"] <= way["max"] for way in row.values())


def test_what_does_not_fit_into_the_time_is_named():
    found = gpu_check.table(gpu_check.QUICK, torch.device("cpu"), until=0.0)
    assert len(found["left_out"]) == len(gpu_check.CASES) * len(gpu_check.WAYS) * 4
    assert found["left_out"][0] == "IQL, 1 replicas, eager" and not found["rows"]["IQL"]["1"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_asked_for_must_be_there(capsys):
    with pytest.raises(SystemExit):
        gpu_check.main(["--device", "cuda"])
    assert "PyTorch sees no CUDA device" in capsys.readouterr().err


def test_pictures_stay_bytes_until_a_network_reads_them():
    """On another device than the CPU they are one byte a value, as is what an update gathers of them."""
    case = gpu_check.pixels(gpu_check.QUICK, torch.device("cpu"))
    (drawn,) = gpu_check.runner(case, "eager", 1, gpu_check.QUICK).drawn("policy", 1, 0)
    batch, picture = case.program.gather(drawn), 64 * 64 * 3
    assert {batch[name].dtype for name in ("obs", "goal")} == {torch.uint8}
    assert batch["obs"].nbytes == batch["goal"].nbytes == gpu_check.QUICK.batch_size * picture
    source = case.owner.source.to("meta")
    assert source.frames.is_meta and source.frames.dtype == torch.uint8 and source.frames.nbytes == 63 * picture
    found = source.pictures(torch.zeros(5, dtype=torch.int64, device="meta"))
    assert found.is_meta and found.nbytes == 5 * picture


def test_pictures_that_are_too_many_stay_on_the_cpu(monkeypatch):
    monkeypatch.setattr("lightning_pbrl.data.transitions.FRAMES_ON_DEVICE", 63 * 64 * 64 * 3 - 1)
    assert gpu_check.pixels(gpu_check.QUICK, torch.device("cpu")).owner.source.to("meta").frames.device.type == "cpu"
