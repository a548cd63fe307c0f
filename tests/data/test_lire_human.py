"""LiRE's human answers: small files in their format, read back by hand."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_pbrl.data.feedback import Status
from lightning_pbrl.data.lire_human import join, read_answers, read_human_data, read_list, write_jsonl
from lightning_pbrl.data.ranking import derived_pairs
from lightning_pbrl.data.store import LabelStore
from lightning_pbrl.errors import UserError

EQUAL, ANSWERED = int(Status.EQUAL), int(Status.ANSWERED)


def human_files(folder: Path, episodes: int = 2, steps: int = 60) -> Path:
    """A data set of lists, as the authors pickled it, and the four text files."""
    rng = np.random.default_rng(0)
    n = episodes * steps
    done = [float(i % steps == steps - 1) for i in range(n)]
    path = rng.normal(size=(n + 1, 3)).astype(np.float32)
    content = {
        "observations": list(path[:-1]),
        "actions": list(rng.uniform(-1, 1, size=(n, 2)).astype(np.float32)),
        "next_observations": list(path[1:]),
        "rewards": [float(i) for i in range(n)],
        "dones": done,
    }
    (folder / "dataset.pkl").write_bytes(pickle.dumps(content))
    (folder / "x_Independent.txt").write_text("0 60 1\n5 70 2\n\n90 10 3\n")
    (folder / "x_SeqRank.txt").write_text("0\t60\t3\n60\t5\t3\n5\t70\t1\n")
    (folder / "x_RLT_0.txt").write_text("0 [70]\n1 [0, 90]\n2 [10]\n")
    (folder / "x_RLT_1.txt").write_text("0 [20, 80]\n")
    return folder


def test_data_of_lists(tmp_path: Path) -> None:
    data = read_human_data(human_files(tmp_path) / "dataset.pkl")
    assert (len(data), data.obs_dim, data.action_dim) == (120, 3, 2)
    assert data.episodes.offsets.tolist() == [0, 60, 120]
    assert data.reward.tolist() == list(range(120))
    assert data.column("truncated").nonzero().flatten().tolist() == [59, 119]
    assert data.column("terminated").sum() == 0


def test_answers_by_hand(tmp_path: Path) -> None:
    human_files(tmp_path)
    independent = read_answers(tmp_path / "x_Independent.txt")
    assert independent.start.tolist() == [[0, 60], [5, 70], [90, 10]]
    assert independent.value.tolist() == [0.0, 0.5, 1.0]  # 1: the first is better, 3: the second
    assert independent.status.tolist() == [ANSWERED, EQUAL, ANSWERED]
    assert independent.length == 25
    chain = derived_pairs(read_answers(tmp_path / "x_SeqRank.txt"), "chain")
    # 0 < 60 < 5, then down: 70 < 5
    assert chain.start.tolist() == [[0, 60], [0, 5], [60, 5], [70, 5]]
    assert chain.value.tolist() == [1.0, 1.0, 1.0, 1.0]


def test_lists_by_hand(tmp_path: Path) -> None:
    human_files(tmp_path)
    first, second = read_list(tmp_path / "x_RLT_0.txt"), read_list(tmp_path / "x_RLT_1.txt")
    assert first.start.tolist() == [[70, 0], [0, 90], [90, 10]] and first.value.tolist() == [1.0, 0.5, 1.0]
    both = join([first, second])
    derived = derived_pairs(both, "chain")
    found = dict(zip(map(tuple, derived.start.tolist()), derived.value.tolist(), strict=True))
    assert found == {
        (70, 0): 1.0,
        (70, 90): 1.0,
        (70, 10): 1.0,
        (0, 90): 0.5,
        (0, 10): 1.0,
        (90, 10): 1.0,
        (20, 80): 0.5,  # the lists are not mixed
    }


def test_into_a_label_store(tmp_path: Path) -> None:
    data = read_human_data(human_files(tmp_path) / "dataset.pkl")
    answers = read_answers(tmp_path / "x_Independent.txt")
    write_jsonl(answers, data, tmp_path / "answers.jsonl")
    store = LabelStore(str(tmp_path / "labels.sqlite"), data.fingerprint)
    assert store.import_jsonl(tmp_path / "answers.jsonl") == 3
    stored = store.labels("pair")
    assert torch.equal(stored.start, answers.start) and stored.length == 25
    assert torch.equal(stored.value, answers.value) and torch.equal(stored.status, answers.status)


@pytest.mark.parametrize(("wrong", "row"), [("40 0 1", 40), ("0 100 1", 100), ("59 0 2", 59)])
def test_segments_outside_an_episode(wrong: str, row: int, tmp_path: Path) -> None:
    data = read_human_data(human_files(tmp_path) / "dataset.pkl")
    (tmp_path / "wrong.txt").write_text(f"35 95 1\n{wrong}\n")  # 35 .. 59 and 95 .. 119 just fit
    with pytest.raises(UserError, match=f"The segment of 25 steps from row {row} does not lie within one episode"):
        write_jsonl(read_answers(tmp_path / "wrong.txt"), data, tmp_path / "answers.jsonl")
    assert not (tmp_path / "answers.jsonl").exists()


def test_a_segment_is_not_compared_with_itself(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("0 60 1\n5 5 3\n")
    with pytest.raises(UserError, match=r"x\.txt line 2 is '5 5 3': it compares a segment with itself, leave it out"):
        read_answers(tmp_path / "x.txt")


@pytest.mark.parametrize("line", ["1 2", "1 2 4", "1 2 0", "a 2 1", "1 2 3 1", "-1 2 3"])
def test_a_wrong_answer_is_named(line: str, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text(f"1 2 1\n{line}\n")
    with pytest.raises(UserError, match=rf"x\.txt line 2 is '{line}': write two start rows and 1, 2 or 3"):
        read_answers(tmp_path / "x.txt")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0 [1]\n0 [2]", "line 2 has rank 0 after 0: sort the ranks upwards"),
        ("0 [1]\n1 2", "line 2 is '1 2': write a rank and its segments"),
        ("0 []", r"line 1 is '0 \[\]': write a rank"),
        ("0 [1, 2]\n1 [1]", "names a segment twice"),
    ],
)
def test_a_wrong_list_is_named(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text(text)
    with pytest.raises(UserError, match=words):
        read_list(tmp_path / "x.txt")


def test_files_that_are_not_what_they_should_be(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (print, ("this must not run",))

    for name, content, words in (
        ("code", {"observations": Evil()}, r"refused because it asks for builtins\.print"),
        ("list", [1, 2], "holds a list, not a dict of arrays"),
        ("keys", {"observations": [1.0]}, "has no key 'actions'"),
    ):
        (tmp_path / name).write_bytes(pickle.dumps(content))
        with pytest.raises(UserError, match=words):
            read_human_data(tmp_path / name)
    with pytest.raises(UserError, match=r"There is no file .*nowhere\.txt: check the path"):
        read_answers(tmp_path / "nowhere.txt")
    with pytest.raises(UserError, match="Files of answers can be joined when there is at least one"):
        join([])


@pytest.mark.parametrize(
    ("reader", "text", "message"),
    [
        (read_answers, "", r"holds no answer: give one of LiRE's text files of answers\."),
        (read_answers, "1 2 3\n" + "9" * 5000 + " 5 1", r"line 2 is '9{99}: write two start rows and 1, 2 or 3\."),
        (read_answers, "1 ٣ 3", r"line 1 is '1 ٣ 3': write two start rows"),
        (read_list, "\n \n", r"holds no answer: give one of LiRE's text files of answers\."),
        (read_list, "0 [1, 2]\n1 [" + "9" * 5000 + "]", r"line 2 is '1 \[9{96}: write a rank and its segments"),
        (read_list, "0 [1,, 2]\n1 [3]\n2 []", r"line 3 is '2 \[\]': write a rank and its segments"),
    ],
)
def test_numbers_that_no_file_of_answers_has(reader: Any, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=rf"a\.txt {message}"):
        reader(tmp_path / "a.txt")
