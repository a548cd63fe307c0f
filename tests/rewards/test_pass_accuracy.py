"""The accuracy that ends a fit: every strict answer of a pass counts once, whatever minibatch or tile it is in."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pebble_toys import filled

from lightning_pbrl.data.feedback import Labels
from lightning_pbrl.engine import UpdateEngine
from lightning_pbrl.rewards.axes import AxisRewards
from lightning_pbrl.rewards.ensemble import RewardEnsemble


def fitted_to(value: list[float], **settings: Any) -> RewardEnsemble:
    """One linear member of known weights, which a rate of next to nothing never moves, and answers about two steps each."""
    model = RewardEnsemble(**{"hidden": [], "output": "none", "ensemble_size": 1, "lr": 1e-30, "margin": 0.0, **settings})
    model.spec = {"obs_dim": 2, "action_dim": 1, "horizon": 10}
    model.build()
    with torch.no_grad():
        model.members.weights[0].fill_(0.0)[0, 0, 0] = 1.0  # the reward is the first number of an observation: the step
    model.source = filled(40, capacity=40)
    count = len(value)
    start = torch.tensor([[0, 10]] * count)  # the second segment always has the larger return
    status = torch.tensor([2 if label == 0.5 else 1 for label in value])
    model.labels = Labels(start, 2, torch.tensor(value), status)
    model.attach(UpdateEngine(model, model.groups(), model.programs(), [0], compile=False))
    return model


@pytest.mark.parametrize("tile", [None, 2])
@pytest.mark.parametrize(
    ("value", "right"),
    [
        ([1.0, 1.0, 1.0, 1.0, 1.0, 0.0], 5 / 6),  # minibatches of four and of two
        ([1.0, 1.0, 1.0, 0.0, 0.5], 3 / 4),  # four and one; in some orders the one is the equal pair
        ([1.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.0, 1.0, 1.0], 3 / 4),  # whole tiles of equal pairs
        ([0.5, 0.5, 0.5, 0.5, 0.5], 0.0),
    ],
)
def test_every_strict_answer_counts_once(value: list[float], right: float, tile: int | None) -> None:
    model = fitted_to(value, batch_size=4, tile=tile)
    (phase,) = model.plan(0)
    assert phase.start is not None and phase.block == -(-len(value) // 4)
    phase.start()
    for _ in range(5):  # five passes, each in another order
        assert float(model.engine.run("reward", phase.block)["accuracy"]) == pytest.approx(right, abs=1e-6)


def test_the_loss_of_a_block_is_the_mean_over_its_answers() -> None:
    """Minibatches of four and of one: the return's lead is 20, so a reversed answer costs 20 nats and another none."""
    model = fitted_to([1.0, 1.0, 1.0, 1.0, 0.0], batch_size=4)
    (phase,) = model.plan(0)
    assert phase.start is not None
    phase.start()
    for _ in range(5):
        assert float(model.engine.run("reward", 2)["members"]) == pytest.approx(20 / 5, abs=1e-4)


def test_a_fit_whose_last_minibatch_is_small_does_not_end_too_early() -> None:
    """129 answers, 5 of them wrong: 96.1 % of them, although the lone pair of the second minibatch is mostly right."""
    model = fitted_to([1.0] * 124 + [0.0] * 5, batch_size=128)
    (phase,) = model.plan(0)
    assert phase.start is not None and phase.done is not None and phase.block == 2
    phase.start()
    for _ in range(5):
        assert not phase.done({name: float(mean) for name, mean in model.engine.run("reward", 2).items()})


def test_one_never_stops_early() -> None:
    model = fitted_to([1.0] * 5, batch_size=4, stop_accuracy=1.0)
    assert not model.fits_well({"accuracy": 1.0 + 1e-7})  # a sum of shares may round up


def test_axes_count_alike_however_many_answers_each_has() -> None:
    """Nine pairs on one axis, two right; one pair on another, which most minibatches lack; ties alone on the third."""
    model = AxisRewards(("task", "calm", "short"), ensemble_size=2, hidden=[], output="none", lr=1e-30, batch_size=4)
    model.spec = {"obs_dim": 2, "action_dim": 1, "horizon": 10}
    model.build()
    for axis in model.axes:
        weight = getattr(model, f"axis_{axis}").weights[0]
        with torch.no_grad():
            weight.fill_(0.0)[:, 0, 0] = 1.0
    model.source = filled(40, capacity=40)
    given = {"task": [1.0] * 2 + [0.0] * 7, "calm": [1.0], "short": [0.5, 0.5]}
    for axis, value in given.items():
        status = torch.tensor([2 if label == 0.5 else 1 for label in value])
        model.others[f"pair:{axis}"] = Labels(torch.tensor([[0, 10]] * len(value)), 2, torch.tensor(value), status)
    model.attach(UpdateEngine(model, model.groups(), model.programs(), [0], compile=False))
    phase = model.plan(0)[0]
    assert phase.start is not None and phase.block == 3
    phase.start()
    for _ in range(5):
        assert float(model.engine.run("reward", 3)["accuracy"]) == pytest.approx((2 / 9 + 1) / 2, abs=1e-6)
