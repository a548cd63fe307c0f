"""The library's own files: exact, mapped, never changed by use, never half written."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from synthetic import synthetic_transitions

from lightning_pbrl.data import archive
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.errors import UserError


def rewritten(path: Path, change) -> Path:
    """The file with its tensors and record changed by ``change(tensors, record)``."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (not a dict)
        record = json.loads(file.metadata()["lightning_pbrl"])
    change(tensors, record)
    save_file(tensors, path, metadata={"lightning_pbrl": json.dumps(record)})
    return path


def test_round_trip(tmp_path: Path):
    data = synthetic_transitions()
    data.write("learned_reward", torch.ones(len(data)))
    loaded = archive.load(archive.save(data, tmp_path / "new" / "data.safetensors"))
    for name in ("obs", "action", "next_obs", "terminated", "truncated"):
        assert torch.equal(loaded.column(name), data.column(name)), name
    assert torch.equal(loaded.reward, data.reward)
    assert torch.equal(loaded.success, data.success)
    assert torch.equal(loaded.episodes.offsets, data.episodes.offsets)
    assert loaded.column("learned_reward").isnan().all()  # belongs to a run, not to the data
    assert (data.column("learned_reward") == 1).all()  # and saving does not touch the table
    assert loaded.about == {"task": "synthetic", "seed": 0, "horizon": 30}
    assert loaded.fingerprint == data.fingerprint
    assert Transitions(loaded.packed, loaded.episodes.offsets, loaded.reward, None, 5, 2).fingerprint == data.fingerprint
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["data.safetensors"]


def test_others_may_read_a_file_as_the_umask_says(tmp_path: Path):
    before = os.umask(0o022)
    try:
        path = archive.save(synthetic_transitions(), tmp_path / "d.safetensors")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o644


def test_without_success(tmp_path: Path):
    data = synthetic_transitions()
    data.success = None
    assert archive.load(archive.save(data, tmp_path / "d.safetensors")).success is None


def test_rows_that_may_be_drawn(tmp_path: Path):
    data = synthetic_transitions()
    data.drawable = torch.arange(0, 600, 7)
    path = archive.save(data, tmp_path / "d.safetensors")
    loaded = archive.load(path)
    assert torch.equal(loaded.drawable, data.drawable) and loaded.fingerprint == synthetic_transitions().fingerprint
    assert archive.describe(path)["schema_version"] == 2  # a library that ignored them would draw them
    assert archive.load(archive.save(synthetic_transitions(), path)).drawable is None


