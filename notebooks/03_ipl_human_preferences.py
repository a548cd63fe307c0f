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
# # What people want, and what the reward says
#
# Preference Transformer's authors ([2303.00957](https://arxiv.org/abs/2303.00957)) showed people a hundred pairs of hopper
# clips and asked which of the two is better. A script answered the same questions by comparing true returns. You will
#
# 1. count how often the two agree,
# 2. find out what each of them looks at,
# 3. see the pairs on which they disagree most,
# 4. teach one reward model by each, and let each predict the other,
# 5. learn a policy from the answers alone, with IPL ([2305.15363](https://arxiv.org/abs/2305.15363)).
#
# The answers are in IPL's repository (see `conf/data/preferences/hopper-medium-expert.yaml`). Set `PREFERENCES_ROOT` to the
# folder that holds `hopper-medium-expert-v2/`. **Without it the notebook makes itself a stand-in**, clips of random hoppers and
# an invented person who likes them high, so that everything runs; its figures then say nothing about people.

# %%
import os
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import mujoco
import numpy as np
import torch

from lightning_pbrl import IPL, PreferenceNPZDataModule, RewardEnsemble, Trainer
from lightning_pbrl.data.feedback import Query
from lightning_pbrl.envs.gym_mujoco import GymMuJoCo
from lightning_pbrl.methods.base import Method
from lightning_pbrl.reports.metrics import read_metrics

UPDATES = 100  # of IPL; 5,000 take two minutes

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # small networks are fastest on one core
torch.set_num_threads(1)
FOLDER = Path("runs/notebook_03")
shutil.rmtree(FOLDER, ignore_errors=True)  # every execution starts anew
HOPPER = GymMuJoCo("Hopper-v5", physics="d4rl")  # the bodies and rewards of D4RL, from which the clips come
hopper = GymMuJoCo("Hopper-v5", terminate_when_unhealthy=False, physics="d4rl").make().physics.env
HEIGHT, ANGLE, SPEED, RISING = 0, 1, 5, 6  # entries of the hopper's observation


# %%
def stand_in(folder: Path, pairs: int = 60, steps: int = 40) -> Path:
    """Clips of a hopper that is pushed at random; "script" prefers the faster one, "human" the one that stays higher."""
    rng = np.random.default_rng(0)
    obs, action = np.zeros((2, pairs, steps, 11)), np.zeros((2, pairs, steps, 3))
    for clip, pair in np.ndindex(2, pairs):
        obs[clip, pair, 0], _ = hopper.reset(seed=int(rng.integers(2**31)))
        push = rng.uniform(-1, 1, 3)
        for t in range(steps):
            action[clip, pair, t] = (push + rng.normal(0, 0.3, 3)).clip(-1, 1)
            if t + 1 < steps:
                obs[clip, pair, t + 1] = hopper.step(action[clip, pair, t])[0]
    folder.mkdir(parents=True, exist_ok=True)
    for who, entry in (("human", HEIGHT), ("script", SPEED)):
        first, second = obs[..., entry].mean(-1)
        arrays = {"obs_1": obs[0], "obs_2": obs[1], "action_1": action[0], "action_2": action[1]}
        np.savez(folder / f"num{pairs}_{who}_train.npz", **arrays, label=(second > first).astype(float))
    return folder


given = os.environ.get("PREFERENCES_ROOT")
path = Path(given) / "hopper-medium-expert-v2" if given else stand_in(FOLDER / "stand-in")
print("Answers of people." if given else "PREFERENCES_ROOT is not set: an INVENTED person answers.")


def answers_of(who: str) -> PreferenceNPZDataModule:
    """The clips with the answers of one of the two; a fifth of the answers is held out."""
    data = PreferenceNPZDataModule(str(path), HOPPER, answered_by=who, fold=0, eval_episodes=3, num_envs=3)
    data.setup("fit")
    return data


people, script = answers_of("human"), answers_of("script")

# %% [markdown]
# ## Do they agree?
#
# A label is P(second preferred): 0, 1, or 0.5 when the person could not decide.


# %%
def everything(data: PreferenceNPZDataModule) -> tuple[torch.Tensor, torch.Tensor]:
    """All questions in the order of the file, (N, 2), and their labels, (N,); training part and held-out part together."""
    labels = data.labels.then(data.held_out_labels)
    order = labels.start[:, 0].argsort()
    return labels.start[order], labels.value[order]


