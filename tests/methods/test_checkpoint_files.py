"""Checkpoints on disk: named by the step they hold, written beside their place, kept when the disk is full."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from pebble_toys import fit as fit_online
from pytorch_lightning.callbacks import ModelCheckpoint
from toys import SPEC, ToyData, make_trainer

from lightning_pbrl.data import atomic
from lightning_pbrl.errors import UserError
from lightning_pbrl.fitting import lightning_glue as glue
from lightning_pbrl.methods.bc import BC
from lightning_pbrl.methods.pebble import PEBBLE


def bc() -> BC:
    return BC(SPEC, updates=6, eval_interval=2, hidden=(8,))


def steps_by_name(folder: Path) -> dict[str, tuple[int, int]]:
    """Name of every checkpoint -> the round and the step it holds."""
    found = {path.name: torch.load(path, weights_only=True) for path in sorted(folder.glob("*.ckpt"))}
    return {name: (saved["epoch"], saved["global_step"]) for name, saved in found.items()}


def test_a_users_checkpoints_carry_the_step_they_hold(tmp_path: Path) -> None:
    """Of a method that asks and acts, whose rounds log at their start as well."""
    own = ModelCheckpoint(tmp_path / "own", every_n_epochs=1, filename="{epoch}-{step}", save_top_k=-1)
    fit_online(PEBBLE, tmp_path, around=[own])
    found = steps_by_name(tmp_path / "own")
    assert len(found) == 4 and len({step for _, step in found.values()}) == 4
    assert list(found) == [f"epoch={number}-step={step}.ckpt" for number, step in found.values()]


def test_names_do_not_round_to_float32() -> None:
    callback = ModelCheckpoint(filename="{step}")
    step = 2**24 + 1
    trainer: Any = type(
        "Trainer", (), {"callback_metrics": {"step": torch.tensor(float(step))}, "current_epoch": 0, "global_step": step}
    )
    trainer.checkpoint_callbacks = [callback]
    glue.checkpoint_at_round_edges(trainer)
    assert callback.format_checkpoint_name(callback._monitor_candidates(trainer)) == "step=16777217.ckpt"


def test_nothing_passes_through_the_systems_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    own = ModelCheckpoint(tmp_path / "own", filename="{epoch}", save_top_k=-1)
    trainer = make_trainer(tmp_path, [own])
    trainer.fit(bc(), ToyData())
    trainer.save_checkpoint(tmp_path / "last one.ckpt")
    assert [path.name for path in sorted((tmp_path / "own").iterdir())] == ["epoch=0.ckpt", "epoch=1.ckpt", "epoch=2.ckpt"]
    assert (tmp_path / "last one.ckpt").is_file() and not list(tmp_path.glob("**/*.part"))


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []

    def fsync(handle: int) -> None:
        written.append(handle)
        if len(written) > 2:  # the file of round 0 and its folder
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic.os, "fsync", fsync)
    last = ModelCheckpoint(tmp_path / "c", filename="last", enable_version_counter=False)
    with pytest.raises(UserError) as full:
        make_trainer(tmp_path, [last]).fit(bc(), ToyData())
    assert str(full.value) == (
        f"{tmp_path}/c/last.ckpt cannot be written (No space left on device): make room in its folder, or choose one that may be "
        "written to."
    )
    assert steps_by_name(tmp_path / "c") == {"last.ckpt": (0, 2)}
    assert not list(tmp_path.glob("**/*.part"))
