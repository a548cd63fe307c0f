"""Rewards from images: against slow loops, where a dot's place is the reward, resumed, and without a copy of all images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch
import torch.nn.functional as F
from pebble_toys import SMALL as PEBBLE_SMALL
from pebble_toys import SMALL_REWARD
from picture_toys import SIDE, DotData, SeenWalk, dot_data, dots
from torch import Tensor
from toys import assert_same, callbacks_for, drawn, make_trainer

from lightning_pbrl.callbacks.relabel_rewards import RelabelRewards
from lightning_pbrl.data.clip_bytes import pack, unpack
from lightning_pbrl.data.feedback import Clips, Labels, Query
from lightning_pbrl.data.steps import apart, joined
from lightning_pbrl.datamodules.online import OnlineDataModule
from lightning_pbrl.engine import UpdateEngine
from lightning_pbrl.errors import UserError
from lightning_pbrl.learned_reward.loading import load
from lightning_pbrl.learned_reward.reward import LearnedReward
from lightning_pbrl.learned_reward.wrapper import LearnedRewardWrapper
from lightning_pbrl.methods.bc import BC
from lightning_pbrl.methods.clarify import CLARIFY
from lightning_pbrl.methods.learn_reward import PreferenceTransformer, RewardEnsemble, UnifiedReward
from lightning_pbrl.methods.pebble import PEBBLE
from lightning_pbrl.methods.rune import RUNE
from lightning_pbrl.methods.surf import SURF
from lightning_pbrl.rewards import ensemble, semi_supervised, unified
from lightning_pbrl.testing import toys
from lightning_pbrl.testing.method import check_method

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),  # a resumed run
    pytest.mark.filterwarnings("ignore:Total length of `Share`"),  # data without a simulator
]

SPEC = {"obs_dim": SIDE * SIDE * 3, "action_dim": 1, "horizon": 0, "pixels": SIDE}
SMALL: dict[str, Any] = {"hidden": [8], "ensemble_size": 2}


def built(cls: Any, spec: dict[str, Any] = SPEC, **settings: Any) -> Any:
    """A model with data and four labelled pairs of four steps, and its engine."""
    model = cls(**{**SMALL, **settings})
    model.spec = spec
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model.build()
    model.source = dot_data(4)
    start = torch.tensor([[2, 24], [43, 62], [5, 71], [30, 8]])
    model.labels = Labels(start, 4, torch.tensor([0.0, 1.0, 1.0, 0.0]), torch.ones(4, dtype=torch.int64))
    model.ratings = Labels(start[:, :1], 4, torch.tensor([0.0, 3.0, 1.0, 2.0]), torch.ones(4, dtype=torch.int64))
    model.attach(UpdateEngine(model, model.groups(), model.programs(), [0], compile=False))
    (phase, *_) = model.plan(0)
    phase.start()
    return model


def slow_shift(image: Tensor, down: int, right: int) -> Tensor:
    """Pad by repeating the border, then crop: DrQ, pixel by pixel."""
    out = torch.empty_like(image)
    last = len(image) - 1
    for y in range(len(image)):
        for x in range(len(image)):
            out[y, x] = image[min(max(y + down, 0), last), min(max(x + right, 0), last)]
    return out


def encoded(torso: Any, image: Tensor) -> Tensor:
    """Features of one image, (50,), layer by layer."""
    x = image.permute(2, 0, 1).float() / 255
    for layer, padding in zip(torso.torso.convolutions, torso.torso.padding, strict=True):
        x = F.relu(F.conv2d(F.pad(x, padding), layer.weight, layer.bias, layer.stride))
    x = torso.trunk.weight @ x.permute(1, 2, 0).flatten() + torso.trunk.bias
    return torch.tanh((x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt() * torso.norm.weight + torso.norm.bias)


def slow_reward(model: Any, member: int, image: Tensor, action: Tensor) -> Tensor:
    """The ensemble's reward of one step."""
    x = torch.cat([encoded(model.encoder.torso, image), action])
    for at, (weight, bias) in enumerate(zip(model.members.weights, model.members.biases, strict=True)):
        x = weight[member] @ x + bias[member]
        x = F.leaky_relu(x) if at < len(model.members.weights) - 1 else torch.tanh(x)
    return x.squeeze()