def test_pictures_are_kept_and_mapped(tmp_path: Path):
    data = synthetic_transitions()
    data.frames = torch.randint(0, 256, (620, 4, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    path = archive.save(data, tmp_path / "d.safetensors")
    loaded = archive.load(path)
    assert torch.equal(loaded.frames, data.frames)
    assert loaded.fingerprint == data.fingerprint != synthetic_transitions().fingerprint
    assert archive.describe(path)["schema_version"] == 3  # a library that ignored them would show states
    assert archive.load(archive.save(synthetic_transitions(), path)).frames is None
    data.frames = torch.zeros(620, 128, 128, 3, dtype=torch.uint8)  # 30 MB
    path = archive.save(data, tmp_path / "big.safetensors")
    process = psutil.Process()
    before = process.memory_info().rss
    loaded = archive.load(path)
    assert loaded.pictures(torch.tensor([[3, 619]])).shape == (1, 2, 128, 128, 3)
    assert process.memory_info().rss - before < 10e6


@pytest.mark.parametrize("shape", [(600, 4, 4, 3), (620, 4, 5, 3), (620, 4, 4, 1), (620, 48)])
def test_pictures_of_another_shape_are_refused(tmp_path: Path, shape: tuple[int, ...]):
    path = archive.save(synthetic_transitions(), tmp_path / "d.safetensors")
    rewritten(path, lambda tensors, record: tensors.update(frames=torch.zeros(shape, dtype=torch.uint8)))
    with pytest.raises(UserError, match="contradicts itself"):
        archive.load(path)


def test_describe_reads_the_record_only(tmp_path: Path):
    data = synthetic_transitions()
    about = archive.describe(archive.save(data, tmp_path / "d.safetensors"))
    assert about["rows"] == 600
    assert about["episodes"] == 20
    assert about["obs_dim"] == 5
    assert about["schema_version"] == 1
    assert about["fingerprint"] == data.fingerprint
    assert about["layout"]["next_obs"] == [7, 5]


def test_a_loaded_table_is_mapped_and_writing_never_reaches_the_file(tmp_path: Path):
    rows = 200_000  # 39 + 4 + 39 + 3 floats each: 68 MB
    obs = torch.randn(rows, 39)
    data = Transitions.from_columns(obs, torch.rand(rows, 4), obs, torch.arange(0, rows + 1, 500), torch.rand(rows))
    path = archive.save(data, tmp_path / "big.safetensors")
    size, digest = path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()
    before, start = psutil.Process().memory_info().rss, time.perf_counter()
    loaded = archive.load(path)
    assert time.perf_counter() - start < 0.5
    assert psutil.Process().memory_info().rss - before < size / 4
    loaded.write("learned_reward", torch.arange(float(rows)))
    assert loaded.column("learned_reward")[[0, -1]].tolist() == [0, rows - 1]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
    assert archive.load(path).column("learned_reward").isnan().all()


def test_saving_over_a_file_that_is_open(tmp_path: Path):
    path = archive.save(synthetic_transitions(seed=0), tmp_path / "d.safetensors")
    old = archive.load(path)
    archive.save(synthetic_transitions(seed=1), path)
    assert torch.equal(old.column("obs"), synthetic_transitions(seed=0).column("obs"))
    assert archive.load(path).fingerprint == synthetic_transitions(seed=1).fingerprint


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = archive.save(synthetic_transitions(seed=0), tmp_path / "d.safetensors")

    def full(draft, *args, **kwargs):
        assert len(draft) == 600  # the rows are written: half a file
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archive.Draft, "finish", full)
    with pytest.raises(UserError, match=r"d\.safetensors cannot be written \(No space left on device\): make room"):
        archive.save(synthetic_transitions(seed=1), path)
    assert archive.load(path).fingerprint == synthetic_transitions(seed=0).fingerprint
    assert [file.name for file in tmp_path.iterdir()] == ["d.safetensors"]


def test_unwritable_folder(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        archive.save(synthetic_transitions(), tmp_path / "file" / "d.safetensors")


def test_missing(tmp_path: Path):
    with pytest.raises(UserError, match=r"no data file .*absent"):
        archive.load(tmp_path / "absent")


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated(tmp_path: Path, keep: int):
    path = archive.save(synthetic_transitions(), tmp_path / "d.safetensors")
    path.write_bytes(path.read_bytes()[:keep])
    for read in (archive.load, archive.describe):
        with pytest.raises(UserError, match=r"truncated or not a lightning-pbrl data file .*copy it again"):
            read(path)


def test_foreign(tmp_path: Path):
    path = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(UserError, match="safetensors file of another program"):
        archive.load(path)
    path.write_text("not at all, but long enough to be one")
    with pytest.raises(UserError, match="not a lightning-pbrl data file"):
        archive.load(path)


def test_newer_schema(tmp_path: Path):
    path = archive.save(synthetic_transitions(), tmp_path / "d.safetensors")
    rewritten(path, lambda tensors, record: record.update(schema_version=archive.SCHEMA_VERSION + 1))
    with pytest.raises(UserError, match="schema version 5 and this library reads up to 4: upgrade lightning-pbrl"):
        archive.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, r: t.pop("reward"), "lacks reward"),
        (lambda t, r: r.pop("obs_dim"), "not a lightning-pbrl data file"),
        (lambda t, r: r.update(obs_dim=6), "contradicts itself"),
        (lambda t, r: t.update(reward=torch.zeros(3)), "contradicts itself"),
        (lambda t, r: t.update(offsets=torch.tensor([0, 5])), "contradicts itself"),
        (lambda t, r: t.update(offsets=torch.tensor([0, 300, 200, 600])), "contradicts itself"),
        (lambda t, r: t.update(rows=t["rows"].double()), "contradicts itself"),
        (lambda t, r: t.update(success=torch.zeros(3, dtype=torch.uint8)), "contradicts itself"),
        (lambda t, r: t.update(success=torch.full((600,), 3, dtype=torch.uint8)), "contradicts itself"),
        (lambda t, r: t.update(success=torch.full((600,), 0.5)), "contradicts itself"),
        (lambda t, r: t.update(drawable=torch.tensor([0, 600])), "contradicts itself"),
        (lambda t, r: t.update(drawable=torch.tensor([-1])), "contradicts itself"),
        (lambda t, r: t.update(drawable=torch.tensor([0.0])), "contradicts itself"),
        (lambda t, r: t.update(drawable=torch.empty(0, dtype=torch.int64)), "contradicts itself"),
        (lambda t, r: t.update(success=t["success"][:3]), "contradicts itself"),
        (lambda t, r: t.update(succesr=t.pop("success")), "has succesr, which no version knows: make the file again"),
        (lambda t, r: r.update(obs_dim="5"), "has obs_dim = '5': copy it again or make it anew"),
        (lambda t, r: r.update(obs_dim=-1, action_dim=8), "contradicts itself"),
        (lambda t, r: r.update(about=[1]), r"has about = \[1\]: copy it again"),
        (lambda t, r: r.update(layout=5), "has layout = 5: copy it again"),
    ],
)
def test_contradictory_files(tmp_path: Path, change, message: str):
    path = archive.save(synthetic_transitions(), tmp_path / "d.safetensors")
    with pytest.raises(UserError, match=message):
        archive.load(rewritten(path, change))
