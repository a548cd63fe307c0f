# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Show what success looks like
#
# No reward, no comparisons: a person shows a few states in which the task is solved, and a robot has logged episodes of
# whatever it did before. LAEO ([2307.13101](https://arxiv.org/abs/2307.13101)) learns from the logs which states lie in the
# future of an action, and then takes the actions that have the shown states in their future. You will
#
# 1. define a simulator of your own: a point in a square, with a wall in it,
# 2. collect episodes without rewards, and choose examples of success,
# 3. train LAEO, look at its critic, and compare it with counts of what really followed,
# 4. send the *same critic* to another place, with new examples, a planner and no training.
#
# Install: `pip install -c constraints.txt -e ".[notebooks]"` in the project's folder, or `make install`.
#
# `SIZE = "tiny"` takes some thirty seconds on one core, `SIZE = "small"` one to two minutes. Both learn the task, and cells
# check what the text claims. A point in a square is here to be looked at; the robots of the paper are in `docs/examples.md`.

# %%
SIZE = "tiny"  # or "small"

# %%
import os
import shutil
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Circle
from torch import Tensor

from lightning_pbrl import Trainer
from lightning_pbrl.data.example_choosers import SuccessExamples
from lightning_pbrl.data.future import Futures
from lightning_pbrl.datamodules.collected import CollectedDataModule
from lightning_pbrl.datamodules.examples import ExamplesDataModule
from lightning_pbrl.envs.base import Array, Simulator
from lightning_pbrl.envs.behaviour import Behaviour
from lightning_pbrl.envs.episodic import Episodic
from lightning_pbrl.envs.rollout import VectorEnvs, rollout
from lightning_pbrl.methods.bc import BC
from lightning_pbrl.methods.laeo import LAEO
from lightning_pbrl.rng import stream

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # small networks are fastest on one core
torch.set_num_threads(1)

tiny = SIZE == "tiny"
FOLDER = Path(f"runs/notebook_05_{SIZE}")
shutil.rmtree(FOLDER, ignore_errors=True)  # every execution starts anew; collected data are kept
EPISODES, UPDATES = (1_000, 3_000) if tiny else (2_000, 10_000)
A, B = (0.6, -0.6), (-0.6, -0.6)
"""Where the point is to be in the first task, and in the second."""

# %% [markdown]
# ## A simulator of your own
#
# A `Simulator` says its sizes and builds an environment; `Episodic` adds horizon, checks and repeatable resets to what we write
# here, one step of the physics. The point sees its place and nothing else. A wall stands in the middle and leaves a gap at the
# top, so the straight way is often the wrong one.
#
# The logs come from errands: every episode has a start and a destination at random, and the scripted driver goes there by the
# gap if it must. It is never told what the task is. `target` decides what the environment calls a success, and nothing else.

# %%
WALL, GAP, RADIUS = 0.1, 0.2, 0.2
"""Half the wall's thickness, the height at which it ends, how near to the target is a success."""


def blocked(place: Array) -> bool:
    return bool(abs(place[0]) < WALL and place[1] < GAP)


class Driver:
    """Goes on the episode's errand, by the gap if it has to; it sees the place and the errand, (4,)."""

    def act(self, full_obs: Array) -> Array:
        place, errand = full_obs[:2], full_obs[2:]
        way = errand - place
        if place[0] * errand[0] < 0 or abs(place[0]) < WALL:  # up, then across
            way = np.array([way[0] if place[1] > GAP else 0.0, max(errand[1], GAP + 0.1) - place[1]])
        return np.clip(10 * way, -1, 1).astype(np.float32)

    def shifted(self, full_obs: Array, goal: Array, thing: Array) -> Array:
        return full_obs + np.concatenate([np.zeros(2), goal[:2]])  # for mixtures with goal_shift; ours has none


class Point:
    """The physics of one environment."""

    def __init__(self, target: Array) -> None:
        self.target = target

    def begin(self, seed: int) -> tuple[Array, dict[str, Any]]:
        rng = np.random.default_rng(seed)
        places = [place for place in rng.uniform(-1, 1, (16, 2)) if not blocked(place)]
        self.place, self.errand = places[:2]
        return self.place.copy(), self.info()

    def advance(self, action: Array) -> tuple[Array, float, bool, dict[str, Any]]:
        for axis in range(2):  # one axis after the other, so that it slides along the wall
            moved = self.place.copy()
            moved[axis] = np.clip(moved[axis] + 0.1 * action[axis], -1, 1)
            if not blocked(moved):
                self.place = moved
        success = float(np.linalg.norm(self.place - self.target) < RADIUS)
        return self.place.copy(), success, False, {**self.info(), "success": success}

    def info(self) -> dict[str, Any]:
        return {"full_obs": np.concatenate([self.place, self.errand])}


