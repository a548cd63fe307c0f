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
# # Which of the two, or how good is this one?
#
# A person can say which of two clips is better, or put a single clip on a scale. `ActiveRLHF` buys both kinds of answer
# from one budget, fits one reward network to all of them, and pays a PPO policy by it. You will
#
# 1. teach a point where to stand, with preferences alone, with ratings alone, and with both,
# 2. look at the rewards that were learned beside the one that the teacher has in mind,
# 3. measure in bits what an answer would tell, and see how the budget follows it,
# 4. meet a rater whose scale is bent.
#
# Install: `pip install -c constraints.txt -e ".[notebooks]"` in the project's folder, or `make install`.
#
# `SIZE = "tiny"` takes some thirty seconds on one core, `SIZE = "small"` two minutes with three times the answers and
# steps. Both learn the task, and cells check what the text claims. Real robots are in `docs/methods/active_rlhf.md`.

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
from torch import Tensor

from lightning_pbrl import ActiveRLHF, AskTeacher, OnlineDataModule, Trainer
from lightning_pbrl.data.feedback import Query
from lightning_pbrl.envs.base import Array, Simulator
from lightning_pbrl.envs.episodic import Episodic
from lightning_pbrl.losses.information import bald, pair_probability
from lightning_pbrl.queries.bald import BALDQuery
from lightning_pbrl.queries.base import QueryStrategy
from lightning_pbrl.queries.mixed import MixedQuery
from lightning_pbrl.queries.quota import InformationPerCost
from lightning_pbrl.reports.metrics import over, read_metrics
from lightning_pbrl.reports.mix import information_panel, labels_panel, share_panel
from lightning_pbrl.rng import stream
from lightning_pbrl.teachers.mixed import MixedTeacher
from lightning_pbrl.teachers.rating import RatingTeacher

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # small networks are fastest on one core
torch.set_num_threads(1)

tiny = SIZE == "tiny"
FOLDER = Path(f"runs/notebook_06_{SIZE}")
shutil.rmtree(FOLDER, ignore_errors=True)  # every execution starts anew
BUDGET, ROUNDS = (60, 3) if tiny else (240, 16)
CLIP = 5
"""Steps per clip."""

# %% [markdown]
# ## A task that fits into a picture
#
# A point in a square starts anywhere and moves by a tenth or two. The teacher wants it near the cross and has a number for
# every place in mind; the learner never sees these numbers, only answers about clips of five steps.

# %%
CROSS = np.array([0.6, 0.6])


def liking(place: Array) -> Array:
    """What the teacher has in mind: (..., 2) -> (...)."""
    return np.asarray(1.0 - np.linalg.norm(place - CROSS, axis=-1))


class Point:
    """The physics of one environment."""

    def begin(self, seed: int) -> tuple[Array, dict[str, Any]]:
        self.place = np.random.default_rng(seed).uniform(-1, 1, 2)
        return self.place.copy(), {}

    def advance(self, action: Array) -> tuple[Array, float, bool, dict[str, Any]]:
        self.place = np.clip(self.place + 0.15 * action, -1, 1)
        return self.place.copy(), float(liking(self.place)), False, {}


class Square(Simulator):
    """A point in [-1, 1]^2."""

    name, obs_dim, action_dim, horizon = "square", 2, 2, 20

    def make(self, render: bool = False) -> Episodic:
        return Episodic(self, Point(), render)

    def describe(self) -> dict[str, Any]:
        return {"simulator": "Square"}


# %% [markdown]
# ## Three ways to spend the same budget
#
# A run explores first, paid for rare states and not by the teacher. Then every round asks, fits the reward network, and
# lets PPO go on. All three runs ask by BALD: the questions whose answers tell most about the network. The third decides in
# every round how many questions of each kind to ask, by what a question of that kind tells per unit of cost.


