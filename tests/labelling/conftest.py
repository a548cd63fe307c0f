"""A desk in memory, its clips, Anna at the page, and the page in a browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fake_desk import FakeClips, FakeDesk, draw

if TYPE_CHECKING:
    from in_browser import Site
    from visitor import Visitor


@pytest.fixture
def desk() -> FakeDesk:
    return FakeDesk()


@pytest.fixture
def clips(tmp_path: Path) -> FakeClips:
    return FakeClips(tmp_path / "clips")


@pytest.fixture
def anna(desk: FakeDesk, clips: FakeClips) -> Visitor:
    from visitor import Visitor  # which needs the web extra

    return Visitor(desk, clips)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    FakeClips(folder)
    draw(folder)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from in_browser import started  # which needs Playwright

    with started() as browser:
        yield browser


@pytest.fixture
def site(browser: Any, films: Path) -> Iterator[Callable[..., Site]]:
    from in_browser import Site

    opened: list[Site] = []

    def make(desk: FakeDesk, **settings) -> Site:
        opened.append(Site(browser, films, desk, **settings))
        return opened[-1]

    yield make
    for each in opened:
        each.close()
        assert each.faults == []  # no error in the console, no breach of the content security policy
