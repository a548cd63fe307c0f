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
# # Questions that can be answered
#
# People who compare two clips often say "I can't tell". Such an answer costs as much as any other and teaches no reward.
# CLARIFY ([2506.00388](https://arxiv.org/abs/2506.00388)) learns an embedding of segments in which those that a teacher can
# compare lie far apart, and asks accordingly. You will
#
# 1. see which pairs a teacher skips,
# 2. ask the same number of questions in three ways and count how many were answered,
# 3. look at the embedding, and at how well its distances tell clear from ambiguous pairs,
# 4. meet the trap that makes the method ask like its rival.
#
# `SIZE = "tiny"` runs in half a minute and shows how things are wired up; its figures mean little. `SIZE = "full"` takes some ten
# minutes. Measured figures, with seeds and spread, are in `docs/results.md`.

# %%
SIZE = "tiny"  # or "full"

# %%
import os
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from lightning_pbrl import (
    CLARIFY,
    AskTeacher,
    DisagreementQuery,
    EmbeddingQuery,
    MetaWorldDataModule,
    RewardEnsemble,
    SkipTeacher,
    Trainer,
    UniformQuery,
)
from lightning_pbrl.data.feedback import Status
from lightning_pbrl.reports.embedding import EmbeddedPairs, draw_distances, draw_map, project
from lightning_pbrl.reports.metrics import over, read_metrics
from lightning_pbrl.rng import question_keys, stream
from lightning_pbrl.teachers.base import RoundStats

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # small networks are fastest on one core
torch.set_num_threads(1)

tiny = SIZE == "tiny"
FOLDER = Path(f"runs/notebook_02_{SIZE}")
shutil.rmtree(FOLDER, ignore_errors=True)  # every execution starts anew; collected data are kept
BUDGET, PER_ROUND = (60, 20) if tiny else (500, 50)
ENCODER = {"width": 32, "n_init": 60, "n_emb": 20} if tiny else {"width": 64, "n_init": 1_000, "n_emb": 50}

# %% [markdown]
# ## Which pairs can be compared?
#
# Episodes of *button-press-topdown* of all qualities, collected with scripted behaviour. The teacher is simulated: it tells two
# segments apart when their true returns differ by more than half of the mean return.

# %%
data = MetaWorldDataModule(
    "button-press-topdown", horizon=150 if tiny else 500, episodes=24 if tiny else 200, segment_length=25, held_out_pairs=300
)
data.prepare_data()  # collects on first use, reads afterwards
data.setup("fit")
teacher = SkipTeacher(eps=0.5)
teacher.start_round(RoundStats(0, float(data.source.reward.double().mean())))

query = data.source.pool(data.segment_length).pairs(500, stream(0, "picture"))
status = teacher.answer(query, data.source.clips(query), question_keys(0, 0, len(query))).status
returns = data.source.true_returns(query)
clear = status == Status.ANSWERED

figure, axes = plt.subplots(figsize=(4.6, 4.2), layout="constrained")
for chosen, label in ((clear, "clear"), (~clear, "skipped")):
    axes.scatter(*returns[chosen].T, s=8, alpha=0.6, label=f"{label} ({chosen.float().mean():.0%})")
axes.set(xlabel="true return of the first segment", ylabel="true return of the second segment")
axes.legend()
plt.show()

# %% [markdown]
# ## Three ways to ask
#
# The first round is random in all three. Then: random pairs (MR), the pairs on which the reward ensemble disagrees most (OPRL),
# and pairs that the embedding puts where clear answers were frequent (CLARIFY). Disagreement is largest between segments of
# similar return, which is just what a teacher cannot compare. CLARIFY asks here with *exact* rejection sampling from twice the
# candidates: with the released code's clipped one many pairs are kept and disagreement, which has the last word, brings the
# ambiguous ones back (`docs/results.md` takes this apart).


