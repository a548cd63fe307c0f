"""The plan that `fit` and a dry run print: who asks, who answers, how many, when."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from rich.console import Console
from toys import SPEC

from lightning_pbrl.callbacks.ask_teacher import AskTeacher
from lightning_pbrl.methods.learn_reward import RewardEnsemble
from lightning_pbrl.methods.pebble import PEBBLE
from lightning_pbrl.queries.disagreement import DisagreementQuery
from lightning_pbrl.queries.mixed import MixedQuery
from lightning_pbrl.queries.uniform import UniformQuery
from lightning_pbrl.teachers.mixed import MixedTeacher
from lightning_pbrl.teachers.simulated import SimulatedTeacher
from lightning_pbrl.teachers.skip import SkipTeacher


def told(learner: Any, *args: Any, **settings: Any) -> dict[str, str]:
    return dict(AskTeacher(*args, **settings).plan.told(learner))


def test_a_reward_model_asks_until_its_budget_is_spent() -> None:
    assert told(RewardEnsemble(SPEC), SkipTeacher(0.7), DisagreementQuery(large_batch=3), budget=110, per_round=50) == {
        "who asks": "DisagreementQuery(large_batch=3), uniform in the first round",
        "who answers": "SkipTeacher(eps=0.7)",
        "how many": "110 in 3 rounds: 50; 50; 10",
        "when": "at the start of round 0; 1; 2",
    }


def test_a_learner_that_acts_tells_its_env_steps() -> None:
    """Rounds begin after 50 steps of seed and exploration, then every 25; every second of them asks."""
    learner = PEBBLE(SPEC, seed_steps=20, explore_steps=30, env_steps=1000, round_steps=25)
    text = told(learner, SimulatedTeacher(), UniformQuery(), budget=99, per_round=9, first_round=1, every=2)
    assert text == {
        "who asks": "UniformQuery",
        "who answers": "SimulatedTeacher",
        "how many": "99 in 11 rounds: 9; 9; 9; 9; 9; 9; ...; 9",
        "when": "at the start of round 1; 3; 5; 7; 9; 11; ...; 21",
        "after env steps": "50; 100; 150; 200; 250; 300; ...; 550",
    }


def test_a_budget_that_outlives_the_run_says_what_is_asked() -> None:
    learner = PEBBLE(SPEC, seed_steps=20, explore_steps=30, env_steps=125, round_steps=25)
    text = told(learner, SimulatedTeacher(), UniformQuery(), budget=40, per_round=10, first_round=1)
    assert text["how many"] == "30 of 40, then the run ends, in 3 rounds: 10; 10; 10"


def test_a_first_share_and_the_rest_spread() -> None:
    text = told(RewardEnsemble(SPEC), SimulatedTeacher(), budget=100, schedule="spread", rounds=4, initial=0.4)
    assert text["how many"] == "100 in 4 rounds: 40; 20; 20; 20"


@pytest.mark.parametrize(
    ("settings", "lines"),
    [
        ({}, {"who asks": "nobody: answers come with the data or are in the label store"}),
        (
            {"teacher": MixedTeacher(pair=SimulatedTeacher(beta=1.0)), "query": MixedQuery(), "budget": 20, "per_round": 20},
            {
                "who asks": "MixedQuery(pair=BALDQuery, rating=BALDQuery(kind='rating'), quota=FixedShare), "
                "uniform in the first round",
                "who answers": "MixedTeacher(pair=SimulatedTeacher(beta=1.0), rating=RatingTeacher)",
                "how many": "20 in 1 round: 20",
                "when": "at the start of round 0",
            },
        ),
    ],
)
def test_nobody_and_both_kinds(settings: dict[str, Any], lines: dict[str, str]) -> None:
    assert told(RewardEnsemble(SPEC), **settings) == lines


def test_the_table_holds_every_line() -> None:
    table = AskTeacher(SimulatedTeacher(), budget=20, per_round=10).plan.table(RewardEnsemble(SPEC))
    console = Console(width=200, record=True, file=StringIO())
    console.print(table)
    shown = [line.strip("│ ").split("│") for line in console.export_text().splitlines() if "│" in line]
    assert [(name.strip(), text.strip()) for name, text in shown] == [
        ("who asks", "UniformQuery"),
        ("who answers", "SimulatedTeacher"),
        ("how many", "20 in 2 rounds: 10; 10"),
        ("when", "at the start of round 0; 1"),
    ]
