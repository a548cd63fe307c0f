"""Label folders of Uni-RLHF beside D4RL's data: rows as they count, people's and scripts' labels, pairs across an end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from d4rl_files import episodes, write_d4rl
from format_files import write_uni_rlhf

from lightning_pbrl.data.d4rl import read_d4rl
from lightning_pbrl.data.uni_rlhf import read_uni_rlhf, row_ids
from lightning_pbrl.datamodules.d4rl import D4RLDataModule
from lightning_pbrl.datamodules.uni_rlhf import UniRLHFDataModule
from lightning_pbrl.errors import UserError

# Rows 0-5 end in a timeout, 6-9 in a terminal, 10-15 in a timeout: D4RL's loader counts 0-4, 5-8, 9-13.
ENDS, LENGTHS = ["timeout", "terminal", "timeout"], [6, 4, 6]


def data(folder: Path) -> D4RLDataModule:
    """The data set, as a module without a simulator."""
    path = write_d4rl(folder / "hopper_medium-v2.hdf5", episodes(ENDS, LENGTHS))
    return D4RLDataModule(str(path), cache_dir=None)


def test_labels_of_people_become_labels_of_the_data(tmp_path: Path):
    folder = write_uni_rlhf(tmp_path / "hopper-medium-v2_human_labels", [0, 1, -1], [0, 5, 1], [9, 1, 10], 3)
    module = UniRLHFDataModule(str(folder), data(tmp_path))
    module.setup("fit")
    assert module.labels is not None and module.segment_length == 3
    assert module.labels.start.tolist() == [[0, 10], [6, 1], [1, 11]]
    assert module.labels.value.tolist() == [0, 1, 0.5]
    assert module.source is module.data.source and module.source.drawable is None
    assert sorted(file.suffix for file in module.files()) == [".hdf5", ".pkl", ".pkl", ".pkl"]


def test_scripted_labels_and_folds(tmp_path: Path):
    share = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0], [0.0, 1.0]])
    rows = [np.array([0, 1, 2, 5], np.int32), np.array([9, 9, 9, 9], np.int32)]
    folder = write_uni_rlhf(tmp_path / "l", share, *rows, 3, "fake")
    module = UniRLHFDataModule(str(folder), data(tmp_path), fold=1, folds=4)
    module.setup("fit")
    assert module.labels is not None and module.held_out_labels is not None
    both = [*module.labels.value.tolist(), *module.held_out_labels.value.tolist()]
    assert len(module.held_out_labels) == 1 and sorted(both) == [0, 0.5, 1, 1]


def test_pairs_across_an_end_are_refused_or_left_out(tmp_path: Path):
    folder = write_uni_rlhf(tmp_path / "l", [0, 1, 1], [0, 4, 1], [9, 9, 9], 3)  # the second begins 2 rows before an end
    with pytest.raises(UserError, match="answer 1"):
        UniRLHFDataModule(str(folder), data(tmp_path)).setup("fit")
    module = UniRLHFDataModule(str(folder), data(tmp_path), crossing="leave_out")
    with pytest.warns(UserWarning, match="1 of 3 pairs"):
        module.setup("fit")
    assert module.labels is not None and module.labels.start[:, 0].tolist() == [0, 1]


def test_a_step_at_a_timeout_counts_nowhere_even_at_the_goal(tmp_path: Path):
    columns = episodes(["timeout", "timeout"], [4, 3])
    columns["terminals"][[1, 3]] = True  # at the goal in the middle, and at the time limit
    path = write_d4rl(tmp_path / "a.hdf5", columns, without=["next_observations"])
    source = read_d4rl(path, "goal")
    assert source.column("obs")[row_ids(source), 0].tolist() == [0, 1, 2, 100, 101]


def test_a_row_beyond_the_data_is_refused(tmp_path: Path):
    folder = write_uni_rlhf(tmp_path / "l", [0], [0], [14], 3)
    with pytest.raises(UserError, match="has row 14 for pair 0 and the data have 14"):
        read_uni_rlhf(folder, data(tmp_path).load())
