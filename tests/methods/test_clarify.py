"""CLARIFY: minibatches by index arithmetic, the two updates of a step, every switch, and whole runs."""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml
from torch import Tensor
from toys import SPEC, ToyData, assert_same, make_trainer, read_csv

from lightning_pbrl.arguments import packaged_config
from lightning_pbrl.callbacks.ask_teacher import AskTeacher
from lightning_pbrl.data.feedback import Labels, Query, Status
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.engine import UpdateEngine
from lightning_pbrl.errors import UserError
from lightning_pbrl.losses.contrastive import anchor_loss
from lightning_pbrl.methods.clarify import CLARIFY, PARTNERS, ties_to_skips
from lightning_pbrl.methods.loading import load_method
from lightning_pbrl.queries.embedding import EmbeddingQuery
from lightning_pbrl.queries.uniform import UniformQuery
from lightning_pbrl.rng import stream
from lightning_pbrl.teachers.skip import SkipTeacher

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),  # a resumed run
    pytest.mark.filterwarnings("ignore:.*variance of predictions or target is close to zero"),
]

LENGTH = 10
TINY: dict[str, Any] = {
    "hidden": [16, 16],
    "ensemble_size": 2,
    "epochs": 5,
    "width": 16,
    "layers": 1,
    "heads": 2,
    "max_episode_steps": 40,
    "encoder_batch_size": 16,
    "encoder_lr": 3e-3,
    "warmup": 5,
    "n_init": 40,
    "n_emb": 20,
}


class SkippableData(ToyData):
    """The synthetic data set with rewards around 1, so that thresholds relative to their mean make sense."""

    def load(self) -> Transitions:
        data = super().load()
        data.reward += 1
        return data


def tiny(**changes: Any) -> CLARIFY:
    return CLARIFY(SPEC, **{**TINY, **changes})


def fit(folder: Path, *around: pl.Callback, ckpt_path: Path | None = None, ask: dict[str, Any] | None = None, **settings: Any):
    method = tiny(**settings.pop("method", {}))
    query = {"query": EmbeddingQuery(), "budget": 60, "per_round": 20, **(ask or {})}
    callbacks = [AskTeacher(SkipTeacher(0.5), **query), *around]
    make_trainer(folder, callbacks, **settings).fit(method, SkippableData(), ckpt_path=ckpt_path)
    return method


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[CLARIFY, Path]:
    """A whole run in three rounds of 20 questions, once."""
    folder = tmp_path_factory.mktemp("clarify")
    return fit(folder), folder


# Whole runs ------------------------------------------------------------------------------------------------------------


def test_a_whole_run(trained: tuple[CLARIFY, Path]) -> None:
    method, folder = trained
    assert method.engines["encoder"].updates == 40 + 20 + 20
    assert method.asked == (60, 20, 0)
    status = method.labels.status
    assert 0.2 < (status == Status.SKIPPED).float().mean() < 0.8
    rows = read_csv(folder)
    counted = [row for row in rows if "query/candidates" in row]
    assert len(counted) == 2  # round 0 asks uniformly
    assert all(row["query/single_class"] == row["query/collapsed"] == 0 for row in counted)
    assert all(row["query/accepted"] + row["query/filled"] >= 20 for row in counted)
    assert all(0 <= row["query/embedding_auc"] <= 1 for row in counted)
    logged = {"train/encoder_loss", "train/decoder_loss", "train/ambiguity", "train/quadrilateral", "train/norm"}
    assert logged <= set().union(*rows)


def test_the_encoder_learns_what_the_teacher_cannot_compare(tmp_path: Path) -> None:
    """After 250 encoder steps, distances of the answered pairs tell clear from skipped far better than at the start."""
    ask = {"budget": 120, "per_round": 60}
    before = fit(tmp_path / "a", ask=ask, method={"n_init": 1, "amb_weight": 1.0})
    after = fit(tmp_path / "b", ask=ask, method={"n_init": 250, "amb_weight": 1.0})
    auc = [next(row["query/embedding_auc"] for row in read_csv(tmp_path / f) if "query/embedding_auc" in row) for f in "ab"]
    assert before.asked.total == after.asked.total == 120
    assert auc[1] > max(auc[0] + 0.05, 0.8)