def image_of(model: Any, row: int) -> Tensor:
    """Image of a row, counted by hand: episodes of 20 steps have 21 images."""
    frames: Tensor = model.source.frames
    return frames[row + row // 20]


def test_bytes_of_a_step() -> None:
    """Image and action come back as they were, from bytes and from floats."""
    images = torch.arange(2 * 2 * 2 * 3, dtype=torch.uint8).view(2, 2, 2, 3)
    action = torch.tensor([[0.25, -1.0], [1e-7, 3.0]])
    steps = joined(images, action)
    assert steps.shape == (2, 12 + 8) and steps.dtype == torch.uint8
    for given in (steps, torch.cat([images.flatten(1).float(), action], 1)):
        seen, done = apart(given, 2)
        assert torch.equal(seen.float(), images.flatten(1).float()) and torch.equal(done, action)


@pytest.mark.parametrize("shift", [0, 2])
def test_one_training_step_against_a_slow_loop(shift: int) -> None:
    """Loss and gradients of all members, which share the torso; with shifts, those that were drawn."""
    model = built(ensemble.RewardEnsemble, shift=shift, epochs=3)
    (numbers,) = drawn(model.programs()["reward"], seed=1)
    assert numbers["pair"].shape == (1, 4)  # one order of all members
    found = model.losses(model.gather_pairs(numbers))["members"]
    wanted = torch.zeros(())
    for member in range(2):
        for place, pair in enumerate(numbers["pair"][0].tolist()):
            returns = [torch.zeros(()), torch.zeros(())]
            for side in range(2):
                for t in range(4):
                    row, image = int(model.labels.start[pair, side]) + t, None
                    image = image_of(model, row)
                    if shift:
                        down, right = ((numbers["shift"][:, side, t, place] * 5).floor() - 2).long().tolist()
                        image = slow_shift(image, down, right)
                    returns[side] = returns[side] + slow_reward(model, member, image, model.source.column("action")[row])
            gap = returns[1] - returns[0]
            wanted = wanted + F.softplus(gap) - model.labels.value[pair] * gap
    torch.testing.assert_close(found, wanted / 4, rtol=1e-5, atol=1e-6)
    for parameter in model.encoder.torso.parameters():
        one, two = (torch.autograd.grad(loss, parameter, retain_graph=True)[0] for loss in (found, wanted / 4))
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-6)
    before = model.encoder.torso.trunk.weight.clone()
    model.engine.run("reward", 1)
    assert not torch.equal(model.encoder.torso.trunk.weight, before)


def test_relabelling_against_a_slow_loop() -> None:
    """Every row, some rows, predicted returns, and features for a strategy."""
    model = built(ensemble.RewardEnsemble)
    with torch.no_grad():
        action = model.source.column("action")
        slow = torch.stack(
            [torch.stack([slow_reward(model, e, image_of(model, r), action[r]) for r in range(80)]) for e in (0, 1)]
        )
    torch.testing.assert_close(model.relabel(model.source), slow.mean(0), rtol=1e-5, atol=1e-5)
    some = torch.tensor([70, 3, 25])
    torch.testing.assert_close(model.relabel(model.source, some), slow.mean(0)[some], rtol=1e-5, atol=1e-5)
    for starts in ([[2, 24]], [[at, 60] for at in range(16)] * 3):  # few are scored directly, many by prefix sums
        found = model.returns(Query("pair", torch.tensor(starts), 4))
        wanted = torch.stack([slow[:, s : s + 4].sum(1) for pair in starts for s in pair], 1).view(2, -1, 2)
        torch.testing.assert_close(found.float(), wanted, rtol=1e-4, atol=1e-5)
    features = model.observations(Query("pair", torch.tensor([[2, 24]]), 4))
    with torch.no_grad():
        torch.testing.assert_close(features[0, 1, 2], encoded(model.encoder.torso, image_of(model, 26)), rtol=1e-5, atol=1e-5)


