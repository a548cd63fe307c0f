"""What every method needs: told at the start, refused without a usable answer, and never the true reward."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from every_method import METHODS, each, fit, small
from toys import SPEC, ToyData, assert_same, callbacks_for, data_for, make_trainer

from lightning_pbrl.callbacks.ask_teacher import AskTeacher
from lightning_pbrl.callbacks.relabel_rewards import RelabelRewards
from lightning_pbrl.data.feedback import Answer, Clips, Query, Status
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.learn_reward import RewardEnsemble
from lightning_pbrl.methods.preference_policy import PreferencePolicy
from lightning_pbrl.teachers.base import Teacher

POLICIES = [n for n, cls in METHODS.items() if not cls.needs & {"labels", "env"}]


class Undecided(Teacher):
    """Can compare nothing and rate nothing."""

    kinds = frozenset({"pair", "rating"})

    def answer(self, query: Query, clips: Clips, keys: torch.Tensor) -> Answer:
        return Answer(torch.full((len(query),), math.nan), torch.full((len(query),), int(Status.SKIPPED)))


LEARN_FROM_ANSWERS = [n for n, cls in METHODS.items() if "labels" in cls.needs and "env" not in cls.needs]


@pytest.mark.parametrize("name", [*LEARN_FROM_ANSWERS, "PEBBLE", "ActiveRLHF"])  # the others that act are one of these two
def test_nothing_is_learned_from_no_answer(name: str, tmp_path: Path) -> None:
    """Whoever learns from answers is refused when none of them can be used, and what was saved before pays no policy."""
    method = small(name)
    trainer = make_trainer(tmp_path, callbacks_for(type(method), teacher=Undecided()))
    with pytest.raises(UserError) as caught:
        trainer.fit(method, data_for(type(method)))
    count, rates = len(method.labels) + len(method.ratings), "rating" in method.kinds
    assert count in ((10,) if issubclass(type(method), PreferencePolicy) else (20, 30))
    pairs, ratings = (f"{len(found)} {kind}skipped" for found, kind in ((method.labels, ""), (method.ratings, "ratings ")))
    both = " or rates one" if rates else ""
    assert str(caught.value) == (
        f"None of the {count} answers compares two segments{both}, and {name} learns from such answers alone "
        f"({', '.join([pairs, ratings] if rates else [pairs])}): raise ask.per_round, or use a teacher who skips less."
    )
    last = tmp_path / "checkpoints" / "last.ckpt"
    if method.rewards and last.exists():
        with pytest.raises(UserError) as caught:
            make_trainer(tmp_path / "policy", [RelabelRewards(str(last))]).fit(small("IQL"), ToyData())
        assert str(caught.value) == (
            f"relabel.reward is a {name} that has not learned from a single answer, so its reward is that of initial weights: go "
            "on with its fit until it has, or give another reward model."
        )


@pytest.mark.parametrize(("name", "relabel"), [*((name, "learned") for name in POLICIES), ("IQL", "zero")])  # one column
def test_a_policy_learner_never_reads_the_true_reward(name: str, relabel: str, tmp_path: Path) -> None:
    """With NaN in place of every true reward, the same policy comes out."""
    learned = RewardEnsemble(SPEC, hidden=[8])
    learned.configure_model()
    reward: Any = "zero" if relabel == "zero" else learned
    around = {"around": [RelabelRewards(reward)], "max_epochs": 1}
    methods = [fit(name, tmp_path / str(true), data=ToyData(true_reward=true, examples=12), **around) for true in (True, False)]
    assert all(torch.isfinite(value).all() for value in methods[1].state_dict().values())
    assert_same(methods[0].state_dict(), methods[1].state_dict())


@each
def test_missing_needs_are_told_at_the_start(name: str, tmp_path: Path) -> None:
    if "env" in METHODS[name].needs:
        with pytest.raises(UserError, match=f"{name} acts while it learns and ToyData has logged data only"):
            fit(name, tmp_path, data=ToyData())
        return
    if "labels" in METHODS[name].needs:
        with pytest.raises(UserError, match=rf"{name} learns from answers, .*labels\.sqlite holds none and ask\.budget is 0"):
            fit(name, tmp_path, around=[AskTeacher()])
    if "examples" in METHODS[name].needs:
        with pytest.raises(
            UserError, match=f"{name} learns from examples of success and ToyData brings none: wrap it in Examples"
        ):
            fit(name, tmp_path, data=ToyData())
    if "learned_reward" in METHODS[name].needs:
        with pytest.raises(UserError, match=f"{name} learns from a reward and the data have none yet: set relabel.reward"):
            fit(name, tmp_path, around=[RelabelRewards()])
