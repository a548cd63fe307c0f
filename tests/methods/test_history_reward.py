"""Preference Transformer and NMR: loss, schedule, choice of weights, relabelling against a slow loop, and what they can learn."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor
from toys import SPEC, ToyData, assert_same, callbacks_for, make_trainer, read_csv

from lightning_pbrl.arguments import packaged_config
from lightning_pbrl.callbacks.ask_teacher import AskTeacher
from lightning_pbrl.callbacks.relabel_rewards import RelabelRewards
from lightning_pbrl.callbacks.write_predictions import WritePredictions
from lightning_pbrl.data.feedback import Labels, Query, Status
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.datamodules.base import FeedbackDataModule
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.base import Method
from lightning_pbrl.methods.iql import IQL
from lightning_pbrl.methods.learn_reward import NMR, LearnReward, PreferenceTransformer, RewardEnsemble
from lightning_pbrl.methods.loading import load_method
from lightning_pbrl.queries.disagreement import DisagreementQuery
from lightning_pbrl.queries.entropy import EntropyQuery
from lightning_pbrl.rewards import nmr, preference_transformer
from lightning_pbrl.rewards.history import HistoryReward
from lightning_pbrl.rng import derive

both = pytest.mark.parametrize("cls", [PreferenceTransformer, NMR])
both_models = pytest.mark.parametrize("cls", [preference_transformer.PreferenceTransformer, nmr.NMR])
SMALL: dict[str, Any] = {"width": 16, "epochs": 5, "batch_size": 16}
SMALL_TRANSFORMER: dict[str, Any] = {**SMALL, "heads": 2, "attention_dim": 8, "max_steps": 30}


def alone(cls: type[HistoryReward], **settings: Any) -> HistoryReward:
    """A small reward model without a method."""
    model = cls(**{**(SMALL if cls is nmr.NMR else SMALL_TRANSFORMER), **settings})
    model.spec = SPEC
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(0, "init"))
        model.build()
    return model


def small(cls: type[LearnReward], **settings: Any) -> LearnReward:
    sizes = SMALL if cls is NMR else SMALL_TRANSFORMER
    return cls(SPEC, **{"block": 7, **sizes, **settings})


def fit(cls: type[LearnReward], folder: Path, around: Any = None, data: Any = None, **settings: Any) -> Any:
    method = small(cls, **settings)
    make_trainer(folder, around or callbacks_for(cls)).fit(method, data or ToyData())
    return method


# Loss and schedule -----------------------------------------------------------------------------------------------------


@both_models
@pytest.mark.parametrize("train_type", ["mean", "sum", "last"])
def test_loss_is_the_cross_entropy_of_bradley_terry(cls: type[HistoryReward], train_type: str) -> None:
    model = alone(cls, train_type=train_type, ensemble_size=2)
    model.eval()
    segments = torch.randn(2, 3, 2, 6, 7, generator=torch.Generator().manual_seed(0))
    label = torch.tensor([[0.0, 0.5, 1.0], [1.0, 0.0, 0.5]])
    expected, right = 0.0, 0
    for e in range(2):
        for b in range(3):
            score = []
            for c in range(2):
                z = model.members[e](segments[e, b, c][None])[1][0]
                score.append({"mean": z.sum() / 6, "sum": z.sum(), "last": z[5]}[train_type].item())
            p = 1 / (1 + math.exp(score[0] - score[1]))
            y = label[e, b].item()
            expected -= (y * math.log(p) + (1 - y) * math.log(1 - p)) / 3
            right += y != 0.5 and (p > 0.5) == (y == 1)
    losses = model.losses({"segments": segments, "label": label})
    assert losses["members"].item() == pytest.approx(expected, abs=1e-5)
    assert losses["accuracy"].item() == pytest.approx(right / 4)


def test_learning_rate_by_hand() -> None:
    """100 updates: 10 from 1e-4 up to 1e-3, 90 down to 1e-4; the next round begins again."""
    model = alone(preference_transformer.PreferenceTransformer, epochs=50)
    model.fit_began, model.one_pass = 200, 2
    rates = {done: 1e-3 * model.warmup_cosine(done) for done in (200, 205, 210, 255, 300, 400)}
    assert rates[200] == pytest.approx(1e-4) and rates[210] == pytest.approx(1e-3)
    assert rates[205] == pytest.approx(5.5e-4)  # half-way up
    assert rates[255] == pytest.approx(5.5e-4)  # half-way down
    assert rates[300] == rates[400] == pytest.approx(1e-4)
    constant = alone(nmr.NMR, epochs=50, lr_floor=1e-3)
    constant.fit_began, constant.one_pass = 0, 2
    assert [constant.warmup_cosine(done) for done in (0, 3, 77)] == [1.0] * 3


# The best weights ------------------------------------------------------------------------------------------------------


class Judged(ToyData):
    """Forty answers that come with the data: the larger true return, but every tenth (positions 9, 19 ...) the smaller."""

    def load(self) -> Transitions:
        source = super().load()
        query = source.pool(10).pairs(40, torch.Generator().manual_seed(0))
        value = (source.true_returns(query).diff(dim=1)[:, 0] > 0).float()
        value[9::10] = 1 - value[9::10]
        self.labels = Labels(query.start, 10, value, torch.full((40,), int(Status.ANSWERED)))
        return source


def judge_loss(model: HistoryReward) -> float:
    """Mean cross entropy on positions 9, 19, 29, 39."""
    labels = model.labels.take(torch.arange(9, 40, 10))
    scores = model.returns(Query("pair", labels.start, 10))[0]
    p = torch.sigmoid(scores[:, 1] - scores[:, 0])
    return -(labels.value * p.log() + (1 - labels.value) * (1 - p).log()).mean().item()


def test_answers_that_choose_are_not_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The more the model learns, the worse it explains the reversed answers: the weights of an early pass are kept."""
    settings: dict[str, Any] = {"lr": 3e-3, "lr_floor": 3e-3, "epochs": 40, "dropout": 0.0, "around": [AskTeacher()]}
    method = fit(PreferenceTransformer, tmp_path / "kept", data=Judged(), **settings)
    kept = method.reward_model
    assert len(kept.pairs) == 36 and len(kept.judges) == 4
    assert set(kept.judges.start[:, 0].tolist()) == set(method.labels.start[9::10, 0].tolist())
    assert not set(map(tuple, kept.judges.start.tolist())) & set(map(tuple, kept.pairs.start.tolist()))
    assert method.running.updates["reward"] == 40 * math.ceil(36 / 16)  # chosen at the end, not stopped early
    with monkeypatch.context() as without:
        without.setattr(preference_transformer.PreferenceTransformer, "take_best", lambda model: None)
        last = fit(PreferenceTransformer, tmp_path / "last", data=Judged(), **settings).reward_model
    assert judge_loss(kept) < judge_loss(last) - 0.1
    assert judge_loss(kept) == pytest.approx(last.best_loss, abs=1e-5)
    settings["epochs"] = 1
    leaky = fit(PreferenceTransformer, tmp_path / "leaky", data=Judged(), best="train", **settings).reward_model
    assert len(leaky.pairs) == 40 and len(leaky.judges) == 4
    all_of_them = fit(PreferenceTransformer, tmp_path / "all", data=Judged(), best="last", **settings).reward_model
    assert len(all_of_them.pairs) == 40 and len(all_of_them.judges) == 0


