"""Choosers of success examples and their files, on data in which the right answer is known."""

from __future__ import annotations

from contextlib import suppress

import imageio.v3
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from synthetic import synthetic_transitions

from lightning_pbrl.data.example_choosers import (
    FileExamples,
    FolderExamples,
    LastSuccessExamples,
    RewardExamples,
    SuccessExamples,
)
from lightning_pbrl.data.examples import load_examples, make_examples, save_examples
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.errors import UserError


def line(lengths: list[int], solved: list[int], drawable: list[int] | None = None, pictures: bool = False) -> Transitions:
    """Row r sees (r, 0) and reaches (r, 1), pays r; the rows ``solved`` succeed. Picture i of 2 x 2 pixels is all i."""
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    row = torch.arange(sum(lengths)).float()
    obs, after = torch.stack([row, 0 * row], 1), torch.stack([row, 0 * row + 1], 1)
    success = torch.zeros(len(row), dtype=torch.bool)
    success[solved] = True
    frames = None
    if pictures:
        frames = torch.arange(len(row) + len(lengths), dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 2, 2, 3).clone()
    chosen = None if drawable is None else torch.tensor(drawable)
    return Transitions.from_columns(
        obs, 0 * obs[:, :1], after, offsets, reward=row, success=success, drawable=chosen, frames=frames
    )


def test_examples_are_what_successful_steps_reached():
    found = SuccessExamples(count=None).choose(line([4, 3], [2, 3, 5]))
    assert sorted(found.states.tolist()) == [[2.0, 1.0], [3.0, 1.0], [5.0, 1.0]]
    assert found.states.dtype == torch.float32
    assert sorted(found.about["rows"]) == [2, 3, 5]
    assert found.about["episodes_searched"] == 2
    assert found.about["chooser"] == {"class": "SuccessExamples", "count": None, "seed": 0}


def test_rows_whose_successor_is_unknown_are_no_examples():
    found = SuccessExamples(count=None).choose(line([4, 3], [2, 3, 5], drawable=[0, 1, 2, 4, 5]))
    assert sorted(found.about["rows"]) == [2, 5]


def test_by_reward():
    found = RewardExamples(threshold=4.5, count=None).choose(line([4, 3], []))
    assert sorted(found.about["rows"]) == [5, 6]


def test_the_last_successes_of_each_episode():
    source = line([5, 4, 3], [0, 1, 3, 4, 5, 6, 7, 8])
    found = LastSuccessExamples(last=2, count=None).choose(source)
    assert sorted(found.about["rows"]) == [3, 4, 7, 8]
    found = LastSuccessExamples(last=3, count=None).choose(source)
    assert sorted(found.about["rows"]) == [1, 3, 4, 6, 7, 8]


def test_pictures_are_those_of_the_state_reached():
    """Row r of episode e is followed by picture r + e + 1."""
    found = SuccessExamples(count=None).choose(line([4, 3], [2, 3, 5], pictures=True))
    assert found.states.dtype == torch.uint8
    assert found.states.shape == (3, 2, 2, 3)
    assert sorted(found.states[:, 0, 0, 0].tolist()) == [3, 4, 7]


def test_draws_are_seeded_nested_and_without_replacement():
    source = line([100], list(range(100)))
    twenty, ten, other = (SuccessExamples(n, seed).choose(source) for n, seed in ((20, 0), (10, 0), (20, 1)))
    assert len({*twenty.about["rows"]}) == 20
    assert ten.about["rows"] == twenty.about["rows"][:10]
    assert other.about["rows"] != twenty.about["rows"]
    assert SuccessExamples(20).choose(source).fingerprint == twenty.fingerprint


