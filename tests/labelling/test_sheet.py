"""The sheet of pictures: which questions, what is drawn and marked, as a picture and as a page."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clip_ramps import Ramp
from online_toys import _Actor
from PIL import Image
from toys import make_trainer

from lightning_pbrl.callbacks.ask_teacher import AskTeacher
from lightning_pbrl.cli import main
from lightning_pbrl.clips.online import recording_of
from lightning_pbrl.clips.rebuilt import RebuiltStates
from lightning_pbrl.data.feedback import Answer, AskKey, Query
from lightning_pbrl.data.store import LabelStore
from lightning_pbrl.datamodules.online import OnlineDataModule
from lightning_pbrl.envs.gym_mujoco import GymMuJoCo
from lightning_pbrl.envs.render import Camera
from lightning_pbrl.errors import UserError
from lightning_pbrl.labelling.contents import KeptSegments
from lightning_pbrl.labelling.exchange import given, records_of
from lightning_pbrl.labelling.films import drawn_by
from lightning_pbrl.labelling.formats.records import Record
from lightning_pbrl.labelling.sheet import BETTER, GAP, LINE, SIDE, Entry, entries, spread, write
from lightning_pbrl.queries.best_of import BestOfQuery
from lightning_pbrl.queries.uniform import UniformQuery
from lightning_pbrl.teachers.best_of import BestOfTeacher
from lightning_pbrl.teachers.simulated import SimulatedTeacher
from lightning_pbrl.testing.toys import ToyData

WHO = {"strategy": {}, "teacher": {}, "seed": 0}


@pytest.fixture
def opengl() -> None:
    """Skip where this machine cannot render."""
    try:
        Camera(GymMuJoCo("Hopper-v5").make().physics, 16).close()
    except UserError as error:
        pytest.skip(str(error))


def row_of(record: Record, which: int) -> int:
    return int(record[f"start_{which}"])


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    """Second is better, first is better, equal, cannot tell, open; a pair that cannot be drawn; a rating."""
    store, nan = LabelStore(tmp_path / "x.sqlite", "data"), float("nan")
    start = torch.tensor([[10, 60], [20, 70], [30, 80], [40, 90], [50, 100], [777, 5]])
    answer = Answer(torch.tensor([1, 0, 0.5, nan, nan, 1.0]), torch.tensor([1, 1, 2, 3, 0, 1]))
    store.put(AskKey("run", 0, 0), Query("pair", start, 9), answer, answered_by="Ada <b>", **WHO)
    rating = Query("rating", torch.tensor([[120]]), 9)
    store.put(AskKey("run", 1, 6), rating, Answer(torch.tensor([7.0]), torch.tensor([1])), answered_by="Bob", **WHO)
    return store


def drawn(store: LabelStore) -> list[Entry]:
    return list(entries(records_of(store), given(store), Ramp(), row_of))


def test_entries(store: LabelStore) -> None:
    found = drawn(store)
    words = [each.title.partition(": ")[2] for each in found]
    assert words == ["second is better", "first is better", "equal", "cannot tell", "open", "second is better", "rating 7"]
    assert found[0].title.startswith("run/0/0: ") and found[0].answers == "Ada <b>: second is better" and found[4].answers == ""
    assert [each.better for each in found] == [1, 0, None, None, None, 1, None]
    assert [len(each.strips) for each in found] == [2, 2, 2, 2, 2, 0, 1]
    assert found[5].problem == "Row 777 cannot be drawn: ask about another."
    strip = found[0].strips[1]  # from row 60 on: steps 0, 4 and 8
    assert strip.shape == (SIDE, 3 * SIDE, 3)
    assert [np.unique(strip[:, place * SIDE : (place + 1) * SIDE]).tolist() for place in range(3)] == [[60], [64], [68]]


def test_a_picture(store: LabelStore, tmp_path: Path) -> None:
    assert write(tmp_path / "x.png", iter(drawn(store)[:2])) == 2
    picture = np.asarray(Image.open(tmp_path / "x.png"))
    height, top = 2 * LINE + GAP + SIDE, GAP + 2 * LINE
    assert picture.shape == (2 * height + GAP, 3 * GAP + 6 * SIDE, 3)
    for place, (first, second) in enumerate(((10, 60), (20, 70))):
        middle = place * height + top + SIDE // 2
        assert picture[middle, GAP + SIDE // 2].tolist() == [first] * 3
        assert picture[middle, 2 * GAP + 3 * SIDE + SIDE // 2].tolist() == [second] * 3
        borders = [tuple(picture[middle, GAP - 2 + which * (3 * SIDE + GAP)].tolist()) == BETTER for which in (0, 1)]
        assert borders == [place == 1, place == 0]


def test_a_page_needs_no_other_file(store: LabelStore, tmp_path: Path) -> None:
    assert write(tmp_path / "x.html", iter(drawn(store))) == 7
    page = (tmp_path / "x.html").read_text()
    assert "<b>" not in page and "Ada &lt;b&gt;" in page and "http" not in page and "Row 777 cannot be drawn" in page
    pictures = re.findall(r'src="data:image/png;base64,([^"]*)" alt="(\w+) segment[^"]*"( class="better")?', page)
    assert len(pictures) == 11 and [better != "" for *_, better in pictures[:4]] == [False, True, True, False]
    first = np.asarray(Image.open(io.BytesIO(base64.b64decode(pictures[0][0]))))
    assert first.shape == (SIDE, 3 * SIDE, 3) and first[0, 0].tolist() == [10] * 3


def test_questions_are_spread_evenly(store: LabelStore, tmp_path: Path) -> None:
    records = records_of(store)
    assert [row["number"] for row in spread(records, 3)] == [0, 3, 6]
    assert spread(records, 7) == spread(records, 99) == records and spread(records, 1) == records[:1]
    with pytest.raises(UserError, match=r"is a \.png or \.html file, not x\.gif"):
        write(tmp_path / "x.gif", iter(()))
    with pytest.raises(UserError, match="would be empty"):
        write(tmp_path / "x.png", iter(()))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Toy data have no picture, so their observations are plotted, as on the page."""
    (tmp_path / "data.yaml").write_text("data: {class_path: lightning_pbrl.testing.toys.ToyData, init_args: {episodes: 20}}\n")
    toy = ToyData(episodes=20)
    toy.setup("fit")
    store, sheet = LabelStore(tmp_path / "x.sqlite", toy.source.fingerprint), tmp_path / "x.png"
    pairs = Query("pair", torch.tensor([[0, 20], [1, 21], [2, 22]]), 5)
    store.put(AskKey("a", 0, 0), pairs, Answer(torch.ones(3), torch.ones(3).long()), answered_by="Ada", **WHO)
    best = Query("best", torch.tensor([[3, 23, 43]]), 5)
    store.put(AskKey("a", 0, 3), best, Answer(torch.ones(1), torch.ones(1).long()), answered_by="Ada", **WHO)
    main(["labels", "show", store.name, "--sheet", str(sheet), "-c", str(tmp_path / "data.yaml"), "--questions", "2"])
    assert f"drew 2 questions into {sheet}" in capsys.readouterr().out.replace("\n", " ")
    assert np.asarray(Image.open(sheet)).std() > 5
    for args, sentence in (
        (["--sheet", str(sheet)], "No film can be drawn without the data"),
        (["--sheet", str(sheet), "-c", str(tmp_path / "data.yaml"), "--questions", "0"], "--questions is 0: give at least 1"),
    ):
        with pytest.raises(SystemExit):
            main(["labels", "show", store.name, *args])
        assert sentence in capsys.readouterr().err


