"""Preference npz and Uni-RLHF folders: segments and rows of the data."""

from __future__ import annotations

import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from labelled_records import RATING, damaged, read, record
from synthetic import synthetic_transitions

from lightning_pbrl.data.feedback import Status
from lightning_pbrl.data.preference_npz import read_preference_npz
from lightning_pbrl.errors import UserError
from lightning_pbrl.labelling.formats import FORMATS
from lightning_pbrl.labelling.formats.records import Context, Record

# npz and Uni-RLHF --------------------------------------------------------------------------------------------------------


def about(data: object, **fields: object) -> list[Record]:
    """Pairs within the first episodes of ``data``, and questions that the formats do not hold."""
    print_ = data.fingerprint  # type: ignore[attr-defined]
    values = [(0, 1.0, 1), (1, 0.5, 2), (2, 0.0, 1), (3, None, 3), (4, None, 0)]
    pairs = [record(n, value, status, fingerprint=print_, start_0=n, start_1=n + 6, **fields) for n, value, status in values]
    return [*pairs, record(5, 3.0, fingerprint=print_, **RATING)]


def test_npz_holds_segments(tmp_path: Path) -> None:
    data = synthetic_transitions()
    path = tmp_path / "a.npz"
    FORMATS["npz"].write(about(data), path, Context(source=data))
    source, labels = read_preference_npz(path)
    assert labels.value.tolist() == [1.0, 0.5, 0.0]
    torch.testing.assert_close(source.column("obs")[:5], data.column("obs")[:5])  # the first segment of pair 0
    found = read("npz", path, run="them")
    assert [(row["run"], row["number"], row["value"], row["status"]) for row in found] == [
        ("them", 0, 1.0, Status.ANSWERED),
        ("them", 1, 0.5, Status.EQUAL),
        ("them", 2, 0.0, Status.ANSWERED),
    ]
    assert found[1]["start_0"] == 10 and found[1]["fingerprint"] == source.fingerprint
    FORMATS["npz"].write(found, tmp_path / "b.npz", Context(source=source))
    again, _ = read_preference_npz(tmp_path / "b.npz")
    assert again.fingerprint == source.fingerprint
    with pytest.raises(UserError, match=r"pair 0 is about the data set .* and the store about data-b"):
        read("npz", path, fingerprint="data-b")


@pytest.mark.parametrize("name", ["npz", "uni_rlhf"])
def test_formats_that_need_the_data(name: str, tmp_path: Path) -> None:
    data = synthetic_transitions()
    write, path = FORMATS[name].write, tmp_path / "a"
    with pytest.raises(UserError, match=r"name (that|the data that were asked about), with -c DATA\.yaml"):
        write(about(data), path, Context())
    with pytest.raises(UserError, match="are about the data set data-a and the data are"):
        write([record(0)], path, Context(source=data))
    with pytest.raises(UserError, match="would hold pairs of 5, 6 steps"):
        write([*about(data), record(9, fingerprint=data.fingerprint, length=6)], path, Context(source=data))
    with pytest.raises(UserError, match="would hold pairs of nothing steps"):
        write([], path, Context(source=data))
    with pytest.raises(UserError, match="does not lie within one episode"):
        write([record(0, fingerprint=data.fingerprint, start_0=10**6)], path, Context(source=data))
    assert not path.exists()


def folder(path: Path, label: object, first: object, second: object, length: int = 5) -> Path:
    path.mkdir()
    for name, content in (("human_label", label), ("indices_1", first), ("indices_2", second)):
        file = path / f"{name}_domain_mujoco_env_hopper-medium-v2_num_3_len_{length}_b71f6102.pkl"
        file.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content))
    return path


def test_uni_rlhf_folder_by_hand(tmp_path: Path) -> None:
    data = synthetic_transitions()
    path = folder(tmp_path / "x_human_labels", [0, -1, 1], np.array([0, 1, 2]), [6, 7, 8])
    found = read("uni_rlhf", path, source=data)
    assert [(row["value"], row["start_0"], row["start_1"], row["length"]) for row in found] == [
        (0.0, 0, 6, 5),
        (0.5, 1, 7, 5),
        (1.0, 2, 8, 5),
    ]
    assert found[0]["strategy"] == {"from": "uni_rlhf", "domain": "mujoco", "env": "hopper-medium-v2"}
    FORMATS["uni_rlhf"].write(found, tmp_path / "y_human_labels", Context(source=data))
    again = read("uni_rlhf", tmp_path / "y_human_labels", source=data)
    assert [(row["value"], row["start_0"], row["start_1"]) for row in again] == [(0.0, 0, 6), (0.5, 1, 7), (1.0, 2, 8)]
    with pytest.raises(UserError, match="is a file or holds labels already: choose another folder"):
        FORMATS["uni_rlhf"].write(found, tmp_path / "y_human_labels", Context(source=data))


