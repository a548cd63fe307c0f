"""CLARIFY: whole runs (what is asked, learnt, resumed, never read) and its presets."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml
from clarify_toys import LENGTH, SkippableData, tiny
from toys import assert_same, make_trainer, read_csv

from lightning_pbrl.arguments import packaged_config
from lightning_pbrl.callbacks.ask_teacher import AskTeacher
from lightning_pbrl.data.feedback import Status
from lightning_pbrl.errors import UserError
from lightning_pbrl.methods.clarify import CLARIFY
from lightning_pbrl.methods.loading import load_method
from lightning_pbrl.queries.embedding import EmbeddingQuery
from lightning_pbrl.queries.uniform import UniformQuery
from lightning_pbrl.rng import stream
from lightning_pbrl.teachers.skip import SkipTeacher

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),  # a resumed run
    pytest.mark.filterwarnings("ignore:.*variance of predictions or target is close to zero"),
]


def fit(folder: Path, *around: pl.Callback, ckpt_path: Path | None = None, ask: dict[str, Any] | None = None, **settings: Any):
    method = tiny(**settings.pop("method", {}))
    query = {"query": EmbeddingQuery(), "budget": 60, "per_round": 20, **(ask or {})}
    callbacks = [AskTeacher(SkipTeacher(0.6), **query), *around]
    make_trainer(folder, callbacks, **settings).fit(method, SkippableData(), ckpt_path=ckpt_path)
    return method


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[CLARIFY, Path]:
    """A whole run in three rounds of 20 questions, once."""
    folder = tmp_path_factory.mktemp("clarify")
    return fit(folder), folder


# Whole runs ------------------------------------------------------------------------------------------------------------


def test_a_whole_run(trained: tuple[CLARIFY, Path]) -> None:
    method, folder = trained
    assert method.running.updates["encoder"] == 40 + 20 + 20
    assert method.asked[:3] == (60, 20, 0)
    status = method.labels.status
    assert 0.2 < (status == Status.SKIPPED).float().mean() < 0.8
    rows = read_csv(folder)
    counted = [row for row in rows if "query/candidates" in row]
    assert len(counted) == 2  # round 0 asks uniformly
    assert all(row["query/single_class"] == row["query/collapsed"] == 0 for row in counted)
    assert all(row["query/accepted"] + row["query/filled"] >= 20 for row in counted)
    assert all(0 <= row["query/embedding_auc"] <= 1 for row in counted)
    logged = {"train/encoder_loss", "train/decoder_loss", "train/ambiguity", "train/quadrilateral", "train/norm"}
    assert logged <= set().union(*rows)


def test_the_encoder_learns_what_the_teacher_cannot_compare(tmp_path: Path) -> None:
    """After 250 encoder steps, distances of the answered pairs tell clear from skipped far better than at the start."""
    ask = {"budget": 120, "per_round": 60}
    before = fit(tmp_path / "a", ask=ask, method={"n_init": 1, "amb_weight": 1.0})
    after = fit(tmp_path / "b", ask=ask, method={"n_init": 250, "amb_weight": 1.0})
    auc = [next(row["query/embedding_auc"] for row in read_csv(tmp_path / f) if "query/embedding_auc" in row) for f in "ab"]
    assert before.asked.total == after.asked.total == 120
    assert auc[1] > max(auc[0] + 0.05, 0.8)


def test_resume_asks_and_learns_the_same(trained: tuple[CLARIFY, Path], tmp_path: Path) -> None:
    straight, folder = trained
    fit(tmp_path, max_epochs=2)
    torch.rand(7)  # whatever the global generator has been used for
    resumed = fit(tmp_path, ckpt_path=tmp_path / "checkpoints" / "last.ckpt")
    assert torch.equal(straight.labels.start, resumed.labels.start)
    assert torch.equal(straight.labels.status, resumed.labels.status)
    assert_same(straight.state_dict(), resumed.state_dict())
    assert_same(straight.running.state_dict(), resumed.running.state_dict())
    assert read_csv(folder) == read_csv(tmp_path)


def test_the_encoder_never_reads_true_rewards(tmp_path: Path) -> None:
    class Poison(pl.Callback):
        def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: CLARIFY) -> None:  # type: ignore[override]
            pl_module.source.reward.fill_(float("nan"))  # after this round's questions were answered

    settings: dict[str, Any] = {"max_epochs": 1, "limit_val_batches": 0}
    plain, poisoned = fit(tmp_path / "a", **settings), fit(tmp_path / "b", Poison(), **settings)
    assert torch.isnan(poisoned.source.reward).all()
    assert_same(plain.state_dict(), poisoned.state_dict())


def test_a_reward_checkpoint_embeds_without_a_trainer(trained: tuple[CLARIFY, Path]) -> None:
    method, folder = trained
    loaded = load_method(folder / "checkpoints" / "last.ckpt")
    loaded.source = method.source
    query = method.source.pool(LENGTH).pairs(6, stream(0, "x"))
    assert isinstance(loaded, CLARIFY)
    torch.testing.assert_close(loaded.embed(query), method.embed(query))


def test_too_short_a_time_embedding_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"longest episode has 30 steps and the encoder embeds 29: set .* to at least 30"):
        fit(tmp_path, method={"max_episode_steps": 29})


# Presets ---------------------------------------------------------------------------------------------------------------


def preset(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    written = yaml.safe_load(Path(packaged_config(f"preset/clarify/{name}.yaml")).read_text())
    return written["model"]["init_args"], written.get("ask", {}).get("query", {}).get("init_args", {})


def defaults(cls: type) -> dict[str, Any]:
    return {name: p.default for name, p in inspect.signature(cls).parameters.items()}


def test_presets_are_named_switches() -> None:
    paper, reference, small, clear = preset("paper"), preset("reference"), preset("small"), preset("clear")
    for ours, cls in ((0, CLARIFY), (1, EmbeddingQuery)):
        known = defaults(cls)
        assert paper[ours] == {key: known[key] for key in paper[ours]}  # the default
        assert paper[ours].keys() == reference[ours].keys() and (small[ours] | clear[ours]).keys() <= known.keys()
    same = {key for key in reference[0] if reference[0][key] == paper[0][key]}
    assert same == {"squash"}
    method, released = tiny(**paper[0], n_init=5), tiny(**reference[0])
    assert method.hparams.readout == "full" and released.hparams.readout == "reference"
    EmbeddingQuery(**reference[1])


def test_reference_preset_runs(tmp_path: Path) -> None:
    model, query = preset("reference")
    method = fit(tmp_path, method={**model, "n_emb": 10}, ask={"query": EmbeddingQuery(**query)})
    assert method.asked.total <= 60 and method.running.updates["encoder"] == 60
    assert all(torch.isfinite(value).all() for value in method.state_dict().values())


def test_uniform_questions_need_no_embedding(tmp_path: Path) -> None:
    assert fit(tmp_path, ask={"query": UniformQuery()}, max_epochs=1).asked.total == 20
