"""The table of claims: its arithmetic by hand, and that the page has what the runs say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import claims


def test_verdicts_by_hand() -> None:
    """Variances of 1, three seeds each: a standard error of sqrt(2/3), 4 degrees of freedom, whose 97.5 % point is 2.7764."""
    difference, low, high, verdict = claims.judged([3, 4, 5], [0, 1, 2])
    assert (difference, verdict) == (3, "holds")
    assert (low, high) == pytest.approx((3 - 2.7764 * (2 / 3) ** 0.5, 3 + 2.7764 * (2 / 3) ** 0.5), abs=1e-4)
    assert claims.judged([0, 1, 2], [3, 4, 5])[3] == "does not hold"
    assert claims.judged([0, 1, 2], [1, 2, 3])[3] == "cannot say"
    assert claims.judged([38, 38], [0, 0]) == (38, 38, 38, "holds") and claims.judged([1, 1], [1, 1])[3] == "cannot say"
    assert claims.judged([0, 1, 2], [1, 2, 3], margin=3.27)[3] == "holds"  # the interval begins at -3.267
    assert claims.judged([0, 1, 2], [1, 2, 3], margin=3.26)[3] == "cannot say"
    assert claims.judged([0, 1, 2], [9, 10, 11], margin=6)[3] == "does not hold"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--collect", "here", "--command", "c", "--machine", "m"], "no run below here"),
        (["--collect", "here"], "needs --command and --machine"),
        (["--draw", "nothing"], "no results called nothing"),
        (["--draw", "demo", "--metric", "nothing"], "have curves of nothing: none have"),
    ],
)
def test_what_would_overwrite_results_or_draw_none_is_refused(
    args: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(claims, "RESULTS", tmp_path)
    (tmp_path / "here").mkdir()
    (tmp_path / "here.json").write_text("kept")
    with pytest.raises(SystemExit):
        claims.main(args)
    assert said in capsys.readouterr().err and (tmp_path / "here.json").read_text() == "kept"


def test_runs_are_collected_with_their_curves(tmp_path: Path) -> None:
    run = tmp_path / "random" / "seed3"
    (run / "csv" / "version_0").mkdir(parents=True)
    (run / "config.yaml").touch()
    rows = [
        "labels,pref/accuracy,reward/pearson,step,eval/success_rate,eval/return_mean",
        "0,,0.1,0",
        "60,,,50",
        ",0.7,,50,0.25,-3",
        "60,,0.8,50",
        "90,,,70",
        ",0.6,,70",
        ",0.75,,80",
        "90,,0.9,80",
        ",0.95,,80",  # of the test
    ]
    (run / "csv" / "version_0" / "metrics.csv").write_text("\n".join(rows))
    curves = {"pref/accuracy": {"60": 0.7, "90": 0.75}, "reward/pearson": {"60": 0.8, "90": 0.9}}
    evaluated = {"eval/success_rate": {"50": 0.25}, "eval/return_mean": {"50": -3.0}}
    assert claims.collected(tmp_path) == {"random/seed3": {"seed": 3, "curves": curves, "evaluations": evaluated}}
    (run / "results.json").write_text(json.dumps({"seed": 3, "metrics": {"test/success_rate": 1.0}}))
    assert claims.collected(tmp_path)["random/seed3"]["metrics"] == {"test/success_rate": 1.0}


def test_the_page_begins_with_the_table() -> None:
    page = (Path(claims.__file__).parents[1] / "docs" / "results.md").read_text()
    assert claims.table() in page
    for claim in claims.CLAIMS:
        heads = [line.lstrip("# ") for line in page.splitlines() if line.startswith("#")]
        anchors = {"".join(c for c in head.lower().replace(" ", "-") if c.isalnum() or c in "-_") for head in heads}
        assert claim.section in anchors, claim.section
