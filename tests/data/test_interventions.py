"""Interventions by a hand-worked example: who acted, which pairs follow, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_pbrl.data import archive
from lightning_pbrl.data.feedback import Status
from lightning_pbrl.data.interventions import interventions, preferences, recorded, who_acted
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.datamodules.interventions import InterventionsDataModule
from lightning_pbrl.errors import UserError

SPANS = [[[3, 7, "person"], [9, 10, "script"]], [], [[1, 6, "person"]], [[2, 4, "script"], [6, 9, "person"]]]
"""Episodes of 10, 4, 6 and 9 steps, which begin at rows 0, 10, 14 and 20."""


def data(spans: Any = SPANS) -> Transitions:
    obs = torch.arange(29.0).unsqueeze(1)
    offsets = torch.tensor([0, 10, 14, 20, 29])
    about = {} if spans is None else {"interventions": spans}
    return Transitions.from_columns(obs, torch.zeros(29, 1), obs + 1, offsets, about=about)


def test_who_acted_by_hand() -> None:
    expected = [0, 0, 0, 1, 1, 1, 1, 0, 0, 2] + [0] * 4 + [0, 1, 1, 1, 1, 1] + [0, 0, 2, 2, 0, 0, 1, 1, 1]
    assert who_acted(data()).tolist() == expected
    assert recorded(torch.tensor(expected), data().episodes.offsets) == SPANS
    flags = torch.tensor(expected) > 0
    assert recorded(flags, data().episodes.offsets)[3] == [[2, 4, "person"], [6, 9, "person"]]
    assert [part.tolist() for part in interventions(data())] == [[3, 9, 15, 22, 26], [7, 10, 20, 24, 29], [1, 2, 1, 2, 1]]


def test_the_pairs_by_hand() -> None:
    """Of two steps: 9 is too short, 15 comes after one step of the policy; 22 and 26 after just two (20, 21 and 24, 25)."""
    pairs = preferences(data(), 2)
    assert pairs.start.tolist() == [[1, 5], [20, 22], [24, 27]] and pairs.length == 2
    assert pairs.value.tolist() == [1.0, 1.0, 1.0] and (pairs.status == Status.ANSWERED).all()
    assert preferences(data(), 2, part="first").start.tolist() == [[1, 3], [20, 22], [24, 26]]
    assert preferences(data(), 2, ("script",)).start.tolist() == [[20, 22]]
    assert preferences(data(), 3, ("person", "script")).start.tolist() == [[0, 4]]
    assert preferences(data(), 1).start.tolist() == [[2, 6], [8, 9], [14, 19], [21, 23], [25, 28]]


def test_no_pair_crosses_an_episode_or_another_intervention() -> None:
    acted, source = who_acted(data()), data()
    for length in (1, 2, 3):
        for before, after in preferences(source, length).start.tolist():
            assert not acted[before : before + length].any() and (acted[after : after + length] == acted[after]).all()
            assert acted[after] > 0 and set(acted[before:after].tolist()) <= {0, int(acted[after])}
            assert source.episodes.of(torch.tensor([before, after])).unique().numel() == 1


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        (None, "do not say who acted"),
        ([[]], "has no list for each of the 4 episodes"),
        ([[[3, 11, "person"]], [], [], []], "Episode 0 of 10 steps has the intervention"),
        ([[[3, 5, "robot"]], [], [], []], "step after the last, person or script"),
        ([[[3, 5, "person"], [4, 6, "person"]], [], [], []], "in order"),
        ([[], [], [], []], "record no intervention of a person or script: give data in which"),
        (SPANS, "None of the 5 interventions lasts 4 steps after as many of the policy"),
    ],
)
def test_what_is_refused(spans: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        preferences(data(spans), 4)


def test_misspelt_arguments_are_refused() -> None:
    with pytest.raises(UserError, match="part is 'lst': give one of first, last"):
        preferences(data(), 2, part="lst")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="called 'persons' in interventions: give person or script"):
        preferences(data(), 2, ("persons",))
    with pytest.raises(UserError, match="Segments of 0 steps"):
        preferences(data(), 0)
    with pytest.raises(UserError, match="no intervention of a script"):
        preferences(data([[[3, 7, "person"]], [], [], []]), 2, ("script",))


def test_a_file_and_a_part_keep_them(tmp_path: Path) -> None:
    path = archive.save(data(), tmp_path / "held.safetensors")
    assert who_acted(archive.load(path)).tolist() == who_acted(data()).tolist()
    part = data().select(torch.tensor([3, 0]))
    assert part.about["interventions"] == [SPANS[3], SPANS[0]] and preferences(part, 2).start.tolist() == [
        [0, 2],
        [4, 7],
        [10, 14],
    ]
    module = InterventionsDataModule(str(path), segment_length=2, fold=0, folds=3)
    module.setup("fit")
    assert module.labels is not None and module.held_out_labels is not None
    both = torch.cat([module.labels.start, module.held_out_labels.start])
    assert len(module.held_out_labels) == 1 and sorted(both.tolist()) == [[1, 5], [20, 22], [24, 27]]
    assert module.files() == [path]