def test_unified_reward_against_a_slow_loop() -> None:
    """Both kinds of answer with their own shifts; without dropout and variance the heads are plain."""
    heads = {"posterior": "ensemble", "variance_head": False, "ratings": "squared", "decoder": "none"}
    model = built(unified.UnifiedReward, dropout=0.0, shift=1, validation=0.0, **heads)
    (numbers,) = drawn(model.programs()["reward"], seed=1)
    found = model.losses(model.gather_both(numbers))

    def head(member: int, row: int, u: Tensor) -> Tensor:
        down, right = ((u * 3).floor() - 1).long().tolist()
        image = slow_shift(image_of(model, row), down, right)
        x = torch.cat([encoded(model.encoder.torso, image), model.source.column("action")[row]])
        (w0, b0), (w1, b1) = model.network.layers(member)
        return (w1 @ F.leaky_relu(w0 @ x + b0) + b1).squeeze()

    preference, rating = torch.zeros(()), torch.zeros(())
    for member in range(2):
        for place, pair in enumerate(numbers["pair"][0].tolist()):
            gap = torch.zeros(())
            for side, sign in ((0, -1), (1, 1)):
                for t in range(4):
                    u = numbers["pair_shift"][:, side, t, place]
                    gap = gap + sign * head(member, int(model.labels.start[pair, side]) + t, u)
            preference = preference + (F.softplus(gap) - model.labels.value[pair] * gap) / 4
        for place, one in enumerate(numbers["rating"][0].tolist()):
            total = torch.stack(
                [head(member, int(model.ratings.start[one, 0]) + t, numbers["rating_shift"][:, 0, t, place]) for t in range(4)]
            )
            rating = rating + (total.sum() - model.ratings.value[one]).square() / 4
    torch.testing.assert_close(found["preference_loss"], preference, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["rating_loss"], rating, rtol=1e-4, atol=1e-5)
    posterior = model.posterior(Query("pair", model.labels.start, 4), 2)
    torch.testing.assert_close(posterior, model.returns(Query("pair", model.labels.start, 4)), rtol=1e-4, atol=1e-5)


def test_unlabelled_pairs_are_seen_and_shifted() -> None:
    settings = {"context": 1, "unlabelled_ratio": 2, "unlabelled_batches": 2, "batch_size": 4, "threshold": 0.5}
    model = built(semi_supervised.SemiSupervisedEnsemble, **settings)
    (numbers,) = drawn(model.programs()["reward"], seed=1)
    assert numbers["shift"].shape == (2, 2, 6, 4) and numbers["unlabelled_shift"].shape == (2, 2, 6, 8)
    batch = model.gather_pairs(numbers)
    assert batch["unlabelled"].shape == (1, 8, 2, 6, SIDE * SIDE * 3 + 4) and batch["unlabelled"].dtype == torch.uint8
    row = int(model.unlabelled[numbers["unlabelled"][0, 3], 1]) - 1 + 5
    down, right = ((numbers["unlabelled_shift"][:, 1, 5, 3] * 9).floor() - 4).long().tolist()
    image, action = apart(batch["unlabelled"][0, 3, 1, 5], 1)
    assert torch.equal(image.view(SIDE, SIDE, 3), slow_shift(image_of(model, row), down, right))
    assert torch.equal(action, model.source.column("action")[row])
    losses = model.losses(batch)
    assert losses["members"].isfinite() and losses["sure"] == 1
    torch.autograd.grad(losses["members"], list(model.encoder.torso.parameters()))


@pytest.mark.parametrize("cls", [RewardEnsemble, UnifiedReward])
def test_it_finds_the_dot(cls: Any, tmp_path: Path) -> None:
    """The place of a dot is the reward; states say nothing. From 150 answers, judged on other pairs; then a policy's rows."""
    data = DotData(episodes=30, held_out_pairs=200)
    rates = (
        {"epochs": 25, "stop_accuracy": 0.99}
        if cls is RewardEnsemble
        else {"first_epochs": 25, "epochs": 25, "ratings": "ignored"}
    )
    method = cls(data.spec, hidden=[32], ensemble_size=2, lr=2e-3, batch_size=16, shift=1, compile=False, **rates)
    kind = {"teacher": toys.SimulatedTeacher(), "query": toys.uniformly(frozenset({"pair"}))} if cls is UnifiedReward else {}
    around = callbacks_for(RewardEnsemble, budget=150, per_round=150, **kind)
    trainer = make_trainer(tmp_path, around)
    trainer.fit(method, data)
    (found,) = trainer.validate(method, data, verbose=False)
    assert found["pref/accuracy"] > 0.9
    if cls is RewardEnsemble:
        policy = BC(data.spec, updates=10, eval_interval=10, hidden=[8], policy="squashed", batch_size=8, top=0.5, compile=False)
        fresh = DotData(episodes=30)
        make_trainer(tmp_path / "bc", [RelabelRewards(method)]).fit(policy, fresh)
        learned, true = fresh.source.column("learned_reward"), fresh.source.reward
        assert torch.corrcoef(torch.stack([learned, true]))[0, 1] > 0.9


