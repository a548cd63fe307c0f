"""What feedback-only learners draw: windows of labelled pairs, replayed rows, and what they refuse."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from preference_toys import SEED, AnsweredToy, batches, draws, labelled, ready
from torch.utils._pytree import tree_map
from toys import SPEC, assert_same, make_trainer, read_csv

from lightning_pbrl.callbacks.ask_teacher import AskTeacher
from lightning_pbrl.data.feedback import Labels, Query, Status
from lightning_pbrl.engine.draws import Streams, updates_of
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.base import Asked
from lightning_pbrl.methods.cpl import CPL
from lightning_pbrl.methods.ipl import IPL
from lightning_pbrl.methods.mr_iql import MRIQL
from lightning_pbrl.methods.preference_policy import PreferencePolicy
from lightning_pbrl.methods.sft import SFT


def rows_of(method: IPL, updates: int) -> torch.Tensor:
    """Starts of both windows and the label of every pair drawn, (updates, B, 3)."""
    drawn = [update["windows"] for update in draws(method, updates)]
    return torch.stack([torch.cat([windows["start"], windows["label"][:, None]], 1) for windows in drawn])


def test_every_pair_once_per_pass_with_its_own_label() -> None:
    data, labels = labelled(count=10, length=6)
    method, _ = ready(IPL, data, labels, batch_size=4)  # whole segments: the start tells the pair
    rows = rows_of(method, 10).flatten(0, 1)
    pairs = [tuple(row) for row in torch.cat([labels.start, labels.value[:, None]], 1).tolist()]
    passes = [[tuple(row) for row in one.tolist()] for one in rows.split(10)]
    assert all(Counter(one) == Counter(pairs) for one in passes)  # the batch across two passes is full, too
    assert passes[0] != passes[1] != passes[2]


def test_skipped_and_pending_answers_are_never_drawn() -> None:
    data, labels = labelled(count=10)
    status = labels.status.clone()
    status[3], status[4] = Status.SKIPPED, Status.PENDING
    method, _ = ready(IPL, data, Labels(labels.start, labels.length, labels.value, status), batch_size=4)
    drawn = {tuple(row) for row in rows_of(method, 6)[..., :2].flatten(0, 1).tolist()}
    assert drawn == {tuple(pair) for k, pair in enumerate(labels.start.tolist()) if k not in (3, 4)}


def offsets(method: IPL, labels: Labels, updates: int) -> torch.Tensor:
    """How far each window lies within its segment, (updates, B, 2)."""
    start = rows_of(method, updates)[..., :2]
    apart = start.unsqueeze(-2) - labels.start  # (updates, B, N, 2): the pair it came from has both in range
    fits = ((apart >= 0) & (apart <= labels.length)).all(-1)
    return apart.gather(2, fits.long().argmax(-1)[..., None, None].expand(-1, -1, 1, 2)).squeeze(2)


def test_window_starts_are_uniform_and_reach_both_ends() -> None:
    data, labels = labelled(count=1, length=10)
    method, _ = ready(IPL, data, labels, batch_size=4, window=7)
    found = offsets(method, labels, 500)
    counts = torch.stack([(found == k).sum() for k in range(5)])
    assert counts[4] == 0 and abs(counts[:4] - 1000).max() < 4 * 27.4  # four standard deviations: sqrt(4000 * 3/16)
    assert (found[..., 0] != found[..., 1]).float().mean() > 0.7  # each segment has its own
    assert (found[:, 0] != found[:, 1]).float().mean() > 0.7  # and so has each pair


def test_reference_windows_are_shared_and_miss_the_last_start() -> None:
    data, labels = labelled(count=1, length=10)
    method, _ = ready(IPL, data, labels, batch_size=4, window=7, window_starts="shared")
    found = offsets(method, labels, 300)
    assert set(found.unique().tolist()) == {0, 1, 2}
    assert (found == found[:, :1, :1]).all()
    whole, _ = ready(IPL, data, labels, batch_size=4, window=10, window_starts="shared")  # as long as the segment: allowed
    assert (offsets(whole, labels, 3) == 0).all()
    with pytest.raises(UserError, match="window_starts=shared says where windows start and window is null: set window"):
        IPL(SPEC, window_starts="shared")


@pytest.mark.parametrize("settings", [{}, {"variant": "awac", "window": 4, "replay_batch_size": 5}])
def test_an_update_does_not_depend_on_its_block(settings: dict[str, Any]) -> None:
    data, labels = labelled(count=10)
    method, _ = ready(IPL, data, labels, batch_size=4, **settings)
    streams, in_parts = Streams(SEED), []
    for size in (1, 2, 5, 1):
        in_parts += updates_of(streams.block(method.minibatches()["draws"], size, len(in_parts)), size)
    assert_same(draws(method, 9), in_parts)


def test_windows_and_replay_hold_the_rows_they_name() -> None:
    data, labels = labelled(count=10)
    drawable = torch.arange(0, 600, 3)
    data.drawable = drawable
    data.write("learned_reward", torch.arange(600.0))
    method, _ = ready(IPL, data, labels, double=False, batch_size=4, window=5, replay_batch_size=50)
    drawn = draws(method, 20)[7]
    batch = method.gather(drawn)
    start, label, replay = drawn["windows"]["start"], drawn["windows"]["label"], drawn["replay"]
    for pair in range(4):
        for side in range(2):
            first = int(start[pair, side])
            assert torch.equal(batch["segments"][pair, side], data.packed[first : first + 5, :7])
    assert torch.equal(batch["label"], label.float())
    assert torch.equal(batch["replay"], data.packed[replay])
    assert set(replay.tolist()) <= set(drawable.tolist())
    seen = method.view(batch)
    assert torch.equal(seen["obs"], batch["segments"][..., :5]) and torch.equal(seen["action"], batch["segments"][..., 5:])
    assert torch.equal(seen["replay_next_obs"], batch["replay"][:, 7:12])
    assert torch.equal(seen["replay_terminated"], batch["replay"][:, 13])
    stacked = torch.vmap(method.gather)(tree_map(lambda ids: torch.stack([ids, ids]), drawn))  # replicas side by side
    assert all(torch.equal(stacked[key][1], batch[key]) for key in batch)


def test_all_drawable_rows_are_drawn_alike() -> None:
    data, labels = labelled(count=10)
    data.drawable = torch.tensor([5, 8, 599])
    method, _ = ready(IPL, data, labels, batch_size=2, replay_batch_size=30)
    rows = torch.stack([batch["replay"][:, 0] for batch in batches(method, 100)]).flatten()
    counts = [int((rows == data.packed[k, 0]).sum()) for k in (5, 8, 599)]
    assert sum(counts) == 3000 and all(abs(count - 1000) < 104 for count in counts)  # four standard deviations


def test_standardised_observations_on_request() -> None:
    data, labels = labelled()
    method, _ = ready(IPL, data, labels, batch_size=4, normalize_obs=True, replay_batch_size=3)
    (batch,) = batches(method, 1)
    seen, obs = method.view(batch), data.column("obs")
    mean, std = obs.mean(0), obs.std(0, correction=0)
    for found, raw in ((seen["obs"], batch["segments"][..., :5]), (seen["replay_next_obs"], batch["replay"][:, 7:12])):
        torch.testing.assert_close(found, (raw - mean) / (std + 1e-3), rtol=1e-6, atol=1e-6)  # statistics in float32


def test_useless_labels_and_windows_are_refused() -> None:
    data, labels = labelled(count=4, length=6)
    skipped = Labels(labels.start, 6, labels.value, torch.full((4,), int(Status.SKIPPED)))
    with pytest.raises(UserError, match="None of the 4 answers compares two segments, and IPL learns from such answers alone"):
        ready(IPL, data, skipped)
    with pytest.raises(UserError, match=r"windows of 7 steps and segments have 6: set model\.init_args\.window between 2 and"):
        ready(IPL, data, labels, window=7)
    with pytest.raises(UserError, match="IPL reads windows of 1 steps"):
        ready(IPL, data, labels, window=1)
    ready(SFT, data, labels, window=1)  # cloning needs no next state
    with pytest.raises(UserError, match="IPL got batch_size=0: give a number of at least 1"):
        IPL(SPEC, batch_size=0)


def test_replicas_neither_ask_nor_share_dropout() -> None:
    with pytest.raises(UserError, match="The replicas of SFT would share one stream of dropout masks"):
        SFT(SPEC, replicas=2)
    data, labels = labelled()
    method, _ = ready(SFT, data, labels, dropout=0.0, replicas=2)
    method.labels, method.asked = labels, Asked(total=50, this_round=10, remaining=40)
    with pytest.raises(UserError, match=r"2 replicas cannot ask one teacher: set ask\.budget to 0"):
        method.plan(0)
    method.asked = Asked(total=50)  # answers that came with the data
    assert [phase.name for phase in method.plan(0) if phase.updates] == ["first"]


# Runs --------------------------------------------------------------------------------------------------------------------


def fit(cls: type[PreferencePolicy], folder: Path, data: AnsweredToy, **settings: Any) -> PreferencePolicy:
    small = {"hidden": [16], "batch_size": 8, "window": 6, "updates": 30, "eval_interval": 10, "replay_batch_size": 4}
    method = cls(SPEC, **{**small, **settings})
    make_trainer(folder, [AskTeacher()]).fit(method, data)
    return method


@pytest.mark.parametrize("cls", [IPL, MRIQL, CPL, SFT])
def test_given_answers_are_enough_and_no_reward_is_read(cls: type[PreferencePolicy], tmp_path: Path) -> None:
    """Nobody is asked, nothing is relabelled; with NaN in place of every true reward, the same policy comes out."""
    settings = {"bc_updates": 15} if issubclass(cls, SFT) else {}
    methods = [fit(cls, tmp_path / str(true), AnsweredToy(true_reward=true), **settings) for true in (True, False)]
    assert methods[0].asked[:3] == (40, 0, 0) and not (tmp_path / "True" / "labels.sqlite").exists()
    assert all(torch.isfinite(value).all() for value in methods[1].state_dict().values())
    assert_same(methods[0].state_dict(), methods[1].state_dict())


@pytest.mark.parametrize("replicas", [1, 2])
def test_held_out_answers_judge_the_scores_of_every_round(replicas: int, tmp_path: Path) -> None:
    data = AnsweredToy(held_out=60)
    method = fit(IPL, tmp_path, data, updates=60, eval_interval=30, lr=3e-3, replicas=replicas)
    rows = [row for row in read_csv(tmp_path) if "pref/accuracy" in row]
    assert [row["step"] for row in rows] == [30, 60]
    held_out, found = data.held_out_labels, []
    assert held_out is not None and len(held_out) == 60
    for replica in range(replicas):
        method.use_replica(replica)
        gap = method.returns(Query("pair", held_out.start, 10)).diff(dim=-1).squeeze(-1)
        found.append(((torch.sigmoid(gap).mean(0) > 0.5).float() == held_out.value).float().mean().item())
    assert rows[-1]["pref/accuracy"] == pytest.approx(sum(found) / replicas, abs=1e-6)
    assert rows[-1]["pref/accuracy"] > 0.6 and "pref/return_pearson" in rows[-1]