def test_no_and_too_few_examples():
    source = line([4, 3], [2])
    with pytest.raises(UserError, match="no step with success in the 2 episodes searched"):
        SuccessExamples().choose(line([4, 3], []))
    with pytest.raises(UserError, match=r"no step with a reward of at least 9\.5 in the 2 episodes"):
        RewardExamples(9.5).choose(source)
    with pytest.raises(
        UserError, match=r"Only 1 of the 200 requested examples.*1 steps with success in 2 episodes; lower.*at most 1"
    ):
        SuccessExamples().choose(source)
    source.success = None
    with pytest.raises(UserError, match="do not record which steps succeed; choose by reward"):
        SuccessExamples().choose(source)
    for broken in (lambda: SuccessExamples(0), lambda: LastSuccessExamples(0)):
        with pytest.raises(UserError, match="give a number of at least 1"):
            broken()


def test_poisoned_rewards_do_not_matter_to_success():
    source = synthetic_transitions()
    before = SuccessExamples(5).choose(source).states
    source.reward.fill_(float("nan"))
    assert torch.equal(SuccessExamples(5).choose(source).states, before)
    with pytest.raises(UserError, match="no step with a reward"):
        RewardExamples(-1e9).choose(source)


def test_from_files(tmp_path):
    source, states = line([4], []), np.arange(8, dtype=np.float64).reshape(4, 2)
    np.save(tmp_path / "a.npy", states)
    np.savez(tmp_path / "b.npz", goals=states, other=states + 1)
    save_file({"states": torch.from_numpy(states)}, tmp_path / "c.safetensors")
    for path, key in (("a.npy", None), ("b.npz", "goals"), ("c.safetensors", None), ("c.safetensors", "states")):
        found = FileExamples(str(tmp_path / path), key).choose(source)
        assert sorted(found.states.tolist()) == states.tolist()
        assert found.states.dtype == torch.float32
        assert found.about["content"]
    assert len(FileExamples(str(tmp_path / "a.npy"), count=3).choose(source).states) == 3


def test_bad_files(tmp_path):
    source = line([4], [])
    np.savez(tmp_path / "b.npz", goals=np.zeros((4, 2)), other=np.zeros((4, 2)))
    np.save(tmp_path / "wide.npy", np.zeros((4, 3)))
    np.save(tmp_path / "nan.npy", np.array([[0.0, 0.0], [np.nan, 0.0]]))
    np.save(tmp_path / "words.npy", np.array([["a", "b"]]))
    np.save(tmp_path / "empty.npy", np.zeros((0, 2)))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "wide.npy").read_bytes()[:140])
    (tmp_path / "x.csv").write_text("1,2")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "b.npz").read_bytes()[:140])
    (tmp_path / "cut.safetensors").write_bytes(b"1234567")
    for name, key, words in (
        ("b.npz", None, "several arrays and no key was given: set the chooser's key to one of goals, other"),
        ("b.npz", "gaols", "no key 'gaols': set the chooser's key to one of goals, other"),
        ("wide.npy", None, r"wide.npy has an example of shape \(3,\), and the states of these data have shape \(2,\)"),
        ("nan.npy", None, "nan.npy is NaN or infinite in example 1"),
        ("words.npy", None, "words.npy holds <U1 instead of plain numbers"),
        ("empty.npy", None, "empty.npy holds no example"),
        ("cut.npy", None, "cut.npy cannot be read as examples"),
        ("cut.npz", "goals", "cut.npz cannot be read as examples"),
        ("cut.safetensors", None, "cut.safetensors cannot be read as examples"),
        ("x.csv", None, "x.csv is not a file of examples"),
    ):
        with pytest.raises(UserError, match=words):
            FileExamples(str(tmp_path / name), key).choose(source)
    with pytest.raises(UserError, match=r"no file .*gone\.npy"):
        FileExamples(str(tmp_path / "gone.npy")).key(source)


