"""Strategies compared by env steps and labels, and how they shared their budget out: every number by hand."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from feedback_runs import recorded_run
from matplotlib.figure import Figure
from run_folders import write_policy_run, write_version

from lightning_pbrl.cli import main
from lightning_pbrl.errors import UserError
from lightning_pbrl.reports.efficiency import curve_of, held, plot_efficiency
from lightning_pbrl.reports.metrics import Series, over, read_metrics, run_at
from lightning_pbrl.reports.mix import labels_panel, plot_mix, seed_metrics, share_panel
from lightning_pbrl.reports.statistics import iqm


def asking_run(folder: Path, returns: list[float], labels_per_round: int = 4) -> Path:
    """Evaluated after every round of 100 updates and 1,000 env steps; the reward is measured where a round starts."""
    rows: list[dict[str, float]] = []
    for k, value in enumerate(returns):
        rows.append({"step": 100 * k, "reward/pearson": 0.1 * k, "labels": labels_per_round * k, "env_steps": 1000 * k})
        counts = {"labels": labels_per_round * (k + 1), "env_steps": 1000 * (k + 1)}
        rows.append({"step": 100 * k + 50, "train/q_loss": 1.0, **counts, "env_steps": 1000 * k + 500})
        rows.append({"step": 100 * k + 100, "train/q_loss": 1.0, **counts})
        rows.append({"step": 100 * k + 100, "eval/return_mean": value})
    write_version(folder, 0, rows)
    return folder


def mixed_run(folder: Path, shares: list[float], scores: bool = True) -> Path:
    """Ten questions a round, of which these shares are pairs."""
    rows: list[dict[str, float]] = []
    pair = rating = 0.0
    for k, share in enumerate(shares):
        pair, rating = pair + 10 * share, rating + 10 * (1 - share)
        row = {"step": 100 * k, "labels/pair": pair, "labels/rating": rating, "query/share_pair": pair / (pair + rating)}
        row |= {"query/target_share": 0.5}
        row |= {"query/score_pair": 0.4 / (k + 1), "query/score_rating": 0.8} if scores else {}
        rows.append(row)
        rows.append({"step": 100 * k, "labels": 10.0 * k, "env_steps": 50.0 * k})
        rows.append({"step": 100 * k + 100, "train/q_loss": 1.0, "labels": 10.0 * (k + 1), "env_steps": 50.0 * (k + 1)})
    write_version(folder, 0, rows)
    return folder


def read_table(path: Path) -> dict[str, list[str]]:
    with path.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    return {name: [row[name] for row in rows] for name in rows[0]}


def numbers(path: Path, column: str) -> list[float]:
    return [float(cell) if cell else float("nan") for cell in read_table(path)[column]]


def test_a_curve_keeps_its_last_value():
    early = Series(np.array([0.0, 10, 30]), np.array([1.0, 2, 3]))
    late = Series(np.array([5.0, 20, 40]), np.array([7.0, 8, 9]))
    x, values = held([early, late])
    assert x.tolist() == [5, 10, 20, 30]
    assert values.tolist() == [[1, 2, 2, 3], [7, 7, 8, 8]]


def test_labels_that_a_value_has_cost(tmp_path):
    """An evaluation belongs to the answers its round has learned from, a reward measured at a round's start to those before."""
    metrics = read_metrics(asking_run(tmp_path, [5.0, 6.0, 7.0]))
    assert [list(part) for part in over(metrics, "eval/return_mean", "labels")] == [[4, 8, 12], [5, 6, 7]]
    assert [list(part) for part in over(metrics, "eval/return_mean", "env_steps")] == [[1000, 2000, 3000], [5, 6, 7]]
    assert [list(part) for part in over(metrics, "reward/pearson", "labels")] == [[0, 4, 8], [0, 0.1, 0.2]]


def test_what_is_said_of_questions_counts_them(tmp_path):
    found = over(read_metrics(mixed_run(tmp_path, [0.5, 0.7])), "labels/pair", "labels")
    assert found.step.tolist() == [10, 20] and found.value.tolist() == [5, 12]


def test_seeds_are_joined_and_summarised(tmp_path):
    seeds = [read_metrics(asking_run(tmp_path / f"seed{k}", values, 2 + k)) for k, values in enumerate(([1.0, 3.0], [5.0, 9.0]))]
    curve = curve_of(seeds, "bald", "eval/return_mean", "labels")
    assert curve is not None and curve.seeds == 2
    assert curve.x.tolist() == [3, 4]  # at 2, 4 labels and at 3, 6: only 3 .. 4 is covered by both
    assert curve.middle.tolist() == [3, 4] and curve.low.tolist() == [1, 3] and curve.high.tolist() == [5, 5]
    assert curve_of(seeds, "bald", "eval/success_rate", "labels") is None