def test_rows_of_uni_rlhf_leave_out_steps_at_timeouts(tmp_path: Path) -> None:
    """Of two episodes of 30 steps that end at a timeout, the loader of D4RL drops rows 29 and 59: its row 29 is our row 30."""
    data = synthetic_transitions(episodes=2)
    ends = (data.column("truncated").flatten() > 0).nonzero().flatten().tolist()
    assert ends == [29, 59]
    data.about |= {"format": "d4rl", "next_obs": "stored", "unmarked_resets": 0}
    path = folder(tmp_path / "x", np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]), [24, 29, 30], [0, 0, 0])
    found = read("uni_rlhf", path, source=data)
    assert [(row["value"], row["start_0"]) for row in found] == [(0.0, 24), (0.5, 30), (1.0, 31)]
    FORMATS["uni_rlhf"].write(found, tmp_path / "y", Context(source=data))
    assert [row["start_0"] for row in read("uni_rlhf", tmp_path / "y", source=data)] == [24, 30, 31]
    data.about["unmarked_resets"] = 2
    with pytest.raises(UserError, match="The data have 2 resets without a mark"):
        read("uni_rlhf", path, source=data)


class Runs:
    def __reduce__(self) -> tuple:
        return (print, ("this ran",))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            ([0, 2, 1], [0, 1, 2], [6, 7, 8]),
            r"human_label\S+ has label 2 for pair 1: write 0 \(first preferred\), 1 \(second\) or -1",
        ),
        (([0, 1], [0, 1, 2], [6, 7, 8]), r"indices_1\S+ has 3 rows and there are 2 labels"),
        (([0, 1, 0], [0, 1.5, 2], [6, 7, 8]), r"indices_1\S+ has row 1\.5 for pair 1"),
        (([0, 1, 0], [0, -1, 2], [6, 7, 8]), r"has row -1 for pair 1 and the data have"),
        (([0, 1, 0], [0, 1, 2], [6, 7, 10**9]), r"indices_2\S+ has row 1000000000 for pair 2"),
        (([0, 1, 0], [0, 1, 2], [0, 7, 8]), "compares the segment from row 0 with itself"),
        (([0, 1, 0], [0, 27, 2], [6, 7, 8]), "does not lie within one episode"),
        (([0, "x", 1], [0, 1, 2], [6, 7, 8]), "holds list in place of finite numbers"),
        (([0, [1], 1], [0, 1, 2], [6, 7, 8]), "holds list in place of finite numbers"),
        (([0, float("nan"), 1], [0, 1, 2], [6, 7, 8]), "holds list in place of finite numbers"),
        (([], [], []), r"has shape \(0,\)"),
        ((Runs(), [0], [1]), "is refused because it asks for builtins.print, which could run code"),
        ((b"\x80\x04\x95", [0], [1]), "is truncated or not a pickle"),
    ],
)
def test_faults_of_uni_rlhf(parts: tuple, message: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = synthetic_transitions()
    with pytest.raises(UserError, match=message):
        read("uni_rlhf", folder(tmp_path / "x", *parts), source=data)
    assert capsys.readouterr().out == ""


def test_folders_with_other_files(tmp_path: Path) -> None:
    data = synthetic_transitions()
    (tmp_path / "a").mkdir()
    with pytest.raises(UserError, match="has no file label_domain_"):
        read("uni_rlhf", tmp_path / "a", source=data)
    path = folder(tmp_path / "x", [0, -1, 1], [0, 1, 2], [6, 7, 8])
    (path / "human_label_domain_mujoco_env_other_num_3_len_5_c.pkl").write_bytes(b"")
    with pytest.raises(UserError, match="holds label files of several sets"):
        read("uni_rlhf", path, source=data)


def test_damaged_pickles_are_refused_or_read_for_what_they_say(tmp_path: Path) -> None:
    data, rng = synthetic_transitions(), random.Random(0)
    path = folder(tmp_path / "x", np.array([0, -1, 1]), np.array([0, 1, 2]), [6, 7, 8])
    files = sorted(path.glob("*.pkl"))
    sound, said = [file.read_bytes() for file in files], []
    for number in range(300):
        for at, (file, content) in enumerate(zip(files, sound, strict=True)):
            file.write_bytes(damaged(content, rng) if at == number % 3 else content)
        try:
            rows = read("uni_rlhf", path, source=data)
        except UserError as error:
            said.append(str(error))
        else:
            assert all(0 <= row["start_0"] <= len(data) - 5 and row["value"] in (0, 0.5, 1) for row in rows)
    assert len(said) > 150 and not any("\n" in each for each in said)