def test_resume_asks_and_learns_the_same(trained: tuple[CLARIFY, Path], tmp_path: Path) -> None:
    straight, folder = trained
    fit(tmp_path, max_epochs=2)
    torch.rand(7)  # whatever the global generator has been used for
    resumed = fit(tmp_path, ckpt_path=tmp_path / "checkpoints" / "last.ckpt")
    assert torch.equal(straight.labels.start, resumed.labels.start)
    assert torch.equal(straight.labels.status, resumed.labels.status)
    assert_same(straight.state_dict(), resumed.state_dict())
    assert_same(straight.engines["encoder"].state_dict(), resumed.engines["encoder"].state_dict())
    assert read_csv(folder) == read_csv(tmp_path)


def test_the_encoder_never_reads_true_rewards(tmp_path: Path) -> None:
    class Poison(pl.Callback):
        def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: CLARIFY) -> None:  # type: ignore[override]
            pl_module.source.reward.fill_(float("nan"))  # after this round's questions were answered

    settings: dict[str, Any] = {"max_epochs": 1, "limit_val_batches": 0}
    plain, poisoned = fit(tmp_path / "a", **settings), fit(tmp_path / "b", Poison(), **settings)
    assert torch.isnan(poisoned.source.reward).all()
    assert_same(plain.state_dict(), poisoned.state_dict())


def test_a_reward_checkpoint_embeds_without_a_trainer(trained: tuple[CLARIFY, Path]) -> None:
    method, folder = trained
    loaded = load_method(folder / "checkpoints" / "last.ckpt")
    loaded.source = method.source
    query = method.source.pool(LENGTH).pairs(6, stream(0, "x"))
    assert isinstance(loaded, CLARIFY)
    torch.testing.assert_close(loaded.embed(query), method.embed(query))


def test_too_short_a_time_embedding_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"longest episode has 30 steps and the encoder embeds 29: set .* to at least 30"):
        fit(tmp_path, method={"max_episode_steps": 29})


# A round ---------------------------------------------------------------------------------------------------------------


def ready(**changes: Any) -> CLARIFY:
    """A method with data, engines and labels, without a Trainer's loop: 12 answers of all statuses."""
    method = tiny(**changes)
    data = SkippableData()
    data.setup("fit")
    method.configure_model()
    method.source = data.source
    method.on_data()
    method.__dict__["_trainer"] = None
    start = data.source.pool(LENGTH).pairs(12, stream(0, "labels")).start
    status = torch.tensor([1, 1, 3, 1, 2, 3, 1, 0, 3, 1, 1, 3])
    value = torch.tensor([0.0, 1, 0, 1, 0.5, 0, 0, 0, 0, 1, 0, 0])
    method.labels = Labels(start, LENGTH, torch.where((status == 1) | (status == 2), value, float("nan")), status)
    for name, program in method.programs().items():
        method.engines[name] = UpdateEngine(method, program, [stream(0, "sampler", name)], compile=False)
    return method


def test_plan_of_the_first_and_of_later_rounds() -> None:
    method = ready(n_init=7, n_emb=3, epochs=5, batch_size=4)
    first, later = method.plan(0), method.plan(1)
    assert [(phase.name, phase.updates) for phase in first] == [("reward", 5 * 2), ("encoder", 7)]  # 7 pairs: 2 minibatches
    assert [(phase.name, phase.updates) for phase in later] == [("reward", 5 * 2), ("encoder", 3)]
    assert len(method.questions) == 11  # all but the pending one


def test_no_answer_no_encoder_step() -> None:
    method = ready()
    method.labels = Labels(method.labels.start, LENGTH, method.labels.value, torch.zeros(12, dtype=torch.long))
    assert [phase.updates for phase in method.plan(0)] == [0, 0]


def test_ties_as_skips() -> None:
    method = ready(ties_as_skips=True, batch_size=4)
    method.plan(0)
    assert len(method.pairs) == 6 and len(ready_pairs(ties_as_skips=False)) == 7  # the reward's fit leaves the tie out
    changed = ties_to_skips(ready().labels)
    assert (changed.status == Status.SKIPPED).sum() == 5 and not (changed.status == Status.EQUAL).any()
    assert torch.isnan(changed.value[4])