# %%
def asked(name: str, method: RewardEnsemble, strategy: object) -> RewardEnsemble:
    """The method after it has asked all its questions; everything of the run is in one folder."""
    ask = AskTeacher(SkipTeacher(eps=0.5), strategy, budget=BUDGET, per_round=PER_ROUND)
    Trainer(FOLDER / name, callbacks=ask).fit(method, data)
    return method


members = {"hidden": (128, 128, 128), "epochs": 10 if tiny else 50}
encoder = {"layers": 1, "heads": 2, "encoder_batch_size": 16 if tiny else 32, "encoder_lr": 1e-3, "warmup": 50 if tiny else 300}
asked("uniform", RewardEnsemble(data.spec, **members), UniformQuery())
asked("disagreement", RewardEnsemble(data.spec, **members), DisagreementQuery())
settings = {**members, **encoder, **ENCODER, "max_episode_steps": 500}
exact = {"rejection": "exact", "large_batch": 20}
clarify = asked("embedding", CLARIFY(data.spec, **settings, start_times="zero"), EmbeddingQuery(**exact))

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
for name in ("uniform", "disagreement", "embedding"):
    metrics = read_metrics(FOLDER / name)
    for axes, metric in ((left, "teacher/clear_ratio"), (right, "pref/accuracy")):
        curve = over(metrics, metric)
        axes.plot(curve.step, curve.value, marker="o", label=name)
left.set(xlabel="questions asked (count)", ylabel="clear answers of the round (fraction)", ylim=(0, 1))
right.set(xlabel="questions asked (count)", ylabel="held-out pairs ordered correctly (fraction)", ylim=(0, 1))
left.legend()
plt.show()

# %% [markdown]
# ## The embedding
#
# Every point is a segment, coloured by its true return; lines join the two segments of a pair. In a good embedding red lines are
# short and blue ones long. The AUC is the probability that a clear pair's distance exceeds an ambiguous one's, here on pairs that
# the encoder was never trained on; 0.5 is chance.


# %%
def pairs(method: CLARIFY) -> EmbeddedPairs:
    """The 500 pairs from above in the embedding of ``method``."""
    return EmbeddedPairs(method.embed(query).numpy(), returns.numpy(), status.numpy())


found = pairs(clarify)
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
draw_map(left, found, project(found))
draw_distances(right, found)
plt.show()

# %% [markdown]
# ## A trap: start times are keys
#
# The encoder is told when a segment begins in its episode. With the true start times (the default here) a start time is nearly
# a name of the segment: the encoder can learn the answers by heart. Then its distances separate the answered pairs perfectly
# and tell little about others; rejection sampling finds next to no candidate at the distances it wants; and the round is
# filled up by disagreement. `query/accepted` and `query/filled` show it. Above, `start_times="zero"` embedded every segment as
# if it began at step 0.

# %%
by_heart = asked("true start times", CLARIFY(data.spec, **settings, start_times="true"), EmbeddingQuery(**exact))
for name, method in (("start_times zero", clarify), ("start_times true", by_heart)):
    folder = FOLDER / ("embedding" if method is clarify else "true start times")
    metrics = read_metrics(folder)
    counts = ", ".join(f"{key} {metrics[f'query/{key}'].value.mean():.0f}" for key in ("candidates", "accepted", "filled"))
    answered = metrics["query/embedding_auc"].value[-1]
    print(f"{name}: AUC {answered:.2f} on its own answers, {pairs(method).auc:.2f} on others; per round: {counts}")

# %% [markdown]
# ## What next
#
# - `docs/methods/clarify.md`: objective, presets, every switch, what was measured.
# - Every CLARIFY run leaves these pictures in its folder; `lightning-pbrl plot RUN --embedding` draws them again.
# - The comparison at a size that means something:
#   `lightning-pbrl run experiment/clarify/clear-ratio.yaml --task dial-turn --seeds 0-2 --jobs 2`.
