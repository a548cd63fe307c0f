"""SURF: which steps a crop sees, who labels what, and the loss by a slow loop."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pebble_toys import build, filled, fit
from toys import drawn, read_csv

from lightning_pbrl.data.feedback import Labels
from lightning_pbrl.engine import Phase, UpdateEngine
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.surf import SURF
from lightning_pbrl.queries.disagreement import DisagreementQuery
from lightning_pbrl.rewards.semi_supervised import SemiSupervisedEnsemble
from lightning_pbrl.rng import derive

SMALL: dict[str, Any] = {"context": 2, "unlabelled_ratio": 4, "unlabelled_batches": 2, "batch_size": 4}


def ensemble(**settings: Any) -> SemiSupervisedEnsemble:
    """Three labelled pairs of four steps, two more on each side; rewards large enough for sure pseudo labels."""
    model = SemiSupervisedEnsemble(**{"hidden": [8], "ensemble_size": 2, "margin": 0.0, **SMALL, **settings})
    model.spec = {"obs_dim": 2, "action_dim": 1, "horizon": 10}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(0, "init"))
        model.build()
    with torch.no_grad():
        for p in model.members.parameters():
            p.mul_(4.0)
    model.source = filled(60, capacity=60)
    model.source.packed[:, :3] = torch.randn(60, 3, generator=torch.Generator().manual_seed(5))
    start = torch.tensor([[2, 14], [33, 42], [54, 23]])
    model.labels = Labels(start, 4, torch.tensor([0.0, 1.0, 1.0]), torch.tensor([1, 1, 1]))
    model.attach(UpdateEngine(model, model.groups(), model.programs(), [0], compile=False))
    return model


def begun(model: SemiSupervisedEnsemble) -> Phase:
    """The fit of a round, which has begun: it has drawn its unlabelled pairs."""
    (phase,) = model.plan(1)
    assert phase.start is not None
    phase.start()
    return phase


def test_loss_against_a_slow_loop() -> None:
    """Crops of 2 to 6 steps from eight; pseudo labels from the four in the middle, by each member for itself."""
    model = ensemble(threshold=0.7, unlabelled_weight=0.5)
    phase = begun(model)
    assert list(model.crop) == [2, 6] and phase.updates == math.ceil(1000 * 3 / 4)
    (numbers,) = drawn(model.programs()["reward"], seed=1)
    labelled, unlabelled = numbers["pair"], numbers["unlabelled"]
    assert labelled.shape == (2, 3) and unlabelled.shape == (2, 8) and model.unlabelled.shape == (12, 2)

    def total(member: int, at: int, size: int) -> float:
        return float(model.reward(model.source.features()[at : at + size])[member].detach().double().sum())

    def cross_entropy(member: int, starts: list[int], u: list[float], label: float) -> float:
        size = 2 + int(5 * u[0])
        begins = [int((8 - size + 1) * place) for place in u[1:]]
        assert 2 <= size <= 6 and min(begins) >= 0 and max(begins) + size <= 8
        one, two = (total(member, start - 2 + begin, size) for start, begin in zip(starts, begins, strict=True))
        p = 1 / (1 + math.exp(one - two))
        return -label * math.log(p) - (1 - label) * math.log(1 - p)

    expected, sure = 0.0, 0
    for member in range(2):
        for column in range(3):
            number, crop = int(labelled[member, column]), numbers["crop"][:, 0, member, column].tolist()
            label = float(model.labels.value[number])
            expected += cross_entropy(member, model.labels.start[number].tolist(), crop, label) / 3
        for column in range(8):
            number, crop = int(unlabelled[member, column]), numbers["unlabelled_crop"][:, 0, member, column].tolist()
            starts = model.unlabelled[number].tolist()
            p = 1 / (1 + math.exp(total(member, starts[0], 4) - total(member, starts[1], 4)))
            if max(p, 1 - p) >= 0.7:
                sure += 1
                expected += 0.5 * cross_entropy(member, starts, crop, float(p > 0.5)) / 8
    found = model.losses(model.gather_pairs(numbers))
    assert float(found["members"].detach()) == pytest.approx(expected, rel=1e-5)
    assert float(found["sure"]) == sure / 16 and 0 < sure < 16


def test_unlabelled_pairs_leave_room_for_their_context() -> None:
    model = ensemble(unlabelled_ratio=200)
    begun(model)
    within = model.unlabelled % 10  # episodes of ten steps: starts 2 ... 4 have two steps before and after
    assert set(within.unique().tolist()) == {2, 3, 4}
    recent = ensemble(unlabelled_ratio=200, unlabelled_recent=2)
    begun(recent)
    assert set((recent.unlabelled // 10).unique().tolist()) == {4, 5}


def test_the_standard_crop_is_the_paper_s() -> None:
    model = ensemble(context=5)
    model.labels = Labels(model.labels.start, 50, *model.labels[2:])
    assert list(model.crop) == [45, 55]


def test_a_short_run(tmp_path: Path) -> None:
    method = fit(SURF, tmp_path, {**SMALL, "epochs": 10, "threshold": 0.6}, ask={"query": DisagreementQuery()})
    assert method.context == 2 and method.running.updates["reward"] == math.ceil(60 / 4) + math.ceil(120 / 4)
    assert int(method.labels.start[0, 0]) == method.source.ring + 2
    rows = [row for row in read_csv(tmp_path) if "train/sure" in row]
    assert rows and all(0 <= row["train/sure"] <= 1 for row in rows)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"threshold": 1.2}, r"threshold=1\.2: give a number between 0\.5 and 1"),
        ({"crop": [2, 3], "crop_copies": 2}, "one crop of each pair"),
    ],
)
def test_mistakes(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        build(SURF, settings)
