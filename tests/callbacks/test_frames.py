"""Teachers that look get frames in a fit: of logged data, and of the episodes that a method acts out, also after a crash."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
import pebble_toys
import pytest
import torch
from clip_toys import apart
from online_toys import _Actor
from toys import ToyData, assert_same, make_trainer
from vision_server import refusal, said, serving

from lightning_pbrl.callbacks.ask_teacher import AskTeacher
from lightning_pbrl.clips.choose import renderer_of
from lightning_pbrl.clips.rebuilt import RebuiltStates
from lightning_pbrl.data.feedback import Query, Status
from lightning_pbrl.data.store import LabelStore
from lightning_pbrl.datamodules.collected import CollectedDataModule
from lightning_pbrl.datamodules.online import OnlineDataModule
from lightning_pbrl.envs.behaviour import Behaviour
from lightning_pbrl.envs.gym_mujoco import GymMuJoCo
from lightning_pbrl.envs.render import Camera
from lightning_pbrl.errors import UserError
from lightning_pbrl.labelling.films import drawn_by, recorder
from lightning_pbrl.methods.learn_reward import RewardEnsemble
from lightning_pbrl.methods.pebble import PEBBLE
from lightning_pbrl.queries.best_of import BestOfQuery
from lightning_pbrl.teachers.function import Clip, FunctionTeacher
from lightning_pbrl.teachers.vision import VisionTeacher

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
STEPS = 4


@pytest.fixture(scope="module", autouse=True)
def opengl() -> None:
    """Skip where this machine cannot render."""
    try:
        Camera(GymMuJoCo("Hopper-v5").make().physics, 16).close()
    except UserError as error:
        pytest.skip(str(error))


def collected(folder: Path) -> CollectedDataModule:
    mixture = [Behaviour(expert=False)]
    settings: dict[str, Any] = {"segment_length": STEPS, "eval_episodes": 0, "test_episodes": 0, "cache_dir": str(folder)}
    return CollectedDataModule(GymMuJoCo("HalfCheetah-v5", horizon=10), 4, mixture, **settings)


def offline(folder: Path, teacher: Any, data: Any = None, **asked: Any) -> RewardEnsemble:
    data = data or collected(folder)
    method = RewardEnsemble(data.spec, hidden=(4,), epochs=1)
    ask = AskTeacher(teacher, **{"budget": 6, "per_round": 3, **asked})
    make_trainer(folder / "run", [ask], max_epochs=2).fit(method, data)
    return method


def watching(
    seen: list[tuple[Clip, ...]], answers: Callable[[int], Any] = lambda number: 1, kind: Any = "pair"
) -> FunctionTeacher:
    def look(*clips: Clip) -> Any:
        seen.append(clips)
        return answers(len(seen))

    return FunctionTeacher(look, kind, frames=True)


def test_frames_of_logged_data(tmp_path: Path) -> None:
    seen: list[tuple[Clip, ...]] = []
    data = collected(tmp_path)
    method = offline(tmp_path, watching(seen), data)
    assert len(seen) == len(method.labels.preferences()) == 6
    with renderer_of(data) as renderer:
        for starts, clips in zip(method.labels.start.tolist(), seen, strict=True):
            for start, clip in zip(starts, clips, strict=True):
                assert clip.frames is not None and clip.frames.shape == (STEPS, 256, 256, 3)
                assert np.array_equal(clip.frames, renderer.frames(start, STEPS))
                assert np.array_equal(clip.obs, data.source.column("obs")[start : start + STEPS].numpy())


def shown_in(request: dict[str, Any]) -> np.ndarray:
    """The pictures of a request, those of A first, (2 x images, H, W, 3)."""
    urls = [part["image_url"]["url"] for part in request["messages"][1]["content"] if part["type"] == "image_url"]
    return np.stack([imageio.imread(base64.b64decode(url.partition(",")[2]), extension=".png") for url in urls])


def test_a_vision_model_sees_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(monkeypatch) as server:
        server.reply = lambda body: said('{"answer": "B", "confidence": 0.9}')
        teacher = VisionTeacher(server.url, "m", "Run forward.", images=2, image_format="png", workers=1, timeout=30.0)
        data = collected(tmp_path)
        method = offline(tmp_path, teacher, data)
    assert len(server.requests) == len(method.labels.preferences()) == 6
    with renderer_of(data) as renderer:
        for asked, starts, value in zip(server.requests, method.labels.start.tolist(), method.labels.value.tolist(), strict=True):
            drawn = [renderer.frames(start, STEPS)[[0, -1]] for start in starts]
            expected = np.concatenate(drawn if value == 1 else drawn[::-1])  # B is better, whichever was shown as B
            assert np.array_equal(shown_in(asked), expected)


def test_nothing_is_drawn_for_a_teacher_that_does_not_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_pbrl.labelling.films.renderer_of", lambda data: pytest.fail("drawn"))
    offline(tmp_path, FunctionTeacher(lambda first, second: 0))


def test_data_that_cannot_be_drawn_are_refused_before_anything_is_asked(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"No clip of these data can be drawn: .*simulator"):
        offline(tmp_path, watching([]), ToyData())
    assert LabelStore(tmp_path / "run" / "labels.sqlite", ToyData().load().fingerprint).count == 0


class OfAnyKind(_Actor):
    """Learns from whatever it is told."""

    kinds = frozenset({"pair", "best"})


def acting(folder: Path, teacher: Any, **asked: Any) -> tuple[_Actor, OnlineDataModule]:
    """Six episodes of 10 steps, of which a replay with room for 3 keeps the newest."""
    data = OnlineDataModule(
        GymMuJoCo("Reacher-v5", horizon=10), segment_length=STEPS, eval_episodes=0, test_episodes=0, capacity=30
    )
    method = OfAnyKind(data.spec, env_steps=60, round_steps=20)
    ask = AskTeacher(teacher, **{"budget": 6, "per_round": 3, "first_round": 1, **asked})
    make_trainer(folder, [ask], limit_val_batches=0).fit(method, data)
    return method, data


@pytest.mark.parametrize(("kind", "query", "clips"), [("pair", None, 2), ("best", BestOfQuery(3), 3)])
def test_frames_of_episodes_that_were_acted_out(kind: Any, query: Any, clips: int, tmp_path: Path) -> None:
    """Each frame is of the state whose observation the teacher gets: the same film is drawn from the observations."""
    seen: list[tuple[Clip, ...]] = []
    method, data = acting(tmp_path, watching(seen, kind=kind), query=query)
    assert len(seen) == len({"pair": method.labels, **method.others}[kind].preferences()) == 6
    assert len(list((tmp_path / "recordings").iterdir())) == 6 * clips
    assert data.simulator is not None
    films = [clip.frames for shown in seen for clip in shown if clip.frames is not None]
    with RebuiltStates(None, data.simulator) as rebuilt:
        drawn = [rebuilt.draw(clip.obs, clip.action) for shown in seen for clip in shown]
    own = [apart(one, two, 30) for one, two in zip(films, drawn, strict=True)]
    others = [apart(one, two, 30) for one in films for two in drawn]
    assert len(own) == 6 * clips and max(own) < 1e-4 and np.median(others) > 2e-3


def test_an_open_question_is_drawn_again_after_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two questions were left open and the third brought the run down: all are asked again, with the same frames."""
    monkeypatch.setattr("lightning_pbrl.asking.session.LOOKED_AT", 2)
    first: list[tuple[Clip, ...]] = []
    later: list[tuple[Clip, ...]] = []
    with pytest.raises(UserError, match="failed at question 0 of 1"):
        acting(tmp_path, watching(first, lambda number: Status.PENDING if number < 3 else 1 / 0))
    method, _ = acting(tmp_path, watching(later))
    assert len(first) == 3 and len(later) == 6 == len(method.labels.preferences())
    for one, two in zip(first, later[:3], strict=True):
        for before, after in zip(one, two, strict=True):
            assert np.array_equal(before.obs, after.obs) and before.frames is not None and after.frames is not None
            assert np.array_equal(before.frames, after.frames)


