"""What a reward model is told of held-out pairs, and what it says where they decide nothing."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from preference_toys import labels_of
from toys import SPEC, ToyData, make_trainer

from lightning_pbrl.data.feedback import Labels
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.methods.learn_reward import RewardEnsemble


class HeldOut(ToyData):
    """Nine held-out answers, the first ``ties`` of them "equal"."""

    def __init__(self, ties: int) -> None:
        super().__init__()
        self.ties = ties

    def load(self) -> Transitions:
        data = super().load()
        query = data.pool(self.segment_length).pairs(9, torch.Generator().manual_seed(0))
        self.held_out_labels: Labels | None = labels_of(data, query, equal=torch.arange(9) < self.ties)
        return data


def measured(ties: int, folder: Path) -> set[str]:
    """Names of what a test measures."""
    metrics = make_trainer(folder).test(RewardEnsemble(SPEC, hidden=(8,)), HeldOut(ties), verbose=False)[0]
    return {name for name in metrics if name.startswith("pref/")}


def test_ties_alone_are_told_and_leave_what_they_say_nothing_of(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"^All held-out pairs are ties, so accuracy and calibration are not measured\.$"):
        of_ties = measured(9, tmp_path)
    assert of_ties == {"pref/return_pearson", "pref/return_spearman"}
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="All held-out pairs")
        assert measured(8, tmp_path) == of_ties | {"pref/accuracy", "pref/calibration_error", "pref/decisive"}
