"""CLARIFY's encoder steps: minibatches by index arithmetic, the two updates of a step, every switch, embeddings."""

from __future__ import annotations

import math
import weakref
from typing import Any

import pytest
import torch
from clarify_toys import LENGTH, begin_fits, draw, minibatch, ready
from torch import Tensor

from lightning_pbrl.data.feedback import Labels, Query, Status
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.fitting.answers import hand_over
from lightning_pbrl.losses.contrastive import anchor_loss
from lightning_pbrl.methods.clarify import PARTNERS, ties_to_skips
from lightning_pbrl.rng import stream

# A round ---------------------------------------------------------------------------------------------------------------


def test_plan_of_the_first_and_of_later_rounds() -> None:
    method = ready(n_init=7, n_emb=3, epochs=5, batch_size=4)
    assert [(phase.name, phase.updates) for phase in method.plan(0)] == [
        ("reward", 5 * 2),
        ("encoder", 7),
    ]  # 7 pairs: 2 minibatches
    begin_fits(method)
    method.running.run("encoder", 7)
    assert [(phase.name, phase.updates) for phase in method.plan(1)] == [("reward", 5 * 2), ("encoder", 3)]
    assert len(method.questions) == 11  # all but the pending one


def test_no_answer_no_encoder_step() -> None:
    method = ready()
    method.labels = Labels(method.labels.start, LENGTH, method.labels.value, torch.zeros(12, dtype=torch.long))
    hand_over(method)
    assert [phase.updates for phase in method.plan(0)] == [0, 0]


def test_the_first_answers_may_come_later() -> None:
    """The long first training of the encoder belongs to the first round that has answers, whichever it is."""
    method = ready(n_init=7, n_emb=3)
    assert method.plan(1)[-1].updates == 7
    begin_fits(method)
    method.running.run("encoder", 7)
    assert method.plan(1)[-1].updates == method.plan(2)[-1].updates == 3
    assert ready(n_init=0, n_emb=3).plan(1)[-1].updates == 3  # without a first training at all


def test_ties_as_skips() -> None:
    method = ready(ties_as_skips=True, batch_size=4)
    begin_fits(method)
    pairs = method.reward_model.pairs  # the reward's fit leaves the tie out
    assert len(pairs) == 6 and len(ready_pairs(ties_as_skips=False)) == 7
    changed = ties_to_skips(ready().labels)
    assert (changed.status == Status.SKIPPED).sum() == 5 and not (changed.status == Status.EQUAL).any()
    assert torch.isnan(changed.value[4])


def ready_pairs(**changes: Any) -> Labels:
    method = ready(**changes)
    begin_fits(method)
    return method.reward_model.pairs


@pytest.mark.parametrize("standardize", [True, False])
def test_minibatches_against_a_slow_loop(standardize: bool) -> None:
    method = ready(standardize=standardize, encoder_batch_size=200, start_times="true")
    begin_fits(method)
    drawn, batch = draw(method), minibatch(method)
    pair = drawn["pair"]
    source, obs, action = method.source, method.source.column("obs"), method.source.column("action")
    mean, std = obs.double().mean(0), obs.double().std(0, correction=0)

    def scaled(x: Tensor) -> Tensor:
        return ((x.double() - mean) / (std + 1e-6)).float()

    short = 0
    for b in range(200):
        episode, step = int(20 * drawn["episode"][b]), int(30 * drawn["time"][b])
        pad = LENGTH - min(LENGTH, 30 - step)
        short += pad > 0
        for t in range(LENGTH):
            row = 30 * episode + step + t - pad
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
    assert set(pair.tolist()) == set(range(11)) and batch["partner"].shape == (PARTNERS, 200)
    assert len(source) == 600


def test_unequal_episodes_are_drawn_equally_often() -> None:
    method = ready(encoder_batch_size=500)
    rows = method.source.packed
    rows[:, 5] = torch.arange(600)  # the first action tells the row
    method.source = Transitions(rows, torch.tensor([0, 5, 30, 600]), None, None, 5, 2)
    begin_fits(method)
    batch = minibatch(method)
    count = batch["valid"].sum(1)
    first, time = (last[:, -1] - count + 1 for last in (batch["action"][..., 0], batch["time"]))
    share = [((first >= lo) & (first < hi)).float().mean().item() for lo, hi in ((0, 5), (5, 30), (30, 600))]
    assert share == pytest.approx([1 / 3] * 3, abs=0.08)
    assert (time[first < 5] == first[first < 5]).all() and (count[first < 5] == 5 - first[first < 5]).all()


