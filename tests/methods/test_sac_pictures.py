"""SAC and its learners of preferences from images: updates by a slow loop, next images, resume, acting, and that it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pebble_toys import SMALL_REWARD
from picture_toys import SIDE, PictureWalk, dots
from slow_sac import SlowSAC
from torch import Tensor
from toys import assert_same, callbacks_for, drawn, make_trainer

from lightning_pbrl.data.replay import Replay
from lightning_pbrl.data.replayed_images import images_around
from lightning_pbrl.datamodules.online import OnlineDataModule
from lightning_pbrl.errors import UserError
from lightning_pbrl.fitting.starting import start_engine
from lightning_pbrl.methods.mrn import MRN
from lightning_pbrl.methods.pebble import PEBBLE
from lightning_pbrl.methods.ppo import PPO
from lightning_pbrl.methods.qpa import QPA
from lightning_pbrl.methods.rune import RUNE
from lightning_pbrl.methods.sac import SAC
from lightning_pbrl.methods.surf import SURF

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")  # a resumed run

SMALL: dict[str, Any] = {
    "env_steps": 80,
    "seed_steps": 40,
    "round_steps": 20,
    "hidden": [16, 16],
    "batch_size": 8,
    "lr": 1e-3,
    "block": 7,
    "compile": False,
}


def fit(cls: Any, folder: Path, resume: bool = False, data: dict[str, Any] | None = None, **settings: Any) -> Any:
    """Rounds of 20 env steps of two environments, with a ring that forgets; answers of the oracle for learners of preferences."""
    rounds = {name: settings.pop(name) for name in ("max_epochs",) if name in settings}
    sizes = {"capacity": 60, "segment_length": 4, "eval_episodes": 1, "eval_envs": 1, "num_envs": 2, **(data or {})}
    module = OnlineDataModule(PictureWalk(**settings.pop("walk", {"horizon": 20})), **sizes)
    learns = issubclass(cls, PEBBLE)
    reward = {"explore_steps": 0, "reward_model": {**SMALL_REWARD, "shift": 1, "ensemble_size": 2, **settings.pop("reward", {})}}
    method = cls(module.spec, **{**SMALL, **(reward if learns else {}), **settings})
    around = callbacks_for(PEBBLE, budget=8, per_round=4) if learns else []
    trainer = make_trainer(folder, around, **rounds)
    trainer.fit(method, module, ckpt_path=folder / "checkpoints" / "last.ckpt" if resume else None)
    return method


def places(state: Tensor) -> Tensor:
    """The images that the walk shows of states, (n, 2) -> (n, S, S, 3)."""
    return dots((state[:, 0] / 3).clamp(-1, 1))


@pytest.mark.parametrize("edge", [9.0, 0.8])
def test_images_around_every_row(edge: float, tmp_path: Path) -> None:
    """Of each stored row the images of its two states: the newest, at falls and time limits, and after the ring has turned."""
    sac = fit(SAC, tmp_path, walk={"horizon": 20, "edge": edge})
    replay = sac.source
    rows = replay.stored
    assert replay.steps > replay.lane and replay.obs_dim == 2
    assert bool(replay.column("terminated")[rows].any()) == (edge < 9)
    found = images_around(replay, rows)
    assert torch.equal(found["obs"].view(-1, SIDE, SIDE, 3), places(replay.column("obs")[rows]))
    assert torch.equal(found["next_obs"].view(-1, SIDE, SIDE, 3), places(replay.column("next_obs")[rows]))
    over = (replay.column("terminated") + replay.column("truncated"))[rows].flatten() > 0
    newest = replay.rows_of_age(torch.arange(2))
    assert set(replay.after.kept) == {*rows[over].tolist(), *newest.tolist()}  # and nothing else is stored twice


@pytest.mark.parametrize(("first", "then"), [(20, 20), (30, 40), (20, 8)])
def test_next_images_in_a_ring_of_another_size(first: int, then: int) -> None:
    """Saved after 27 steps of episodes of five; a larger ring takes all, a smaller one the newest rows."""

    def replay(capacity: int) -> Replay:
        return Replay(capacity, 1, 1, 1, 5, pictures=8)

    whole, other = replay(first), replay(then)
    for step in range(27):
        image = [np.full((1, 8, 8, 3), value, np.uint8) for value in (2 * step, 2 * step + 1 if step % 5 == 4 else 2 * step + 2)]
        end, no = np.array([step % 5 == 4]), np.zeros((1, 1))
        whole.append(no, no, no, no[0], no[0] > 0, end, pictures=image[0], next_pictures=image[1])
    other.load_state_dict(whole.state_dict())
    for again in (False, True):
        age = torch.arange(other.own)
        found, steps = images_around(other, other.rows_of_age(age)), other.steps - 1 - age
        wanted = torch.where(steps % 5 == 4, 2 * steps + 1, 2 * steps + 2)
        assert torch.equal(found["next_obs"][:, 0].long(), wanted) and torch.equal(found["obs"][:, 0].long(), 2 * steps)
        if not again:  # one step more: the image after what was the newest row is the next row's now
            image = [np.full((1, 8, 8, 3), value, np.uint8) for value in (54, 56)]
            other.append(no, no, no, no[0], no[0] > 0, no[0] > 0, pictures=image[0], next_pictures=image[1])
    assert len(other.after.kept) == int(((other.steps - 1 - torch.arange(other.own)) % 5 == 4).sum()) + 1


def slow_shift(image: Tensor, u: Tensor, largest: int) -> Tensor:
    """Pad by repeating the border, crop at the drawn place, and lay out flat."""
    down, right = (torch.floor(u * (2 * largest + 1)) - largest).long().tolist()
    at = [[min(max(i + by, 0), SIDE - 1) for i in range(SIDE)] for by in (down, right)]
    return image[at[0]][:, at[1]].flatten()


@pytest.mark.parametrize("shift", [0, 2])
def test_updates_are_those_of_a_plain_loop(shift: int, tmp_path: Path) -> None:
    """Three updates: convolutions move by the critics' loss alone, the actor reads the present ones', the target its own."""
    sac = fit(SAC, tmp_path, shift=shift, max_epochs=1).double()
    source = sac.source
    source.packed = source.packed.double()

    def encoded(net: Any, images: Tensor) -> Tensor:
        x = images.view(-1, SIDE, SIDE, 3).permute(0, 3, 1, 2).double() / 255
        for layer, padding in zip(net.convolutions.convolutions, net.convolutions.padding, strict=True):
            x = torch.relu(layer(torch.nn.functional.pad(x, padding)))
        return x.permute(0, 2, 3, 1).flatten(1)

    def values(net: Any, images: Tensor, action: Tensor, still: bool = False) -> Tensor:
        features = encoded(net, images)
        x = (features.detach() if still else features) @ net.trunk.linear.weight.T + net.trunk.linear.bias
        x = (x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
        x = torch.tanh(x * net.trunk.norm.weight + net.trunk.norm.bias)
        return net.heads(torch.cat([x, action], 1)).squeeze(-1)  # type: ignore[no-any-return]

    slow = SlowSAC(sac, values, encoded)
    start_engine(sac)
    sac.running.begin([5])
    draws = drawn(sac.running.programs["policy"], 3, seed=5)
    assert ("shift" in draws[0]) == bool(shift)
    for numbers in draws:
        rows = source.packed[source.uniform_rows(numbers["place"])]
        now, after = places(rows[:, :2]), places(rows[:, 3:5])
        by = numbers["shift"] if shift else torch.zeros(2, 2, 8)
        obs = torch.stack([slow_shift(now[k], by[0, :, k], shift) for k in range(8)])
        next_obs = torch.stack([slow_shift(after[k], by[1, :, k], shift) for k in range(8)])
        slow.update(obs, rows[:, 2:3], rows[:, 5], next_obs, rows[:, 6], numbers["noise"], numbers["next_noise"])
    before = sac.critic.convolutions.convolutions[0].weight.clone()
    sac.running.run("policy", 3)
    assert (sac.critic.convolutions.convolutions[0].weight - before).abs().max() > 1e-4
    slow.assert_equals(sac, atol=1e-8)


@pytest.mark.parametrize("cls", [SAC, PEBBLE, SURF, QPA])
def test_resumed_bit_for_bit(cls: Any, tmp_path: Path) -> None:
    """A run that stops after two rounds goes on as if it had not; open episodes, images and next images are what they were."""
    more: dict[str, Any] = {}
    if cls is SURF:
        more["reward"] = {"context": 1, "unlabelled_ratio": 2, "unlabelled_batches": 1, "epochs": 4, "batch_size": 4}
    if cls is QPA:
        more["reward"] = {"crop": [2, 3], "crop_copies": 2, "epochs": 4}
    straight = fit(cls, tmp_path / "straight", **more)
    fit(cls, tmp_path / "resumed", max_epochs=2, **more)
    resumed = fit(cls, tmp_path / "resumed", resume=True, **more)
    assert_same(straight.state_dict(), resumed.state_dict())
    rows = straight.source.stored
    assert_same(images_around(straight.source, rows), images_around(resumed.source, rows))
    assert torch.equal(straight.source.packed[rows], resumed.source.packed[rows])
    if cls is not SAC:
        assert straight.reward_model.side == SIDE and len(straight.labels) == 8
        learned = straight.source.column("learned_reward")[rows].flatten()
        torch.testing.assert_close(learned, straight.reward_model.relabel(straight.source, rows), rtol=1e-4, atol=1e-5)


def test_nothing_but_images_is_seen(tmp_path: Path) -> None:
    """Acting is of bytes as of floats, a saved policy acts alike, and other states in the replay change no update."""
    sac = fit(SAC, tmp_path, max_epochs=2)
    images = dots(torch.linspace(-1, 1, 5)).flatten(1)
    with torch.no_grad():
        action = sac.act(images)
        assert action.unique().numel() == 5 and torch.equal(action, sac.act(images.float()))
    sac.save(tmp_path / "policy.ckpt")
    np.testing.assert_allclose(SAC.load(tmp_path / "policy.ckpt").predict(images.numpy()), action.numpy(), atol=1e-6)
    (numbers,) = drawn(sac.running.programs["policy"])
    losses = []
    for _ in range(2):
        batch = sac.view(sac.replayed(numbers))
        assert batch["obs"].dtype == torch.uint8 and batch["obs"].shape == (8, SIDE * SIDE * 3)
        losses.append({**sac.critic_losses(batch), **sac.policy_losses(batch)})
        sac.source.packed[:, :2], sac.source.packed[:, 3:5] = 7.0, -7.0
    assert_same(losses[0], losses[1])


def test_it_walks_to_the_right(tmp_path: Path) -> None:
    """The place of the dot is the reward: from images, with shifts, the policy learns to walk on."""
    data = {"capacity": None, "num_envs": 1, "eval_episodes": 4, "eval_envs": 4}
    settings = {"env_steps": 300, "seed_steps": 100, "round_steps": 200, "batch_size": 16, "hidden": [64], "discount": 0.9}
    sac = fit(SAC, tmp_path, walk={"horizon": 10}, data=data, lr=2e-3, polyak=0.05, alpha_lr=1e-2, shift=1, **settings)
    assert sac.trainer.callback_metrics["eval/return_mean"] > 13  # the best is 16.5 on average, acting at random 0


def test_mistakes(tmp_path: Path) -> None:
    spec = PictureWalk()
    seen = {"obs_dim": spec.obs_dim, "action_dim": 1, "horizon": 6, "pixels": SIDE}
    with pytest.raises(UserError, match="shift=16 for images of 16 pixels: give 0 to 15"):
        SAC(seen, shift=16)
    with pytest.raises(UserError, match="shift=2 and sees states"):
        SAC({"obs_dim": 2, "action_dim": 1, "horizon": 6}, shift=2)
    with pytest.raises(UserError, match=r"sees pictures: set model.init_args.explore_steps to 0"):
        PEBBLE(seen)
    for cls in (RUNE, MRN):
        with pytest.raises(UserError, match="learns from states and the data show pictures"):
            fit(cls, tmp_path)
    module = OnlineDataModule(PictureWalk(20), segment_length=4, eval_episodes=2)
    with pytest.raises(UserError, match="learns from states and the data show pictures"):
        make_trainer(tmp_path).fit(PPO(module.spec, env_steps=160, round_steps=40, n_steps=20), module)
