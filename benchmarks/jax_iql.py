"""IQL as JAX libraries write it: one ``lax.scan`` over updates, data on the device; the opponent of ``benchmarks.scan``.

It mirrors the structure of unifloral's IQL (Jackson et al. 2025), written anew on bare JAX: three losses that read one common
state, twins by ``vmap``, three Adams, the actor's rate on a cosine, a minibatch gathered from each column inside the scan.
Left out of it: the standardisation of observations inside every network, which the caller's data may already have.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")

import jax
from jax import numpy as jnp

from benchmarks.plain_iql import DISCOUNT, EXPECTILE, LR, POLYAK, TEMPERATURE

Net = list[tuple[jax.Array, jax.Array]]
"""Weight (in, out) and bias (out,) of each layer; twins have a leading axis of 2."""


class State(NamedTuple):
    """Everything that an update moves."""

    nets: dict[str, Any]
    target: Net
    mean: dict[str, Any]
    square: dict[str, Any]
    step: jax.Array
    key: jax.Array


def net(key: jax.Array, sizes: Sequence[int]) -> Net:
    keys = jax.random.split(key, len(sizes) - 1)
    return [(jax.random.normal(k, (a, b)) / a**0.5, jnp.zeros(b)) for k, (a, b) in zip(keys, pairwise(sizes), strict=True)]


def forward(layers: Net, x: jax.Array) -> jax.Array:
    for weight, bias in layers[:-1]:
        x = jax.nn.relu(x @ weight + bias)
    weight, bias = layers[-1]
    return x @ weight + bias


def both(layers: Net, x: jax.Array) -> jax.Array:
    """Values of the twins, (2, B)."""
    return jax.vmap(forward, in_axes=(0, None))(layers, x).squeeze(-1)


def losses(nets: dict[str, Any], target: Net, batch: Sequence[jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Sum of the three losses; none sends a gradient into another's network."""
    obs, action, reward, next_obs, terminated = batch
    state_action = jnp.concatenate([obs, action], axis=-1)
    value = jax.lax.stop_gradient(forward(nets["v"], next_obs).squeeze(-1))
    advantage = both(target, state_action).min(0) - forward(nets["v"], obs).squeeze(-1)
    v = (jnp.where(advantage > 0, EXPECTILE, 1 - EXPECTILE) * advantage**2).mean()
    q = ((both(nets["q"], state_action) - (reward + DISCOUNT * (1 - terminated) * value)) ** 2).mean()
    weight = jax.lax.stop_gradient(jnp.exp(TEMPERATURE * advantage).clip(max=100.0))
    log_std = nets["log_std"].clip(-20.0, 2.0)
    z = (action - jnp.tanh(forward(nets["actor"], obs))) * jnp.exp(-log_std)
    log_prob = (-0.5 * z**2 - log_std - 0.5 * np.log(2 * np.pi)).sum(-1)
    actor = -(weight * log_prob).mean()
    return v + q + actor, {"v": v, "q": q, "actor": actor}


def update(columns: Sequence[jax.Array], batch_size: int, planned: int, state: State, _: Any) -> tuple[State, Any]:
    """One update: draw, gather, gradients, Adam, target average."""
    key, drawn = jax.random.split(state.key)
    rows = jax.random.randint(drawn, (batch_size,), 0, len(columns[0]))
    grads, found = jax.grad(losses, has_aux=True)(state.nets, state.target, [column[rows] for column in columns])
    step = state.step + 1
    mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, state.mean, grads)
    square = jax.tree.map(lambda s, g: 0.999 * s + 0.001 * g * g, state.square, grads)
    decay = 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(state.step / planned, 1.0)))
    rate = {name: LR * (decay if name in ("actor", "log_std") else 1.0) for name in state.nets}
    scale, root = 1 / (1 - 0.9**step), 1 / (1 - 0.999**step)
    nets = {
        name: jax.tree.map(
            lambda p, m, s, r=rate[name]: p - r * (m * scale) / (jnp.sqrt(s * root) + 1e-8),
            state.nets[name],
            mean[name],
            square[name],
        )
        for name in state.nets
    }
    target = jax.tree.map(lambda t, p: t + POLYAK * (p - t), state.target, nets["q"])
    return State(nets, target, mean, square, step, key), found


def scan(
    columns: Sequence[np.ndarray], hidden: Sequence[int], batch_size: int, chunk: int, planned: int = 1_000_000
) -> Callable[[int], None]:
    """Return a function that does a number of updates, a multiple of ``chunk``, ``chunk`` in one compiled scan.

    Args:
        columns: obs (N, O), action (N, A), reward (N,), next_obs (N, O), terminated (N,), float32.
        hidden: sizes of hidden layers.
        batch_size: transitions per update.
        chunk: updates per call.
        planned: updates until the actor's rate is 0.
    """
    data = [jnp.asarray(column) for column in columns]
    obs_dim, action_dim = data[0].shape[1], data[1].shape[1]
    key, *keys = jax.random.split(jax.random.key(0), 4)
    nets = {
        "v": net(keys[0], (obs_dim, *hidden, 1)),
        "q": jax.vmap(lambda k: net(k, (obs_dim + action_dim, *hidden, 1)))(jax.random.split(keys[1])),
        "actor": net(keys[2], (obs_dim, *hidden, action_dim)),
        "log_std": jnp.zeros(action_dim),
    }
    zeros = jax.tree.map(jnp.zeros_like, nets)
    held = [State(nets, jax.tree.map(jnp.copy, nets["q"]), zeros, zeros, jnp.zeros((), int), key)]
    many = jax.jit(lambda state: jax.lax.scan(partial(update, data, batch_size, planned), state, None, chunk))

    def run(updates: int) -> None:
        for _ in range(updates // chunk):
            held[0], _ = many(held[0])
        jax.block_until_ready(held[0])

    return run
