"""Problems with a known answer for learners from examples of success: a chain of states and a point in a square, in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from toys import SPEC, ToyData, drawn

from lightning_pbrl.data.examples import Examples
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.engine import UpdateEngine
from lightning_pbrl.fitting.starting import attach
from lightning_pbrl.methods.base import Method

STATES = 6
SLIP = 0.2
"""Probability that a step of the chain goes the other way."""
CENTRE = torch.tensor([0.6, -0.5])
"""Where the point should go."""


def ready(method: Any, data: Transitions, examples: Tensor) -> UpdateEngine:
    """The method with data and examples, without a Trainer, and its engine."""
    method.configure_model()
    method.source = data
    method.use_examples(examples)
    engine = UpdateEngine(method, method.groups(), method.programs(), [method.seed], compile=False)
    attach(method, engine)
    return engine


def draw(engine: UpdateEngine) -> dict[str, Any]:
    """Random input of one update, always the same."""
    return drawn(engine.programs["policy"], seed=5)[0]


def minibatch(engine: UpdateEngine) -> dict[str, Tensor]:
    """What the losses read in that update."""
    program = engine.programs["policy"]
    found: dict[str, Tensor] = program.view(program.gather(draw(engine)))
    return found


# A chain: one-hot states 0 .. 5, actions left (-1) and right (1), ends that hold --------------------------------------------


def chain_step(state: Tensor, right: Tensor, u: Tensor) -> Tensor:
    """The next state; with probability SLIP in the other direction."""
    direction = torch.where((u < SLIP) ^ right, 1, -1)
    return (state + direction).clamp(0, STATES - 1)


def chain(episodes: int = 400, length: int = 60, seed: int = 0) -> Transitions:
    """Uniformly random actions from uniformly random states."""
    rng = torch.Generator().manual_seed(seed)
    state = torch.randint(STATES, (episodes,), generator=rng)
    states, actions = [state], []
    for _ in range(length):
        right = torch.rand(episodes, generator=rng) < 0.5
        states.append(chain_step(states[-1], right, torch.rand(episodes, generator=rng)))
        actions.append(right)
    path = torch.eye(STATES)[torch.stack(states, 1)]
    action = torch.stack(actions, 1).float() * 2 - 1
    obs, next_obs = path[:, :-1].reshape(-1, STATES), path[:, 1:].reshape(-1, STATES)
    return Transitions.from_columns(obs, action.reshape(-1, 1), next_obs, torch.arange(episodes + 1) * length)


def success_probability(goal: int, discount: float) -> Tensor:
    """(1 - g) sum_D g^D P(s_{t + 1 + D} = goal | s, a) under uniform actions, exactly: (STATES, 2), left and right."""
    step = torch.zeros(2, STATES, STATES, dtype=torch.float64)
    for a in range(2):
        for s in range(STATES):
            for right, p in ((True, 1 - SLIP if a else SLIP), (False, SLIP if a else 1 - SLIP)):
                step[a, s, min(max(s + (1 if right else -1), 0), STATES - 1)] += p
    eye = torch.eye(STATES, dtype=torch.float64)
    visits = (1 - discount) * torch.linalg.inv(eye - discount * step.mean(0))
    return (step @ visits)[:, :, goal].T


def spearman(x: Tensor, y: Tensor) -> float:
    """Rank correlation."""
    ranks = torch.stack([v.flatten().argsort().argsort().double() for v in (x, y)])
    return float(torch.corrcoef(ranks)[0, 1])


# A point in [-1, 1]^2 that moves a tenth of its action per step -------------------------------------------------------------


def point_step(obs: Tensor, action: Tensor) -> Tensor:
    return (obs + 0.1 * action).clamp(-1, 1)


def square(episodes: int = 300, length: int = 30, seed: int = 0) -> Transitions:
    """Every episode wanders in a direction of its own, with noise; nobody seeks anything."""
    rng = torch.Generator().manual_seed(seed)
    drift = 1.4 * torch.rand(episodes, 2, generator=rng) - 0.7
    states, actions = [torch.rand(episodes, 2, generator=rng) * 2 - 1], []
    for _ in range(length):
        actions.append((drift + 0.6 * torch.randn(episodes, 2, generator=rng)).clamp(-1, 1))
        states.append(point_step(states[-1], actions[-1]))
    path = torch.stack(states, 1)
    obs, next_obs = path[:, :-1].reshape(-1, 2), path[:, 1:].reshape(-1, 2)
    return Transitions.from_columns(obs, torch.stack(actions, 1).reshape(-1, 2), next_obs, torch.arange(episodes + 1) * length)


def near_centre(count: int = 50, seed: int = 0) -> Tensor:
    """Examples of success."""
    return CENTRE + 0.05 * torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def final_distance(method: Method, steps: int = 40, episodes: int = 64) -> float:
    """Mean distance from the centre at the end, from anywhere."""
    obs = torch.rand(episodes, 2, generator=torch.Generator().manual_seed(9)) * 2 - 1
    for _ in range(steps):
        obs = point_step(obs, method.act(obs))
    return float((obs - CENTRE).norm(dim=1).mean())


# Pictures: what the toy data would look like --------------------------------------------------------------------------------

SIDE = 8


class FilmedToy(ToyData):
    """The toy data, seen as pictures."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"examples": 12, **settings})
        self.simulator = None

    @property
    def spec(self) -> dict[str, Any]:
        return {**SPEC, "obs_dim": 3 * SIDE * SIDE, "pixels": SIDE}

    def load(self) -> Transitions:
        data = super().load()
        first, last = data.column("obs")[:, 0], data.column("next_obs")[:, 0]
        values = []
        for begin, end in zip(data.episodes.offsets[:-1], data.episodes.offsets[1:], strict=True):
            values += [first[begin:end], last[end - 1 : end]]
        shade = (40 * torch.cat(values) + 128).clamp(0, 255).to(torch.uint8)
        data.frames = shade[:, None, None, None].expand(-1, SIDE, SIDE, 3).contiguous()
        best = first.argsort(descending=True)[:12]
        self.examples = Examples(data.pictures(data.frame_ids(best)), {"from": "synthetic"}, "pictures")
        self.held_out_source = None
        return data