class Plane(Simulator):
    """A point in [-1, 1]^2 that moves a tenth of its action per step; the wall stops it.

    Args:
        target: centre of the places that are called a success.
    """

    name, obs_dim, action_dim, horizon = "plane", 2, 2, 60

    def __init__(self, target: tuple[float, float]) -> None:
        self.target = target

    def make(self, render: bool = False) -> Episodic:
        return Episodic(self, Point(np.array(self.target)), render)  # the physics is ours, the rest is the library's

    def describe(self) -> dict[str, Any]:
        return {"simulator": "Plane", "target": list(self.target)}

    def expert(self, task: str | None = None) -> Driver:
        return Driver()


# %% [markdown]
# ## The data and the examples
#
# `CollectedDataModule` takes our simulator like any of the library's. `ExamplesDataModule` holds some episodes out for
# validation and chooses the examples: 50 states that a step reached within `RADIUS` of *A*. The learner gets the steps without
# rewards, and these 50 states without actions or the ways that led there.

# %%
mixture = [Behaviour(weight=4, noise=0.5), Behaviour(weight=1, expert=False)]  # noisy errands; uniformly random actions
logs = CollectedDataModule(Plane(A), episodes=EPISODES, mixture=mixture)
data = ExamplesDataModule(logs, SuccessExamples(count=50), eval_episodes=10, test_episodes=40, num_envs=40)
data.prepare_data()  # collects on first use, reads afterwards
data.setup("fit")
source, examples = data.source, data.examples.states
solved = (source.episodes.sums(source.success) > 0).double().mean()
print(f"{len(source):,} steps in {len(source.episodes)} episodes, {solved:.0%} of which pass A; {len(examples)} examples")


def draw_world(axes: Axes, **targets: tuple[float, float]) -> None:
    """The wall, and circles around the targets."""
    axes.fill_between([-WALL, WALL], -1, GAP, color="0.35", zorder=3)
    for name, place in targets.items():
        axes.add_patch(Circle(place, RADIUS, fill=False, linewidth=1.5, zorder=4))
        axes.annotate(name, place, (place[0] + 0.18, place[1] + 0.14), fontsize=12, zorder=4)
    axes.set(xlim=(-1, 1), ylim=(-1, 1), xticks=(-1, 0, 1), yticks=(-1, 0, 1), aspect="equal", xlabel="x", ylabel="y")


figure, axes = plt.subplots(figsize=(4.4, 4.4), layout="constrained")
ends = source.episodes.offsets
for i in range(40):
    axes.plot(*source.column("obs")[ends[i] : ends[i + 1]].T, color="tab:blue", linewidth=0.7, alpha=0.5)
axes.scatter(*examples.T, s=12, color="tab:red", zorder=5, label="examples of success")
draw_world(axes, A=A)
axes.legend(loc="upper left")
axes.set_title("40 logged episodes")
plt.show()

# %% [markdown]
# ## Learn from them
#
# LAEO trains a critic *f(s, a, g)* to tell states *g* that followed (*s*, *a*) in the logs from states that followed other
# steps: a classification, without reward and bootstrapping. The policy takes actions whose future holds the examples, and
# clones a little beside (`bc_coef`). Behaviour cloning alone is the control: it knows the logs and not the task.
#
# One critic with the softmax loss learns fastest at this size. The library's defaults are the paper's: twins and the binary loss.


# %%
def fit(method: LAEO | BC) -> LAEO | BC:
    """The method after its updates; everything of the run is in one folder."""
    Trainer(FOLDER / type(method).__name__).fit(method, data)
    return method