start, human = everything(people)
_, scripted = everything(script)
decided = (human != 0.5) & (scripted != 0.5)
same = human == scripted
agreement = same[decided].float().mean()
print(
    f"{len(human)} pairs, {int((human == 0.5).sum())} undecided. Both decided {int(decided.sum())} and agree on {agreement:.0%}."
)

counts = np.array([[int(((human == h) & (scripted == s)).sum()) for s in (0, 1)] for h in (0, 0.5, 1)])
figure, axes = plt.subplots(figsize=(3.6, 3.4), layout="constrained")
axes.imshow(counts, cmap="Blues")
for (row, column), count in np.ndenumerate(counts):
    axes.text(column, row, count, ha="center", va="center", fontsize=14)
axes.set(xticks=[0, 1], xticklabels=["first", "second"], yticks=[0, 1, 2], yticklabels=["first", "undecided", "second"])
axes.set(xlabel="larger true return", ylabel="preferred by the person")
plt.show()

# %% [markdown]
# ## What does each of them look at?
#
# For some simple features of a clip: how often does the preferred clip have *more* of it? One half means that it does not
# matter. Bars are 95 % intervals (normal approximation).

# %%
clips = people.source.clips(Query("pair", start, people.segment_length))
obs, action = clips.obs.numpy(), clips.action.numpy()  # (N, 2, T, 11), (N, 2, T, 3)
FEATURES = {
    "forward speed": obs[..., SPEED].mean(-1),
    "mean height": obs[..., HEIGHT].mean(-1),
    "height range": np.ptp(obs[..., HEIGHT], axis=-1),
    "lean |angle|": np.abs(obs[..., ANGLE]).mean(-1),
    "turns of vertical speed": (np.diff(np.sign(obs[..., RISING]), axis=-1) != 0).sum(-1),
    "effort": np.square(action).sum(-1).mean(-1),
}
figure, axes = plt.subplots(figsize=(7, 3.4), layout="constrained")
for shift, (who, label) in zip((-0.15, 0.15), (("people", human), ("script", scripted)), strict=True):
    chosen = label != 0.5
    more = [((value[chosen, 1] > value[chosen, 0]) == (label[chosen] == 1).numpy()) for value in FEATURES.values()]
    share = np.array([m.mean() for m in more])
    error = 1.96 * np.sqrt(share * (1 - share) / int(chosen.sum()))
    axes.errorbar(share, np.arange(len(share)) + shift, xerr=error, fmt="o", label=who, capsize=3)
axes.axvline(0.5, color="0.6", lw=1)
axes.set(yticks=range(len(FEATURES)), yticklabels=list(FEATURES), xlim=(0, 1))
axes.set_xlabel("decided pairs in which the preferred clip has more of it (fraction)")
axes.legend()
plt.show()

# %% [markdown]
# With the published answers the script is a speedometer, and people are not: they prefer a hopper that stays high and takes
# few long hops, and pay no attention to how fast it gets along.
#
# ## Where do they disagree?

# %%
faster = FEATURES["forward speed"][:, 1] - FEATURES["forward speed"][:, 0]
higher = FEATURES["mean height"][:, 1] - FEATURES["mean height"][:, 0]
figure, axes = plt.subplots(figsize=(5.4, 4), layout="constrained")
for value, name, colour in ((0.0, "first", "tab:blue"), (0.5, "undecided", "0.7"), (1.0, "second", "tab:red")):
    axes.scatter(faster[human == value], higher[human == value], s=18, color=colour, label=f"person prefers: {name}")
axes.axvline(0, color="0.6", lw=1)
axes.axhline(0, color="0.6", lw=1)
axes.set(xlabel="second is faster by (m/s); the script's answer is its sign", ylabel="second is higher by (m)")
axes.legend(fontsize=8)
plt.show()