# %%
def train(name: str, query: QueryStrategy, rating: RatingTeacher | None = None) -> ActiveRLHF:
    """One run; everything of it is in one folder."""
    data = OnlineDataModule(Square(), num_envs=8, segment_length=CLIP, eval_episodes=16, eval_envs=16)
    ask = AskTeacher(MixedTeacher(rating=rating), query, BUDGET, initial=0.25, schedule="spread")
    steps = {"explore_steps": 1_600, "explore_epochs": 1, "round_steps": 1_600, "n_steps": 100}
    policy = {"hidden": (32, 32), "lr": 3e-3, "discount": 0.9, "entropy_coef": 0.01, "compile": False}
    method = ActiveRLHF(data.spec, env_steps=1_600 * (1 + ROUNDS), reward_model={"batch_size": 16, "lr": 3e-3}, **steps, **policy)
    Trainer(FOLDER / name, callbacks=ask).fit(method, data)
    return method


adaptive = MixedQuery(BALDQuery("pair"), BALDQuery("rating"), InformationPerCost())
runs = {
    "preferences": train("preferences", BALDQuery("pair")),
    "ratings": train("ratings", BALDQuery("rating")),
    "both": train("both", adaptive),
}
for name, run in runs.items():
    print(f"{name}: {len(run.labels)} preferences and {len(run.ratings)} ratings")
    assert len(run.labels) + len(run.ratings) == BUDGET

# %% [markdown]
# ## What the policies get
#
# The true return of evaluation episodes, beside that of the straight way to the cross. The policies head for the right
# corner after two dozen answers.


# %%
def straight(episodes: int = 500) -> float:
    """Mean return of going straight to the cross and staying there."""
    place, total = np.random.default_rng(0).uniform(-1, 1, (episodes, 2)), np.zeros(episodes)
    for _ in range(Square.horizon):
        place += np.clip(CROSS - place, -0.15, 0.15)
        total += liking(place)
    return float(total.mean())


best = straight()
figure, axes = plt.subplots(figsize=(5.5, 3.6), layout="constrained")
for name in runs:
    curve = over(read_metrics(FOLDER / name), "eval/return_mean", "labels")
    axes.plot(curve.step, curve.value, marker="o", label=name)
    print(f"{name}: true return {curve.value[-1]:.1f}")
    assert curve.value[-1] > best / 3
axes.axhline(best, color="0.5", linestyle="--", linewidth=1, label=f"straight to the cross, {best:.1f}")
axes.set(xlabel="answers (count)", ylabel="true return")
axes.legend()
plt.show()

# %% [markdown]
# ## What the networks believe
#
# The learned reward of every place, beside the teacher's. The dots are the clips that were asked about. Preferences fix the
# reward up to a constant, which no policy needs; ratings, which say where on the scale a clip lies, fix that too. All three
# know the direction and none the place: what they like best is the corner, and there the policies go, past the cross. A
# high correlation over all places is not a correct maximum, and the maximum is where a policy ends up.

# %%
CELLS = 24
middle = (torch.arange(CELLS) + 0.5) * (2 / CELLS) - 1
cells = torch.cartesian_prod(middle, middle)  # (CELLS^2, 2)


@torch.no_grad()
def believed(run: ActiveRLHF) -> Tensor:
    """The learned reward of standing still in every cell, (CELLS^2,)."""
    return run.combine(run.reward(torch.cat([cells, torch.zeros(len(cells), 2)], 1)))


def draw_field(axes: Axes, value: Tensor, title: str) -> None:
    axes.imshow(value.view(CELLS, CELLS).T, origin="lower", extent=(-1, 1, -1, 1), cmap="viridis")
    axes.plot(*CROSS, marker="+", markersize=14, color="tab:red", markeredgewidth=2)
    axes.set(title=title, xticks=(-1, 0, 1), yticks=(-1, 0, 1))