@pytest.mark.parametrize("cls", [RewardEnsemble, UnifiedReward, CLARIFY])
def test_what_every_method_must_do(cls: Any) -> None:
    small: dict[str, Any] = {"epochs": 3, "hidden": [8], "batch_size": 8}
    if cls is UnifiedReward:
        small |= {"first_epochs": 3, "hidden": [8, 8]}
    if cls is CLARIFY:
        small |= {"n_init": 8, "n_emb": 6, "width": 16, "layers": 1, "heads": 2, "max_episode_steps": 20, "encoder_batch_size": 8}
        small |= {"warmup": 1, "encoder_lr": 1e-2}
    check_method(cls, lambda: DotData(episodes=6), lambda: callbacks_for(cls, budget=8, per_round=4), **small)


def test_the_encoder_of_segments_reads_the_torso(tmp_path: Path) -> None:
    """CLARIFY's states are the torso's features of each row's image, and follow the torso."""
    data = DotData(episodes=6)
    small = {"n_init": 2, "width": 16, "layers": 1, "heads": 2, "max_episode_steps": 20, "encoder_batch_size": 4, "epochs": 2}
    method = CLARIFY(data.spec, hidden=[8], compile=False, **small)
    make_trainer(tmp_path, callbacks_for(CLARIFY, budget=6, per_round=6)).fit(method, data)
    query = data.source.pool(4).pairs(3, torch.Generator().manual_seed(0))
    with torch.no_grad():
        before, torso = method.embed(query), method.reward_model.encoder.torso
        torch.testing.assert_close(
            method.states(torch.tensor([25])), encoded(torso, data.source.frames[26])[None], rtol=1e-4, atol=1e-5
        )
    method.engine.run("reward", 1)
    assert not torch.equal(method.embed(query), before)


def test_no_copy_of_all_images() -> None:
    """Relabelling 1,200 images of 64 x 64 (15 MB) needs little beside them: batches of bytes, and 64 images as floats."""
    images = torch.zeros(1_201, 64, 64, 3, dtype=torch.uint8)
    data = dot_data(1, 1_200)
    data.frames = images
    model = ensemble.RewardEnsemble(**SMALL)
    model.spec = {**SPEC, "obs_dim": 64 * 64 * 3, "pixels": 64}
    model.build()
    largest = 0

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            found = function(*args, **(kwargs or {}))
            if torch.is_tensor(found) and found.data_ptr() != images.data_ptr():
                largest = max(largest, found.nbytes)
            return found

    with Watch(), torch.no_grad():
        model.relabel(data)
        model.source = data
        model.codes()
    assert 0 < largest < images.nbytes / 4


def online(folder: Path, resume: bool = False, **settings: Any) -> Any:
    """PEBBLE in the walk, policy from states, reward from images; a ring that forgets most segments."""
    surf = settings.pop("surf", False)
    data = OnlineDataModule(SeenWalk(horizon=20), capacity=80, segment_length=4, eval_episodes=2, eval_envs=2, num_envs=2)
    reward = {**SMALL_REWARD, "pictures": True, "shift": 1, "ensemble_size": 2}
    if surf:
        reward |= {"context": 1, "unlabelled_ratio": 2, "unlabelled_batches": 1, "epochs": 4, "batch_size": 4}
    method = (SURF if surf else PEBBLE)(data.spec, reward_model=reward, **PEBBLE_SMALL)
    around = callbacks_for(PEBBLE, budget=12, per_round=4)
    trainer = make_trainer(folder, around, **settings)
    trainer.fit(method, data, ckpt_path=folder / "checkpoints" / "last.ckpt" if resume else None)
    return method


