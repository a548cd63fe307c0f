"""LiRE: derived pairs, shared segments, temporal crop, aggregation and learning rate by hand; a small run end to end."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from synthetic import synthetic_transitions
from toys import SPEC, ToyData, assert_same, drawn, make_trainer, read_csv

from lightning_pbrl.arguments import packaged_config
from lightning_pbrl.callbacks.ask_teacher import AskTeacher
from lightning_pbrl.callbacks.relabel_rewards import RelabelRewards
from lightning_pbrl.data.feedback import Labels, Status
from lightning_pbrl.data.ranking import RankedLists, derived_pairs, rebuild
from lightning_pbrl.data.relabel import min_max, predict_reward
from lightning_pbrl.data.store import LabelStore
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.learn_reward import LearnReward, RewardEnsemble
from lightning_pbrl.queries.base import QueryStrategy
from lightning_pbrl.queries.ranked_list import RankedListQuery
from lightning_pbrl.queries.seq_rank import SeqRankQuery
from lightning_pbrl.rewards import ensemble
from lightning_pbrl.rewards.ensemble import distinct
from lightning_pbrl.rng import derive
from lightning_pbrl.teachers.tie import TieTeacher

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),  # a resumed run
    pytest.mark.filterwarnings("ignore:The dirpath has changed from"),
]
LIST = [(10, 20, 1.0), (30, 20, 0.0), (40, 20, 1.0), (40, 10, 0.0), (50, 20, 0.5)]
"""Answers that make the list [10] [40] [20 50] [30]."""


def labels(length: int = 6) -> Labels:
    start, value = torch.tensor([row[:2] for row in LIST]), torch.tensor([row[2] for row in LIST])
    return Labels(start, length, value, torch.where(value == 0.5, int(Status.EQUAL), int(Status.ANSWERED)))


def alone(**settings: Any) -> ensemble.RewardEnsemble:
    """The reward model without a method, on the pairs of the list."""
    model = ensemble.RewardEnsemble(**{"hidden": [8], "ensemble_size": 2, "pairs": "ranked", "score": "linear", **settings})
    model.spec, model.source = SPEC, synthetic_transitions(episodes=4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(0, "init"))
        model.build()
    model.pairs = derived_pairs(labels(), "ranked")
    return model


def gradient(model: ensemble.RewardEnsemble, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    loss = model.losses(batch)["members"]
    return loss, list(torch.autograd.grad(loss, list(model.members.parameters())))


def test_distinct_by_hand() -> None:
    start = torch.tensor([[[7, 3], [3, 9]], [[5, 5], [5, 8]]])
    segments, which = distinct(start)
    assert segments.tolist() == [[3, 7, 9], [5, 8, 0]]
    assert which.tolist() == [[[1, 0], [0, 2]], [[0, 0], [0, 1]]]


@pytest.mark.parametrize("crop", [None, [2, 5]])
@pytest.mark.parametrize("score", ["linear", "bradley_terry"])
def test_shared_segments_are_scored_once_and_give_the_same_loss(crop: list[int] | None, score: Any) -> None:
    model, plain = alone(score=score, crop=crop), alone(score=score, crop=crop, pairs="answers")
    plain.pairs = model.pairs
    for numbers in drawn(model.programs()["reward"], 3):
        shared, separate = model.gather_pairs(numbers), plain.gather_pairs(numbers)
        assert shared["segments"].shape[:2] == (2, 5)  # the five segments of the list ...
        assert separate["segments"].shape[:3] == (2, 10, 2)  # ... which ten pairs name twenty times
        (loss, grads), (expected, expected_grads) = gradient(model, shared), gradient(plain, separate)
        torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
        for grad, other in zip(grads, expected_grads, strict=True):
            torch.testing.assert_close(grad, other, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("pairs", ["ranked", "answers"])
@pytest.mark.parametrize("crop", [None, [2, 4]])
def test_linear_loss_against_a_slow_loop(pairs: Any, crop: list[int] | None) -> None:
    model = alone(pairs=pairs, crop=crop)
    model.pairs = model.pairs if pairs == "ranked" else labels()
    (numbers,) = drawn(model.programs()["reward"], seed=1)
    members, ids = 2, numbers["pair"]
    expected = 0.0
    for member in range(members):
        total = 0.0
        for column, number in enumerate(ids[member].tolist()):
            begins, size = [0, 0], 6
            if crop is not None:
                length, *places = numbers["crop"][:, 0, member, column].tolist()
                size = 2 + int(3 * length)
                begins = [int((6 - size + 1) * place) for place in places]
                assert 2 <= size <= 4 and min(begins) >= 0 and max(begins) + size <= 6
            scores = []
            for start, begin in zip(model.pairs.start[number].tolist(), begins, strict=True):
                rows = model.source.features()[start + begin : start + begin + size]
                scores.append(float(model.reward(rows)[member].detach().double().sum()) + size + 1e-5)
            label = float(model.pairs.value[number])
            probability = scores[1] / sum(scores)
            total -= label * math.log(probability) + (1 - label) * math.log(1 - probability)
        expected += total / ids.shape[1]
    assert float(model.losses(model.gather_pairs(numbers))["members"].detach()) == pytest.approx(expected, rel=1e-5)


def test_crops_use_their_whole_range() -> None:
    model = alone(crop=[2, 4], batch_size=3_000)
    (kept,) = model.kept(drawn(model.programs()["reward"])[0]["crop"], 3_000, 6)  # (E, b, 2, T)
    (length, same), begin = kept.sum(-1).unbind(-1), kept.long().argmax(-1)
    assert torch.equal(length, same)
    for size in (2, 3, 4):
        of_size = begin[length == size]
        assert of_size.unique().tolist() == list(range(6 - size + 1))  # every beginning, the last one included
        assert 0.26 < float((length == size).float().mean()) < 0.41


def test_aggregation_by_hand() -> None:
    reward = torch.tensor([[1.0, 0.0], [2.0, 0.0], [6.0, 3.0]])  # means 3 and 1; unbiased variances 7 and 3
    expected = {
        "mean": [3.0, 1.0],
        "min": [1.0, 0.0],
        "mean_minus_std": [3 - 5 * math.sqrt(7), 1 - 5 * math.sqrt(3)],
    }
    for aggregate, values in expected.items():
        torch.testing.assert_close(alone(aggregate=aggregate).combine(reward), torch.tensor(values))


def test_aggregation_reaches_policies_and_predictions(tmp_path: Path) -> None:
    method = RewardEnsemble(SPEC, hidden=[8], ensemble_size=2, aggregate="min")
    method.configure_model()
    method.source = synthetic_transitions(episodes=4)
    rewards = method.reward(method.source.features()).detach()
    torch.testing.assert_close(predict_reward(method.source, method.reward, combine=method.combine), rewards.amin(0))
    predicted = method.predict_step(torch.tensor([3, 5]))["learned_reward"]
    torch.testing.assert_close(predicted, rewards.amin(0)[[3, 5]])

    class Fit:
        source, device = method.source, torch.device("cpu")

    RelabelRewards(method).on_fit_start(None, Fit)  # type: ignore[arg-type]
    torch.testing.assert_close(method.source.column("learned_reward"), min_max(rewards.amin(0)))


def ask(strategy: QueryStrategy | None = None, per_round: int = 40, budget: int = 40) -> AskTeacher:
    return AskTeacher(TieTeacher(0.05), strategy or RankedListQuery(), budget, per_round, uniform_first=False)


def test_learning_rate_falls_after_every_ten_passes_of_a_round(tmp_path: Path) -> None:
    """Two rounds of 21 passes; with 4 pairs per update, and as many updates per pass as the round has pairs for."""
    rates: list[float] = []
    passes: list[int] = []

    class Watched(ensemble.RewardEnsemble):
        def decay(self, done: int) -> float:
            rates.append(round(super().decay(done), 6))
            passes.append(self.one_pass)
            return rates[-1]

    try:
        model = Watched(hidden=[4], ensemble_size=2, epochs=21, stop_accuracy=2.0, batch_size=4, lr_decay=0.9)
        make_trainer(tmp_path, [ask(RankedListQuery(1), 10, 20)]).fit(LearnReward(SPEC, model), ToyData())
    finally:
        ensemble.RewardEnsemble.registry.pop("Watched")
    assert passes == [3] * 63 + [5] * 105
    assert rates == [1.0] * 30 + [0.9] * 30 + [0.81] * 3 + [1.0] * 50 + [0.9] * 50 + [0.81] * 5


def test_gradients_that_are_never_zeroed_within_a_pass(tmp_path: Path) -> None:
    """The released code's defect: in a pass of 3 minibatches Adam is given g1, g1 + g2, g1 + g2 + g3; then it starts anew."""

    def optimizer(sums: bool) -> tuple[RewardEnsemble, Any]:
        method = RewardEnsemble(SPEC, hidden=[4], ensemble_size=2, epochs=2, stop_accuracy=2.0, batch_size=4, sum_gradients=sums)
        make_trainer(tmp_path / str(sums), [ask(RankedListQuery(1), 10, 10)]).fit(method, ToyData())
        return method, method.running.state.optimizers[0]["members"]

    method, summing = optimizer(True)
    _, plain = optimizer(False)
    assert method.reward_model.one_pass == 3 and type(plain) is torch.optim.Adam
    (flat,) = summing.param_groups[0]["params"]
    given = [torch.full_like(flat, value) for value in (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)]
    used = []
    for grad in given:  # the fit has done 6 steps, two whole passes
        flat.grad = grad
        summing.step()
        used.append(float(flat.grad[0, 0]))
    assert used == [1.0, 3.0, 7.0, 8.0, 24.0, 56.0]
    assert not torch.equal(flat, plain.param_groups[0]["params"][0])


