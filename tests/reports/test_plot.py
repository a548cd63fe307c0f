"""Learning curves."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure
from run_folders import write_policy_run, write_version

from lightning_pbrl.cli import main
from lightning_pbrl.errors import UserError
from lightning_pbrl.reports.metrics import Series, read_metrics
from lightning_pbrl.reports.plot import aligned, learning_curve, new_figure, plot, save_figure


@pytest.fixture
def figures(monkeypatch):
    """The figures that were saved, beside the files."""
    seen = []
    save = Figure.savefig

    def spy(self, *args, **kwargs):
        seen.append(self)
        return save(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", spy)
    return seen


def test_curves_are_aligned_where_all_have_values():
    early = Series(np.array([0.0, 100.0, 200.0]), np.array([0.0, 1.0, 2.0]))
    late = Series(np.array([50.0, 150.0, 300.0]), np.array([5.0, 6.0, 9.0]))
    x, values = aligned([early, late])
    assert x.tolist() == [50, 100, 150, 200]
    assert values.tolist() == [[0.5, 1.0, 1.5, 2.0], [5.0, 5.5, 6.0, 7.0]]


def test_a_line_is_the_mean_over_seeds_and_its_shade_the_interval(tmp_path, figures):
    write_policy_run(tmp_path / "demo" / "learned" / "seed0", [0.0, 0.4, 0.8])
    write_policy_run(tmp_path / "demo" / "learned" / "seed1", [0.2, 0.6, 0.8])
    write_policy_run(tmp_path / "demo" / "bc" / "seed0", [0.1, 0.1])
    out = plot(tmp_path / "demo", tmp_path / "figures" / "plot.png")
    assert out.read_bytes().startswith(b"\x89PNG")
    tables = ("plot-eval-return-mean.csv", "plot-eval-success-rate.csv")
    assert {file.name for file in out.parent.iterdir()} == {"plot.png", *tables}
    success, returns = figures[0].axes
    assert success.get_xlabel() == "gradient updates"
    assert (success.get_ylabel(), returns.get_ylabel()) == (
        "success (fraction of episodes)",
        "return (environment reward)",
    )
    bc, learned = success.lines
    assert bc.get_label() == "bc (n = 1)"
    assert learned.get_label() == "learned (n = 2)"
    assert learned.get_xdata().tolist() == [100, 200, 300]
    assert learned.get_ydata() == pytest.approx([0.1, 0.5, 0.8])
    (shade,) = success.collections  # one seed has none
    at_100 = [y for x, y in shade.get_paths()[0].vertices if x == 100]
    assert (min(at_100), max(at_100)) == pytest.approx((0.0, 0.2))


def test_the_numbers_behind_the_lines(tmp_path):
    write_policy_run(tmp_path / "demo" / "learned" / "seed0", [0.0, 0.4, 0.8])
    write_policy_run(tmp_path / "demo" / "learned" / "seed1", [0.2, 0.6, 0.8])
    write_policy_run(tmp_path / "demo" / "bc" / "seed0", [0.1])
    plot(tmp_path / "demo", tmp_path / "plot.svg", "eval/success_rate")
    assert (tmp_path / "plot-eval-success-rate.csv").read_text().splitlines() == [
        "group,seeds,x_is,x,mean,low,high",
        "bc,1,step,100.0,0.1,,",
        "learned,2,step,100.0,0.1,0.0,0.2",
        "learned,2,step,200.0,0.5,0.4,0.6",
        "learned,2,step,300.0,0.8,0.8,0.8",
    ]


def test_a_metric_that_no_evaluation_measures(tmp_path, capsys):
    """It is drawn, and its last value makes the table: of the metric that was asked for, not of one with the same last part."""
    for seed in (0, 1):
        rows = [{"step": 100.0 * k, "train/q_loss": 1.0, "train/return_mean": 7.0 * k + seed} for k in (1, 2)]
        rows += [{"step": 200.0, "eval/return_mean": 900.0}, {"step": 0.0, "reward/pearson_step": 0.25}]
        write_version(tmp_path / "demo" / "learned" / f"seed{seed}", 0, rows)
    for name, value in (("train/return_mean", "14.5"), ("reward/pearson_step", "0.250")):
        main(["plot", str(tmp_path / "demo"), "--metric", name, f"--out={tmp_path}/plot.png"])
        printed = capsys.readouterr().out
        assert f"Last logged values of {name} over seeds" in " ".join(printed.split())
        assert value in printed and "900" not in printed
    main(["plot", str(tmp_path / "demo"), "--metric", "eval/return_mean", f"--out={tmp_path}/plot.png"])
    printed = capsys.readouterr().out
    assert "900.0" in printed and "Final figures over seeds" in printed and "14.5" not in printed


def test_what_is_drawn_by_itself_has_a_table(tmp_path, capsys):
    write_version(tmp_path / "run", 0, [{"step": 0, "teacher/clear_ratio": 0.75}, {"step": 10, "train/q_loss": 1.0}])
    main(["plot", str(tmp_path / "run"), f"--out={tmp_path}/plot.png"])
    assert "0.750" in capsys.readouterr().out
    write_version(tmp_path / "count", 0, [{"step": 10, "train/q_loss": 1.0, "labels": 30}])
    main(["plot", str(tmp_path / "count"), "--metric", "labels", f"--out={tmp_path}/plot.png"])
    assert "Last logged values of labels" in " ".join(capsys.readouterr().out.split())


def test_replicas_count_as_seeds(tmp_path, figures):
    rows = [{"step": 100, "train/q_loss": 1.0}]
    for step in (100, 200):
        row = {
            "step": step,
            "eval/return_mean": 2.0,
            "eval/return_mean/replica_0": 1.0,
            "eval/return_mean/replica_1": 3.0,
        }
        rows.append(row)
    write_version(tmp_path / "run", 0, rows)
    plot(tmp_path / "run", tmp_path / "plot.png", "eval/return_mean")
    (axes,) = figures[0].axes
    assert axes.lines[0].get_label() == "run (n = 2)"
    assert axes.lines[0].get_ydata().tolist() == [2.0, 2.0]


def test_reward_models_are_drawn_against_labels(tmp_path, figures):
    rows = []
    for k in (1, 2):
        rows.append({"step": 50.0 * (k - 1), "teacher/clear_ratio": 0.5})
        rows.append({"step": 50.0 * k, "labels": 20.0 * k, "train/members_loss": 1.0})
        rows.append({"step": 50.0 * k, "pref/accuracy": 0.4 * k})
    write_version(tmp_path, 0, rows)
    assert learning_curve(read_metrics(tmp_path), tmp_path / "curve.png") == tmp_path / "curve.png"
    accuracy, clear = figures[0].axes
    assert accuracy.get_xlabel() == clear.get_xlabel() == "labels (questions asked)"
    assert accuracy.lines[0].get_xdata().tolist() == clear.lines[0].get_xdata().tolist() == [20, 40]
    assert accuracy.get_ylim() == pytest.approx((-0.03, 1.03))


def test_nothing_to_draw(tmp_path):
    assert learning_curve({}, tmp_path / "curve.png") is None
    write_version(tmp_path / "run", 0, [{"step": 1, "train/q_loss": 1.0}])
    with pytest.raises(UserError, match="None of these runs has been evaluated yet"):
        plot(tmp_path / "run", tmp_path / "plot.png")
    with pytest.raises(UserError, match=r"No run has logged the metric 'train/q_los': did you mean train/q_loss\?"):
        plot(tmp_path / "run", tmp_path / "plot.png", "train/q_los")


def test_a_figure_that_cannot_be_written(tmp_path):
    write_policy_run(tmp_path / "run", [0.5])
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"plot\.png cannot be written"):
        plot(tmp_path / "run", tmp_path / "file" / "plot.png")
    with pytest.raises(UserError, match=r"plot\.doc cannot be drawn: Format 'doc' is not supported"):
        plot(tmp_path / "run", tmp_path / "plot.doc")


def test_the_name_of_a_run_is_no_formula(tmp_path):
    figure, (panel,) = new_figure(1)
    panel.plot([1, 2], label="cost$x_{$")
    panel.legend()
    assert save_figure(figure, tmp_path / "a$b_{$.png", "100$ and $x_{").stat().st_size > 1000