class OfAnyKind(_Actor):
    """Learns from whatever it is told."""

    kinds = frozenset({"pair", "best"})


@pytest.mark.parametrize("ask", [(SimulatedTeacher(), UniformQuery()), (BestOfTeacher(), BestOfQuery(4))])
def test_questions_about_a_replay_are_drawn_from_what_the_store_holds(opengl: None, tmp_path: Path, ask: Any) -> None:
    """Nobody looked while a simulated teacher answered, so there are no recordings: the states are rebuilt from observations."""
    data = OnlineDataModule(GymMuJoCo("Reacher-v5", horizon=10), segment_length=4, eval_episodes=0, test_episodes=0, capacity=30)
    method = OfAnyKind(data.spec, env_steps=40)
    asking = AskTeacher(*ask, budget=3, per_round=3, first_round=1)
    make_trainer(tmp_path, [asking], limit_val_batches=0).fit(method, data)
    where = str(tmp_path / "labels.sqlite")
    make, recorded = drawn_by(tmp_path, Reacher, where)
    labels = method.others["best"] if "best" in ask[1].kinds else method.labels
    seen = data.source.segments(labels.start, 4).split([data.source.obs_dim, data.source.action_dim], -1)
    with make() as renderer, RebuiltStates(None, Reacher().simulator) as rebuilt:
        assert recorded and isinstance(renderer, KeptSegments)
        for number, which in ((0, 0), (2, 1), (1, labels.start.shape[1] - 1)):
            expected = rebuilt.draw(*(part[number, which].numpy() for part in seen))
            assert np.array_equal(renderer.frames(recording_of(number, which), 4), expected)
        with pytest.raises(UserError, match="no run has stored segments of a question 9: show one run's store"):
            renderer.frames(18, 4)
    blind = KeptSegments(tmp_path, GymMuJoCo("Pusher-v5"), where)
    with pytest.raises(UserError, match="Question 2 was asked without a recording, and an observation of Pusher-v5 does not"):
        blind.frames(5, 4)


class Reacher:
    """A data module as far as a renderer of recordings needs one."""

    simulator = GymMuJoCo("Reacher-v5", horizon=10)
