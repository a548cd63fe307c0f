"""Where questions lie beside where the policy goes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from run_folders import damaged_archives, write_version

from lightning_pbrl.cli import main
from lightning_pbrl.errors import UserError
from lightning_pbrl.reports.coverage import FILE, Coverage, plot_coverage, read_coverage, spread, write_coverage


def column(*values: float) -> np.ndarray:
    """States of which the second entry never changes."""
    return np.stack([np.array(values), np.full(len(values), 7.0)], 1).astype(np.float32)


def at(env_steps: int, asked: np.ndarray) -> Coverage:
    return Coverage(env_steps, column(-2, 2), column(0, 1, 3), asked)  # standard deviation 2


def test_distance_ratio_by_hand():
    # Visited states have nearest others at 1, 1 and 2, mean 4/3; the asked ones are 0 and 2 away, mean 1. The scale cancels.
    assert at(0, column(3, 5)).distance_ratio == pytest.approx(0.75)
    assert at(0, column(0, 1, 3)).distance_ratio == 0.0
    assert at(0, column(103.0)).distance_ratio == pytest.approx(75.0)


def test_each_entry_in_its_own_unit():
    stored = np.array([[-1.0, -10.0], [1.0, 10.0]])
    visited = np.array([[0.0, 0.0], [0.0, 10.0]])  # one standard deviation apart
    assert Coverage(0, stored, visited, np.array([[1.0, 0.0]])).distance_ratio == pytest.approx(1.0)


def test_a_policy_that_stands_still_has_no_ratio():
    assert math.isnan(Coverage(0, column(-1, 1), column(2, 2), column(3)).distance_ratio)


def test_written_and_read(tmp_path):
    rounds = [at(100, column(3, 5)), at(200, column(1))]
    write_coverage(tmp_path, rounds, "run")
    assert (tmp_path / "coverage.png").stat().st_size > 5_000
    found = read_coverage(tmp_path / FILE)
    assert [r.env_steps for r in found] == [100, 200]
    for mine, theirs in zip(rounds, found, strict=True):
        for kind in ("stored", "visited", "asked"):
            np.testing.assert_array_equal(getattr(mine, kind), getattr(theirs, kind))


def test_rounds_that_are_drawn():
    rounds = [at(i, column(1)) for i in range(9)]
    assert [r.env_steps for r in spread(rounds)] == [0, 3, 5, 8]
    assert [r.env_steps for r in spread(rounds[:2])] == [0, 1]


def test_a_damaged_file(tmp_path):
    (tmp_path / FILE).write_bytes(b"no")
    with pytest.raises(UserError, match=r"is damaged .* remove it"):
        read_coverage(tmp_path / FILE)
    write_coverage(tmp_path, [at(1, column(1))])
    for damaged in damaged_archives(tmp_path / FILE):
        (tmp_path / FILE).write_bytes(damaged)
        with pytest.raises(UserError, match=r"coverage\.npz is damaged \(.*\): remove it, a further fit writes it anew\.$"):
            read_coverage(tmp_path / FILE)


def test_plot_of_runs(tmp_path, capsys):
    for seed, rounds in ((0, 3), (1, 1)):
        folder = tmp_path / "run" / f"seed{seed}"
        write_version(folder, 0, [{"step": 1, "labels": 2}])
        write_coverage(folder, [at(i, column(1, 3)) for i in range(rounds)])
    main(["plot", str(tmp_path / "run"), "--coverage", "--out", str(tmp_path / "all.png")])
    assert (tmp_path / "all.png").stat().st_size > 10_000 and "all.png" in capsys.readouterr().out


def test_runs_without_one(tmp_path):
    with pytest.raises(UserError, match="run"):
        plot_coverage(tmp_path, tmp_path / "out.png")