def test_efficiency_and_its_tables(tmp_path, capsys):
    for stage, gain in (("random", 1.0), ("bald", 2.0)):
        for seed in range(4):
            asking_run(tmp_path / "runs" / stage / f"seed{seed}", [gain * (seed + 1), gain * (seed + 2)])
    out = tmp_path / "out" / "eff.png"
    main(["plot", str(tmp_path / "runs"), "--efficiency", "--out", str(out)])
    assert "eff.png" in capsys.readouterr().out and out.stat().st_size > 20_000
    kinds = [f"{metric}-by-{count}" for metric in ("eval-return-mean", "reward-pearson") for count in ("env-steps", "labels")]
    assert {file.name for file in out.parent.iterdir()} == {"eff.png", *(f"eff-{kind}.csv" for kind in kinds)}
    table = read_table(out.with_name("eff-eval-return-mean-by-labels.csv"))
    assert table["group"] == ["bald", "bald", "random", "random"] and set(table["seeds"]) == {"4"}
    assert table["labels"] == ["4.0", "8.0"] * 2 and table["mean"] == ["5.0", "7.0", "2.5", "3.5"]
    plot_efficiency(tmp_path / "runs", out, "eval/return_mean", "env_steps", "iqm")
    expected = iqm(np.array([1.0, 2.0, 3.0, 4.0]))
    assert numbers(out.with_name("eff-eval-return-mean-by-env-steps.csv"), "iqm")[2] == pytest.approx(float(expected))


def test_efficiency_says_what_is_missing(tmp_path):
    write_policy_run(tmp_path / "run", [0.5])
    with pytest.raises(UserError, match="None of these runs has logged eval/success_rate together with env steps"):
        plot_efficiency(tmp_path / "run", tmp_path / "x.png", "eval/success_rate", "env_steps")
    with pytest.raises(UserError, match="No run has logged the metric 'eval/sucess_rate': did you mean eval/success_rate"):
        plot_efficiency(tmp_path / "run", tmp_path / "x.png", "eval/sucess_rate")


def test_stacked_counts_are_means_over_seeds(tmp_path):
    seeds = [seed_metrics(run_at(mixed_run(tmp_path / f"seed{k}", shares))) for k, shares in enumerate(([0.2, 0.4], [0.6, 0.4]))]
    panel = labels_panel(seeds)
    assert panel is not None
    table = {name: np.asarray(column).tolist() for name, column in panel.table.items()}
    ends = {"pair_low": [2, 6], "pair_high": [6, 10], "rating_low": [4, 10], "rating_high": [8, 14]}  # of two seeds: their values
    assert table == {"env_steps": [0, 50], "pair": [4, 8], "rating": [6, 12], "total": [10, 20], **ends}
    axes = Figure().subplots()
    panel.draw(axes)
    bands = [shade.get_paths()[0].vertices for shade in axes.collections[2:]]  # the two layers come first
    at_0 = [sorted({y for x, y in band.tolist() if x == 0}) for band in bands]
    assert [(ys[0], ys[-1]) for ys in at_0] == [(2, 6), (8, 12)]  # ratings lie on top of 4 pairs
    share = share_panel(seeds)
    assert share is not None
    assert np.asarray(share.table["share"]) == pytest.approx([0.4, 0.4])
    assert np.asarray(share.table["low"]) == pytest.approx([0.2, 0.3]) and np.asarray(share.table["target"]).tolist() == [
        0.5,
        0.5,
    ]


def test_a_mix_of_one_seed_has_no_interval(tmp_path):
    panel = labels_panel([seed_metrics(run_at(mixed_run(tmp_path, [0.2, 0.4])))])
    assert panel is not None and np.isnan(np.asarray(panel.table["pair_low"])).all()
    axes = Figure().subplots()
    panel.draw(axes)
    assert len(axes.collections) == 2