short = {"updates": UPDATES, "eval_interval": UPDATES // 3, "lr": 3e-3, "hidden": (64, 64), "batch_size": 128}
critic = {"repr_dim": 32, "discount": 0.9, "loss": "cpc", "twin": False}
laeo = fit(LAEO(data.spec, **short, **critic, bc_coef=0.2))
clone = fit(BC(data.spec, **short, policy="squashed", normalize_obs=False))

# %% [markdown]
# ## Why it works: the critic counts futures
#
# At its optimum *f* is log p(*g* follows *s*, *a*) / p(*g*), up to an offset that does not depend on *g*. So we can hold it
# against counts: draw steps and their discounted futures from the logs, and note how often the future lies within `RADIUS` of
# *A* when the step begins in a cell. The critic has seen no reward and no map, and its value bends around the wall because the
# logged ways do: of two places that are 0.8 from *A*, the one behind the wall is worth far less. The arrows are its favourite
# actions.

# %%
CELLS = 14
ANGLES = torch.arange(16) * (2 * torch.pi / 16)
COMPASS = torch.stack([ANGLES.cos(), ANGLES.sin()], dim=1)
middle = (torch.arange(CELLS) + 0.5) * (2 / CELLS) - 1
cells = torch.cartesian_prod(middle, middle)  # (CELLS^2, 2)
free = torch.tensor([not blocked(cell) for cell in cells.numpy()])


def counted(target: tuple[float, float]) -> Tensor:
    """How often the discounted future of a step in each cell is at the target, as a log share; (CELLS^2,)."""
    u = torch.rand(400_000, 3, dtype=torch.float64, generator=stream(0, "count"))
    row, future = Futures(source, critic["discount"]).draw(u)
    cell = ((source.column("obs")[row] + 1) * (CELLS / 2)).long().clamp(0, CELLS - 1)
    cell = cell[:, 0] * CELLS + cell[:, 1]
    there = ((source.column("next_obs")[future] - torch.tensor(target)).norm(dim=1) < RADIUS).double()
    hits, all_ = torch.bincount(cell, there, CELLS**2), torch.bincount(cell, minlength=CELLS**2)
    return ((hits + 1) / (all_ + 1 / there.mean())).log()  # a cell without steps has the mean


@torch.no_grad()
def judged(method: LAEO, places: Tensor) -> tuple[Tensor, Tensor]:
    """The critic's value of places, (N, 2), the mean over directions, and its favourite direction: (N,), (N, 2)."""
    score = method.scorer(places)(COMPASS.expand(len(places), -1, -1))
    return score.mean(1), COMPASS[score.argmax(1)]


def draw_field(axes: Axes, value: Tensor) -> None:
    picture = value.masked_fill(~free, float("nan")).view(CELLS, CELLS).T
    axes.imshow(picture, origin="lower", extent=(-1, 1, -1, 1), cmap="viridis")


count, (value, favourite) = counted(A), judged(laeo, cells)
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4.4), layout="constrained")
draw_field(left, count)
left.set_title("log share of futures at A, counted")
draw_field(right, value)
right.quiver(*cells[free].T, *favourite[free].T, color="white", scale=28, width=0.005)
right.scatter(*examples.T, s=10, color="tab:red", zorder=5)
right.set_title("the critic, and its favourite actions")
for axes in (left, right):
    draw_world(axes, A=A)
plt.show()
agreement = torch.corrcoef(torch.stack([count[free], value[free].double()]))[0, 1].item()
behind, above = judged(laeo, torch.tensor([[A[0] - 0.8, A[1]], [A[0], A[1] + 0.8]]))[0].tolist()
print(f"correlation of critic and counts over the cells: {agreement:.2f}")
print(f"value of two places that are 0.8 from A: {behind:.1f} behind the wall, {above:.1f} on this side")
assert agreement > 0.5
assert behind < above - 1.0

# %% [markdown]
# ## The same critic, another place
#
# The critic answers for any *g*, so a new task needs new examples and nothing else. Here a person points at *B*: 50 states, not
# taken from the logs. There is no policy for *B* and none is trained: at every step the cross-entropy method looks for the action
# that the critic likes best. Nothing told the critic about *B* while it learned.

# %%
SEARCH = {"planner": "cem", "cem_candidates": 64, "cem_elites": 12, "cem_iterations": 4}


def planner(states: Tensor) -> LAEO:
    """A planner on the trained critic that seeks ``states``."""
    method = LAEO(data.spec, **short, **critic, **SEARCH)
    method.configure_model()
    method.take_critic(laeo)
    method.use_examples(states)
    return method


pointed = torch.tensor(B) + 0.05 * torch.randn(50, 2, generator=stream(0, "pointed at"))
seeks_a, seeks_b = planner(examples), planner(pointed)

value, favourite = judged(seeks_b, cells)
figure, axes = plt.subplots(figsize=(4.4, 4.4), layout="constrained")
draw_field(axes, value)
axes.quiver(*cells[free].T, *favourite[free].T, color="white", scale=28, width=0.005)
axes.scatter(*pointed.T, s=10, color="tab:red", zorder=5)
draw_world(axes, A=A, B=B)
axes.set_title("the same critic, asked about B")
plt.show()

