"""The load of the labelling page runs: every answer of several people is in the store, on SQLite and on PostgreSQL."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from warm import CONTEXT

pytest.importorskip("fastapi", reason="the page is in the web extra")

from benchmarks import people_load, people_postgres
from lightning_pbrl.labelling.serve import NICE


@pytest.mark.slow
@pytest.mark.parametrize(("store", "training"), [("sqlite", True), ("postgresql", False)])  # the training touches no store
def test_no_answer_is_lost(
    store: str, training: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if store == "postgresql" and (sentence := people_postgres.why_not()):
        pytest.skip(sentence)
    assert people_load.PROCESSES is CONTEXT  # that its processes are forked from
    monkeypatch.setattr(people_load, "WARM_UP", 0.5)
    out = tmp_path / "load.json"
    few = ["--people", "6", "--seconds", "4", "--pause", "0.1", "--rounds", "1", *([] if training else ["--alone"])]
    people_load.main([*few, "--store", store, "--out", str(out)])
    result = json.loads(out.read_text())
    found = result["stores"][store]
    said, check = found["alone"]["responses"], found["check"]
    answered = [found[name]["responses"]["answers 200 kept"] for name in ("alone", "beside") if name in found]
    assert check["acknowledged"] == sum(answered) and answered[0] > 6
    assert (check["lost"], check["double"], check["asked_of_two"]) == (0, 0, 0)
    assert said["clips 206"] >= 2 * said["answers 200 kept"] and not any("not the film" in name for name in said)
    assert (
        0
        < found["alone"]["submission_ms"]["p50"]
        <= found["alone"]["submission_ms"]["p95"]
        <= found["alone"]["submission_ms"]["max"]
    )
    assert found["nice"] == NICE and f"| {store} | no |" in people_load.in_readme(result)
    assert ("beside" in found) == training
    if training:
        beside = found["beside"]
        assert beside["updates_per_s"]["alone"] > 0
        assert beside["share"] == beside["share_range"][0] == beside["share_range"][1] > 0