def test_too_few_answers_to_choose_by(tmp_path: Path) -> None:
    """Nine answers hold no tenth: the last weights stand."""
    method = fit(NMR, tmp_path, callbacks_for(NMR, budget=9, per_round=9))
    model = method.reward_model
    assert len(model.pairs) == 9 and len(model.judges) == 0 and method.running.updates["reward"] == 5


# Relabelling -----------------------------------------------------------------------------------------------------------


@both_models
@pytest.mark.parametrize("by", ["last", "mean", "difference", "score"])
def test_relabelling_against_a_loop_over_rows(cls: type[HistoryReward], by: str) -> None:
    model = alone(cls, window=6, relabel_by=by, ensemble_size=2)
    source = ToyData(episodes=3).load()
    rewards = model.relabel(source)
    assert rewards.shape == (90,) and model.members.training  # dropout is back
    model.eval()
    for row in range(0, 90, 4):
        begin = 30 * (row // 30)
        window = source.features()[max(begin, row - 5) : row + 1]
        n = len(window)
        padded, time = torch.zeros(1, 6, 7), torch.zeros(1, 6, dtype=torch.int64)
        padded[0, 6 - n :], time[0, 6 - n :] = window, torch.arange(1, n + 1)
        per_member = []
        for member in model.members:
            r = member(padded, time)[0][0, 6 - n :].tolist()
            z = member(padded, time)[1][0, 6 - n :].tolist()
            before = r[-2] if n > 1 else 0.0
            per_member.append({"last": r[-1], "mean": sum(r) / n, "difference": r[-1] - before, "score": sum(z) / n}[by])
        assert rewards[row].item() == pytest.approx(sum(per_member) / 2, abs=1e-5)
    torch.testing.assert_close(model.relabel(source, torch.tensor([88, 3, 31])), rewards[[88, 3, 31]], atol=1e-6, rtol=0)


@both
def test_a_policy_is_trained_on_the_checkpoint_s_rewards(cls: type[LearnReward], tmp_path: Path) -> None:
    fit(cls, tmp_path)
    checkpoint = str(tmp_path / "checkpoints" / "last.ckpt")
    loaded = load_method(checkpoint)
    data = ToyData()
    policy = IQL(SPEC, updates=4, eval_interval=4, hidden=(8,))
    make_trainer(tmp_path / "policy", [RelabelRewards(checkpoint, normalize=False)]).fit(policy, data)
    written = data.source.column("learned_reward")
    assert torch.equal(written, loaded.relabel(data.source)) and written.std() > 0  # looks back 10 steps, the segments' length
    assert not torch.allclose(written, loaded.combine(loaded.reward(data.source.features())))  # without a past it differs
    predict = make_trainer(tmp_path / "predict", [WritePredictions()])
    predict.predict(loaded, ToyData(), return_predictions=False)
    predicted = load_file(tmp_path / "predict" / "predictions.safetensors")["learned_reward"]
    torch.testing.assert_close(predicted, written, atol=1e-6, rtol=0)


def test_an_untrained_model_does_not_know_how_far_to_look() -> None:
    model = alone(nmr.NMR)
    with pytest.raises(UserError, match="NMR has not been trained, so it does not know how far to look back: set window"):
        model.relabel(ToyData().load())


# Questions, options, mistakes ------------------------------------------------------------------------------------------


@both
def test_two_members_can_disagree(cls: type[LearnReward], tmp_path: Path) -> None:
    method = fit(cls, tmp_path, callbacks_for(cls, query=DisagreementQuery()), ensemble_size=2)
    query = method.source.pool(10).pairs(5, torch.Generator().manual_seed(0))
    returns = method.returns(query)
    assert returns.shape == (2, 5, 2) and not torch.allclose(returns[0], returns[1])
    method.eval()
    one = method.reward_model.members[1](method.source.segments(query.start[3, 1], 10)[None])[1]
    expected = one.mean() if cls is PreferenceTransformer else one.sum()
    assert returns[1, 3, 1].item() == pytest.approx(expected.item(), abs=1e-5)


def test_one_member_has_entropy_but_no_disagreement(tmp_path: Path) -> None:
    method = fit(PreferenceTransformer, tmp_path / "entropy", callbacks_for(PreferenceTransformer, query=EntropyQuery()))
    assert method.asked.total == 30
    assert {"pref/accuracy", "pref/return_pearson"} <= {key for row in read_csv(tmp_path / "entropy") for key in row}
    with pytest.raises(UserError, match="Disagreement needs at least two ensemble members"):
        fit(PreferenceTransformer, tmp_path, callbacks_for(PreferenceTransformer, query=DisagreementQuery()))


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"knows 8 time steps, and segments or the window have 10: set .*max_steps"):
        fit(PreferenceTransformer, tmp_path, max_steps=8)
    with pytest.raises(UserError, match="segments or the window have 31"):
        fit(PreferenceTransformer, tmp_path, window=31)
    for wrong in ({"held_out_every": 1}, {"window": 0}, {"warmup_fraction": 1.0}):
        with pytest.raises(UserError, match=r"NMR got (held_out_every|warmup_fraction|window)=\S+: give a number of at least "):
            small(NMR, **wrong)