# %% [markdown]
# ## Drive
#
# All drive the same 40 episodes, which start where no training and no evaluation did. An episode succeeds when any of its steps
# ends within `RADIUS` of the target. The last row is the control of the re-targeting: the policy, which knows *A* alone.


# %%
def drive(method: LAEO | BC, target: tuple[float, float]) -> tuple[float, list[Array]]:
    """Share of episodes that succeed, and their paths, (steps + 1, 2) each."""
    seeds = data.episode_seeds("test", 40)
    found: list[list[Array]] = [[] for _ in seeds]
    rollouts = rollout(
        method.act, VectorEnvs(Plane(target), len(seeds)), seeds, on_step=lambda i, env: found[i].append(env.physics.place.copy())
    )
    return rollouts.success.mean().item(), [np.array(path) for path in found]


DRIVERS = {
    "LAEO policy": (laeo, A),
    "behaviour cloning": (clone, A),
    "planner": (seeks_a, A),
    "planner, re-targeted": (seeks_b, B),
    "LAEO policy, at B": (laeo, B),
}
success, paths = {}, {}
print(f"{'':22s}task  success  distance at the end")
for name, (method, target) in DRIVERS.items():
    success[name], paths[name] = drive(method, target)
    distance = np.mean([np.linalg.norm(path[-1] - target) for path in paths[name]])
    print(f"{name:22s}{'A' if target == A else 'B':4s} {success[name]:8.0%} {distance:20.2f}")

# %%
figure, panels = plt.subplots(1, 4, figsize=(15, 4.2), sharey=True, layout="constrained")
for axes, name in zip(panels, DRIVERS, strict=False):  # the last one drives as the first
    for path in paths[name]:
        axes.plot(*path.T, linewidth=0.8, alpha=0.7)
        axes.plot(*path[0], "k.", markersize=3)
    draw_world(axes, A=A, B=B)
    axes.set_title(f"{name}: {success[name]:.0%}")
plt.show()

for name in ("LAEO policy", "planner", "planner, re-targeted"):
    assert success[name] >= 0.9, name
for name in ("behaviour cloning", "LAEO policy, at B"):
    assert success[name] <= 0.5, name

# %% [markdown]
# ## The same without a notebook
#
# Put the simulator into a file `plane.py` that can be imported, and everything else is this script:
#
# ```python
# from plane import A, Plane
#
# from lightning_pbrl import Trainer
# from lightning_pbrl.datamodules.collected import CollectedDataModule
# from lightning_pbrl.datamodules.examples import ExamplesDataModule
# from lightning_pbrl.envs.behaviour import Behaviour
# from lightning_pbrl.methods.laeo import LAEO
#
# data = ExamplesDataModule(CollectedDataModule(Plane(A), episodes=1_000, mixture=[Behaviour(noise=0.5)]))
# networks = {"hidden": (64, 64), "repr_dim": 32, "loss": "cpc", "twin": False}
# method = LAEO(data.spec, **networks, updates=3_000, lr=3e-3, batch_size=128, discount=0.9, bc_coef=0.2)
# trainer = Trainer("runs/plane")
# trainer.fit(method, data)
# trainer.test(method, data)
# ```
#
# On the Fetch arm (extra `robotics`) from the command line; then with the critic of that run, the examples of a file, one update
# of a policy that nobody uses, and the planner:
#
# ```bash
# lightning-pbrl fit -c data/examples/fetch-reach.yaml -c model/laeo.yaml -c preset/laeo/small.yaml \
#   --run_dir=runs/reach --then_test
# lightning-pbrl fit -c data/examples/fetch-reach.yaml -c model/laeo_cem.yaml -c preset/laeo/small.yaml \
#   --model.init_args.critic_from=runs/reach/checkpoints/last.ckpt --model.init_args.updates=1 \
#   --data.init_args.examples='{class_path: FileExamples, init_args: {path: elsewhere.npy, count: null}}' \
#   --run_dir=runs/elsewhere
# ```
#
# ## What next
#
# - `docs/examples.md`: who can choose examples, what learners see and what not, all tasks, pictures.
# - The rivals, on the same data and at the same size:
#   `lightning-pbrl run experiment/laeo/small.yaml --task fetch-reach --seeds 0-2 --jobs 2`.
# - How few examples are enough, and how few episodes: `sweep/examples-count.yaml`, `sweep/examples-data-size.yaml`.
# - Your own simulator, chooser or method as a plugin: `docs/extending.md`.
