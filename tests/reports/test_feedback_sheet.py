"""What a run keeps of its feedback, and the pictures of it: the numbers of every table."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from feedback_runs import NAN, both_kinds, floats, pairs, ratings, recorded_run, sample, steps
from matplotlib.figure import Figure
from run_folders import damaged_archives, write_policy_run

from lightning_pbrl.callbacks.feedback_diagnostics import opinion
from lightning_pbrl.cli import main
from lightning_pbrl.data.kinds import of
from lightning_pbrl.errors import UserError
from lightning_pbrl.reports import answer_panels, question_panels, return_panels
from lightning_pbrl.reports.feedback_numbers import correlation_by_bin, line
from lightning_pbrl.reports.feedback_record import FILE, NO_QUESTIONS, Questions, Record, Sample, read_records, write_records
from lightning_pbrl.reports.feedback_sheet import panels_of, plot_feedback, write_sheet
from lightning_pbrl.reports.metrics import read_metrics
from lightning_pbrl.reports.panels import Panel, write_table


def record(number: int, found: Sample, asked: Questions = NO_QUESTIONS) -> Record:
    return Record(number, 10 * number, 0, 0, 0, NAN, found, asked)


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as lines:
        return list(csv.DictReader(lines))


def table(panel: Panel | None) -> dict[str, list[float]]:
    assert panel is not None
    return {name: np.asarray(column).tolist() for name, column in panel.table.items()}


def test_written_and_read(tmp_path):
    records = [both_kinds(2), record(3, sample(clips=2)), record(7, sample(seed=4), pairs([(0, 1)], [(2, 3)], [0.5]))]
    write_records(tmp_path, records)
    assert [file.name for file in tmp_path.iterdir()] == [FILE]
    found = read_records(tmp_path / FILE)
    assert [len(r.questions) for r in found] == [5, 0, 1] and [len(r.sample.true) for r in found] == [40, 2, 40]
    assert [len(r.steps.true) for r in found] == [100, 0, 0]
    for mine, theirs in zip(records, found, strict=True):
        assert mine[:5] == theirs[:5]
        for part, other in zip(mine[6:9], theirs[6:9], strict=True):  # sample, questions and steps
            for name in part._fields:
                np.testing.assert_array_equal(getattr(part, name), getattr(other, name))
    with np.load(tmp_path / FILE, allow_pickle=False) as file:  # plain tables that can be read alone
        assert file["question_round"].tolist() == [2] * 5 + [7] and len(file["clip_round"]) == 2 * len(file["pair_round"]) == 82


def test_a_damaged_file(tmp_path):
    (tmp_path / FILE).write_bytes(b"no")
    with pytest.raises(UserError, match=r"feedback.npz is damaged .* remove it"):
        read_records(tmp_path / FILE)
    write_records(tmp_path, [both_kinds(0)])
    with np.load(tmp_path / FILE) as file:
        arrays = dict(file)
    np.savez(tmp_path / FILE, **{**arrays, "clip_true": arrays["clip_true"][:3]})
    with pytest.raises(UserError, match="clip_true and clip_round differ in length"):
        read_records(tmp_path / FILE)
    for damaged in damaged_archives(tmp_path / FILE):
        (tmp_path / FILE).write_bytes(damaged)
        with pytest.raises(UserError, match=r"feedback\.npz is damaged \(.*\): remove it, a further fit writes it anew\.$"):
            read_records(tmp_path / FILE)


def test_a_file_from_before_a_column_was_kept(tmp_path):
    """What an older version has written is read, with NaN for what it did not know."""
    write_records(tmp_path, [both_kinds(0), both_kinds(2)])
    later = {"question_rating", "question_lead", "others", "clip_rating_score", "step_round", "step_true", "step_learned"}
    with np.load(tmp_path / FILE) as file:
        old = {name: file[name] for name in file.files if name not in later}
        assert later <= set(file.files)
    old["question_kind"] = (old["question_kind"] == "rating").astype(np.int64)  # kinds were numbers
    np.savez(tmp_path / FILE, **old)
    for mine, theirs in zip([both_kinds(0), both_kinds(2)], read_records(tmp_path / FILE), strict=True):
        assert np.isnan(theirs.questions.rating).tolist() == [True] * 5 and len(theirs.steps.true) == 0
        assert np.isnan(theirs.sample.rating_score).tolist() == [True] * 40
        assert np.isnan(theirs.questions.lead).all() and theirs.others == 0 and theirs.answers == mine.answers
        assert theirs.questions.kind.tolist() == mine.questions.kind.tolist() == ["pair"] * 2 + ["rating"] * 3
        np.testing.assert_array_equal(mine.questions.score, theirs.questions.score)
        np.testing.assert_array_equal(mine.sample.probability, theirs.sample.probability)
    write_records(tmp_path, read_records(tmp_path / FILE))  # and a resumed run goes on with it
    assert len(read_records(tmp_path / FILE)) == 2
    np.savez(tmp_path / FILE, **{name: column for name, column in old.items() if name != "question_value"})
    with pytest.raises(UserError, match=r"feedback\.npz is damaged"):
        read_records(tmp_path / FILE)


def test_returns_and_bins_are_those_of_the_sample():
    found = sample()
    scatter = return_panels.returns_scatter(record(0, found))
    assert table(scatter)["true"] == found.true.tolist() and sum(table(scatter)["new"]) == 10
    bins = table(return_panels.binned_correlation(record(0, found)))
    expected = correlation_by_bin(found.true, found.predicted)
    assert bins["size"] == expected.size.tolist() and sum(bins["size"]) == 40
    counts = table(return_panels.true_histogram(record(0, found)))
    assert sum(counts["past_clips"]) == 30 and sum(counts["new_clips"]) == 10
    assert counts["low"][0] == found.true.min() and counts["high"][-1] == found.true.max()


def test_single_steps():
    some = steps(60)
    panel = return_panels.steps_scatter(record(0, sample())._replace(steps=some, pearson_step=0.876))
    assert table(panel) == {"true": some.true.tolist(), "learned": some.learned.tolist()}
    axes = Figure().subplots()
    panel.draw(axes)
    assert axes.get_title() == "single steps: r = 0.876"
    assert axes.get_legend_handles_labels()[1] == ["steps (n = 60)", f"fit, slope {line(*some)[0]:.3g}"]
    assert return_panels.steps_scatter(record(0, sample())) is None  # a reward that looks back
    assert return_panels.steps_scatter(record(0, sample())._replace(steps=steps(known=False))) is None


def test_episodes_are_joined_by_what_was_known(tmp_path):
    metrics = read_metrics(recorded_run(tmp_path, 4))
    assert table(return_panels.episode_returns(metrics)) == {
        "env_steps": [50, 100, 150, 200],
        "true": [1, 4, 9, 16],
        "learned": [3, 9, 19, 33],
    }
    r = table(return_panels.episode_correlation(metrics))["r"]
    assert np.isnan(r[:2]).all() and r[2:] == pytest.approx([1.0, 1.0])
    assert return_panels.episode_returns({}) is None


def test_scores_of_the_last_questions():
    records = [record(0, sample(2), pairs([(0, 9)], [(0, 1)], [1.0])) for _ in range(40)]
    records[-1] = record(1, sample(4), pairs([(1, 3), (2, 2)], [(0, 1), (0, 0)], [1.0, 0.5]))
    found = table(question_panels.score_against_gap([*records, record(2, sample())]))
    assert found["asked"] == [0] * 30 + [1] * 30  # 29 rounds of one question, then one of two, and their samples
    assert found["gap"][-3:] == [9, 2, 0] and found["score"][-2:] == pytest.approx([0.0, 0.1])
    counts = table(question_panels.pair_scores(records))
    assert sum(counts["random_pairs"]) == 30 and sum(counts["asked"]) == 30
    assert question_panels.rating_scores(records) is None and question_panels.rated_returns(records) is None


@pytest.mark.parametrize("in_bits", [False, True])
def test_scores_of_ratings_are_compared_in_their_unit(in_bits):
    found = sample(in_bits=in_bits)
    asked = ratings([1, 2], [1.0, 2.0], [3.0, 4.0]).but(score=floats(50.0, 60.0))
    panel = question_panels.rating_scores([record(0, found, asked)])
    low, high = table(panel)["low"][0], table(panel)["high"][-1]
    random = np.arange(40) if in_bits else found.spread
    assert (low, high) == pytest.approx((random.min(), 60.0)) and sum(table(panel)["random_clips"]) == 40
    axes = Figure().subplots()
    panel.draw(axes)
    assert axes.get_xlabel() == ("information of the answer (bits)" if in_bits else "spread of the predicted return")


def test_pairs_on_a_map():
    asked = pairs([(0, 12), (0, 12), (6, 1)], [(0, 0)] * 3, [1.0, 1.0, 0.0])
    found = table(question_panels.pair_heat_map([record(0, sample(), asked)]))
    filled = [(a, b, n) for a, b, n in zip(found["first_low"], found["second_low"], found["count"], strict=True) if n]
    assert filled == [(0, 11, 2), (6, 1, 1)]  # twelve bins of width one over the data's own range


def test_ratings():
    asked = ratings([0, 10, 20, 30, 40], [0.0, 1.0, 2.0, 3.0, 9.0], [1.0, 3.0, 5.0, 7.0, NAN])  # the last was skipped
    records = [record(0, sample(), asked)]
    # A scale in steps of two. Predicted is 1 + 2 x: what was given.
    assert table(question_panels.rating_histogram(records)) == {
        "low": [0, 2, 4, 6],
        "high": [2, 4, 6, 8],
        "given": [1, 1, 1, 1],
        "predicted": [1, 1, 1, 1],
    }
    assert table(question_panels.ratings_against_returns(records)) == {"return": [0, 10, 20, 30], "rating": [1, 3, 5, 7]}


def test_edges_of_ratings():
    assert question_panels.level_edges(floats(1, 2, 4)).tolist() == [0.5, 1.5, 2.5, 3.5, 4.5]
    assert question_panels.level_edges(floats(3, 3)).tolist() == [2.5, 3.5]
    assert len(question_panels.level_edges(floats(0, 0.7, 1.0))) == 21  # no even scale


def test_calibration_of_asked_and_of_random_pairs():
    likely = np.log(3.0)  # P(second) = 3/4 for all four, right in three
    asked = pairs([(0, 1)] * 4, [(0, likely)] * 4, [1.0, 1.0, 1.0, 0.0])
    equal = asked.take(np.arange(1)).but(status=np.array([2]), value=floats(0.5))  # says nothing of calibration
    found = Sample(
        true=floats(0, 1, 1, 0, 3, 3),
        predicted=np.zeros(6),
        spread=np.zeros(6),
        new=np.zeros(6, bool),
        rating_score=np.zeros(6),
        probability=floats(0.95, 0.95, 0.5),
        score=np.zeros(3),
    )
    panel = answer_panels.calibration([record(0, found, Questions.join([asked, equal]))])
    rows = list(zip(*table(panel).values(), strict=True))
    (mine,) = [row for row in rows if row[0] == "asked pairs" and row[3]]
    assert mine[1:] == pytest.approx((0.7, 0.8, 4, 0.75, 0.75, 0.0), abs=1e-6)
    (random,) = [row for row in rows if row[0] == "random pairs" and row[3]]
    assert random[1:] == pytest.approx((0.9, 1.0, 2, 0.95, 0.5, 0.45), abs=1e-6)  # the tie is left out


def choices(kind: str, predicted: list[list[float]], value: list[float], **columns: np.ndarray) -> Questions:
    """Answered questions of a kind, of which only the predictions are known."""
    returns, given = np.array(predicted, np.float32), torch.tensor(value)
    asked = pairs([(NAN, NAN)] * len(value), [(0, 0)] * len(value), value).but(kind=np.full(len(value), kind))
    lead = of(kind).lead(torch.from_numpy(returns), given).numpy()
    likely = opinion(returns[None])[0].astype(np.float32)
    true = np.full(returns.shape, NAN, np.float32)
    return asked.but(predicted=returns, true=true, probability=likely, lead=lead).but(**columns)


def test_answers_that_were_foreseen():
    """By kind: of pairs on either side, of graded ones whatever their strength, of three clips by the first of the model."""
    first = Questions.join(
        [
            choices("pair", [[0, 1], [0, 1], [2, 2]], [1.0, 0.0, 1.0]),  # a tie is not foreseen
            choices("graded", [[0, 1], [3, 1], [0, 1]], [0.75, 0.0, 0.5]),  # equal says nothing
            choices("best", [[0, 1, 2], [5, 1, 2], [0, 1, 2], [0, 9, 2]], [2.0, 0.0, 1.0, 1.0]),
            choices("pair:calm", [[0, 1], [1, 0]], [0.0, 0.0]),
        ]
    )
    second = choices("best", [[0, 1, 2, 3]], [0.0])  # a question about four
    assert first.true.shape == (12, 3) and first.of("pair").true.shape == (3, 2) and first.of("best").true.shape == (4, 3)
    records = [record(0, sample(), first), record(1, sample(), second)._replace(pairs=3, others=9)]
    panel = answer_panels.agreement(records)
    assert table(panel)["kind"] == ["asked pairs", "best of several", "best of several", "graded pairs", "asked pairs, calm"]
    assert table(panel)["learned"] == [0, 0, 12, 0, 0] and table(panel)["count"] == [3, 4, 5, 2, 2]
    assert table(panel)["share"] == pytest.approx([1 / 3, 3 / 4, 3 / 5, 1.0, 1 / 2])
    assert table(panel)["chance"] == pytest.approx([1 / 2, 1 / 3, (4 / 3 + 1 / 4) / 5, 1 / 2, 1 / 2])
    axes = Figure().subplots()
    panel.draw(axes)
    assert axes.get_legend_handles_labels()[1][1] == "best of several (60% of 5)"
    ranks = answer_panels.chosen_ranks(records)
    assert table(ranks)["count"] == [3, 1, 0, 1] and table(ranks)["chance"] == pytest.approx([19 / 60, 19 / 60, 19 / 60, 1 / 20])
    assert answer_panels.chosen_ranks([record(0, sample(), pairs([(0, 1)], [(0, 1)], [1.0]))]) is None


def test_the_latest_thirty_answers_are_shown():
    """Ten right ones a round, from the third round on ten wrong ones."""
    asked = [choices("pair", [[0, 1]] * 10, [1.0 if k < 3 else 0.0] * 10) for k in range(6)]
    shares = table(answer_panels.agreement([record(k, sample(2), each) for k, each in enumerate(asked)]))["share"]
    assert shares == pytest.approx([1, 1, 1, 2 / 3, 1 / 3, 0])


def test_graded_answers_and_the_predicted_difference():
    asked = choices("graded", [[0, 4], [0, 1], [2, 1], [3, 3]], [1.0, 0.75, 0.25, 0.5])
    skipped = choices("graded", [[0, 9]], [NAN])
    panel = answer_panels.graded_gaps([record(0, sample(), Questions.join([asked, skipped]))])
    assert table(panel)["answer"] == [1.0, 0.75, 0.25, 0.5] and table(panel)["predicted_gap"] == [4, 1, -1, 0]
    axes = Figure().subplots()
    panel.draw(axes)
    assert axes.get_title() == "4 graded pairs, with means"


def test_calibration_of_the_best_of_several_and_of_corrections():
    three = [[0.0, 0.0, np.log(2.0)]] * 4  # the third is chosen with probability 1/2, and was in three of four
    best = choices("best", three, [2.0, 2.0, 2.0, 0.0])
    status = np.array([1, 3, 3, 3])  # one was corrected, in three cases nothing was to be corrected
    given = choices("pair", [[0.0, np.log(3.0)]] * 4, [1.0, NAN, NAN, NAN], status=status)
    given = given.but(kind=np.full(4, "correction"))
    graded = choices("graded", [[0.0, np.log(9.0)]] * 2, [0.75, 1.0])
    unknown = sample(2, known=False)
    panel = answer_panels.calibration([record(0, unknown, Questions.join([best, given, graded]))])
    rows = {row[0]: row[3:] for row in zip(*table(panel).values(), strict=True) if row[3]}
    assert rows["best of several"] == pytest.approx((4, 0.5, 0.75, 0.25), abs=1e-6)
    assert rows["corrections"] == pytest.approx((4, 0.75, 0.25, 0.5), abs=1e-6)
    assert rows["graded pairs"] == pytest.approx((2, 0.9, 1.0, 0.1), abs=1e-6)


def test_returns_of_several_clips_are_written_and_read(tmp_path):
    asked = [choices("best", [[0, 1, 2]], [2.0]), choices("pair", [[0, 1]], [1.0]), NO_QUESTIONS]
    write_records(tmp_path, [record(k, sample(), each)._replace(others=k) for k, each in enumerate(asked)])
    found = read_records(tmp_path / FILE)
    assert [each.others for each in found] == [0, 1, 2] and found[1].questions.kind.tolist() == ["pair"]
    assert found[0].questions.predicted.tolist() == [[0, 1, 2]] and found[1].questions.of("pair").predicted.tolist() == [[0, 1]]


ALL = {
    "returns",
    "steps",
    "true-histogram",
    "predicted-histogram",
    "correlation-by-bin",
    "episodes",
    "episode-correlation",
    "agreement",
    "calibration",
    "pair-scores",
    "score-against-gap",
    "pair-returns",
    "rating-scores",
    "rated-returns",
    "ratings",
    "ratings-against-returns",
}


def test_a_sheet_and_its_tables(tmp_path, capsys):
    recorded_run(tmp_path / "run" / "seed0")
    out = tmp_path / "out" / "sheet.png"
    main(["plot", str(tmp_path / "run"), "--feedback", "--out", str(out)])
    assert "sheet.png" in capsys.readouterr().out
    assert {file.name for file in out.parent.iterdir()} == {"sheet.png", *(f"sheet-{name}.csv" for name in ALL)}
    assert out.stat().st_size > 50_000
    bins = read_table(out.with_name("sheet-correlation-by-bin.csv"))
    assert list(bins[0]) == ["low", "high", "size", "r"] and sum(int(row["size"]) for row in bins) == 40
    heat = read_table(out.with_name("sheet-pair-returns.csv"))
    assert sum(int(row["count"]) for row in heat) == 6  # two pairs in each of three rounds


def test_without_true_rewards(tmp_path):
    (out,) = plot_feedback(recorded_run(tmp_path / "run", known=False, learned_returns=False), tmp_path / "sheet.png")
    names = {file.stem.removeprefix("sheet-") for file in tmp_path.glob("sheet-*.csv")}
    unknown = {"returns", "steps", "true-histogram", "correlation-by-bin", "episodes", "episode-correlation"}
    assert names == ALL - unknown - {"score-against-gap", "rated-returns"}
    rows = read_table(tmp_path / "sheet-ratings-against-returns.csv")
    assert [float(row["return"]) for row in rows[:3]] == pytest.approx([0.1, 0.2, 0.3])  # predicted ones
    assert {row["pairs"] for row in read_table(tmp_path / "sheet-calibration.csv")} == {"asked pairs"}
    assert out.stat().st_size > 20_000


def test_as_of_a_round(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_pbrl.reports.feedback_sheet.draw_sheet", lambda panels, out, *rest: Path(out))
    recorded_run(tmp_path / "run")
    plot_feedback(tmp_path / "run", tmp_path / "a.png", round_number=1)
    heat = read_table(tmp_path / "a-pair-returns.csv")
    assert sum(int(row["count"]) for row in heat) == 4 and not (tmp_path / "a-episodes.csv").exists()
    scatter = read_table(tmp_path / "a-returns.csv")
    assert float(scatter[0]["true"]) == pytest.approx(float(both_kinds(1).sample.true[0]))
    with pytest.raises(UserError, match=r"no record up to round -1: its first is of round 0"):
        plot_feedback(tmp_path / "run", tmp_path / "b.png", round_number=-1)


def test_several_runs_get_a_sheet_each(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_pbrl.reports.feedback_sheet.draw_sheet", lambda panels, out, *rest: Path(out))
    for seed in (0, 1):
        recorded_run(tmp_path / "runs" / "bald" / f"seed{seed}")
    made = plot_feedback(tmp_path / "runs", tmp_path / "x.png")
    assert [path.name for path in made] == ["x-bald-seed0.png", "x-bald-seed1.png"]
    assert (tmp_path / "x-bald-seed1-ratings.csv").is_file()


def test_a_model_alone_has_no_scores():
    alone = record(0, sample(members=1), pairs([(0, 1)], [(0, 1)], [1.0]).but(score=floats(NAN)))
    names = {panel.name for panel in panels_of([alone], {})}
    assert "returns" in names and not names & {"pair-scores", "score-against-gap"}


@pytest.mark.parametrize("value", [0.0, 7e6, NAN])
def test_a_model_that_says_nothing(tmp_path, monkeypatch, value):
    """Constant, or diverged: the sheet is drawn all the same."""
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **kwargs: None)
    silent = sample()._replace(predicted=np.full(40, value, np.float32), spread=np.full(40, value, np.float32))
    asked = Questions.join([pairs([(0, 1)], [(value, value)], [1.0]), ratings([1, 1], [value, value], [4.0, 4.0])])
    names = {panel.name for panel in write_sheet([record(0, silent, asked)], {}, tmp_path / "sheet.png")}
    assert {"returns", "true-histogram", "ratings-against-returns"} <= names
    assert ("predicted-histogram" in names) == np.isfinite(value)


def test_runs_without_records(tmp_path):
    write_policy_run(tmp_path / "run", [0.5])
    with pytest.raises(UserError, match=r"None of these runs has a feedback.npz: .*feedback.clips"):
        plot_feedback(tmp_path / "run", tmp_path / "x.png")


def test_unknown_numbers_are_empty_cells(tmp_path):
    write_table({"a": np.array([1.0, NAN]), "b": ["x", "y"]}, tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text().split() == ["a,b", "1.0,x", ",y"]
