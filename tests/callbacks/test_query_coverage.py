"""The samples of states that a run keeps of its questions."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure
from pebble_toys import fit

from lightning_pbrl.callbacks.query_coverage import QueryCoverage
from lightning_pbrl.methods.pebble import PEBBLE
from lightning_pbrl.reports.coverage import FILE, read_coverage

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")


def test_a_resumed_run_keeps_its_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **kwargs: Path(path).write_bytes(b""))
    fit(PEBBLE, tmp_path, around=[QueryCoverage(20)], trainer={"max_epochs": 2})
    assert [found.env_steps for found in read_coverage(tmp_path / FILE)] == [40]
    fit(PEBBLE, tmp_path, around=[QueryCoverage(20)], ckpt_path=tmp_path / "checkpoints" / "last.ckpt")
    assert [found.env_steps for found in read_coverage(tmp_path / FILE)] == [40, 80]
    fit(PEBBLE, tmp_path, around=[QueryCoverage(20)], trainer={"max_epochs": 2})
    assert [found.env_steps for found in read_coverage(tmp_path / FILE)] == [40]  # a new run begins anew