@pytest.mark.parametrize("surf", [False, True])
def test_online_and_resumed_bit_for_bit(surf: bool, tmp_path: Path) -> None:
    """Images lie beside the states, of each row its own; a run that stops after two rounds goes on as if it had not."""
    straight = online(tmp_path / "straight", surf=surf)
    replay = straight.source
    place = replay.column("obs")[replay.stored][:, 0]
    assert torch.equal(replay.pictures(replay.frame_ids(replay.stored)), dots((place / 3).clamp(-1, 1)))
    kept = replay.ring + torch.arange(replay.places.written)
    assert torch.equal(replay.pictures(kept), dots((replay.column("obs")[kept][:, 0] / 3).clamp(-1, 1)))
    rows = replay.stored
    torch.testing.assert_close(
        replay.column("learned_reward")[rows], straight.reward_model.relabel(replay, rows), rtol=1e-4, atol=1e-5
    )
    online(tmp_path / "resumed", surf=surf, max_epochs=2)
    resumed = online(tmp_path / "resumed", surf=surf, resume=True)
    assert_same(straight.state_dict(), resumed.state_dict())
    assert torch.equal(resumed.source.pictures(rows), replay.pictures(rows))
    assert torch.equal(resumed.source.pictures(kept), replay.pictures(kept))


def test_in_other_people_s_code(tmp_path: Path) -> None:
    """Images and actions give what relabelling gives, also from a folder with a card; what is missing is told."""
    model = built(ensemble.RewardEnsemble)
    LearnedReward(model, {}).save(tmp_path)
    assert "images of 16 x 16 pixels" in (tmp_path / "README.md").read_text()
    reward, rows = load(tmp_path), torch.arange(40, 60)
    images, action = model.source.pictures(model.source.frame_ids(rows)), model.source.column("action")[rows]
    wanted = model.relabel(model.source, rows)
    torch.testing.assert_close(reward.compute_reward(None, action, images), wanted)
    shaped = reward.compute_reward(None, action.view(4, 5, 1).numpy(), images.view(4, 5, SIDE, SIDE, 3).numpy())
    assert shaped.shape == (4, 5) and shaped.ravel() == pytest.approx(wanted.numpy(), abs=1e-6)
    for frames in (None, images[:3], images.float()):
        with pytest.raises(UserError, match="learned of images of 16 pixels, and frames is"):
            reward.compute_reward(None, action, frames)
    with pytest.raises(UserError, match="wrappers read observations"):
        LearnedRewardWrapper(gymnasium.make("Pendulum-v1"), reward)


def test_label_stores_keep_images() -> None:
    """What a replay copies comes back from a label store without loss."""
    images = dots(torch.linspace(-1, 1, 24)).view(3, 2, 4, SIDE, SIDE, 3)
    clips = Clips(torch.zeros(3, 2, 4, 2), torch.zeros(3, 2, 4, 1), torch.zeros(3, 2, 4), images)
    assert clips.frames is not None
    content = pack(clips, 1)
    assert len(content) < clips.frames[1].nbytes / 3
    assert torch.equal(unpack(content)["frames"], clips.frames[1])
    assert "frames" not in unpack(pack(clips._replace(frames=None), 1))


def test_mistakes(tmp_path: Path) -> None:
    states = {"obs_dim": 2, "action_dim": 1, "horizon": 0}
    for settings, sentence in (({"pictures": True}, "pictures=True and sees states"), ({"shift": 2}, "shift=2 and sees states")):
        with pytest.raises(UserError, match=sentence):
            built(ensemble.RewardEnsemble, states, **settings)
    with pytest.raises(UserError, match="shift=16 for images of 16 pixels"):
        built(ensemble.RewardEnsemble, shift=16)
    with pytest.raises(UserError, match="never standardised"):
        built(ensemble.RewardEnsemble, normalize_obs=True)
    data = DotData()
    trainer = make_trainer(tmp_path, callbacks_for(RewardEnsemble))
    with pytest.raises(UserError, match="learns from states and the data show pictures"):
        trainer.fit(PreferenceTransformer(data.spec), data)
    with pytest.raises(UserError, match="rewards of states and actions"):
        RUNE({**states, "frames": SIDE}, reward_model={"pictures": True})
    model = RewardEnsemble(DotData(side=24).spec, hidden=[8])
    model.configure_model()
    policy = BC(data.spec, policy="squashed", hidden=[8])
    trainer = make_trainer(tmp_path / "other", [RelabelRewards(model)])
    with pytest.raises(UserError, match="sees images of 24 pixels and these data have images of 16 pixels"):
        trainer.fit(policy, data)
