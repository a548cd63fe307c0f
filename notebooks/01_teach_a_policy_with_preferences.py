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
# # Teach a policy with preferences
#
# A robot has logged episodes of very different quality, and nobody wrote a reward function. You will
#
# 1. collect such data with real Meta-World physics,
# 2. ask a teacher which of two short segments is better, in rounds, choosing the questions on which the model is unsure,
# 3. fit an ensemble of reward models to the answers and see how well it orders segments nobody was asked about,
# 4. write the learned reward into the data, learn a policy offline with IQL, and roll it out beside behaviour cloning.
#
# Install: `pip install -c constraints.txt -e ".[notebooks]"` in the project's folder, or `make install`.
#
# `SIZE = "tiny"` runs in half a minute and shows that everything is wired up; its policy is not good yet. `SIZE = "full"` has
# the demo's sizes and takes some minutes.

# %%
SIZE = "tiny"  # or "full"

# %%
import os
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import yaml

from lightning_pbrl import (
    BC,
    IQL,
    AskTeacher,
    DisagreementQuery,
    MetaWorldDataModule,
    RelabelRewards,
    RewardEnsemble,
    SimulatedTeacher,
    Trainer,
    load,
)
from lightning_pbrl.arguments import packaged_config
from lightning_pbrl.envs.behaviour import Behaviour
from lightning_pbrl.reports.metrics import read_metrics
from lightning_pbrl.rng import stream

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # small networks are fastest on one core
torch.set_num_threads(1)

tiny = SIZE == "tiny"
FOLDER = Path(f"runs/notebook_01_{SIZE}")
shutil.rmtree(FOLDER, ignore_errors=True)  # every execution starts anew; collected data are kept
UPDATES = 150 if tiny else 4_000
BUDGET, PER_ROUND = (60, 20) if tiny else (200, 40)

# %% [markdown]
# ## The data
#
# The demo's task is *plate-slide*: push a plate into a goal. Few of its episodes succeed; most reach for something else, miss the
# plate or wander. Copying such data fails, so it matters to be told what is good.

# %%
demo = yaml.safe_load(Path(packaged_config("data/demo.yaml")).read_text())["data"]["init_args"]
demo["mixture"] = [Behaviour(**behaviour) for behaviour in demo["mixture"]]
if tiny:
    demo |= {"episodes": 24, "eval_episodes": 3, "test_episodes": 5, "num_envs": 5, "held_out_pairs": 300}
data = MetaWorldDataModule(**demo)
data.prepare_data()  # collects on first use, reads afterwards
data.setup("fit")
print(f"{len(data.source):,} steps of {data.simulator.name}; sizes {data.spec}")

# %% [markdown]
# ## Ask, and learn a reward
#
# The teacher is simulated: it compares the true returns of two segments of 25 steps. The learner sees its answers only. After the
# first round, which is random, the questions are those on which the ensemble's members disagree most (OPRL,
# [2301.01392](https://arxiv.org/abs/2301.01392)). Every answer is in `labels.sqlite` before the model sees it. The `Trainer` is
# that of the command line: it keeps everything of a run in one folder.

# %%
reward = RewardEnsemble(data.spec, hidden=(128, 128, 128), epochs=10 if tiny else 50)
ask = AskTeacher(SimulatedTeacher(), DisagreementQuery(), budget=BUDGET, per_round=PER_ROUND)
Trainer(FOLDER / "reward", callbacks=ask).fit(reward, data)

# %% [markdown]
# How well does it order segments that nobody was asked about? Each dot is a segment; the true return serves this picture only.

# %%
query = data.source.pool(data.segment_length).pairs(200, stream(0, "picture"))
with torch.no_grad():
    predicted = reward.returns(query).mean(0).flatten()
true = data.source.true_returns(query).flatten()

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
left.scatter(true, predicted, s=8, alpha=0.5)
left.set_xlabel("true return of a segment (reward units)")
left.set_ylabel("predicted return (learned units)")
left.set_title(f"correlation {torch.corrcoef(torch.stack([true, predicted]))[0, 1]:.2f}")
accuracy = read_metrics(FOLDER / "reward")["pref/accuracy"]
right.plot(PER_ROUND * torch.arange(1, len(accuracy.value) + 1), accuracy.value, marker="o")
right.set_xlabel("answers of the teacher (count)")
right.set_ylabel("held-out pairs ordered correctly (fraction)")
right.set_ylim(0, 1)
plt.show()

# %% [markdown]
# ## Relabel, and learn a policy
#
# `RelabelRewards` writes the learned reward, scaled to [0, 1], into the data; IQL ([2110.06169](https://arxiv.org/abs/2110.06169))
# reads that column and nothing else about reward. Behaviour cloning reads no reward at all: the control.

# %%
short = {"updates": UPDATES, "eval_interval": UPDATES // 3, "lr": 1e-3}
policy = IQL(data.spec, **short, polyak=0.02, discount=0.97, temperature=10.0)
clone = BC(data.spec, **short)
results = {}
for name, method, callbacks in (("learned reward", policy, [RelabelRewards(reward)]), ("behaviour cloning", clone, [])):
    trainer = Trainer(FOLDER / name, callbacks=callbacks)
    trainer.fit(method, data)
    (results[name],) = trainer.test(method, data, verbose=False)  # episodes never seen while training

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
for name in results:
    curve = read_metrics(FOLDER / name)["eval/return_mean"]
    left.plot(curve.step, curve.value, marker="o", label=name)
left.set_xlabel("gradient updates (count)")
left.set_ylabel("return of an episode (reward units)")
left.legend()
right.bar(list(results), [row["test/success_rate"] for row in results.values()])
right.set_ylabel("test episodes solved (fraction)")
right.set_ylim(0, 1)
plt.show()

# %% [markdown]
# The policy acts without a Trainer, from its checkpoint too:

# %%
saved = load(FOLDER / "learned reward/checkpoints/last.ckpt")
obs = data.source.column("obs")[:2].numpy()
print(saved.predict(obs))
assert (saved.predict(obs) == policy.predict(obs)).all()

# %% [markdown]
# ## The same through two other doors
#
# As a script: the five lines under *In Python* of the README. As one command, with all controls and three seeds:
#
# ```bash
# lightning-pbrl run experiment/demo.yaml --seeds 0-2 --jobs 2
# ```
#
# ## What next
#
# - `docs/concepts.md`: what a step, an epoch and a budget are here.
# - `docs/teachers.md` and `docs/queries.md`: teachers that err, skip and say "equal"; other ways to choose questions.
# - `docs/extending.md`: a method, teacher, strategy or data set of your own in one file.
