"""Every learner of answers is taught by people: offline and acting, by pairs, skips and ratings, round by round."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from somebody import looking
from toys import SPEC, callbacks_for, data_for, make_trainer

from lightning_pbrl.asking import waiting
from lightning_pbrl.data.feedback import Status
from lightning_pbrl.labelling.desk import Desk
from lightning_pbrl.methods.base import Method
from lightning_pbrl.registry import classes
from lightning_pbrl.settings import kinds_of
from lightning_pbrl.teachers.human import HumanTeacher
from lightning_pbrl.testing.method import SMALL

REWARD: dict[str, Any] = {"hidden": [8], "epochs": 2, "batch_size": 16, "stop_accuracy": 1.0}
SEGMENTS: dict[str, Any] = {"QPA": {"crop": [1, 3]}, "SURF": {"context": 0, "crop": [1, 3]}}
"""What a reward model needs for segments of three steps."""
TINY: dict[str, Any] = {
    **SMALL,
    "width": 8,
    "layers": 1,
    "heads": 1,
    "max_episode_steps": 30,
    "encoder_batch_size": 8,
    "warmup": 1,
}
TINY |= {"updates": 50, "eval_interval": 20}
TINY |= {"n_init": 20, "n_emb": 5, "meta_every": 16, "n_steps": 10, "n_epochs": 2, "explore_epochs": 2}
LEARNERS: dict[str, Any] = {
    name: cls
    for name, cls in classes("methods").items()
    if cls.__module__.startswith("lightning_pbrl.")
    and "labels" in cls.needs  # type: ignore[attr-defined]
    and name != "LearnReward"
}
BINS = 10


Given = dict[int, tuple[float | None, Status]]
"""Answers by the number of their question."""


@contextmanager
def person(folder: Path) -> Iterator[Given]:
    """Somebody who answers whatever is open: every fifth question cannot be told, the others by their number."""
    given: Given = {}

    def look(path: Path) -> None:
        desk = Desk(path, bins=BINS)
        for asked in desk.next("Ada", 10):
            number = asked.key.number
            told = float(number % 2 if asked.kind == "pair" else number % BINS)
            value, status = (None, Status.SKIPPED) if number % 5 == 0 else (told, Status.ANSWERED)
            assert desk.answer("Ada", asked.key, value, status, seconds=0.1).how == "kept"
            given[number] = value, status

    with looking(folder, look, every=0.15):  # each look reads the store
        yield given


@pytest.mark.parametrize("name", LEARNERS)
def test_every_learner_is_taught_by_people(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "POLL", 0.05)
    cls = LEARNERS[name]
    reward = {key: value for key, value in REWARD.items() if key in kinds_of(getattr(cls, "reward_class", Method))}
    settings = {**TINY, "reward_model": {**reward, **SEGMENTS.get(name, {})}}
    method = cls(SPEC, **{key: value for key, value in settings.items() if key in kinds_of(cls)})
    trainer = make_trainer(tmp_path, callbacks_for(cls, teacher=HumanTeacher(bins=BINS)))
    began = time.monotonic()
    with person(tmp_path) as given:
        trainer.fit(method, data_for(cls))
    assert time.monotonic() - began < 300
    learned = [method.labels, *([method.ratings] if method.ratings is not None else [])]
    usable = sum(len(labels.preferences()) for labels in learned)
    assert method.pending == 0 and method.finished
    assert sorted(given) == list(range(len(given))) and len(given) >= 20
    assert usable == sum(status == Status.ANSWERED for _, status in given.values())
    skipped = sum(int((labels.status == Status.SKIPPED).sum()) for labels in learned)
    assert skipped == len(given) - usable