def ready_pairs(**changes: Any) -> Labels:
    method = ready(**changes)
    method.plan(0)
    return method.pairs


@pytest.mark.parametrize("standardize", [True, False])
def test_minibatches_against_a_slow_loop(standardize: bool) -> None:
    method = ready(standardize=standardize, encoder_batch_size=200)
    method.plan(0)
    (ids,) = method.sample_windows(1, stream(0, "y"))
    batch = method.gather_windows(ids)
    first, count, time, pair, _, partner = ids
    source, obs, action = method.source, method.source.column("obs"), method.source.column("action")
    mean, std = obs.double().mean(0), obs.double().std(0, correction=0)

    def scaled(x: Tensor) -> Tensor:
        return ((x.double() - mean) / (std + 1e-6)).float()

    short = 0
    for b in range(200):
        episode, step = divmod(int(first[b]), 30)
        assert step == time[b] and count[b] == min(LENGTH, 30 - step)
        pad = LENGTH - int(count[b])
        short += pad > 0
        for t in range(LENGTH):
            row = int(first[b]) + t - pad
            if t < pad:
                assert batch["valid"][b, t] == 0 and batch["time"][b, t] == 0 and (batch["action"][b, t] == -10).all()
                torch.testing.assert_close(batch["obs"][b, t], scaled(torch.zeros(5)), atol=1e-4, rtol=1e-4)
            else:
                assert batch["valid"][b, t] == 1 and batch["time"][b, t] == row - 30 * episode
                assert torch.equal(batch["action"][b, t], action[row])
                torch.testing.assert_close(batch["obs"][b, t], scaled(obs[row]), atol=1e-4, rtol=1e-4)
    assert 30 < short < 90  # starts are uniform over 30 steps: 9 of 30 windows are cut off
    known = method.labels.status != Status.PENDING
    start = method.labels.start[known]
    for b in range(200):
        for c in range(2):
            begin = int(start[pair[b], c])
            rows = obs[begin : begin + LENGTH]
            expected = scaled(rows) if standardize else rows  # the released code leaves them raw
            torch.testing.assert_close(batch["pair_obs"][b, c], expected, atol=1e-4, rtol=1e-4)
            assert batch["pair_time"][b, c].tolist() == [begin % 30 + t for t in range(LENGTH)]
    status = method.labels.status[known][pair]
    assert torch.equal(batch["clear"], status == Status.ANSWERED) and torch.equal(batch["ambiguous"], status == Status.SKIPPED)
    assert set(pair.tolist()) == set(range(11)) and partner.shape == (PARTNERS, 200)
    assert len(source) == 600


def test_unequal_episodes_are_drawn_equally_often() -> None:
    method = ready(encoder_batch_size=500)
    rows = method.source.packed
    method.source = Transitions(rows, torch.tensor([0, 5, 30, 600]), None, None, 5, 2)
    method.plan(0)
    first, count, time, *_ = method.sample_windows(1, stream(0, "z"))[0]
    share = [((first >= lo) & (first < hi)).float().mean().item() for lo, hi in ((0, 5), (5, 30), (30, 600))]
    assert share == pytest.approx([1 / 3] * 3, abs=0.08)
    assert (time[first < 5] == first[first < 5]).all() and (count[first < 5] == 5 - first[first < 5]).all()


def test_random_start_times_of_the_released_code() -> None:
    method = ready(start_times="random", encoder_batch_size=500)
    method.plan(0)
    (ids,) = method.sample_windows(1, stream(0, "y"))
    begin = ids[4]
    assert begin.min() == 0 and begin.max() == 40 - LENGTH - 2  # uniform on [0, max - K - 1)
    query = Query("pair", method.labels.start[:3], LENGTH)
    assert torch.equal(method.embed(query), method.embed(query))  # random, but the same within a round
    before = method.embed(query)
    method.engines["encoder"].updates += 1
    assert not torch.equal(method.embed(query), before)


