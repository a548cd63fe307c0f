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
# # Asking about what the policy does now
#
# Online, the policy and its reward model grow up together: the agent acts, a teacher compares clips of what it did, the
# reward model is fitted, the replay is relabelled, and the policy moves on. Its old clips then show states that it does not
# visit any more. QPA ([2305.17400](https://arxiv.org/abs/2305.17400)) asks about the newest trajectories instead. You will
#
# 1. teach a half-cheetah to run with a hundred answers or fewer, by PEBBLE and by QPA,
# 2. see where each of them asked, and where its policy went meanwhile,
# 3. compare how right their rewards are where the policy is, and everywhere.
#
# `SIZE = "tiny"` runs in half a minute and shows how things are wired up; its figures mean nothing. `SIZE = "small"` takes
# some twenty minutes. The published sizes are in `experiment/qpa.yaml`; what we measured is in `docs/results.md`.

# %%
SIZE = "tiny"  # or "small"

# %%
import os
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from lightning_pbrl import PEBBLE, QPA, AskTeacher, OnlineDataModule, PolicyAlignedQuery, SimulatedTeacher, Trainer, make
from lightning_pbrl.callbacks.query_coverage import QueryCoverage
from lightning_pbrl.queries.base import QueryStrategy
from lightning_pbrl.reports.coverage import FILE, draw_coverage, read_coverage, spread
from lightning_pbrl.reports.metrics import over, read_metrics

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # small networks are fastest on one core
torch.set_num_threads(1)

tiny = SIZE == "tiny"
FOLDER = Path(f"runs/notebook_04_{SIZE}")
shutil.rmtree(FOLDER, ignore_errors=True)  # every execution starts anew
HORIZON, LENGTH = (50, 10) if tiny else (500, 50)
BUDGET, PER_ROUND = (20, 5) if tiny else (100, 10)
STEPS = (
    {"env_steps": 700, "seed_steps": 100, "explore_steps": 100, "round_steps": 125}
    if tiny
    else {"env_steps": 80_000, "seed_steps": 1_000, "explore_steps": 4_000, "round_steps": 5_000}
)

# %% [markdown]
# ## Two methods, one loop
#
# `OnlineDataModule` holds the simulator and the replay; `AskTeacher` asks at the start of a round; the method fits its reward
# model, relabels *every* stored row, and alternates env steps with updates of soft actor-critic. QPA is PEBBLE with three
# changes: questions about the newest trajectories, minibatches that favour them, and random crops of labelled clips. The
# teacher compares true returns; no learner sees them.


# %%
def train(name: str, method: type[PEBBLE], strategy: QueryStrategy, **settings: object) -> None:
    """One run; everything of it is in one folder."""
    data = OnlineDataModule(make("HalfCheetah-v5", horizon=HORIZON), segment_length=LENGTH, eval_episodes=2 if tiny else 10)
    ask = AskTeacher(SimulatedTeacher(), strategy, budget=BUDGET, per_round=PER_ROUND)
    Trainer(FOLDER / name, callbacks=[ask, QueryCoverage(episodes=5)]).fit(method(data.spec, **settings, **sizes), data)


sizes = {**STEPS, "hidden": (64, 64) if tiny else (256, 256), "batch_size": 64 if tiny else 256, "lr": 1e-3}
members = {"hidden": (64, 64) if tiny else (256, 256, 256), "epochs": 10 if tiny else 200}
crops = {"crop": [LENGTH * 7 // 10, LENGTH * 9 // 10], "crop_copies": 5 if tiny else 20}

# %%
train("PEBBLE", PEBBLE, PolicyAlignedQuery(recent=100), reward_model=members)
train("QPA", QPA, PolicyAlignedQuery(recent=5), recent=5, reward_model={**members, **crops})

# %% [markdown]
# ## Where did they ask?
#
# One panel per round: grey is all that is stored, blue where the policy's newest episodes went, red what the teacher was
# shown; all in the plane of the first two principal components. The *distance ratio* is 1 when the questions lie as near to
# the policy's states as these lie to each other, and larger when they lie elsewhere. Every online run leaves this picture in
# its folder.

# %%
for name in ("PEBBLE", "QPA"):
    rounds = spread(read_coverage(FOLDER / name / FILE))
    size = {"figsize": (3.6 * len(rounds), 3.2), "sharex": True, "sharey": True}
    figure, panels = plt.subplots(1, len(rounds), **size, layout="constrained")
    draw_coverage(panels, rounds)
    figure.suptitle(name)
    plt.show()

# %% [markdown]
# ## What did it bring?
#
# A learned reward can order most of what was collected correctly and still be wrong about what the policy does now: compare
# `accuracy_recent` with `accuracy_all`. The return is the true one, of evaluation episodes.

# %%
SHOWN = {
    "eval/return_mean": "true return",
    "pref/accuracy_recent": "pairs ordered correctly, newest episodes (fraction)",
    "pref/accuracy_all": "pairs ordered correctly, all episodes (fraction)",
}
figure, panels = plt.subplots(1, len(SHOWN), figsize=(13, 3.6), layout="constrained")
for name in ("PEBBLE", "QPA"):
    metrics = read_metrics(FOLDER / name)
    for axes, (metric, label) in zip(panels, SHOWN.items(), strict=True):
        curve = over(metrics, metric, "env_steps")
        axes.plot(curve.step, curve.value, marker="o", label=name)
        axes.set(xlabel="env steps (count)", ylabel=label)
panels[0].legend()
plt.show()

# %% [markdown]
# ## What next
#
# - `docs/methods/qpa.md`, `docs/methods/pebble.md`: algorithm, every switch, presets.
# - `docs/online.md`: what is counted, what can be asked about, how a killed run goes on bit for bit.
# - The published sizes: `lightning-pbrl run experiment/qpa.yaml --task walker-walk --seeds 1-5`.
# - The same picture for any strategy: `lightning-pbrl plot RUNS --coverage`.
