"""LeRobot's data sets: what a small folder becomes, and what is wrong with others."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from lerobot_files import CAMERA, FPS, LENGTHS, TASKS, episodes, picture, write_film, write_lerobot

from lightning_pbrl.data import lerobot, lerobot_folder, lerobot_frames
from lightning_pbrl.data.interventions import preferences
from lightning_pbrl.data.lerobot import read_lerobot, recognises
from lightning_pbrl.errors import UserError

pytest.importorskip("pyarrow", reason="needs the extra lerobot (pyarrow)")
pytest.importorskip("av", reason="needs the extra lerobot (PyAV)")


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    """Four episodes, two in a file, with films in H.264."""
    return write_lerobot(tmp_path_factory.mktemp("films") / "toy", episodes(), camera="video")


def refused(root: Path, pattern: str, **settings) -> None:
    with pytest.raises(UserError, match=pattern):
        read_lerobot(root, **settings)


@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
def test_rows_lead_to_the_next_of_their_episode(tmp_path, version):
    root = write_lerobot(tmp_path / "toy", episodes(), version=version)
    assert recognises(root) and not recognises(tmp_path)
    table = read_lerobot(root)
    assert table.episodes.offsets.tolist() == [0, 4, 7, 12, 14]
    assert table.column("obs")[:, 0].tolist() == [0, 1, 2, 3, 100, 101, 102, 200, 201, 202, 203, 204, 300, 301]
    assert table.column("obs")[:4, 1].tolist() == [0, -1, -2, -3]
    assert table.column("next_obs")[:, 0].tolist() == [1, 2, 3, 3, 101, 102, 102, 201, 202, 203, 204, 204, 301, 301]
    assert table.column("action")[13].tolist() == [-0.5, 0.0, 0.25]
    assert table.reward.tolist() == [1, 2, 3, 4, 1, 2, 3, 1, 2, 3, 4, 5, 1, 2]
    assert table.success.nonzero().flatten().tolist() == [6, 13]
    assert table.column("terminated").nonzero().flatten().tolist() == [6, 13]  # done, and a success
    assert table.column("truncated").nonzero().flatten().tolist() == [3, 11]  # done, and none
    assert table.drawable.tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 12, 13]
    assert table.about["tasks"] == {"0": "push", "1": "lift"}
    assert (table.about["fps"], table.about["robot_type"], table.about["codebase_version"]) == (FPS, "toy", version)
    assert table.about["episode_tasks"] == [[0], [1], [0], [0]] and table.about["demos"] == [0, 1, 2, 3]
    assert table.about["observation"] == {"observation.state": 2} and table.about["keys_not_read"] == []
    part = table.select(torch.tensor([3, 1]))
    assert part.about["demos"] == [3, 1] and part.about["episode_tasks"] == [[0], [1]]


def test_windows_that_end_anywhere_give_the_same_rows(tmp_path, monkeypatch):
    root = write_lerobot(tmp_path / "toy", episodes(), per_file=3)
    whole, seen, see = read_lerobot(root), [], lerobot._Record.see
    monkeypatch.setattr(lerobot._Record, "see", lambda record, batch: (seen.append(len(batch)), see(record, batch)))
    for rows in (1, 2, 3, 5):
        monkeypatch.setattr(lerobot_folder, "ROWS", rows)
        table = read_lerobot(root, cache_dir=tmp_path / f"cache-{rows}")
        assert torch.equal(table.packed.nan_to_num(), whole.packed.nan_to_num()) and table.fingerprint == whole.fingerprint
        assert torch.equal(table.reward, whole.reward)
        assert max(seen) <= rows
        seen.clear()


def test_episodes_are_chosen_by_task_and_number(tmp_path):
    root = write_lerobot(tmp_path / "toy", episodes(), per_file=4)
    assert read_lerobot(root, tasks=["lift"]).column("obs")[:, 0].tolist() == [100, 101, 102]
    pushed = read_lerobot(root, tasks=["push"], episodes=[1, 2, 3])
    assert pushed.about["demos"] == [2, 3] and pushed.column("next_obs")[:, 0].tolist() == [201, 202, 203, 204, 204, 301, 301]
    (root / "data/chunk-000/file-000.parquet").rename(tmp_path / "away")
    refused(root, "There is no file .*file-000.parquet: check the path", tasks=["lift"])
    refused(root, r"has no task 'lit' \(it has 'lift', 'push'\): correct tasks", tasks=["lit"])
    refused(root, r"has no episode 7 \(4 from 0 to 3\): correct episodes", episodes=[1, 7])
    refused(root, "no episode that is among both tasks and episodes", tasks=["lift"], episodes=[0])


def test_files_of_other_episodes_need_not_be_there(tmp_path):
    root = write_lerobot(tmp_path / "toy", episodes(), camera="video")
    for file in [*root.glob("data/*/file-001.parquet"), *root.glob("videos/*/*/file-001.mp4")]:
        file.unlink()
    assert read_lerobot(root, episodes=[0, 1], camera=CAMERA, size=None).frames.shape == (9, 16, 16, 3)


def test_the_meaning_of_the_end_of_an_episode(tmp_path):
    root = write_lerobot(tmp_path / "toy", episodes())
    ended = read_lerobot(root, end="terminated")
    assert ended.column("terminated").nonzero().flatten().tolist() == [3, 6, 11, 13] and ended.drawable is None
    assert not ended.column("truncated").any()
    cut = read_lerobot(root, end="truncated")
    assert cut.column("truncated").nonzero().flatten().tolist() == [3, 6, 11, 13] and not cut.column("terminated").any()
    assert cut.drawable.tolist() == [0, 1, 2, 4, 5, 7, 8, 9, 10, 12]
    assert cut.fingerprint == ended.fingerprint  # answers about these segments hold for both


def test_done_may_be_absent_or_set_before_the_last_row(tmp_path):
    recorded = episodes()
    for columns in recorded:
        del columns["next.done"]
    ends = read_lerobot(write_lerobot(tmp_path / "no-done", recorded)).column("terminated")
    assert ends.nonzero().flatten().tolist() == [6, 13]  # the last row of an episode that is a success there
    for columns in recorded:
        del columns["next.success"]
    root = write_lerobot(tmp_path / "neither", recorded)
    assert not read_lerobot(root).column("terminated").any() and read_lerobot(root).success is None
    assert read_lerobot(root, end="terminated").column("terminated").nonzero().flatten().tolist() == [3, 6, 11, 13]
    refused(root, "has no key 'next.success', so end cannot be success", end="success")
    recorded = episodes()
    recorded[2]["next.done"][1] = True
    recorded[1]["next.done"][:] = False  # the recording stops
    table = read_lerobot(write_lerobot(tmp_path / "inside", recorded), end="terminated")
    assert table.column("terminated").nonzero().flatten().tolist() == [3, 8, 11, 13] and table.about["done_inside"] == 1
    assert table.column("truncated").nonzero().flatten().tolist() == [6]


def test_state_keys_of_any_shape_and_type(tmp_path):
    recorded = episodes()
    for columns in recorded:
        steps = len(columns["action"])
        columns["observation.environment_state"] = np.arange(steps, dtype=np.float64) + 0.5
        columns["observation.touched"] = np.arange(steps) % 2 == 0
        columns["effort"] = np.tile(np.int64([[7, 8]]), (steps, 1))
    root = write_lerobot(tmp_path / "toy", recorded)
    table = read_lerobot(root)
    assert table.about["observation"] == {"observation.state": 2, "observation.environment_state": 1}
    assert table.column("obs")[1].tolist() == [1, -1, 1.5]
    assert table.about["keys_not_read"] == ["observation.touched", "effort"]
    table = read_lerobot(root, state=["effort", "observation.touched", "observation.state"])
    assert table.column("obs")[1].tolist() == [7, 8, 0, 1, -1]
    refused(
        root,
        r"no key 'observation.stat' of numbers \(it has observation.state, action, .*effort, .*\): correct state",
        state=["observation.stat"],
    )
    refused(root, "state is empty: .* choose among observation.state, observation.environment_state", state=[])
    refused(root, "no key 'act' of numbers", action="act")


def test_actions_are_scaled_by_what_the_user_or_the_data_say(tmp_path):
    recorded = episodes()
    for number, columns in enumerate(recorded):
        columns["action"] *= 180
        columns["action"][:, 0] += 60 * number  # -90 to 90, always 0, always 45
    root = write_lerobot(tmp_path / "toy", recorded)
    refused(root, r"'action' \(action_bounds: stats takes .*\) leaves \[-1, 1\] in 14 row\(s\) by up to 89")
    table = read_lerobot(root, action_bounds="stats")
    assert table.column("action")[:, 0].unique().tolist() == pytest.approx([-1 + 1e-5, -1 / 3, 1 / 3, 1 - 1e-5])
    assert table.column("action")[:, 1:].unique().tolist() == [0.0]  # entries that never move
    assert table.about["action_bounds"] == [[-90, -1, 44], [90, 1, 46]]
    assert read_lerobot(root, action_bounds=[-180.0, 180.0]).column("action")[0].tolist() == [-0.5, 0.0, 0.25]
    (root / "meta/stats.json").write_text("{}")
    refused(root, "stats.json does not give the range of 'action' .*: set action_bounds to", action_bounds="stats")


def test_numbers_that_no_learner_may_see(tmp_path):
    for key, value, pattern in (
        ("observation.state", np.nan, r"'observation.state' is NaN or infinite in 1 row\(s\), the first is row 5"),
        ("next.reward", np.inf, "'next.reward' is NaN or infinite"),
    ):
        recorded = episodes()
        recorded[1][key][1] = value
        refused(write_lerobot(tmp_path / key, recorded), pattern)
    recorded = episodes()
    for columns in recorded:
        columns["next.done"] = columns["next.done"].astype(np.float32) * 2
    refused(write_lerobot(tmp_path / "flags", recorded), "'next.done' holds 2.0 in row 3: store 0 and 1")


# Pictures ----------------------------------------------------------------------------------------------------------------


def shown(numbers=range(4), lengths=LENGTHS) -> torch.Tensor:
    """What was recorded of these episodes, the last picture of each twice."""
    return torch.from_numpy(np.stack([picture(n, min(t, lengths[n] - 1)) for n in numbers for t in range(lengths[n] + 1)]))


def assert_alike(frames: torch.Tensor, wanted: torch.Tensor) -> None:
    """Films lose a little; another frame or episode would be 30 or more away."""
    assert frames.shape == wanted.shape and frames.dtype == torch.uint8
    assert (frames.int() - wanted.int()).abs().max() <= 6


def test_a_picture_per_row_and_the_last_one_again(films, tmp_path, monkeypatch):
    table = read_lerobot(films, camera=CAMERA, size=None, cache_dir=tmp_path)
    assert_alike(table.frames, shown())
    assert torch.equal(table.pictures(table.frame_ids(torch.tensor([6]))), table.pictures(table.frame_ids(torch.tensor([6])) + 1))
    in_memory = read_lerobot(films, camera=CAMERA, size=None)
    assert torch.equal(in_memory.frames, table.frames) and in_memory.fingerprint == table.fingerprint
    assert table.fingerprint != read_lerobot(films, cache_dir=tmp_path).fingerprint
    assert table.about["camera"] == CAMERA and table.shown_dim == 16 * 16 * 3
    monkeypatch.setattr(lerobot_frames, "_decode", None)  # nothing is decoded twice
    again = read_lerobot(films, camera=CAMERA, size=None, cache_dir=tmp_path)
    assert torch.equal(again.frames, table.frames) and again.fingerprint == table.fingerprint
    assert sorted(file.suffix for file in tmp_path.glob("*.safetensors")) == [".safetensors"] * 2


@pytest.mark.parametrize("codec", ["libsvtav1", "libx264"])
def test_the_codecs_that_lerobot_writes(tmp_path, codec):
    side = (64, 64)
    root = write_lerobot(tmp_path / "toy", episodes((2, 3)), camera="video", codec=codec, side=side)
    frames = read_lerobot(root, camera=CAMERA, size=None).frames
    wanted = np.stack([picture(n, t, side) for n, t in ((0, 0), (0, 1), (0, 1), (1, 0), (1, 1), (1, 2), (1, 2))])
    assert_alike(frames, torch.from_numpy(wanted))
    assert not hasattr(os, "sched_getscheduler") or os.sched_getscheduler(0) == os.SCHED_OTHER  # nor for the tests after this


def test_chosen_episodes_are_jumped_to(films, tmp_path, monkeypatch):
    assert_alike(read_lerobot(films, camera=CAMERA, size=None, episodes=[1, 3]).frames, shown([1, 3]))
    jumps, opened = [], lerobot_folder.package("av").open

    def counting(path):
        container = opened(path)

        class Counting:
            def __enter__(self):
                return self

            def __exit__(self, *error):
                container.close()

            def seek(self, *args, **settings):
                jumps.append(args[0])
                container.seek(*args, **settings)

            def __getattr__(self, name):
                return getattr(container, name)

        return Counting()

    monkeypatch.setattr(lerobot_folder.package("av"), "open", counting)
    monkeypatch.setattr(lerobot_frames, "SEEK", 0.15)
    assert_alike(read_lerobot(films, camera=CAMERA, size=None, episodes=[1, 3]).frames, shown([1, 3]))
    assert len(jumps) == 2  # over .4 s and .5 s


def test_films_of_another_order_than_the_episodes(films, tmp_path, monkeypatch):
    """Writers may put a later episode first; v2.1 has a film per episode."""
    root = write_lerobot(tmp_path / "old", episodes(), camera="video", version="v2.1")
    assert_alike(read_lerobot(root, camera=CAMERA, size=None).frames, shown())
    parquet = pytest.importorskip("pyarrow.parquet")
    root = write_lerobot(tmp_path / "turned", episodes((3, 3)), tasks=TASKS[:2], camera="video")
    file = root / "meta/episodes/chunk-000/file-000.parquet"
    table = parquet.ParquetFile(file).read().to_pylist()
    key = f"videos/{CAMERA}/from_timestamp"
    table[0][key], table[1][key] = table[1][key], table[0][key]
    parquet.write_table(pytest.importorskip("pyarrow").Table.from_pylist(table), file)
    frames, wanted = read_lerobot(root, camera=CAMERA, size=None, cache_dir=tmp_path).frames, shown([0, 1], (3, 3))
    assert_alike(frames, torch.cat([wanted[4:], wanted[:4]]))


def test_pictures_are_resized_as_a_whole(tmp_path):
    recorded, side = episodes((2,)), (24, 48)
    root = write_lerobot(tmp_path / "toy", recorded, camera="image", side=side)
    exact = np.stack([picture(0, time, (8, 8)) for time in (0, 1, 1)])
    assert np.array_equal(read_lerobot(root, camera=CAMERA, size=8).frames.numpy(), exact)
    assert read_lerobot(root, camera=CAMERA).frames.shape == (3, 64, 64, 3)  # grown to the default
    refused(root, "shows 24 x 48 pixels, no square: set size, for instance 64", camera=CAMERA, size=None)
    refused(root, "The size of pictures is 4; give at least 8", camera=CAMERA, size=4)


def test_stored_pictures_are_exact(tmp_path):
    root = write_lerobot(tmp_path / "toy", episodes(), camera="image")
    table = read_lerobot(root, camera=CAMERA, size=None, episodes=[0, 2], cache_dir=tmp_path)
    assert torch.equal(table.frames, shown([0, 2]))


def test_cameras_that_cannot_be_shown(films, tmp_path):
    refused(films, r"has no camera 'top' \(it has observation.images.top\): correct camera", camera="top")
    root = write_lerobot(tmp_path / "toy", episodes(), camera="video")
    info = json.loads((root / "meta/info.json").read_text())
    info["features"][CAMERA]["info"] = {"is_depth_map": True}
    (root / "meta/info.json").write_text(json.dumps(info))
    refused(root, "measures depth, and pictures here are RGB", camera=CAMERA)


def test_films_that_lack_frames_or_are_damaged(tmp_path):
    root = write_lerobot(tmp_path / "toy", episodes(), camera="video")
    film = root / f"videos/{CAMERA}/chunk-000/file-001.mp4"
    write_film(film, [picture(2, 0)] * 6)
    refused(root, r"file-001.mp4 has no frame at 0.600 s: download the folder again", camera=CAMERA, cache_dir=tmp_path / "cache")
    film.write_bytes(film.read_bytes()[:200])
    refused(root, "file-001.mp4 is damaged or no film that PyAV decodes", camera=CAMERA, cache_dir=tmp_path / "cache")
    film.unlink()
    refused(root, "There is no file .*file-001.mp4", camera=CAMERA, cache_dir=tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*frames.safetensors"))  # nor a part of one
    assert not list((tmp_path / "cache").glob(".*.part"))


# Folders that are not right ----------------------------------------------------------------------------------------------


def test_folders_of_other_versions_and_none(tmp_path):
    refused(tmp_path, r"There is no LeRobot data set in .* \(no meta/info.json\): check the path")
    root = write_lerobot(tmp_path / "toy", episodes(), changes={"codebase_version": "v2.0"})
    refused(root, "has codebase_version 'v2.0' and v3.0 and v2.1 can be read: convert it with LeRobot's own")
    (root / "meta/info.json").write_text("{")
    refused(root, "info.json is damaged or no JSON")
    (root / "meta/info.json").write_text('{"codebase_version": "v3.0"}')
    refused(root, "info.json lacks what LeRobot writes .*KeyError: 'features'")


def test_rows_that_contradict_the_description(tmp_path):
    root = write_lerobot(tmp_path / "toy", episodes())
    first, second = sorted(root.glob("data/*/*.parquet"))
    stored = first.read_bytes()
    first.write_bytes(second.read_bytes())
    refused(root, "file-000.parquet has rows of other episodes than meta/episodes say")
    first.write_bytes(stored)
    second.write_bytes(second.read_bytes()[:-20])
    refused(root, "file-001.parquet is damaged or not a Parquet file")
    root = write_lerobot(tmp_path / "short", episodes(), without=["action"])
    refused(root, r"file-000.parquet has no column 'action' \(it has observation.state, ")
    root = write_lerobot(tmp_path / "shape", episodes())
    info = json.loads((root / "meta/info.json").read_text())
    info["features"]["observation.state"]["shape"] = [3]
    (root / "meta/info.json").write_text(json.dumps(info))
    refused(root, "'observation.state' has empty cells, or cells of another size than meta/info.json says")
    root = write_lerobot(tmp_path / "away", episodes(), changes={"data_path": "../{chunk_index}/{file_index}.parquet"})
    refused(root, "leaves the folder")


def test_names_of_columns_that_are_no_text(tmp_path):
    """Each place in the file's description that names a column, damaged by itself."""
    root = write_lerobot(tmp_path / "toy", episodes())
    file = sorted(root.glob("data/*/*.parquet"))[0]
    whole, at, times = file.read_bytes(), -1, 0
    while (at := whole.find(b"next.reward", at + 1)) >= 0:
        file.write_bytes(whole[: at + 2] + b"\xff" + whole[at + 3 :])
        with suppress(UserError):  # or another place says the same
            read_lerobot(root, action_bounds=[-1, 1])
        times += 1
    assert times > 2