# %%
def draw_hopper(axes: plt.Axes, row: np.ndarray, x: float, colour: str, alpha: float) -> None:
    """The hopper's four limbs, from an observation (its x position is not observed)."""
    hopper.data.qpos[:] = [x, *row[:5]]
    mujoco.mj_kinematics(hopper.model, hopper.data)
    for geom in range(1, hopper.model.ngeom):
        centre, half_length = hopper.data.geom_xpos[geom], hopper.model.geom_size[geom, 1]
        along = half_length * hopper.data.geom_xmat[geom].reshape(3, 3)[:, 2]
        ends = np.stack([centre - along, centre + along])
        axes.plot(ends[:, 0], ends[:, 2], color=colour, alpha=alpha, lw=3, solid_capstyle="round")


disagree = np.flatnonzero((decided & ~same).numpy())
worst = disagree[np.argsort(-np.abs(faster[disagree]))[:3]]  # the fastest that people did not want
size = {"figsize": (11, 2.2 * len(worst)), "sharex": True, "sharey": True, "squeeze": False}
figure, grid = plt.subplots(len(worst), 2, **size, layout="constrained")
for axes_row, pair in zip(grid, worst, strict=True):
    for clip, axes in enumerate(axes_row):
        x = np.cumsum(obs[pair, clip, :, SPEED]) * hopper.dt
        colour = "tab:green" if human[pair] == clip else "tab:gray"
        for t in range(0, len(x), max(len(x) // 12, 1)):
            draw_hopper(axes, obs[pair, clip, t], x[t], colour, alpha=0.35 + 0.6 * t / len(x))
        marks = ["preferred by the person"] * bool(human[pair] == clip) + ["larger return"] * bool(scripted[pair] == clip)
        axes.set_title(f"pair {pair}, {'second' if clip else 'first'}: {', '.join(marks)}", fontsize=9)
        axes.set(aspect="equal", ylabel="height (m)" if clip == 0 else None)
grid[-1, 0].set_xlabel("way (m)")
plt.show()

# %% [markdown]
# ## Teach a reward model by each
#
# The same networks, the same pairs, other answers; judged on held-out answers of both. With a fifth of a hundred pairs held
# out, one fold tells little: `sweep/human-labels.yaml` runs all five, for three models (figures in `docs/results.md`).


# %%
def fitted(name: str, method: Method, data: PreferenceNPZDataModule) -> Method:
    """The method after it has learned from the answers of ``data``."""
    Trainer(FOLDER / name).fit(method, data)
    return method


settings = {"hidden": (64, 64), "batch_size": 32, "epochs": 50}
models = {"people": fitted("people", RewardEnsemble(people.spec, **settings), people)}
models["script"] = fitted("script", RewardEnsemble(script.spec, **settings), script)
print("held-out answers foretold")
for taught_by, model in models.items():
    for asked, data in (("people", people), ("script", script)):
        labels = data.held_out_labels
        decisive = labels.value != 0.5
        returns = model.returns(Query("pair", labels.start, labels.length)).mean(0)
        right = ((returns[:, 1] > returns[:, 0]) == (labels.value == 1))[decisive]
        print(f"  taught by {taught_by}, asked about {asked}: {right.float().mean():.0%} of {int(decisive.sum())}")

# %% [markdown]
# ## A policy from answers alone
#
# IPL needs no reward model: its critic *is* one. It sees nothing but the compared clips here. Below is how things are wired
# up; a policy that can be judged takes more updates, and several seeds: `lightning-pbrl sweep sweep/human-policies.yaml`.

# %%
fitted("ipl", IPL(people.spec, updates=UPDATES, eval_interval=UPDATES // 2, batch_size=8, window=16, hidden=(64, 64)), people)
metrics = read_metrics(FOLDER / "ipl")
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
left.plot(metrics["train/accuracy"].step, metrics["train/accuracy"].value)
left.set(xlabel="updates (count)", ylabel="training pairs ordered correctly (fraction)")
right.plot(metrics["eval/normalized_score"].step, metrics["eval/normalized_score"].value, marker="o")
right.set(xlabel="updates (count)", ylabel="normalised score (100 = expert)")
plt.show()

# %% [markdown]
# ## What next
#
# - `docs/results.md`: five-fold accuracies and scores of policies, with controls and spread.
# - `docs/methods/ipl.md`: the method; `experiment/ipl/gym.yaml --task hopper-medium-expert` adds the D4RL data set as replay.
# - Your own pairs: `write_preference_npz` writes this format.