def preset() -> dict[str, Any]:
    return yaml.safe_load(Path(packaged_config("model/lire.yaml")).read_text())["model"]["init_args"]


def fit(folder: Path, **settings: Any) -> RewardEnsemble:
    around = settings.pop("around", None) or ask()
    method = RewardEnsemble(SPEC, **{**preset(), "hidden": [32, 32], "epochs": 150, **settings})
    make_trainer(folder, [around]).fit(method, ToyData())
    return method


def test_lire_end_to_end(tmp_path: Path) -> None:
    """The shipped preset, made small: 40 answers of a teacher who calls close pairs equal, one round."""
    method = fit(tmp_path)
    store = LabelStore(tmp_path / "labels.sqlite", method.source.fingerprint)
    answers = store.labels("pair")
    assert len(answers) == store.spent("seed0") == method.asked.total == 40  # derived pairs are not asked
    state = rebuild(RankedLists(), answers)
    size = sum(len(group) for group in state.lists[0])
    pairs = len(method.reward_model.pairs)
    assert len(state.lists) == 1 and pairs == size * (size - 1) // 2 > 40
    returns = {s: float(method.source.reward[s : s + 10].sum()) for group in state.lists[0] for s in group}
    means = [sum(returns[s] for s in group) / len(group) for group in state.lists[0]]
    assert means == sorted(means) and len(means) > 4
    rows = read_csv(tmp_path)
    assert max(row["step"] for row in rows) == 150 * math.ceil(pairs / 512)
    assert [row for row in rows if "pref/accuracy" in row][-1]["pref/accuracy"] > 0.8
    assert any("teacher/equal_rate" in row and 0 < row["teacher/equal_rate"] < 1 for row in rows)