def test_presets() -> None:
    """paper writes out the defaults; reference turns the paper's contribution off and chooses on training rows."""

    def arguments(name: str) -> dict[str, Any]:
        return yaml.safe_load(Path(packaged_config(f"preset/{name}.yaml")).read_text())["model"]["init_args"]

    paper, reference = arguments("preference_transformer/paper"), arguments("preference_transformer/reference")
    defaults = PreferenceTransformer(SPEC).hparams
    assert {key: defaults[key] for key in paper} == paper
    assert reference == {"weighted_sum": False, "best": "train"}
    for name in ("preference_transformer/small", "preference_transformer/reference"):
        PreferenceTransformer(SPEC, **arguments(name)).configure_model()
    NMR(SPEC, **arguments("nmr/reference")).configure_model()
    small_size = PreferenceTransformer(SPEC, **arguments("preference_transformer/small"))
    small_size.configure_model()
    assert sum(p.numel() for p in small_size.reward_model.parameters()) < 150_000


# What depends on history -----------------------------------------------------------------------------------------------


class LampData(FeedbackDataModule):
    """A lamp shows red or green in the first of 6 steps; then "left" pays if it was red, "right" if it was green.

    Rewards of single steps cannot say which: both halves of the label are symmetric in each of them.
    """

    def __init__(self, episodes: int = 400) -> None:
        super().__init__(segment_length=6)
        self.episodes = episodes

    def load(self) -> Transitions:
        rng = torch.Generator().manual_seed(0)
        n, lamp, side = self.episodes, *(torch.randint(2, (2, self.episodes), generator=rng) * 2.0 - 1)
        obs = torch.zeros(n, 6, 2)
        obs[:, 0, 0] = lamp
        obs[:, :, 1] = 0.3 * torch.randn(n, 6, generator=rng)
        action = torch.zeros(n, 6, 1)
        action[:, 1:, 0] = side[:, None]
        reward = torch.zeros(n, 6)
        reward[:, 1:] = (lamp * side)[:, None]
        source = Transitions.from_columns(
            obs.flatten(0, 1), action.flatten(0, 1), obs.flatten(0, 1), torch.arange(n + 1) * 6, reward.flatten()
        )
        better, worse = (6 * (lamp * side == sign).nonzero().squeeze(1)[:150] for sign in (1.0, -1.0))
        start = torch.stack([better, worse], dim=1)
        start[::2] = start[::2].flip(1)
        value = torch.ones(150)
        value[1::2] = 0.0
        status = torch.full((100,), int(Status.ANSWERED))
        self.labels = Labels(start[:100], 6, value[:100], status)
        self.held_out_labels = Labels(start[100:], 6, value[100:], status[:50])
        return source