truth = torch.from_numpy(liking(cells.numpy()))
figure, panels = plt.subplots(1, 4, figsize=(13, 3.5), layout="constrained")
draw_field(panels[0], truth, "what the teacher likes")
for axes, (name, run) in zip(panels[1:], runs.items(), strict=True):
    value = believed(run).double()
    r = torch.corrcoef(torch.stack([truth, value]))[0, 1].item()
    draw_field(axes, value, f"{name}, r = {r:.2f}")
    for labels in (run.labels, run.ratings):
        middles = run.source.column("obs")[labels.start.flatten() + CLIP // 2]
        axes.scatter(*middles.T, s=6, color="white", alpha=0.7)
    assert r > 0.5
plt.show()

# %% [markdown]
# ## What an answer would tell
#
# A draw from the network's posterior (a dropout mask) is one reward function. BALD is the mutual information of the answer
# and the draw: high where the draws disagree about the answer, and zero where they all expect the same, even a coin's toss.
# A clip compared with itself therefore tells nothing, although its answer cannot be foreseen.

# %%
run, rng = runs["both"], stream(0, "what an answer tells")
pool = run.source.pool(CLIP)
pairs = pool.pairs(2_000, rng)
clips = Query("rating", pairs.start[:, :1], CLIP)
itself = Query("pair", pairs.start[:, :1].expand(-1, 2), CLIP)
bits = {"pair": BALDQuery("pair").score(pairs, run.reward_model), "rating": BALDQuery("rating").score(clips, run.reward_model)}
nothing = bald(pair_probability(run.reward_model.posterior(itself, 20)[..., 0]))
assert nothing.abs().max() < 1e-6

steps = run.source.segments(pairs.start, CLIP)  # (2000, 2, CLIP, features): place and action
places = (steps[..., :2] + 0.15 * steps[..., 2:].clamp(-1, 1)).clamp(-1, 1)
returns = liking(places.numpy()).sum(-1)
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
left.scatter(np.abs(returns[:, 0] - returns[:, 1]), bits["pair"], s=4, alpha=0.5)
left.set(xlabel="difference of true returns", ylabel="information (bits)", title="which of the two?")
right.scatter(returns[:, 0], bits["rating"], s=4, alpha=0.5, color="tab:orange")
right.set(xlabel="true return", ylabel="information (bits)", title="how good is this one?")
plt.show()
for kind, found in bits.items():
    print(f"{kind}: mean {found.mean():.3f} bits, best {found.max():.3f}; a comparison tells at most 1, a rating log2(10) = 3.3")

# %% [markdown]
# ## The budget follows
#
# Left the answers so far, then the share of pairs and the share that is aimed at, then what a question of each kind told on
# average. Where the network expects every answer of a kind, its share falls, but never below a tenth. Every question
# counts, so the budget is spent exactly. `lightning-pbrl plot RUN --mix` draws the same for any run.

# %%
metrics = [read_metrics(FOLDER / "both")]
figure, places_for = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
for axes, make in zip(places_for, (labels_panel, share_panel, information_panel), strict=True):
    panel = make(metrics)
    assert panel is not None
    panel.draw(axes)
plt.show()

# %% [markdown]
# ## A rater with a bent scale
#
# To this rater a clip with a return below 1 is worthless: the scale begins there, and all lower clips are rated 0. The
# network does not ask ratings and preferences to share a scale; it learns how its returns become *this* rater's numbers (a
# R + b, and how far off that is). What is lost is what the rater does not say: which of two bad clips is worse.

# %%
strict = train("strict", BALDQuery("rating"), RatingTeacher(low=1.0, high=5.0))
figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained", sharey=True)
for axes, (name, run) in zip(panels, {"the whole scale": runs["ratings"], "strict": strict}.items(), strict=True):
    query = Query("rating", run.ratings.start, CLIP)
    expected = run.reward_model.decode(run.reward_model.posterior(query, 20))[0].mean(0).squeeze(1)
    axes.scatter(expected, run.ratings.value, s=14, alpha=0.6)
    axes.plot([0, 9], [0, 9], color="0.6", linewidth=1)
    axes.set(xlabel="rating expected by the network", title=f"{name}: {np.mean(run.ratings.value.numpy() == 0):.0%} rated 0")
panels[0].set_ylabel("rating given")
plt.show()

# %% [markdown]
# ## What next
#
# - `docs/methods/active_rlhf.md`, `docs/methods/unified_reward.md`: algorithm, every switch, and what the original code does.
# - `docs/queries.md`, `docs/teachers.md`: other scores, costs per kind, noise.
# - HalfCheetah, three ways to spend 300 questions: `lightning-pbrl run experiment/active_rlhf/small-cheetah.yaml --seeds 0-2`;
#   what came out is in `docs/results.md`.
# - Your own run: `lightning-pbrl plot RUNS --efficiency`, `--mix`, `--feedback` (`docs/feedback-plots.md`).