def test_files_by_another_name_and_of_another_make(tmp_path):
    source, states = line([4], []), np.arange(8, dtype=np.float64).reshape(4, 2)
    np.save(tmp_path / "a.npy", states)
    np.savez_compressed(tmp_path / "b.npz", states=np.random.default_rng(0).normal(size=(100, 2)))
    np.savez(tmp_path / "none.npz")
    np.save(tmp_path / "long.npy", states.astype(np.longdouble))
    np.save(tmp_path / "big.npy", states.astype(">f8"))
    np.savez(tmp_path / "big.npz", states=states.astype(">f4"), odd=states.astype(">i2"))
    damaged = bytearray((tmp_path / "b.npz").read_bytes())
    damaged[60:160] = b"\xff" * 100  # where the compressed bytes begin
    (tmp_path / "damaged.npz").write_bytes(damaged)
    (tmp_path / "renamed.npz").write_bytes((tmp_path / "a.npy").read_bytes())
    (tmp_path / "renamed.npy").write_bytes((tmp_path / "b.npz").read_bytes())
    (tmp_path / "A.NPY").write_bytes((tmp_path / "a.npy").read_bytes())
    (tmp_path / "folder.npy").mkdir()
    for name, words in (
        ("damaged.npz", r"damaged.npz cannot be read as examples \(Error -3 while decompressing.*\): give a valid \.npy"),
        ("renamed.npz", r"renamed.npz cannot be read as examples \(it is a \.npy file by another name\): give a valid"),
        ("renamed.npy", r"renamed.npy cannot be read as examples \(it is an \.npz file by another name\): give a valid"),
        ("none.npz", r"none.npz holds no array: save the states into it, one array \(K, O\)"),
        ("folder.npy", "folder.npy cannot be read as examples"),
        ("long.npy", "long.npy holds float(96|128) instead of plain numbers"),
    ):
        if name != "long.npy" or np.longdouble(0).itemsize > 8:
            with pytest.raises(UserError, match=words):
                FileExamples(str(tmp_path / name)).choose(source)
    for name, key in (("A.NPY", None), ("big.npy", None), ("big.npz", "states"), ("big.npz", "odd")):
        assert sorted(FileExamples(str(tmp_path / name), key).choose(source).states.tolist()) == states.tolist()
    with pytest.raises(UserError, match=r"folder\.npy is a folder, not a file of examples: give a file"):
        FileExamples(str(tmp_path / "folder.npy")).key(source)
    capitals = tmp_path / "capitals"
    capitals.mkdir()
    np.save(capitals / "one", states[1].astype(">f8"))
    (capitals / "one.npy").rename(capitals / "ONE.NPY")
    assert FolderExamples(str(capitals)).choose(source).states.tolist() == [[2, 3]]


@pytest.mark.parametrize("suffix", ["npy", "npz", "safetensors"])
def test_whatever_is_damaged_one_sentence_says_so(tmp_path, suffix):
    """Cut off anywhere, or with any few bytes changed: it is read, or refused in words."""
    source, states, path = line([4], []), np.arange(8, dtype=np.float32).reshape(4, 2), tmp_path / f"x.{suffix}"
    if suffix == "npy":
        np.save(path, states)
    elif suffix == "npz":
        np.savez_compressed(path, states=states)
    else:
        save_file({"states": torch.from_numpy(states)}, path)
    sound, rng = path.read_bytes(), np.random.default_rng(0)
    for trial in range(300):
        damaged = np.frombuffer(sound, np.uint8)[: rng.integers(len(sound)) if trial < 100 else None].copy()
        at = rng.integers(len(damaged), size=3 if trial >= 100 else 0)
        damaged[at] = rng.integers(256, size=len(at))
        path.write_bytes(damaged.tobytes())
        with suppress(UserError):
            FileExamples(str(path)).choose(source)