def accuracy(method: Method, labels: Labels) -> float:
    scores = method.returns(Query("pair", labels.start, 6)).mean(0)  # type: ignore[operator]
    return ((scores[:, 1] > scores[:, 0]).float() == labels.value).float().mean().item()


@pytest.fixture(scope="module")
def lamp(tmp_path_factory: pytest.TempPathFactory) -> Any:
    def learn(method: Method) -> tuple[Method, LampData]:
        data = LampData()
        make_trainer(tmp_path_factory.mktemp("lamp"), [AskTeacher()]).fit(method, data)
        return method, data

    return learn


LAMP_SPEC = {"obs_dim": 2, "action_dim": 1, "horizon": 6}


@pytest.mark.parametrize("kind", ["weighted", "plain", "lstm"])
def test_a_reward_that_depends_on_history_is_learned(kind: str, lamp: Any) -> None:
    settings: dict[str, Any] = {"width": 32, "batch_size": 32, "epochs": 40, "lr": 5e-3, "lr_floor": 5e-4, "best": "last"}
    transformer = {"heads": 2, "attention_dim": 16, "max_steps": 10, "weighted_sum": kind == "weighted"}
    method = NMR(LAMP_SPEC, **settings) if kind == "lstm" else PreferenceTransformer(LAMP_SPEC, **transformer, **settings)
    method, data = lamp(method)
    assert accuracy(method, data.held_out_labels) > 0.95
    if kind == "weighted":  # many r give the same weighted sum; the sum itself is what was learned
        method.reward_model.hparams["relabel_by"] = "score"
    late, true = method.relabel(data.source).view(-1, 6)[:, 3:], data.source.reward.view(-1, 6)[:, 3:]
    assert late[true > 0].mean() > late[true < 0].mean() + 2 * late[true > 0].std()  # one action, told apart by the lamp


def test_a_markov_reward_cannot(lamp: Any) -> None:
    method, data = lamp(RewardEnsemble(LAMP_SPEC, hidden=(32, 32), epochs=50, batch_size=32, lr=3e-3, tile=None))
    assert abs(accuracy(method, data.held_out_labels) - 0.5) < 0.25


def test_same_seed_same_weights(tmp_path: Path) -> None:
    first, second = (fit(NMR, tmp_path / name) for name in "ab")
    assert_same(first.state_dict(), second.state_dict())


def test_a_window_may_be_longer_than_the_segments() -> None:
    model = alone(nmr.NMR, window=12)
    model.trained_length.fill_(10)
    source = ToyData(episodes=1).load()

    def reward_of_row_20(changed: int) -> Tensor:
        copy = ToyData(episodes=1).load()
        copy.packed[changed] += 1
        return (model.relabel(copy) - model.relabel(source))[20]

    assert reward_of_row_20(8) == 0 and reward_of_row_20(9) != 0  # 12 steps: rows 9 .. 20