def test_start_times_of_zero() -> None:
    method = ready(start_times="zero")
    method.plan(0)
    assert method.sample_windows(1, stream(0, "y"))[0][4].abs().max() == 0
    query = Query("pair", method.labels.start[:1], LENGTH)
    obs = method.encoder_normalizer(method.observations(query)[0])
    expected = method.encoder.eval().segment(obs, torch.arange(LENGTH).expand(2, -1))
    torch.testing.assert_close(method.embed(query)[0], expected, atol=1e-5, rtol=0)


# The two updates of a step ---------------------------------------------------------------------------------------------


def test_a_step_moves_the_encoder_twice_and_the_decoder_once() -> None:
    method = ready(warmup=100, encoder_lr=1e-3)
    method.plan(0)
    engine = method.engines["encoder"]
    engine.run(3)
    count = {name: int(optimizer.state_dict()["state"][0]["step"]) for name, optimizer in engine.flat.optimizers[0].items()}
    assert count == {"encoder": 6, "decoder": 3}
    for optimizer in engine.flat.optimizers[0].values():
        (group,) = optimizer.param_groups
        assert isinstance(optimizer, torch.optim.AdamW) and group["weight_decay"] == 1e-4
        assert group["lr"] == pytest.approx(1e-3 * 3 / 100)  # third tick of the warm-up, one tick per step
    for group in engine.program.groups.values():
        assert group.clip == 0.25 and group.clip_jointly and group.schedule is not None
        assert group.schedule(99) == group.schedule(5000) == 1


def test_losses_are_the_weighted_sum() -> None:
    method = ready(amb_weight=0.3, quad_weight=2.0, norm_weight=0.7, dropout=0.0)
    method.plan(0)
    batch = method.gather_windows(method.sample_windows(1, stream(0, "y"))[0])
    with torch.no_grad():
        out, first = method.contrast(batch), method.reconstruct(batch)
        z = method.encoder(batch["obs"], batch["time"], batch["valid"])
        predicted = method.decoder(z, batch["obs"], batch["action"], batch["time"], batch["valid"])
    assert set(out) == {"encoder", "ambiguity", "quadrilateral", "norm"}
    assert out["encoder"].item() == pytest.approx(float(0.3 * out["ambiguity"] + 2 * out["quadrilateral"] + 0.7 * out["norm"]))
    assert out["norm"].item() == pytest.approx(float((z.norm(dim=-1) - 1).square().mean()), rel=1e-5)
    assert first["encoder"] is first["decoder"]  # one pass backward
    real = batch["valid"].bool()
    assert first["encoder"].item() == pytest.approx(float((predicted - batch["action"])[real].square().mean()), rel=1e-5)


def test_clear_and_skipped_pairs_reach_their_losses() -> None:
    """L_amb from the embeddings of the batch, by a loop over its pairs; equal ones belong to neither class."""
    method = ready(dropout=0.0)
    method.plan(0)
    batch = method.gather_windows(method.sample_windows(1, stream(0, "y"))[0])
    groups: dict[int, list[float]] = {1: [], 2: [], 3: []}
    for b in range(16):
        z = [method.encoder(batch["pair_obs"][b, c : c + 1], batch["pair_time"][b, c : c + 1])[0, 0] for c in range(2)]
        similarity = -float((z[0] - z[1]).detach().square().mean())
        groups[1 if batch["clear"][b] else 3 if batch["ambiguous"][b] else 2].append(1 / (1 + math.exp(-similarity)))
    assert all(groups.values())
    expected = sum(groups[1]) / len(groups[1]) - sum(groups[3]) / len(groups[3])
    assert method.contrast(batch)["ambiguity"].item() == pytest.approx(expected, abs=1e-5)
    released = ready(dropout=0.0, amb_loss="reference")
    released.plan(0)
    assert released.contrast(batch)["ambiguity"].item() == pytest.approx(sum(groups[1]) / len(groups[1]), abs=1e-5)


