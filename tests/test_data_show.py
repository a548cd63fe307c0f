"""``lightning-pbrl data show``: the format of every reader's file is guessed, and what it holds is printed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lerobot_files
import numpy as np
import pytest
import torch
from command_line import mistake
from d4rl_files import episodes, write_d4rl
from format_files import d3rlpy_episodes, trajectories, write_d3rlpy, write_ogbench, write_replay, write_uni_rlhf
from PIL import Image
from robomimic_files import random_demo, write_robomimic

from lightning_pbrl.cli import main
from lightning_pbrl.data import archive
from lightning_pbrl.data.formats import format_of, keys_of, read_format
from lightning_pbrl.data.lire import write_lire
from lightning_pbrl.data.preference_npz import write_pairs
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.errors import UserError
from lightning_pbrl.reports import data_sheet


def table(scale: float = 1.0) -> Transitions:
    """Two episodes of 3 and 5 steps whose first entry is large."""
    rng = torch.Generator().manual_seed(0)
    obs = torch.rand(8, 3, generator=rng) * torch.tensor([100.0, 1.0, 0.0])
    action = torch.rand(8, 2, generator=rng) * scale
    ends = torch.tensor([0.0, 0, 1, 0, 0, 0, 0, 0])
    last = torch.tensor([0.0, 0, 0, 0, 0, 0, 0, 1])
    after = torch.cat([obs[1:], obs[-1:]])
    return Transitions.from_columns(obs, action, after, torch.tensor([0, 3, 8]), torch.arange(8.0), ends, last)


MAKERS: dict[str, Callable[[Path], Path]] = {
    "archive": lambda folder: archive.save(table(), folder / "a.safetensors"),
    "ogbench": lambda folder: write_ogbench(folder / "a.npz", trajectories([3, 2])),
    "preference_npz": lambda folder: write_pairs(
        folder / "b.npz", torch.rand(2, 2, 3, 4), torch.rand(2, 2, 3, 2), torch.tensor([0.0, 1])
    ),
    "d3rlpy": lambda folder: write_d3rlpy(folder / "a.h5", d3rlpy_episodes([3, 2], [True, False])),
    "robomimic": lambda folder: write_robomimic(folder / "b.hdf5", {"demo_0": random_demo(0), "demo_1": random_demo(1)}),
    "d4rl": lambda folder: write_d4rl(folder / "c.hdf5", episodes(["timeout", "terminal"], [3, 2])),
    "lire": lambda folder: write_lire(table(), folder / "lire").parent,
}


def told(capsys: pytest.CaptureFixture[str], path: Path, strips: Path, *wanted: str) -> str:
    """Run the command and return what it printed, on one line, in which all that is wanted stands."""
    main(["data", "show", str(path), "--out", str(strips)])
    said = " ".join(capsys.readouterr().out.split())
    for each in wanted:
        assert each in said, each
    return said


@pytest.mark.parametrize("kind", MAKERS)
def test_formats_are_guessed_and_read(kind: str, tmp_path: Path):
    path = MAKERS[kind](tmp_path)
    assert format_of(path) == kind
    found = read_format(path, kind)
    assert len(found.episodes) == {"preference_npz": 4}.get(kind, 2)
    assert kind in ("archive",) or keys_of(path)


def test_what_is_in_no_format_is_refused(tmp_path: Path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UserError, match="in none of the formats"):
        format_of(tmp_path / "a.txt")
    with pytest.raises(UserError, match="no file or folder"):
        format_of(tmp_path / "b")


def test_what_looks_like_a_format_is_told(tmp_path: Path):
    def said(path: Path) -> str:
        with pytest.raises(UserError) as error:
            format_of(path)
        return str(error.value)

    whole = MAKERS["ogbench"](tmp_path).read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    assert said(tmp_path / "cut.npz").startswith(f"{tmp_path}/cut.npz is truncated or damaged: download")
    (tmp_path / "empty.hdf5").touch()
    assert said(tmp_path / "empty.hdf5").startswith(f"{tmp_path}/empty.hdf5 is empty: download")
    np.savez(tmp_path / "other.npz", states=np.zeros(3), acts=np.zeros(3))
    assert "; its keys are states, acts: give one" in said(tmp_path / "other.npz")
    columns = episodes(["timeout", "terminal"], [3, 2])
    assert "; its keys are" in said(write_d4rl(tmp_path / "d.hdf5", columns, without=["actions"]))
    (tmp_path / "robot/meta").mkdir(parents=True)
    (tmp_path / "robot/meta/info.json").touch()
    (tmp_path / "robot/data/chunk-000").mkdir(parents=True)
    (tmp_path / "robot/data/chunk-000/file.parquet").write_text("x")
    for part in ("data", "data/chunk-000/file.parquet"):
        assert f"; it is a part of the data set {tmp_path}/robot: give one" in said(tmp_path / "robot" / part)


def test_an_environment_that_draws_nothing_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    table = ["data", "show", str(MAKERS["archive"](tmp_path)), "--out", str(tmp_path / "s.png")]
    said = mistake(capfd, *table, "--env", "Hopper-v5")
    assert said.endswith("set --env to theirs.") and "data.simulator" not in said
    assert mistake(capfd, *table, "--env", "Pendulum-v1").startswith("--env Pendulum-v1 draws no frame: an observation of")
    columns = trajectories([3, 2])
    columns["observations"] = np.zeros((7, 8, 8, 3), np.uint8)
    shown = ["data", "show", str(write_ogbench(tmp_path / "v.npz", columns)), "--env", "Pendulum-v1"]
    assert "the data hold pictures, which are drawn; leave it out" in mistake(capfd, *shown)


def test_states_whose_scene_is_missing_are_plotted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    monkeypatch.setenv("COLUMNS", "200")
    found = told(capsys, MAKERS["robomimic"](tmp_path), tmp_path / "s.png", "drew episodes demo_0, demo_1", "no frames:")
    assert "plot of the observations over time" in found and (tmp_path / "s.png").is_file()


def test_what_a_run_has_collected_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    monkeypatch.setenv("COLUMNS", "200")
    told(capsys, write_replay(tmp_path / "last.ckpt"), tmp_path / "s.png", "replay of a run", "rows 120", "60 median")


def test_labels_alone_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any):
    monkeypatch.setenv("COLUMNS", "200")
    folder = write_uni_rlhf(tmp_path / "hopper-medium-v2_human_labels", [0, 1, -1, 1], [0, 5, 1, 2], [9, 1, 10, 7], 3)
    wanted = ("Uni-RLHF labels pairs 4 of segments of 3 steps data hopper-medium-v2", "1 first, 2 second, 1 equal", "up to 10,")
    told(capfd, folder, tmp_path / "s.png", *wanted, "These are labels alone")
    assert not (tmp_path / "s.png").exists()
    assert "holds labels alone; show the data" in mistake(capfd, "data", "show", str(folder), "--env", "Hopper-v5")


def test_interventions_are_counted():
    source = table()
    source.about["interventions"] = [[[1, 3, "person"]], [[0, 1, "script"], [2, 5, "person"]]]
    cells = [list(column.cells) for column in data_sheet.counts(source).columns]
    assert ("interventions", "3, of 6 steps") in list(zip(*cells, strict=True))


def test_ranges_are_those_of_numpy(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(data_sheet, "WINDOW", 3)
    values = torch.randn(10, 2, generator=torch.Generator().manual_seed(0)) * 5 + 3
    found, numbers = data_sheet.ranges(values), values.double().numpy()
    for ours, theirs in zip(found, (numbers.min(0), numbers.max(0), numbers.mean(0), numbers.std(0)), strict=True):
        assert ours == pytest.approx(theirs)


def test_what_is_not_normalised():
    source = table(scale=0.3)
    source.about["actions_clipped"] = 7
    said = "\n".join(data_sheet.not_normalised(source))
    assert "leave [-1, 1] in 7 rows" in said and "less than half of [-1, 1] in entries 0, 1" in said
    assert "large (mean or sd above 10) in entries 0" in said and "constant in entries 2" in said
    assert "Rewards go from" not in said


def test_the_command_prints_counts_and_draws_three_strips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    columns = trajectories([3, 12, 9, 4])
    columns["observations"] = np.random.default_rng(0).integers(0, 256, (32, 8, 8, 3), np.uint8)
    path = write_ogbench(tmp_path / "visual.npz", columns)
    monkeypatch.setenv("COLUMNS", "120")
    wanted = [
        "OGBench",
        "rows 28",
        "episodes 4",
        "3 min, 4 median, 12 max",
        "0 episodes terminated, 4 truncated",
        "(32, 8, 8, 3)",
    ]
    said = told(capsys, path, tmp_path / "s.png", *wanted)
    assert "reward unknown" in said and "success unknown" in said and "stored images, exact" in said
    with Image.open(tmp_path / "s.png") as picture:
        assert picture.size == (8 * 128, 3 * 132)
        pixel = np.asarray(picture)[8, 8]
    assert pixel.tolist() == columns["observations"][0, 0, 0].tolist()  # of the first episode, which is on top


def test_plots_stand_in_for_pictures(tmp_path: Path):
    path = MAKERS["d4rl"](tmp_path)
    main(["data", "show", str(path), "--out", str(tmp_path / "s.png")])
    with Image.open(tmp_path / "s.png") as picture:
        assert picture.size == (3 * 128, 2 * 132)  # two episodes, the longer of three steps


def test_a_lerobot_folder_is_shown_by_its_first_camera(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    pytest.importorskip("pyarrow", reason="the extra lerobot is not installed")
    pytest.importorskip("av", reason="the extra lerobot is not installed")
    recorded = lerobot_files.episodes()
    root = lerobot_files.write_lerobot(tmp_path / "robot", recorded, camera="image")
    monkeypatch.setenv("COLUMNS", "200")
    wanted = [
        "LeRobotDataset",
        "rows 14",
        "episodes 4",
        "2 min, 3 median, 5 max",
        "meta/info.json",
        "camera observation.images.top",
    ]
    said = told(capsys, root, tmp_path / "s.png", *wanted)
    returns = [each["next.reward"].sum() for each in recorded]
    order = np.argsort(returns, kind="stable")
    shown = [int(order[place]) for place in (0, 2, 3)]  # the lowest, the middle and the highest return
    assert f"drew episodes {', '.join(map(str, shown))} into" in said
    with Image.open(tmp_path / "s.png") as picture:
        assert picture.size == (5 * 128, 3 * 132)
        pixels = np.asarray(picture)
    for row, number in enumerate(shown):
        first = pixels[132 * row + 64, 64].astype(int)
        assert np.abs(first - lerobot_files.picture(number, 0)[0, 0]).max() <= 1
    shutil.rmtree(root / "data")
    with pytest.raises(SystemExit):
        main(["data", "show", str(root)])


def test_lerobot_films_that_are_elsewhere_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("pyarrow", reason="the extra lerobot is not installed")
    pytest.importorskip("av", reason="the extra lerobot is not installed")
    root = lerobot_files.write_lerobot(tmp_path / "robot", lerobot_files.episodes(), camera="video")
    shutil.rmtree(root / "videos")
    said = told(capsys, root, tmp_path / "s.png")
    assert "no pictures:" in said and ".mp4" in said and (tmp_path / "s.png").is_file()


@pytest.mark.filterwarnings("ignore::UserWarning")  # Minari's, about an author and a link that are not given
def test_a_minari_folder_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    minari = pytest.importorskip("minari", reason="the extra minari is not installed")
    from gymnasium.spaces import Box
    from minari.data_collector.episode_buffer import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    buffers = []
    for number, steps in enumerate((3, 5)):
        ends = [step == steps - 1 for step in range(steps)]
        buffers.append(
            EpisodeBuffer(
                id=number,
                observations=[np.full(2, step, np.float32) for step in range(steps + 1)],
                actions=[np.zeros(3, np.float32)] * steps,
                rewards=[1.0] * steps,
                terminations=ends if number else [False] * steps,
                truncations=[False] * steps if number else ends,
            )
        )
    spaces = {"observation_space": Box(-9, 9, (2,), np.float32), "action_space": Box(-1, 1, (3,), np.float32)}
    minari.create_dataset_from_buffers(dataset_id="toy/tiny-v0", buffer=buffers, **spaces)
    folder = tmp_path / "toy/tiny-v0"
    assert format_of(folder) == "minari"
    monkeypatch.setenv("COLUMNS", "200")
    wanted = [
        "Minari",
        "rows 8",
        "episodes 2",
        "1 episodes terminated, 1 truncated",
        "3 min, 3 median, 5 max",
        "data/metadata.json",
    ]
    told(capsys, folder, tmp_path / "s.png", *wanted)
    assert (tmp_path / "s.png").is_file()
    with pytest.raises(UserError, match="give the folder <root>/toy/tiny-v0"):
        read_format(folder.rename(tmp_path / "other"), "minari")


def test_help_imports_no_learning(capsys: pytest.CaptureFixture[Any]):
    program = (
        "import sys\nfrom lightning_pbrl.cli import main\n"
        "try:\n    main(['data', 'show', '--help'])\nexcept SystemExit:\n    pass\n"
        "sys.exit(bool({'torch', 'pytorch_lightning', 'matplotlib'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, stdout=subprocess.DEVNULL).returncode == 0
