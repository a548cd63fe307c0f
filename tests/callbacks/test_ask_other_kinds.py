"""Graded pairs, the best of several and axes in a run: asked, kept, learned from, taken up again, and refused by others."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import SPEC, ToyData, make_trainer, read_csv

from lightning_pbrl.callbacks.ask_teacher import AskTeacher
from lightning_pbrl.callbacks.relabel_rewards import RelabelRewards
from lightning_pbrl.data.feedback import Clips
from lightning_pbrl.data.store import LabelStore
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.base import Method
from lightning_pbrl.methods.clarify import CLARIFY
from lightning_pbrl.methods.iql import IQL
from lightning_pbrl.methods.learn_reward import LearnReward, RewardEnsemble, SemiSupervisedEnsemble
from lightning_pbrl.methods.loading import load_method
from lightning_pbrl.methods.mrn import MRN
from lightning_pbrl.queries.axes import AxesQuery
from lightning_pbrl.queries.best_of import BestOfQuery
from lightning_pbrl.queries.disagreement import DisagreementQuery
from lightning_pbrl.queries.graded import GradedQuery
from lightning_pbrl.queries.uniform import UniformQuery
from lightning_pbrl.teachers.axes import AxesTeacher
from lightning_pbrl.teachers.base import Teacher
from lightning_pbrl.teachers.best_of import BestOfTeacher
from lightning_pbrl.teachers.graded import GradedTeacher
from lightning_pbrl.teachers.simulated import SimulatedTeacher
from lightning_pbrl.testing import check_query, check_teacher

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
SMALL: dict[str, Any] = {"hidden": (16,), "epochs": 15, "batch_size": 8, "lr": 1e-2, "stop_accuracy": 1.0}
TEACHERS: dict[str, Teacher] = {"graded": GradedTeacher(), "best": BestOfTeacher()}


def fit(
    folder: Path, query: Any, teacher: Any = None, method: Method | None = None, resume: Path | None = None, **ask: Any
) -> Any:
    method = method or RewardEnsemble(SPEC, **SMALL)
    teacher = teacher or TEACHERS[next(iter(query.kinds))]
    callbacks = [AskTeacher(**{"teacher": teacher, "query": query, "budget": 40, "per_round": 20, **ask})]
    make_trainer(folder, callbacks).fit(method, ToyData(), ckpt_path=resume)
    return method


@pytest.mark.parametrize(
    ("query", "settings"),
    [
        (GradedQuery(DisagreementQuery()), {}),
        (GradedQuery(), {"graded": "ordinal"}),
        (GradedQuery(), {"graded": "ordinal", "score": "linear", "crop": [4, 6], "crop_copies": 2}),
        (BestOfQuery(4, "disagreement", 3), {}),
        (BestOfQuery(3), {"score": "linear", "crop": [4, 6]}),
    ],
)
def test_an_ensemble_learns_from_them(query: Any, settings: dict[str, Any], tmp_path: Path) -> None:
    method = fit(tmp_path, query, method=RewardEnsemble(SPEC, **SMALL, **settings))
    (kind,) = query.kinds
    labels = method.others[kind]
    assert len(labels) == 40 == method.learned_from and len(method.labels) == len(method.ratings) == 0
    assert method.asked == (40, 20, 0, 0, False, 20) and method.asked.pairs == 0
    assert torch.equal(
        LabelStore(tmp_path / "labels.sqlite", method.source.fingerprint, "seed0").labels(kind).start, labels.start
    )
    rows = read_csv(tmp_path)
    logged = {key: value for row in rows for key, value in row.items()}
    assert logged[f"labels/{kind}"] == 40 and logged["teacher/error_rate"] == 0.0
    assert logged["pref/accuracy"] > 0.75  # held-out pairs, which nobody has answered
    if settings.get("graded") == "ordinal":
        cuts = method.reward_model.cuts()
        assert bool((cuts[:, 0] > 0).all()) and bool((cuts[:, 1] > cuts[:, 0]).all())
        assert not torch.allclose(cuts, torch.tensor([0.501, 2.002]), atol=1e-3)  # they have moved


@pytest.mark.parametrize("query", [GradedQuery(), BestOfQuery(3)])
def test_a_resumed_run_asks_nothing_twice(query: Any, tmp_path: Path) -> None:
    whole = fit(tmp_path, query)
    again = fit(tmp_path, query, resume=tmp_path / "checkpoints" / "epoch=0.ckpt")
    for one, two in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, two)
    assert LabelStore(tmp_path / "labels.sqlite", whole.source.fingerprint, "seed0").spent() == 40


def test_pairs_that_came_first_count_beside_them(tmp_path: Path) -> None:
    """A store of two runs, one of pairs and one of the best of three: both are learned from."""
    store = str(tmp_path / "both.sqlite")
    fit(tmp_path / "a", UniformQuery(), SimulatedTeacher(), store=store, run="pairs", budget=10, per_round=10)
    fit(tmp_path / "b", BestOfQuery(3), store=store, run="best", budget=10, per_round=10)
    both = fit(tmp_path / "c", UniformQuery(), SimulatedTeacher(), store=store, budget=0)
    assert both.learned_from == 20 and both.reward_model.pairs.kinds == ("pair", "best")
    assert both.reward_model.pairs.start.shape == (20, 3)


def test_learners_of_pairs_refuse_them(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="GradedQuery asks questions of kind 'graded', from which SemiSupervisedEnsemble does not"
    ):
        fit(tmp_path, GradedQuery(), method=SemiSupervisedEnsemble(SPEC))
    assert CLARIFY.kinds == {"pair"} and MRN({"obs_dim": 2, "action_dim": 1, "horizon": 5}).kinds == {"pair"}
    with pytest.raises(UserError, match="BestOfQuery asks questions of kind 'best', which SimulatedTeacher does not answer"):
        fit(tmp_path, BestOfQuery(), SimulatedTeacher())
    with pytest.raises(
        UserError, match="AxesQuery asks questions of kind 'pair:speed', from which RewardEnsemble does not learn"
    ):
        fit(tmp_path, AxesQuery(["speed"]), AxesTeacher({"speed": "lightning_pbrl.teachers.axes:calm"}))
    store = str(tmp_path / "best.sqlite")
    fit(tmp_path / "a", BestOfQuery(3), store=store, budget=10, per_round=10)
    with pytest.raises(
        UserError, match=r"SemiSupervisedEnsemble learns from answers of kind pair, and those in .* are of kind best"
    ):
        fit(tmp_path / "b", UniformQuery(), SimulatedTeacher(), SemiSupervisedEnsemble(SPEC), store=store, budget=0)


# Axes --------------------------------------------------------------------------------------------------------------------


def entry(place: int, clips: Clips) -> torch.Tensor:
    """One entry of the observation, of very different size: 1 and 20 times."""
    return clips.obs[..., place] * (1.0, 20.0)[place]


def axes_teacher() -> AxesTeacher:
    return AxesTeacher({"east": partial(entry, 0), "north": partial(entry, 1)})


def axis_method() -> LearnReward:
    return LearnReward(SPEC, {"class_path": "AxisRewards", "init_args": {"axes": ["east", "north"], **SMALL, "epochs": 30}})


def test_axes_are_asked_learned_and_weighed_at_relabelling(tmp_path: Path) -> None:
    method = fit(tmp_path, AxesQuery(["east", "north"]), axes_teacher(), axis_method(), budget=120, per_round=61)
    east, north = method.others["pair:east"], method.others["pair:north"]
    assert len(east) == len(north) == 60 and torch.equal(east.start, north.start) and not torch.equal(east.value, north.value)
    assert method.asked.total == 120 and method.learned_from == 120 and method.asked.others == 60
    logged = {key for row in read_csv(tmp_path) for key in row}
    assert {"teacher/east_skip_rate", "teacher/north_equal_rate", "labels/pair:east"} <= logged
    source, path = method.source, tmp_path / "checkpoints" / "last.ckpt"

    def relabelled(weights: dict[str, float] | None) -> torch.Tensor:
        data = ToyData()
        trainer = make_trainer(tmp_path / "policy", [RelabelRewards(str(path), normalize=False, weights=weights)])
        policy = IQL(SPEC, updates=1, eval_interval=1, hidden=(8,), batch_size=4)
        trainer.fit(policy, data)
        return policy.source.column("learned_reward").flatten().clone()

    first, second = relabelled({"east": 1.0}), relabelled({"north": 1.0})
    torch.testing.assert_close(first.std(), torch.tensor(1.0), rtol=1e-3, atol=1e-3)  # whatever the size of an axis was
    torch.testing.assert_close(second.std(), torch.tensor(1.0), rtol=1e-3, atol=1e-3)
    obs = source.column("obs")
    for found, own, other in ((first, 0, 1), (second, 1, 0)):
        close, far = (abs(float(torch.corrcoef(torch.stack([found, obs[:, k]]))[0, 1])) for k in (own, other))
        assert close > 0.8 > far
    torch.testing.assert_close(relabelled({"east": 2.0, "north": -0.5}), 2 * first - 0.5 * second, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(relabelled(None), first + second, rtol=1e-4, atol=1e-4)
    assert load_method(path).reward_model.weights == {"east": 1.0, "north": 1.0}
    with pytest.raises(
        UserError, match=r"AxisRewards got the weight west=1.0: give finite numbers by axis, which are east, north"
    ):
        relabelled({"west": 1.0})
    with pytest.raises(UserError, match=r"relabel.weights names the axes east and relabel.reward, true, has none: leave it null"):
        make_trainer(tmp_path / "no", [RelabelRewards("true", weights={"east": 1.0})]).fit(
            IQL(SPEC, updates=1, eval_interval=1, hidden=(8,), batch_size=4), ToyData()
        )


def test_axes_teacher_and_strategy() -> None:
    check_teacher(axes_teacher())
    check_teacher(AxesTeacher({"calm": "lightning_pbrl.teachers.axes:calm"}, beta=1.0))
    check_query(AxesQuery(["a", "b", "c"]))
    with pytest.raises(UserError, match=r"AxesQuery got axes=\['a', 'a'\]: give a list of different names"):
        AxesQuery(["a", "a"])
    with pytest.raises(UserError, match="AxesQuery got the axis 'to be': name it by one word"):
        AxesQuery(["to be"])
    with pytest.raises(UserError, match="There is no function 'nowhere:f'"):
        AxesTeacher({"a": "nowhere:f"})
