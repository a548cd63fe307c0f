"""Free memory goes back to the system, and nothing is kept that grows with the questions."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from clarify_toys import TINY, SkippableData
from toys import SPEC, make_trainer

from lightning_pbrl import memory
from lightning_pbrl.callbacks.ask_teacher import AskTeacher
from lightning_pbrl.methods.clarify import CLARIFY
from lightning_pbrl.teachers.skip import SkipTeacher

MIB = 2**20


def resident() -> int:
    """Bytes of this process that are in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(memory._trim is None, reason="the C library cannot give memory back")
def test_holes_between_blocks_are_given_back() -> None:
    """160 MiB in blocks of 64 KiB, of which one in twenty stays: the allocator keeps the rest until it is told."""
    blocks = [torch.ones(64 * 1024 // 4) for _ in range(2_560)]
    kept = blocks[::20]
    full = resident()
    del blocks
    assert full - resident() < 80 * MIB
    assert memory.give_back(torch.device("cpu"))
    assert full - resident() > 100 * MIB
    assert all(bool((block == 1).all()) for block in kept)


def test_only_where_it_can_be_done(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not memory.give_back(torch.device("meta"))
    monkeypatch.setattr(memory, "_trim", None)
    assert not memory.give_back(torch.device("cpu"))


def test_a_fit_gives_back_before_asking_and_between_phases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rounds: before questions, before the first phase, after the reward, after the encoder."""
    calls: list[str] = []

    class Noting(CLARIFY):
        def plan(self, round_number: int) -> Any:
            calls.append("plan")
            return super().plan(round_number)

    class Skip(SkipTeacher):
        def answer(self, *args: Any) -> Any:
            calls.append("answer")
            return super().answer(*args)

    monkeypatch.setattr(memory, "give_back", lambda device: calls.append(device.type))
    method = Noting(SPEC, **{**TINY, "n_init": 2, "n_emb": 2, "epochs": 1})
    make_trainer(tmp_path, [AskTeacher(Skip(0.1), None, 20, 10)], limit_val_batches=0).fit(method, SkippableData())
    assert calls == 2 * ["cpu", "answer", "cpu", "plan", "cpu", "cpu"]