def test_a_page_that_is_opened_before_the_first_question_draws_recordings(tmp_path: Path) -> None:
    class Acting:
        collector, simulator = object(), GymMuJoCo("Reacher-v5")

    where = LabelStore(tmp_path / "labels.sqlite", "replay").name
    assert drawn_by(tmp_path, Acting, where)[1] is False
    assert recorder(tmp_path, Acting()) is not None  # when the fit starts
    assert drawn_by(tmp_path, Acting, where)[1] is True


def test_frames_come_in_small_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_pbrl.asking.session.LOOKED_AT", 2)
    sizes: list[int] = []

    class Counting(FunctionTeacher):
        def answer(self, query: Query, clips: Any, keys: torch.Tensor) -> Any:
            sizes.append(len(query))
            return super().answer(query, clips, keys)

    offline(tmp_path, Counting(lambda first, second: 0, frames=True), budget=3, per_round=3)
    assert sizes == [2, 1]


def test_a_vision_model_teaches_while_a_policy_acts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server fails in the second round: the run says so and goes on, and ends as one whose server never failed."""
    monkeypatch.setattr("lightning_pbrl.asking.session.LOOKED_AT", 1)
    out_of_order: list[int] = []

    def taught(folder: Path, url: str, resume: bool = False) -> tuple[PEBBLE, OnlineDataModule]:
        data = OnlineDataModule(GymMuJoCo("Reacher-v5", horizon=10), segment_length=STEPS, eval_episodes=0, test_episodes=0)
        small = {**pebble_toys.SMALL, "env_steps": 60, "seed_steps": 10, "round_steps": 20}
        method = PEBBLE(data.spec, reward_model=pebble_toys.SMALL_REWARD, **small)
        settings: dict[str, Any] = {"images": 2, "image_format": "png", "workers": 1, "retries": 0, "unavailable": "stop"}
        ask = AskTeacher(VisionTeacher(url, "m", "Reach.", **settings), budget=6, per_round=3, first_round=1)
        last = folder / "checkpoints" / "last.ckpt" if resume else None
        make_trainer(folder, [ask], limit_val_batches=0).fit(method, data, ckpt_path=last)
        return method, data

    def reply(body: Any) -> Any:
        broken = len(server.requests) > 4 and out_of_order
        return refusal(503, "out of order") if broken else said('{"answer": "B", "confidence": 0.9}')

    with serving(monkeypatch) as server:
        server.reply = reply
        out_of_order.append(1)
        with pytest.raises(UserError, match=r"HTTP 503: out of order.*start the server, then run the same command with --resume"):
            taught(tmp_path / "run", server.url)
        assert len(server.requests) == 5  # of which the last has no answer
        out_of_order.clear()
        method, data = taught(tmp_path / "run", server.url, resume=True)
        requests = [*server.requests[:4], *server.requests[5:]]
        server.requests.clear()
        straight, _ = taught(tmp_path / "straight", server.url)
        assert server.requests == requests and len(requests) == 6  # the same pictures, each asked about once
    assert_same(method.state_dict(), straight.state_dict())
    store = LabelStore(tmp_path / "run" / "labels.sqlite", data.source.fingerprint, "seed0")
    labels, content = store.labels("pair"), store.clips(range(6))
    assert labels.status.tolist() == [int(Status.ANSWERED)] * 6 and torch.equal(labels.value, method.labels.value.cpu())
    assert data.simulator is not None
    own, swapped = [], []
    with RebuiltStates(None, data.simulator) as rebuilt:
        for number, asked in enumerate(requests):
            shown = shown_in(asked)
            drawn = [rebuilt.draw(content.obs[number, c].numpy(), content.action[number, c].numpy())[[0, -1]] for c in (0, 1)]
            expected = np.concatenate(drawn if labels.value[number] == 1 else drawn[::-1])  # B is better, whichever that was
            own.append(apart(shown, expected, 30))
            swapped.append(apart(shown, expected[[2, 3, 0, 1]], 30))
    assert max(own) < 1e-4 < 5e-4 < min(swapped)
