"""The simulated person of the demo: what it thinks, and what it needs; that it presses keys is shown in test_taught.py."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytest
import torch
from fake_desk import FakeDesk

from lightning_pbrl.data.feedback import Status
from lightning_pbrl.errors import UserError
from lightning_pbrl.labelling import serve
from lightning_pbrl.labelling.demo import TrueOpinion, chromium
from lightning_pbrl.labelling.interface import Key, OpenQuestion


def question(number: int, kind: Any = "pair") -> OpenQuestion:
    return OpenQuestion(Key("run", 0, number), kind, 10, (0, 30)[: 1 + (kind == "pair")], swapped=False)


def opinion(*returns: list[float]) -> TrueOpinion:
    return TrueOpinion(lambda asked: torch.tensor(returns[asked.key.number]))


def test_prefers_the_larger_true_return() -> None:
    prefer = opinion([1.0, 2.0], [2.0, 1.0], [1.5, 1.5])
    assert [prefer(question(number), 0) for number in range(3)] == [
        (1.0, Status.ANSWERED),
        (0.0, Status.ANSWERED),
        (0.5, Status.EQUAL),
    ]


def test_rates_by_the_rank_among_all_that_was_seen() -> None:
    rate = opinion([1.0], [2.0], [3.0], [1.5])
    # ranks 0 of 0, 1 of 1, 2 of 2, 1 of 3 on four levels
    assert [rate(question(number, "rating"), 4)[0] for number in range(4)] == [0.0, 3.0, 3.0, 1.0]


def test_data_without_a_true_reward_are_refused() -> None:
    with pytest.raises(UserError, match="The demo answers by the true reward, and these data have none: let people answer"):
        opinion([math.nan, 1.0])(question(0), 0)


def test_a_missing_browser_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "playwright.sync_api", None)
    with pytest.raises(UserError, match=r"The demo needs playwright: install both with pip install playwright and"), chromium():
        pass


def test_settings_of_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fastapi", reason="the page is in the web extra")
    taken: list[Any] = []
    desk = FakeDesk()
    monkeypatch.setattr("lightning_pbrl.labelling.demo.demo", lambda desk, links, *settings: taken.append((links, settings)))
    args = ["run", "--people", "Ada", "Bob", "--port", "0", "--demo", "7", "--seconds-per-answer", "0.5"]
    serve.label_command(args, lambda store: (desk, None), lambda store: f"returns of {store}")
    ((links, settings),) = taken
    assert settings == ("returns of run", 0.5, 7) and list(links) == ["Ada", "Bob"]
    assert [desk.person(link.rpartition("/")[2]).name for link in links.values()] == ["Ada", "Bob"]
    assert serve.label_options(["run", "--demo"]).demo == 0 and serve.label_options(["run"]).demo is None