def test_resume_inside_an_insertion_is_an_uninterrupted_run(tmp_path: Path) -> None:
    """Rounds of 8 answers end in the middle of insertions; a run stopped there goes on with the same questions."""
    settings: dict[str, Any] = {"epochs": 3, "crop": [4, 8]}
    straight = fit(tmp_path / "straight", around=ask(per_round=8), **settings)
    method = RewardEnsemble(SPEC, **{**preset(), "hidden": [32, 32], **settings})
    make_trainer(tmp_path / "stopped", [ask(per_round=8)], max_epochs=2).fit(method, ToyData())
    assert rebuild(RankedLists(), method.labels).waiting is not None
    resumed = RewardEnsemble(SPEC, **{**preset(), "hidden": [32, 32], **settings})
    last = tmp_path / "stopped" / "checkpoints" / "last.ckpt"
    make_trainer(tmp_path / "stopped", [ask(per_round=8)]).fit(resumed, ToyData(), ckpt_path=last)
    assert torch.equal(resumed.labels.start, straight.labels.start)
    assert_same(straight.state_dict(), resumed.state_dict())
    assert len(resumed.labels) == 40


def test_seq_rank_end_to_end(tmp_path: Path) -> None:
    method = fit(tmp_path, around=ask(SeqRankQuery()), pairs="chain", score="bradley_terry")
    assert torch.equal(method.labels.start[1:, 0], method.labels.start[:-1, 1])
    assert len(method.reward_model.pairs) == len(derived_pairs(method.labels, "chain")) > 40
    assert [row for row in read_csv(tmp_path) if "pref/accuracy" in row][-1]["pref/accuracy"] > 0.7


def test_preset_is_the_published_one() -> None:
    method = RewardEnsemble(SPEC, **preset())
    h = method.hparams
    assert (list(h.hidden), h.lr, h.lr_decay, h.epochs, h.batch_size) == ([128, 128], 1e-3, 0.9, 300, 512)
    assert (h.score, h.output, h.pairs, h.normalize_obs, h.ensemble_size) == ("linear", "tanh", "ranked", True, 3)
    assert not method.reward_model.fits_well({"accuracy": 1.0})  # no early stop


def test_settings_out_of_range(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="aggregate=mean_minus_std needs at least two members: raise ensemble_size"):
        RewardEnsemble(SPEC, ensemble_size=1, aggregate="mean_minus_std")
    with pytest.raises(UserError, match=r"crop is \[25, 20\]: give the shortest and the longest length"):
        RewardEnsemble(SPEC, crop=[25, 20])
    with pytest.raises(UserError, match=r"crop is \[5, 20\] and segments have 10 steps: crop to at most that"):
        fit(tmp_path, crop=[5, 20])