def test_a_mix_against_labels(tmp_path):
    for seed, shares in enumerate(([0.2, 0.4], [0.6, 0.4])):
        mixed_run(tmp_path / "runs" / "mixed" / f"seed{seed}", shares)
    main(["plot", str(tmp_path / "runs"), "--mix", "--x", "labels", "--out", str(tmp_path / "mix.png")])
    for name in ("labels", "share", "information", "information-normalised"):
        assert numbers(tmp_path / f"mix-{name}.csv", "labels") == [10, 20]
    assert numbers(tmp_path / "mix-labels.csv", "total") == [10, 20]
    recorded_run(tmp_path / "recorded")  # has logged no counts: they are those of its records, this round's questions included
    plot_mix(tmp_path / "recorded", tmp_path / "r.png", "labels")
    assert numbers(tmp_path / "r-labels.csv", "total") == numbers(tmp_path / "r-labels.csv", "labels") == [5, 10, 15]
    write_policy_run(tmp_path / "policy", [0.5])
    with pytest.raises(UserError, match="None of these runs has logged how it mixed together with env steps: leave --x out"):
        plot_mix(tmp_path / "policy", tmp_path / "x.png", "env_steps")


def test_a_share_that_is_wanted(tmp_path):
    """Any run with the key is drawn, whatever else it has logged, and only as far as it was logged."""
    rows: list[dict[str, float]] = []
    for k, share in enumerate((0.3, 0.5)):
        rows.append({"step": 100 * k, "query/target_share": share})
        rows.append({"step": 100 * k + 100, "train/q_loss": 1.0, "labels": 10.0 * (k + 1)})
    write_version(tmp_path / "target", 0, rows)
    panel = share_panel([read_metrics(tmp_path / "target")])
    assert panel is not None
    assert np.asarray(panel.table["labels"]).tolist() == [10, 20] and np.isnan(panel.table["share"]).all()
    assert np.asarray(panel.table["target"]) == pytest.approx([0.3, 0.5])
    seeds = [read_metrics(mixed_run(tmp_path / f"seed{k}", [0.2, 0.4])) for k in range(2)]
    del seeds[0]["query/target_share"]
    panel = share_panel(seeds)
    assert panel is not None
    axes = Figure().subplots()
    panel.draw(axes)
    assert axes.get_legend_handles_labels()[1] == ["asked (n = 2)", "wanted (n = 1)"]
    assert share_panel([read_metrics(asking_run(tmp_path / "pairs", [1.0]))]) is None


def test_a_mix_and_its_tables(tmp_path, capsys):
    mixed_run(tmp_path / "runs" / "adaptive" / "seed0", [0.5, 0.7, 0.9])
    mixed_run(tmp_path / "runs" / "fixed" / "seed0", [0.5, 0.5, 0.5], scores=False)
    out = tmp_path / "out" / "mix.png"
    main(["plot", str(tmp_path / "runs"), "--mix", "--out", str(out)])
    assert "mix.png" in capsys.readouterr().out and out.stat().st_size > 20_000
    adaptive = [f"mix-{name}-adaptive.csv" for name in ("labels", "share", "information", "information-normalised")]
    assert {file.name for file in out.parent.iterdir()} == {"mix.png", *adaptive, "mix-labels-fixed.csv", "mix-share-fixed.csv"}
    assert numbers(out.with_name("mix-information-adaptive.csv"), "pair") == pytest.approx([0.4, 0.2, 0.4 / 3])
    assert numbers(out.with_name("mix-information-normalised-adaptive.csv"), "pair") == pytest.approx([1, 0.5, 1 / 3])
    assert numbers(out.with_name("mix-information-normalised-adaptive.csv"), "rating") == pytest.approx([1, 1, 1])
    assert numbers(out.with_name("mix-share-adaptive.csv"), "share") == pytest.approx([0.5, 0.6, 0.7])


def test_counts_come_from_the_records_where_they_were_not_logged(tmp_path):
    recorded_run(tmp_path / "run")
    plot_mix(tmp_path / "run", tmp_path / "mix.png")
    assert numbers(tmp_path / "mix-labels.csv", "pair")[-1] == 6 and numbers(tmp_path / "mix-labels.csv", "rating")[-1] == 9
    assert not (tmp_path / "mix-share.csv").exists()


def test_nothing_was_mixed(tmp_path):
    write_policy_run(tmp_path / "run", [0.5])
    with pytest.raises(UserError, match="None of these runs has logged labels/pair or query/share_pair"):
        plot_mix(tmp_path / "run", tmp_path / "mix.png")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--feedback", "--x", "labels"], "--x belongs to --efficiency or --mix"),
        (["--mix", "--round", "2"], "--round belongs to --feedback"),
        (["--middle", "iqm"], "--middle belongs to --efficiency"),
        (["--mix", "--metric", "eval/return_mean"], "--metric belongs to learning curves and --efficiency"),
        (["--mix", "--feedback"], "not allowed with argument"),
    ],
)
def test_options_that_do_not_fit(tmp_path, options, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["plot", str(tmp_path), *options])
    assert stop.value.code == 2 and message in capsys.readouterr().err
