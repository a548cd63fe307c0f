"""imitation's preference sets: rows and answers against a slow loop, code that stays closed, and what is refused."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from format_files import imitation_fragment as fragment
from format_files import write_imitation_preferences

from lightning_pbrl.data.feedback import Status
from lightning_pbrl.data.formats import format_of, read_format
from lightning_pbrl.data.imitation_preferences import read_imitation_preferences, recognises
from lightning_pbrl.datamodules.preference_npz import PreferenceNPZDataModule
from lightning_pbrl.errors import UserError

PAIRS = [(fragment(3, 100 * pair), fragment(3, 100 * pair + 50, terminal=pair == 1)) for pair in range(4)]
FIRST = [1.0, 0.0, 0.5, 1.0]
"""P(first preferred), as imitation stores it."""


def saved(folder: Path, pairs: Any = PAIRS, preferences: Any = FIRST) -> Path:
    return write_imitation_preferences(folder / "preferences.pkl", pairs, preferences)


def test_rows_and_answers_are_those_of_a_slow_loop(tmp_path: Path):
    source, labels = read_imitation_preferences(saved(tmp_path))
    at = 0
    for number, pair in enumerate(PAIRS):
        assert labels.start[number].tolist() == [at, at + 3] and float(labels.value[number]) == 1 - FIRST[number]
        for each in pair:
            for step in range(3):
                assert source.column("obs")[at].tolist() == each["obs"][step].tolist()
                assert source.column("next_obs")[at].tolist() == each["obs"][step + 1].tolist()
                assert source.column("action")[at].numpy() == pytest.approx(each["acts"][step], abs=2e-5)
                assert float(source.reward[at]) == each["rews"][step]
                assert bool(source.column("truncated")[at]) == (step == 2)
                at += 1
    assert at == len(source) and source.drawable is None and not source.column("terminated").any()
    assert labels.status.tolist() == [Status.ANSWERED, Status.ANSWERED, Status.EQUAL, Status.ANSWERED]


def test_undecided_pairs_and_capacity(tmp_path: Path):
    path = saved(tmp_path)
    assert read_imitation_preferences(path, undecided="skip")[1].status.tolist() == [1, 1, 3, 1]
    source, labels = read_imitation_preferences(path, undecided="drop")
    assert labels.value.tolist() == [0, 1, 0] and len(source) == 18
    assert read_imitation_preferences(path, capacity=2)[1].value.tolist() == [0, 1]
    with pytest.raises(UserError, match="has 4 pairs and capacity is 5"):
        read_imitation_preferences(path, capacity=5)


def test_a_module_and_data_show_open_it(tmp_path: Path):
    path = saved(tmp_path)
    module = PreferenceNPZDataModule(str(path), fold=0, folds=4, undecided="skip")
    module.setup("fit")
    assert module.segment_length == 3 and module.labels is not None and len(module.labels) == 3
    with pytest.raises(UserError, match="leave obs_keys null"):
        PreferenceNPZDataModule(str(path), obs_keys=["a"]).setup("fit")
    assert format_of(path) == "imitation_preferences" and len(read_format(path, "imitation_preferences")) == 24
    assert not recognises(tmp_path) and not recognises(tmp_path / "none.pkl")


class Harmful:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.folder,)


def test_what_a_file_asks_for_is_never_run(tmp_path: Path):
    infos = np.array([{"call": Harmful(tmp_path / "made")}] * 3)
    pairs = [(fragment(3, 0, infos=infos), fragment(3, 50))]
    path = saved(tmp_path, pairs, [1.0])
    assert read_imitation_preferences(path)[0].column("obs")[0].tolist() == [0, 0.5]
    for part, said in (("obs", "no array of numbers in 'obs'"), ("rews", "no array of numbers in 'rews'")):
        pairs = [(fragment(3, 0, **{part: Harmful(tmp_path / "made")}), fragment(3, 50))]
        with pytest.raises(UserError, match=said):
            read_imitation_preferences(saved(tmp_path, pairs, [1.0]))
    assert not (tmp_path / "made").exists()
    pickle.loads(pickle.dumps(Harmful(tmp_path / "made")))
    assert (tmp_path / "made").exists()  # it would have been


@pytest.mark.parametrize(
    ("pairs", "preferences", "said"),
    [
        (PAIRS, [1.0, 0.0, 0.3, 1.0], "first of pair 2 with probability 0.3"),
        (PAIRS, [1.0, 0.0], "4 and 4 fragments and 2 preferences"),
        ([], [], "holds no pairs of fragments"),
        ([*PAIRS[:1], (fragment(4, 0), fragment(4, 9))], [1, 0], r"'obs' of pair 1 is not \(4, 2\)"),
        ([(fragment(3, 0, acts=np.zeros(3, int)), fragment(3, 9))], [1], "with continuous actions"),
        ([(fragment(3, 0, obs=np.zeros((4, 8, 8, 3), np.uint8)), fragment(3, 9))], [1], "save vectors"),
        ([(fragment(3, 0, acts=np.full((3, 2), 2.0)), fragment(3, 9))], [1], "leaves \\[-1, 1\\]"),
        ([(fragment(3, 0, rews=np.array([0, np.nan, 0])), fragment(3, 9))], [1], "'rews' is NaN"),
        ([(fragment(3, 0), fragment(3, 0))], [1], "compares a clip with itself"),
        ([(fragment(3, 0, obs=np.array([None] * 4)), fragment(3, 9))], [1], "Python objects instead of numbers"),
    ],
)
def test_refused(pairs: Any, preferences: Any, said: str, tmp_path: Path):
    with pytest.raises(UserError, match=said):
        read_imitation_preferences(saved(tmp_path, pairs, preferences))


def test_damaged_files(tmp_path: Path):
    whole = saved(tmp_path).read_bytes()
    cut = tmp_path / "cut.pkl"
    cut.write_bytes(whole[:-100])
    with pytest.raises(UserError, match="truncated or not a pickle"):
        read_imitation_preferences(cut)
    one = fragment(2_000, 0, infos=None)  # one array in the file, 8,000 times in memory
    with pytest.raises(UserError, match="fragments repeated, declares"):
        read_imitation_preferences(saved(tmp_path, [(one, one)] * 4_000, [0.5] * 4_000))