def test_anchor_in_place_of_the_quadrilateral() -> None:
    method = ready(direction_loss="anchor", dropout=0.0)
    method.plan(0)
    assert method.engines["encoder"].program.groups["anchor"].lr == 1e-3
    batch = method.gather_windows(method.sample_windows(1, stream(0, "y"))[0])
    z = method.encoder.segment(batch["pair_obs"].flatten(0, 1), batch["pair_time"].flatten(0, 1)).view(16, 2, -1)
    expected = anchor_loss(z, batch["label"], batch["clear"], method.anchor)
    assert method.contrast(batch)["anchor"].item() == pytest.approx(expected.item())
    before = method.anchor.detach().clone()
    method.engines["encoder"].run(1)
    assert not torch.equal(before, method.anchor)


def test_both_updates_can_be_traced_whole() -> None:
    """What ``compile`` needs (on a GPU it is the default): no graph break, and the numbers stay the same."""
    method = ready(dropout=0.0)
    method.plan(0)
    batch = method.gather_windows(method.sample_windows(1, stream(0, "y"))[0])
    for step in (method.reconstruct, method.contrast):
        traced = torch.compile(step, fullgraph=True, dynamic=False, backend="eager")(batch)
        assert {key: value.item() for key, value in traced.items()} == pytest.approx(
            {key: value.item() for key, value in step(batch).items()}, abs=1e-6
        )


@pytest.mark.parametrize("loss", ["amb_weight", "quad_weight", "norm_weight"])
def test_ablations_run(loss: str) -> None:
    method = ready(**{loss: 0.0})
    method.plan(0)
    assert all(torch.isfinite(value).all() for value in method.engines["encoder"].run(2).values())


# Embeddings ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("readout", ["full", "reference"])
def test_embeddings_of_a_query(readout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method = ready(readout=readout)
    method.train()
    query = method.source.pool(LENGTH).pairs(9, stream(1, "x"))
    z = method.embed(query)
    assert z.shape == (9, 2, 16) and method.encoder.training and not z.requires_grad
    method.encoder.eval()
    obs = method.encoder_normalizer(method.observations(query)[4, 1])
    begin = int(query.start[4, 1]) % 30
    expected = method.encoder(obs[None], torch.arange(begin, begin + LENGTH)[None])[0, 0]
    torch.testing.assert_close(z[4, 1], expected, atol=1e-5, rtol=0)
    monkeypatch.setattr("lightning_pbrl.methods.clarify.EMBED_TILE", 4)
    torch.testing.assert_close(method.embed(query), z, atol=1e-5, rtol=0)
    # Another first state: the whole segment's embedding moves, the released code's does not.
    method.source.packed[int(query.start[4, 1])] += 1
    moved = (method.embed(query) - z).abs().amax(-1)[4, 1]
    assert moved > 1e-5 if readout == "full" else moved < 1e-6


# Presets ---------------------------------------------------------------------------------------------------------------


def preset(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    written = yaml.safe_load(Path(packaged_config(f"preset/clarify/{name}.yaml")).read_text())
    return written["model"]["init_args"], written.get("ask", {}).get("query", {}).get("init_args", {})


def defaults(cls: type) -> dict[str, Any]:
    return {name: p.default for name, p in inspect.signature(cls).parameters.items()}


def test_presets_are_named_switches() -> None:
    paper, reference, small = preset("paper"), preset("reference"), preset("small")
    for ours, cls in ((0, CLARIFY), (1, EmbeddingQuery)):
        known = defaults(cls)
        assert paper[ours] == {key: known[key] for key in paper[ours]}  # the default
        assert paper[ours].keys() == reference[ours].keys() and small[ours].keys() <= known.keys()
    same = {key for key in reference[0] if reference[0][key] == paper[0][key]}
    assert same == {"squash"}
    method, released = tiny(**paper[0], n_init=5), tiny(**reference[0])
    assert method.hparams.readout == "full" and released.hparams.readout == "reference"
    EmbeddingQuery(**reference[1])


def test_reference_preset_runs(tmp_path: Path) -> None:
    model, query = preset("reference")
    method = fit(tmp_path, method={**model, "n_emb": 10}, ask={"query": EmbeddingQuery(**query)})
    assert method.asked.total <= 60 and method.engines["encoder"].updates == 60
    assert all(torch.isfinite(value).all() for value in method.state_dict().values())


def test_uniform_questions_need_no_embedding(tmp_path: Path) -> None:
    assert fit(tmp_path, ask={"query": UniformQuery()}, max_epochs=1).asked.total == 20