def test_an_interrupted_recording(tmp_path):
    root = write_lerobot(tmp_path / "toy", episodes())
    (root / "meta/episodes/chunk-000/file-000.parquet").write_bytes(b"PAR1")  # the writer was not closed
    refused(root, r"is damaged or not a Parquet file .* end its recording with LeRobotDataset.finalize\(\)")
    (root / "meta/episodes/chunk-000/file-000.parquet").unlink()
    refused(root, "meta/episodes has no episodes")


def test_a_changed_folder_is_read_anew(tmp_path):
    root, cache = write_lerobot(tmp_path / "toy", episodes()), tmp_path / "cache"
    assert len(read_lerobot(root, cache_dir=cache)) == len(read_lerobot(root, cache_dir=cache)) == 14
    file = next(root.glob("data/*/file-000.parquet"))
    other = write_lerobot(tmp_path / "other", [{**each, "action": each["action"] * 0} for each in episodes()])
    file.write_bytes(next(other.glob("data/*/file-000.parquet")).read_bytes())
    assert not read_lerobot(root, cache_dir=cache).column("action")[:7].any()


def test_the_extra_is_named(tmp_path, monkeypatch):
    root = write_lerobot(tmp_path / "toy", episodes())

    def missing(name):
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(lerobot_folder, "import_module", missing)
    refused(root, r"The package 'pyarrow.parquet' is not installed; install it with pip install 'lightning-pbrl\[lerobot\]'")


