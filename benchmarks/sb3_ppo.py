"""Stable-baselines3's PPO beside ours: the same networks, the same rollout, the same order of minibatches.

The package is not among our dependences: ``pip install stable-baselines3`` (2.9.2 is what was compared).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightning_pbrl.data.replay import Replay
from lightning_pbrl.engine import Passes, UpdateEngine
from lightning_pbrl.envs.base import Simulator
from lightning_pbrl.methods.ppo import PPO


def sb3_model(simulator: Simulator, num_envs: int, normalize_obs: bool, seed: int, **settings: Any) -> Any:
    """Stable-baselines3's PPO with its own wrappers around our environments.

    Args:
        simulator: where it acts.
        num_envs: environments in step.
        normalize_obs: standardise observations by ``VecNormalize``; rewards are left alone.
        seed: of everything it draws.
        settings: further arguments of its constructor.
    """
    import stable_baselines3
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    venv: Any = DummyVecEnv([lambda: Monitor(simulator.make()) for _ in range(num_envs)])
    if normalize_obs:
        venv = VecNormalize(venv, norm_reward=False)
    return stable_baselines3.PPO("MlpPolicy", venv, seed=seed, device="cpu", **settings)


def layers(theirs: Any) -> list[tuple[str, Any]]:
    """Its linear layers by the network and the number that they have here."""
    policy = theirs.policy
    hidden_layers = policy.mlp_extractor
    nets = (("actor.mean", hidden_layers.policy_net, policy.action_net), ("critic", hidden_layers.value_net, policy.value_net))
    found = []
    for name, hidden, head in nets:
        linears = [layer for layer in hidden if isinstance(layer, torch.nn.Linear)] + [head]
        found += [(f"{name}.{{}}.{k}", layer) for k, layer in enumerate(linears)]
    return found


def weights(theirs: Any) -> dict[str, Tensor]:
    """Its weights by the names they have here, copies."""
    named = {"actor.log_std": theirs.policy.log_std}
    for name, layer in layers(theirs):
        named |= {name.format("weights"): layer.weight, name.format("biases"): layer.bias}
    return {name: value.detach().clone() for name, value in named.items()}


class Recorded(NamedTuple):
    """What happened in a rollout, (T, n, ...): the true reward, before anything is added to it."""

    obs: Tensor
    action: Tensor
    next_obs: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor


def collect(theirs: Any, steps: int) -> Recorded:
    """Let it fill its rollout buffer, and write down what its environments have done."""
    from stable_baselines3.common.callbacks import BaseCallback

    rows: list[list[Any]] = []

    class Write(BaseCallback):
        def _on_step(self) -> bool:
            now = self.locals
            limit = np.array([info.get("TimeLimit.truncated", False) for info in now["infos"]])
            after = [
                info["terminal_observation"] if done else obs
                for info, done, obs in zip(now["infos"], now["dones"], now["new_obs"], strict=True)
            ]
            before, over = self.model._last_obs, now["dones"]
            rows.append([before, now["actions"], np.stack(after), now["rewards"].copy(), over & ~limit, over & limit])
            return True

    _, callback = theirs._setup_learn(steps * theirs.n_envs, Write())
    callback.on_training_start(locals(), globals())
    theirs.collect_rollouts(theirs.env, callback, theirs.rollout_buffer, steps)
    return Recorded(*(torch.from_numpy(np.stack(column).astype(np.float32)) for column in zip(*rows, strict=True)))


def ours_after(recorded: Recorded, theirs: Any, horizon: int, **settings: Any) -> tuple[PPO, UpdateEngine]:
    """Our method with its weights, at the moment when the same rollout has just ended."""
    steps, envs, obs_dim = recorded.obs.shape
    action_dim = recorded.action.shape[-1]
    spec = {"obs_dim": obs_dim, "action_dim": action_dim, "horizon": horizon}
    method = PPO(spec, n_steps=steps, normalize_obs=False, **settings)
    method.configure_model()
    method.load_state_dict(weights(theirs), strict=False)
    method.source = Replay(max(steps, horizon) * envs, envs, obs_dim, action_dim, horizon)
    for obs, action, after, reward, terminated, truncated in zip(*recorded, strict=True):
        method.source.append(obs, action.clamp(-1, 1), after, reward, terminated > 0, truncated > 0)
    method.obs, method.drawn = recorded.obs, recorded.action
    method.end_rollout(method.collected_reward)
    return method, UpdateEngine(method, method.groups(), method.programs(), [0], settings.get("compile", False))


def same_order(method: PPO, seed: int) -> Passes:
    """Passes in the permutations that its buffer gets from NumPy; it counts environment by environment, we step by step."""
    steps, envs = method.drawn.shape[:2]
    state = np.random.RandomState(seed)

    def order(_: torch.Generator) -> Tensor:
        theirs = torch.from_numpy(state.permutation(steps * envs))
        return theirs % steps * envs + theirs // steps

    return Passes(lambda: steps * envs, method.hparams.batch_size, order=order)


def parity(simulator: Simulator, num_envs: int = 2, steps: int = 512, epochs: int = 10, batch_size: int = 64) -> dict[str, float]:
    """One whole update of both from equal weights: the largest differences, and how far the weights have moved."""
    settings = {"batch_size": batch_size, "n_epochs": epochs}
    theirs = sb3_model(simulator, num_envs, False, 0, n_steps=steps, ent_coef=0.01, **settings)
    recorded = collect(theirs, steps)
    method, engine = ours_after(recorded, theirs, simulator.horizon, entropy_coef=0.01, **settings)
    before = weights(theirs)
    buffer, table = theirs.rollout_buffer, method.view({"rows": method.rows})
    found = {}
    for name, values in (("advantage", buffer.advantages), ("target", buffer.returns), ("log_prob", buffer.log_probs)):
        found[name] = (table[name].view(steps, num_envs) - torch.from_numpy(values)).abs().max().item()
    engine.programs["policy"] = replace(engine.programs["policy"], draws={"rows": same_order(method, seed=3)})
    np.random.seed(3)  # its buffer draws from the global generator
    theirs.train()
    meters = engine.run("policy", epochs * math.ceil(steps * num_envs / batch_size))
    logged = theirs.logger.name_to_value
    pairs = {"surrogate": "policy_gradient_loss", "value_error": "value_loss"}
    pairs |= {name: name for name in ("clip_fraction", "explained_variance")}
    found |= {ours: abs(meters[ours].item() - logged[f"train/{name}"]) for ours, name in pairs.items()}
    after, mine = weights(theirs), dict(method.state_dict())
    found["weights"] = max((after[name] - mine[name]).abs().max().item() for name in after)
    found["weights moved by"] = max((after[name] - before[name]).abs().max().item() for name in after)
    found["value error itself"] = logged["train/value_loss"]
    found |= {"falls": recorded.terminated.sum().item(), "time limits": recorded.truncated.sum().item()}
    return {name: float(value) for name, value in found.items()}
