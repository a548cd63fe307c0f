"""Answers about a replay leave with the segments that they are about, and can be used without the run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from online_toys import WalkSimulator, _Actor
from toys import make_trainer

from lightning_pbrl.callbacks.ask_teacher import AskTeacher
from lightning_pbrl.cli import main
from lightning_pbrl.data.feedback import Answer, AskKey, Clips, Query
from lightning_pbrl.data.store import LabelStore
from lightning_pbrl.datamodules.online import OnlineDataModule
from lightning_pbrl.datamodules.preference_npz import PreferenceNPZDataModule
from lightning_pbrl.teachers.simulated import SimulatedTeacher
from lightning_pbrl.testing.toys import ToyData

WHO = {"strategy": {}, "teacher": {}, "seed": 0}
STEPS = 3


def labels(*args: object) -> None:
    main(["labels", *map(str, args)])


def refused(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    with pytest.raises(SystemExit) as ended:
        labels(*args)
    assert ended.value.code == 2
    return capsys.readouterr().err


class ContextActor(_Actor):
    """Needs a step on both sides of every segment, which the store then keeps as well."""

    context = 1


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LabelStore, torch.Tensor]:
    """A run that has acted and asked 20 pairs; its store, and the segments as the learner saw them, (20, 2, 3, O + A)."""
    folder = tmp_path_factory.mktemp("run")
    data = OnlineDataModule(WalkSimulator(), segment_length=STEPS, eval_episodes=1, num_envs=2)
    method = ContextActor(data.spec, env_steps=120)
    ask = AskTeacher(SimulatedTeacher(), budget=20, per_round=10, first_round=1)
    make_trainer(folder, [ask], limit_val_batches=0).fit(method, data)
    store = LabelStore(folder / "labels.sqlite", data.source.fingerprint, "seed0")
    assert store.clips([0]).obs.shape[2] == STEPS + 2  # with context
    return folder, store, data.source.segments(method.labels.start, STEPS)


def test_an_npz_file_holds_what_the_learner_saw(run: Any, tmp_path: Path) -> None:
    folder, store, seen = run
    labels("export", folder, tmp_path / "pairs.npz")
    module = PreferenceNPZDataModule(str(tmp_path / "pairs.npz"))
    module.setup("fit")
    assert module.segment_length == STEPS and len(module.labels) == 20
    assert torch.equal(module.source.segments(module.labels.start, STEPS), seen)
    assert torch.equal(module.labels.value, store.labels("pair").value)


def test_lines_of_json_bring_the_segments_into_another_store(run: Any, tmp_path: Path) -> None:
    folder, store, seen = run
    labels("export", folder, tmp_path / "all.jsonl", "--content")
    labels("import", tmp_path / "copy.sqlite", tmp_path / "all.jsonl")
    copy = LabelStore(tmp_path / "copy.sqlite", store.fingerprint, "seed0")
    before, after = store.clips(range(20)), copy.clips(range(20))
    assert torch.equal(torch.cat([after.obs, after.action], -1), seen)
    assert torch.equal(after.reward, before.reward[:, :, 1:-1]) and not after.reward.isnan().any()
    assert store.records() == copy.records()
    labels("export", tmp_path / "copy.sqlite", tmp_path / "again.jsonl", "--content")
    assert (tmp_path / "again.jsonl").read_text() == (tmp_path / "all.jsonl").read_text()
    labels("export", folder, tmp_path / "one.npz")
    labels("export", tmp_path / "copy.sqlite", tmp_path / "two.npz")
    with np.load(tmp_path / "one.npz") as one, np.load(tmp_path / "two.npz") as two:
        assert sorted(one) == sorted(two) and all(np.array_equal(one[name], two[name]) for name in one)
    labels("export", folder, tmp_path / "short.jsonl")
    assert all("content" not in json.loads(line) for line in (tmp_path / "short.jsonl").read_text().splitlines())


def test_ratings_and_unknown_rewards(tmp_path: Path) -> None:
    """One segment per rating; a true reward that nobody knows stays unknown."""
    store = LabelStore(tmp_path / "x.sqlite", "replay")
    clips = Clips(torch.randn(1, 1, 4, 3), torch.randn(1, 1, 4, 2), torch.full((1, 1, 4), torch.nan))
    answer = Answer(torch.tensor([7.0]), torch.tensor([1]))
    store.put(AskKey("a", 0, 0), Query("rating", torch.tensor([[50]]), 4), answer, answered_by="Ada", clips=clips, **WHO)
    labels("export", store.name, tmp_path / "x.jsonl", "--content")
    labels("import", tmp_path / "y.sqlite", tmp_path / "x.jsonl")
    found = LabelStore(tmp_path / "y.sqlite", "replay").clips([0], "a")
    assert torch.equal(found.obs, clips.obs) and torch.equal(found.action, clips.action) and bool(found.reward.isnan().all())


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda row: row.update(content=[1]), "line 2 has a content that is not an object with obs, action, reward"),
        (lambda row: row["content"].pop("reward"), "line 2 has a content that is not an object with obs, action, reward"),
        (lambda row: row["content"]["obs"].pop(), "line 2 has a content whose obs is not (2, 3, size) finite numbers"),
        (lambda row: row["content"]["action"][0].pop(), "line 2 has a content whose action is not (2, 3, size) finite numbers"),
        (lambda row: row["content"]["obs"][0][0].append(0.0), "line 2 has a content whose obs is not (2, 3, size)"),
        (lambda row: row["content"]["obs"][1][2].__setitem__(0, 1e99), "line 2 has a content whose obs is not"),
        (lambda row: row["content"]["obs"][1][2].__setitem__(0, None), "line 2 has a content whose obs is not"),
        (lambda row: row["content"].update(reward="x"), "line 2 has a content whose reward is not (2, 3) finite numbers"),
        (lambda row: _wider(row["content"]["obs"]), "segments of several sizes of observations or actions"),
    ],
)
def test_content_that_cannot_be_read(
    run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[dict[str, Any]], Any], problem: str
) -> None:
    labels("export", run[0], tmp_path / "x.jsonl", "--content")
    lines = (tmp_path / "x.jsonl").read_text().splitlines()
    row = json.loads(lines[1])
    change(row)
    (tmp_path / "x.jsonl").write_text("\n".join([lines[0], json.dumps(row), *lines[2:]]))
    assert problem in refused(capsys, "import", tmp_path / "new.sqlite", tmp_path / "x.jsonl")
    assert not (tmp_path / "new.sqlite").exists() or LabelStore(tmp_path / "new.sqlite", "any").count == 0


def _wider(obs: list[list[list[float]]]) -> None:
    for segment in obs:
        for step in segment:
            step.append(0.0)


def test_what_has_no_segments_says_so(run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy = ToyData(episodes=20)
    toy.setup("fit")
    store = LabelStore(tmp_path / "rows.sqlite", toy.source.fingerprint)
    answer = Answer(torch.tensor([1.0]), torch.tensor([1]))
    store.put(AskKey("a", 0, 0), Query("pair", torch.tensor([[0, 6]]), 5), answer, answered_by="Ada", **WHO)
    assert "holds rows of its data and no segments: leave out --content" in refused(
        capsys, "export", store.name, tmp_path / "x.jsonl", "--content"
    )
    assert "name the data that were asked about, with -c DATA.yaml" in refused(capsys, "export", store.name, tmp_path / "x.npz")
    assert "--content is for JSON lines" in refused(capsys, "export", run[0], tmp_path / "x.csv", "--content")
