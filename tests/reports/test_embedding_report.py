"""Pictures of embeddings: the numbers behind them, what is drawn, and what is kept on disk."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure
from run_folders import damaged_archives, write_policy_run, write_version

from lightning_pbrl.cli import main
from lightning_pbrl.errors import UserError
from lightning_pbrl.reports.embedding import (
    LINES,
    EmbeddedPairs,
    embedding_pictures,
    pca,
    plot_embeddings,
    project,
    read_embedding,
)
from lightning_pbrl.reports.metrics import read_metrics
from lightning_pbrl.reports.plot import learning_curve
from lightning_pbrl.reports.tables import summary


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure that is saved, in order."""
    seen: list[Figure] = []
    save = Figure.savefig

    def spy(self: Figure, *args: Any, **kwargs: Any) -> None:
        seen.append(self)
        save(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", spy)
    return seen


def some_pairs(count: int = 12, size: int = 4, **changes: Any) -> EmbeddedPairs:
    """Random embeddings with all statuses but pending, in turn: clear, equal, ambiguous."""
    rng = np.random.default_rng(0)
    z, returns = rng.normal(size=(count, 2, size)).astype(np.float32), rng.normal(size=(count, 2))
    return EmbeddedPairs(**{"z": z, "returns": returns, "status": np.arange(count) % 3 + 1, **changes})


# Numbers -----------------------------------------------------------------------------------------------------------------


def test_pca_by_hand() -> None:
    """Four points at (±2, 0) and (0, ±1), moved: variances 8 and 2 of 10, along the axes."""
    x = np.array([[2.0, 0], [-2, 0], [0, 1], [0, -1]]) + 7
    point, share = pca(x)
    np.testing.assert_allclose(point, x - 7, atol=1e-12)
    np.testing.assert_allclose(share, [0.8, 0.2])
    turned, _ = pca(x @ np.array([[0.6, 0.8], [-0.8, 0.6]]))
    np.testing.assert_allclose(np.abs(turned), np.abs(x - 7), atol=1e-12)  # a rotation changes the signs at most


def test_pca_against_the_covariance() -> None:
    x = np.random.default_rng(1).normal(size=(50, 6)) * [5, 1, 3, 1, 1, 2] + 4
    point, share = pca(x)
    values, vectors = np.linalg.eigh(np.cov(x.T, ddof=0))
    np.testing.assert_allclose(point.var(0), values[:-3:-1])
    np.testing.assert_allclose(share, values[:-3:-1] / values.sum())
    for k in (0, 1):
        direction = vectors[:, -1 - k]
        direction = direction * np.sign(direction[np.abs(direction).argmax()])  # its largest entry is positive
        np.testing.assert_allclose(point[:, k], (x - x.mean(0)) @ direction, atol=1e-9)
    np.testing.assert_allclose(pca(-x)[0], -point, atol=1e-9)  # the directions are those of the data, whatever SVD returns


def test_pca_without_a_second_direction() -> None:
    point, share = pca(np.array([[1.0], [3.0]]))
    np.testing.assert_allclose(point, [[-1, 0], [1, 0]])
    np.testing.assert_allclose(share, [1, 0])
    point, share = pca(np.ones((3, 5)))
    assert not point.any() and share.tolist() == [0, 0]


def test_auc_against_a_loop() -> None:
    pairs = some_pairs(60)
    distance = [math.dist(a, b) for a, b in pairs.z.astype(float)]
    clear = [d for d, s in zip(distance, pairs.status, strict=True) if s == 1]
    ambiguous = [d for d, s in zip(distance, pairs.status, strict=True) if s == 3]
    wins = sum((c > a) + 0.5 * (c == a) for c in clear for a in ambiguous)
    assert len(clear) == len(ambiguous) == 20  # 20 equal ones are neither
    assert pairs.auc == pytest.approx(wins / 400)
    np.testing.assert_allclose(pairs.distance, distance)


def test_auc_that_cannot_be_told() -> None:
    assert math.isnan(some_pairs(status=np.ones(12, int)).auc)
    broken = some_pairs()
    broken.z[0, 0, 0] = np.nan
    assert math.isnan(broken.auc)
    with pytest.raises(UserError, match="not finite, so they cannot be drawn: the encoder has diverged"):
        project(broken)


def test_projection_names_its_axes() -> None:
    z = np.array([[[2.0, 0], [-2, 0]], [[0, 1], [0, -1]]])
    plane = project(some_pairs(2, z=z))
    assert plane.point.shape == (2, 2, 2)
    np.testing.assert_allclose(plane.point, z, atol=1e-12)
    assert plane.axes == (
        "first principal component (80.0 % of the variance)",
        "second principal component (20.0 % of the variance)",
    )


def test_tsne_is_scikit_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    class TSNE:
        def __init__(self, components: int, **settings: Any) -> None:
            asked.update(components=components, **settings)

        def fit_transform(self, x: np.ndarray) -> np.ndarray:
            return np.float32(x[:, :2] + 1)

    monkeypatch.setitem(sys.modules, "sklearn", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "sklearn.manifold", SimpleNamespace(TSNE=TSNE))
    pairs = some_pairs(20)
    plane = project(pairs, "tsne")
    np.testing.assert_allclose(plane.point, pairs.z[..., :2] + 1)
    assert plane.axes == ("t-SNE, first axis", "t-SNE, second axis")
    assert asked["components"] == 2 and asked["perplexity"] == 13 and asked["random_state"] == 0  # (40 - 1) / 3
    np.testing.assert_allclose(
        asked["init"] / asked["init"].std() * pca(pairs.z.reshape(40, 4))[0].std(), pca(pairs.z.reshape(40, 4))[0]
    )


def test_tsne_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    with pytest.raises(UserError, match="scikit-learn is not installed: run `pip install scikit-learn`, or use pca"):
        project(some_pairs(), "tsne")


# Pictures ----------------------------------------------------------------------------------------------------------------


def test_what_the_pictures_show(tmp_path: Path, figures: list[Figure]) -> None:
    pairs = some_pairs(30)
    embedding_pictures(tmp_path, pairs, title="clarify/seed0")
    assert {file.name for file in tmp_path.iterdir()} == {"embedding.npz", "embedding_map.png", "embedding_distance.png"}
    assert (tmp_path / "embedding_map.png").read_bytes().startswith(b"\x89PNG")
    maps, histograms = figures
    axes, bar = maps.axes
    plane = project(pairs)
    (dots,) = (part for part in axes.collections if isinstance(part, PathCollection))
    np.testing.assert_allclose(dots.get_offsets(), plane.point.reshape(-1, 2))
    np.testing.assert_allclose(dots.get_array(), pairs.returns.reshape(-1))
    clear, ambiguous = (part for part in axes.collections if isinstance(part, LineCollection))
    np.testing.assert_allclose(clear.get_segments(), plane.point[pairs.status == 1])
    np.testing.assert_allclose(ambiguous.get_segments(), plane.point[pairs.status == 3])
    assert not np.array_equal(clear.get_color(), ambiguous.get_color())
    assert (axes.get_xlabel(), axes.get_ylabel()) == plane.axes
    assert bar.get_ylabel() == "true return (environment reward) of a segment"
    (axes,) = histograms.axes
    for bars, status in zip(axes.containers, (1, 3), strict=True):
        low, high = bars[0].get_x(), bars[-1].get_x() + bars[-1].get_width()
        values = pairs.distance[pairs.status == status]
        assert low - 1e-9 <= values.min() and values.max() <= high + 1e-9
        assert sum(part.get_height() * part.get_width() for part in bars) == pytest.approx(1.0)
    assert axes.get_title() == f"AUC {pairs.auc:.3f} (held-out pairs)"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["clear (n = 10)", "ambiguous (n = 10)"]


def test_many_pairs_and_one_kind(tmp_path: Path, figures: list[Figure]) -> None:
    count = LINES + 5
    pairs = some_pairs(count, status=np.ones(count, int), true_returns=False, held_out=False)
    embedding_pictures(tmp_path, pairs)
    axes, bar = figures[0].axes
    clear, ambiguous = (part for part in axes.collections if isinstance(part, LineCollection))
    assert len(clear.get_segments()) == LINES and len(ambiguous.get_segments()) == 0
    assert clear.get_label() == f"clear pairs (n = {count}, {LINES} shown)"
    assert bar.get_ylabel() == "predicted return of a segment"
    assert figures[1].axes[0].get_title() == "AUC - (answered pairs)"


def test_a_collapsed_embedding_is_drawn(tmp_path: Path, figures: list[Figure]) -> None:
    embedding_pictures(tmp_path, some_pairs(z=np.ones((12, 2, 3))))
    assert figures[1].axes[0].get_title() == "AUC 0.500 (held-out pairs)"


def test_kept_and_redrawn(tmp_path: Path, figures: list[Figure], capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (0, 1):
        run = write_policy_run(tmp_path / "exp" / "clarify" / f"seed{seed}", [0.5])
        pairs = some_pairs(12 + seed, held_out=seed == 0)
        embedding_pictures(run, pairs)
        kept, plane = read_embedding(run / "embedding.npz")
        for name, value in pairs._asdict().items():
            np.testing.assert_array_equal(getattr(kept, name), value)
        np.testing.assert_array_equal(plane.point, project(pairs).point)
        assert plane.axes == project(pairs).axes
        assert float(np.load(run / "embedding.npz")["auc"]) == pairs.auc
    write_policy_run(tmp_path / "exp" / "oprl" / "seed0", [0.5])  # has no encoder
    main(["plot", str(tmp_path / "exp"), "--embedding", f"--out={tmp_path}/both.pdf"])
    assert "both.pdf" in capsys.readouterr().out and (tmp_path / "both.pdf").read_bytes().startswith(b"%PDF")
    panels = [axes for axes in figures[-1].axes if axes.get_title()]
    assert [axes.get_title() for axes in panels] == [
        "clarify/seed0",
        f"AUC {some_pairs(12).auc:.3f} (held-out pairs)",
        "clarify/seed1",
        f"AUC {some_pairs(13).auc:.3f} (answered pairs)",
    ]
    rows = [round(axes.get_position().y0, 2) for axes in panels]
    assert rows[0] == rows[1] > rows[2] == rows[3]  # one row per run


def test_nothing_to_redraw(tmp_path: Path) -> None:
    run = write_policy_run(tmp_path / "run", [0.5])
    with pytest.raises(UserError, match=r"None of these runs has an embedding.npz: methods with an encoder \(CLARIFY\) write"):
        plot_embeddings(run, tmp_path / "plot.png")
    embedding_pictures(run, some_pairs())
    whole = (run / "embedding.npz").read_bytes()
    for damaged in (b"", b"no archive", whole[:300], *damaged_archives(run / "embedding.npz")):
        (run / "embedding.npz").write_bytes(damaged)
        with pytest.raises(UserError, match=r"embedding.npz is damaged \(.*\): test the run again to rewrite it"):
            plot_embeddings(run, tmp_path / "plot.png")
    np.savez(
        run / "embedding.npz",
        z=np.zeros((3, 2, 4)),
        returns=np.zeros((2, 2)),
        status=np.zeros(3),
        axes=["a", "b"],
        point=np.zeros((3, 2, 2)),
        true_returns=True,
        held_out=True,
    )
    with pytest.raises(UserError, match="sizes do not fit"):
        read_embedding(run / "embedding.npz")


# Curves ------------------------------------------------------------------------------------------------------------------


def test_auc_against_labels(tmp_path: Path, figures: list[Figure]) -> None:
    """A curve ends with the last validation, not with the test after it, which measures other pairs; a table has the test."""
    run, rows = tmp_path / "clarify" / "seed0", []
    for k in (1, 2):
        rows.append({"step": 50.0 * k, "labels": 20.0 * k, "train/members_loss": 1.0})
        rows.append({"step": 50.0 * k, "embedding/auc": 0.3 * k, "pref/accuracy": 0.4 * k})
    write_version(run, 0, [*rows, {"step": 100.0, "embedding/auc": 0.1, "pref/accuracy": 0.2}])
    assert learning_curve(read_metrics(run), tmp_path / "curve.png") is not None
    accuracy, auc = figures[0].axes
    assert accuracy.lines[0].get_ydata().tolist() == pytest.approx([0.4, 0.8])
    assert auc.lines[0].get_ydata().tolist() == pytest.approx([0.3, 0.6])
    assert auc.lines[0].get_xdata().tolist() == [20, 40] and auc.get_xlabel() == "labels (questions asked)"
    assert auc.get_ylabel() == "embedding AUC (held-out pairs)" and auc.get_ylim() == pytest.approx((-0.03, 1.03))
    (run / "results.json").write_text('{"metrics": {"embedding/auc": 0.1}}')
    (row,) = summary(run, ["auc"])
    assert (row.stage, row.metric, row.source, row.summary.mean) == ("clarify", "auc", "test", 0.1)
