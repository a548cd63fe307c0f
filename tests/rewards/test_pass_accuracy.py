"""The accuracy that ends a fit: every strict answer of a pass counts once, whatever minibatch or tile it is in."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pebble_toys import filled

from lightning_pbrl.data.feedback import Labels
from lightning_pbrl.engine import UpdateEngine
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