def test_random_start_times_of_the_released_code() -> None:
    method = ready(start_times="random", encoder_batch_size=500)
    begin_fits(method)
    first = minibatch(method)["pair_time"][..., 0]
    assert first.min() == 0 and first.max() == 40 - LENGTH - 2  # uniform on [0, max - K - 1)
    query = Query("pair", method.labels.start[:3], LENGTH)
    assert torch.equal(method.embed(query), method.embed(query))  # random, but the same within a round
    before = method.embed(query)
    method.running.updates["encoder"] += 1
    assert not torch.equal(method.embed(query), before)


def test_start_times_of_zero() -> None:
    method = ready(start_times="zero")
    begin_fits(method)
    assert minibatch(method)["pair_time"][..., 0].abs().max() == 0
    query = Query("pair", method.labels.start[:1], LENGTH)
    obs = method.encoder_normalizer(method.observations(query)[0])
    expected = method.encoder.eval().segment(obs, torch.arange(LENGTH).expand(2, -1))
    torch.testing.assert_close(method.embed(query)[0], expected, atol=1e-5, rtol=0)


# The two updates of a step ---------------------------------------------------------------------------------------------


def test_a_step_moves_the_encoder_twice_and_the_decoder_once() -> None:
    method = ready(warmup=100, encoder_lr=1e-3)
    begin_fits(method)
    engine = method.running
    engine.run("encoder", 3)
    assert set(engine.moved("encoder")) == {"encoder", "decoder"}
    optimizers = {name: engine.state.optimizers[0][name] for name in engine.moved("encoder")}
    count = {name: int(optimizer.state_dict()["state"][0]["step"]) for name, optimizer in optimizers.items()}
    assert count == {"encoder": 6, "decoder": 3}
    for optimizer in optimizers.values():
        (group,) = optimizer.param_groups
        assert isinstance(optimizer, torch.optim.AdamW) and group["weight_decay"] == 1e-4
        assert group["lr"] == pytest.approx(1e-3 * 3 / 100)  # third tick of the warm-up, one tick per step
    for group in (engine.state.groups[name] for name in optimizers):
        assert group.clip == 0.25 and group.clip_jointly and group.schedule is not None
        assert group.schedule(99) == group.schedule(5000) == 1


def test_losses_are_the_weighted_sum() -> None:
    method = ready(amb_weight=0.3, quad_weight=2.0, norm_weight=0.7, dropout=0.0)
    begin_fits(method)
    batch = minibatch(method)
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
    begin_fits(method)
    batch = minibatch(method)
    groups: dict[int, list[float]] = {1: [], 2: [], 3: []}
    for b in range(16):
        z = [method.encoder(batch["pair_obs"][b, c : c + 1], batch["pair_time"][b, c : c + 1])[0, 0] for c in range(2)]
        similarity = -float((z[0] - z[1]).detach().square().mean())
        groups[1 if batch["clear"][b] else 3 if batch["ambiguous"][b] else 2].append(1 / (1 + math.exp(-similarity)))
    assert all(groups.values())
    expected = sum(groups[1]) / len(groups[1]) - sum(groups[3]) / len(groups[3])
    assert method.contrast(batch)["ambiguity"].item() == pytest.approx(expected, abs=1e-5)
    released = ready(dropout=0.0, amb_loss="reference")
    begin_fits(released)
    assert released.contrast(batch)["ambiguity"].item() == pytest.approx(sum(groups[1]) / len(groups[1]), abs=1e-5)