def test_what_may_not_be_read(tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    source = line([4], [])
    np.save(tmp_path / "a.npy", np.zeros(2))
    file, folder = FileExamples(str(tmp_path / "a.npy")), FolderExamples(str(tmp_path))
    for name, calls, words in (
        ("read_bytes", (file.key, folder.key), r"a\.npy cannot be read \(Permission denied\): check its permissions\."),
        ("open", (file.choose, folder.choose), r"a\.npy cannot be read as .*Permission denied\): "),
        ("is_file", (file.key, folder.key), r"a\.npy cannot be read \(Permission denied\)"),
        ("iterdir", (folder.key, folder.choose), r"The folder .* cannot be read \(Permission denied\): check its permissions\."),
    ):
        monkeypatch.setattr(f"pathlib.Path.{name}", refuse)
        for call in calls:
            with pytest.raises(UserError, match=words):
                call(source)
        monkeypatch.undo()


def test_a_folder_of_states(tmp_path):
    for i in range(3):
        np.save(tmp_path / f"{i}.npy", np.full(2, i, np.float32))
    (tmp_path / ".hidden").write_text("")
    found = FolderExamples(str(tmp_path)).choose(line([4], []))
    assert sorted(found.states.tolist()) == [[0, 0], [1, 1], [2, 2]]
    assert {*found.about["files"]} == {"0.npy", "1.npy", "2.npy"}


def test_a_folder_of_pictures(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (2, 2, 3), dtype=np.uint8)
    imageio.v3.imwrite(tmp_path / "a.png", picture)
    np.save(tmp_path / "b.npy", picture)
    found = FolderExamples(str(tmp_path)).choose(line([4], [], pictures=True))
    assert torch.equal(found.states, torch.from_numpy(picture).expand(2, -1, -1, -1))
    assert found.states.dtype == torch.uint8


def test_bad_folders(tmp_path):
    states, pictures = line([4], []), line([4], [], pictures=True)
    with pytest.raises(UserError, match=r"There is no folder .*gone"):
        FolderExamples(str(tmp_path / "gone")).choose(states)
    with pytest.raises(UserError, match="holds no example"):
        FolderExamples(str(tmp_path)).choose(states)

    def alone(name: str, make) -> FolderExamples:
        folder = tmp_path / name.split(".")[0]
        folder.mkdir()
        make(folder / name)
        return FolderExamples(str(folder))

    for source, chooser, words in (
        (pictures, alone("broken.png", lambda path: path.write_bytes(b"\x89PNG nothing")), "broken.png cannot be read"),
        (states, alone("short.npy", lambda path: path.write_bytes(b"")), "short.npy cannot be read"),
        (states, alone("notes.txt", lambda path: path.write_text("?")), "notes.txt is not an example: only .npy"),
        (states, alone("three.npy", lambda path: np.save(path, np.zeros(3))), r"three.npy has an example of shape \(3,\)"),
        (
            pictures,
            alone("big.png", lambda path: imageio.v3.imwrite(path, np.zeros((4, 4, 3), np.uint8))),
            r"big.png has an example of shape \(4, 4, 3\), and the pictures of these data have shape \(2, 2, 3\)",
        ),
        (
            pictures,
            alone("floats.npy", lambda path: np.save(path, np.zeros((2, 2, 3)))),
            "floats.npy holds pictures of torch.float64",
        ),
    ):
        with pytest.raises(UserError, match=words):
            chooser.choose(source)


def test_the_key_follows_the_content_not_the_name(tmp_path):
    source = line([4], [])
    np.save(tmp_path / "a.npy", np.zeros((4, 2)))
    chooser = FileExamples(str(tmp_path / "a.npy"))
    before = chooser.key(source)
    np.save(tmp_path / "a.npy", np.ones((4, 2)))
    assert chooser.key(source) != before


def test_stored_sets_come_back_and_damage_is_seen(tmp_path):
    examples = make_examples(torch.arange(6.0).view(3, 2), {"chooser": {"class": "Mine"}, "seed": 1})
    path = save_examples(examples, tmp_path / "new" / "e.safetensors")
    again = load_examples(path)
    assert torch.equal(again.states, examples.states)
    assert again[1:] == examples[1:]
    assert make_examples(torch.arange(6.0).view(2, 3), {}).fingerprint != examples.fingerprint
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="is damaged"):
        load_examples(path)
    path.write_bytes(data[:20])
    with pytest.raises(UserError, match="not a valid file of examples"):
        load_examples(path)
    with pytest.raises(UserError, match=r"There is no file .*gone\.safetensors: check the path"):
        load_examples(tmp_path / "gone.safetensors")