def test_flags_say_where_a_person_acted(tmp_path):
    acted = [np.zeros(steps, dtype=bool) for steps in LENGTHS]
    acted[0][2:], acted[2][1:3] = True, True
    told = [{**each, "intervention": flags} for each, flags in zip(episodes(), acted, strict=True)]
    spans = [[[2, 4, "person"]], [], [[1, 3, "person"]], []]
    for rows in (told, [{**each, "intervention": each["intervention"].astype(np.float32)} for each in told]):
        found = read_lerobot(write_lerobot(tmp_path / rows[0]["intervention"].dtype.name, rows))
        assert found.about["interventions"] == spans and found.about["keys_not_read"] == []
    renamed = [{"help" if key == "intervention" else key: values for key, values in each.items()} for each in told]
    root = write_lerobot(tmp_path / "renamed", renamed)
    assert "interventions" not in read_lerobot(root).about and read_lerobot(root).about["keys_not_read"] == ["help"]
    assert read_lerobot(root, intervention="help", episodes=[2]).about["interventions"] == spans[2:3]
    assert preferences(read_lerobot(root, intervention="help"), 2).start.tolist() == [[0, 2]]
    refused(root, "no key 'hand' of numbers .*: correct intervention", intervention="hand")
    refused(root, "key 'action' has several numbers a row, a flag is one: correct intervention", intervention="action")
    wide = [{**each, "intervention": np.stack([each["intervention"]] * 2, 1)} for each in told]  # of another recorder's meaning
    assert "interventions" not in read_lerobot(write_lerobot(tmp_path / "wide", wide)).about
    told[1]["intervention"] = np.float32([0, 0.5, 0])
    told = [{**each, "intervention": np.float32(each["intervention"])} for each in told]
    refused(write_lerobot(tmp_path / "half", told), "key 'intervention'.*0 (and|or) 1")