def test_anchor_in_place_of_the_quadrilateral() -> None:
    method = ready(direction_loss="anchor", dropout=0.0)
    begin_fits(method)
    assert method.running.state.groups["anchor"].lr == 1e-3
    batch = minibatch(method)
    z = method.encoder.segment(batch["pair_obs"].flatten(0, 1), batch["pair_time"].flatten(0, 1)).view(16, 2, -1)
    expected = anchor_loss(z, batch["label"], batch["clear"], method.anchor)
    assert method.contrast(batch)["anchor"].item() == pytest.approx(expected.item())
    method.hparams.pairing, method.hparams.squash = "reference", False  # both switches act here, too
    expected = anchor_loss(z, batch["label"], batch["clear"], method.anchor, "l2", False, "reference")
    assert method.contrast(batch)["anchor"].item() == pytest.approx(expected.item())
    before = method.anchor.detach().clone()
    method.running.run("encoder", 1)
    assert not torch.equal(before, method.anchor)


def test_the_anchor_decays_as_all_other_weights_do() -> None:
    """AdamW's first step is lr times the gradient's sign, after a decay by lr x weight_decay: 1e-3 and 0.5 here."""
    method = ready(direction_loss="anchor", dropout=0.0, weight_decay=0.5)
    begin_fits(method)
    before = method.anchor.detach().clone()
    method.running.run("encoder", 1)
    change = (method.anchor.detach() - before * (1 - 1e-3 * 0.5)).abs()
    torch.testing.assert_close(change, torch.full_like(change, 1e-3), atol=1e-5, rtol=0)
    assert ready(direction_loss="anchor").running.state.groups["anchor"].options == {"weight_decay": 1e-4}


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # Dynamo does that
def test_both_updates_can_be_traced_whole() -> None:
    """What ``compile`` needs (on a GPU it is the default): no graph break, and the numbers stay the same."""
    method = ready(dropout=0.0)
    begin_fits(method)
    batch = minibatch(method)
    for step in (method.reconstruct, method.contrast):
        traced = torch.compile(step, fullgraph=True, dynamic=False, backend="eager")(batch)
        assert {key: value.item() for key, value in traced.items()} == pytest.approx(
            {key: value.item() for key, value in step(batch).items()}, abs=1e-6
        )


@pytest.mark.parametrize("loss", ["amb_weight", "quad_weight", "norm_weight"])
def test_ablations_run(loss: str) -> None:
    method = ready(**{loss: 0.0})
    begin_fits(method)
    assert all(torch.isfinite(value).all() for value in method.running.run("encoder", 2).values())


# Embeddings ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start_times", ["true", "zero"])
@pytest.mark.parametrize("readout", ["full", "reference"])
def test_embeddings_of_a_query(readout: str, start_times: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method = ready(readout=readout, start_times=start_times)
    method.train()
    query = method.source.pool(LENGTH).pairs(9, stream(1, "x"))
    z = method.embed(query)
    assert z.shape == (9, 2, 16) and method.encoder.training and not z.requires_grad
    method.encoder.eval()
    obs = method.encoder_normalizer(method.observations(query)[4, 1])
    begin = int(query.start[4, 1]) % 30 if start_times == "true" else 0
    expected = method.encoder(obs[None], torch.arange(begin, begin + LENGTH)[None])[0, 0]
    torch.testing.assert_close(z[4, 1], expected, atol=1e-5, rtol=0)
    monkeypatch.setattr("lightning_pbrl.methods.clarify.EMBED_TILE", 4)
    torch.testing.assert_close(method.embed(query), z, atol=1e-5, rtol=0)
    # Of a tile nothing stays but what is asked for: candidates x steps would be tens of megabytes.
    tiles: list[Any] = []
    segment = method.encoder.segment

    def noted(*args: torch.Tensor) -> torch.Tensor:
        assert all(tile() is None for tile in tiles[:-1])
        tiles.append(weakref.ref(z := segment(*args)))
        return z

    monkeypatch.setattr(method.encoder, "segment", noted)
    again = method.embed(query)
    torch.testing.assert_close(again, z, atol=1e-5, rtol=0)
    assert len(tiles) == 5 and again.untyped_storage().nbytes() == 20 * 16 * 4  # whole tiles
    # Another first state: the whole segment's embedding moves, the released code's does not.
    method.source.packed[int(query.start[4, 1])] += 1
    moved = (method.embed(query) - z).abs().amax(-1)[4, 1]
    assert moved > 1e-5 if readout == "full" else moved < 1e-6
