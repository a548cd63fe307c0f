"""Figures of a segment embedding: a map in two dimensions, and the distances of clear and of ambiguous pairs.

A pair is *clear* if the teacher could compare its segments and *ambiguous* if it could not (skipped). A good embedding puts the
segments of a clear pair far apart and those of an ambiguous one close together (CLARIFY, ICML 2025, arXiv 2506.00388). The area
under the ROC curve (AUC) of the distance measures it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from lightning_pbrl.data.atomic import replacing
from lightning_pbrl.data.guard import reading
from lightning_pbrl.data.status import Status
from lightning_pbrl.errors import UserError
from lightning_pbrl.reports.metrics import Run, find_runs
from lightning_pbrl.reports.plot import new_figure, save_figure
from lightning_pbrl.reports.tables import number_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = npt.NDArray[Any]
Reduction = Literal["pca", "tsne"]

FILE = "embedding.npz"
"""File in the run folder, sufficient to redraw both figures."""
KINDS = (("clear", Status.ANSWERED, "tab:blue"), ("ambiguous", Status.SKIPPED, "tab:red"))
"""Name, status and colour of the two kinds of pair; equal answers are neither."""
LINES = 100
"""Largest number of pairs of each kind that are drawn as lines; more hide the points."""
BINS = 30
"""Number of bins of the histogram, over the range of all distances."""
PANEL = (5.6, 4.4)
"""Width and height of a panel, inches."""


class EmbeddedPairs(NamedTuple):
    """Pairs of segments with their embeddings and the teacher's answers.

    Attributes:
        z: embeddings, (N, 2, Z).
        returns: undiscounted returns of the segments, (N, 2).
        status: values of :class:`~lightning_pbrl.data.feedback.Status`, (N,).
        true_returns: True if ``returns`` are the environment's, False if they are predicted.
        held_out: True if the encoder has never seen the teacher's answers to these pairs.
    """

    z: Array
    returns: Array
    status: Array
    true_returns: bool = True
    held_out: bool = True

    @property
    def distance(self) -> Array:
        """Euclidean distance of each pair's embeddings, (N,), float64."""
        z = np.asarray(self.z, np.float64)
        return np.asarray(np.linalg.norm(z[:, 0] - z[:, 1], axis=-1))

    @property
    def auc(self) -> float:
        """Probability that a clear pair's distance exceeds an ambiguous one's.

        NaN without both kinds of pair, or if a distance is not finite.
        """
        from lightning_pbrl.queries.embedding import separation  # needs torch, which drawing does not

        distance = self.distance
        if not np.isfinite(distance).all():
            return float("nan")
        return separation(distance[self.status == Status.ANSWERED], distance[self.status == Status.SKIPPED])


class Projection(NamedTuple):
    """The embeddings in two dimensions.

    Attributes:
        point: (N, 2 segments, 2 coordinates).
        axes: names of the coordinates.
    """

    point: Array
    axes: tuple[str, str]


# Two dimensions ----------------------------------------------------------------------------------------------------------


def pca(x: Array) -> tuple[Array, Array]:
    """Return the first two principal components of centred rows, by singular value decomposition.

    A component's sign is free. Here its entry of largest magnitude is positive, so equal data give equal figures.

    Args:
        x: rows, (M, Z).

    Returns:
        Coordinates, (M, 2), and the two shares of the variance, (2,); zeros if the data have no second direction.
    """
    centred = np.asarray(x, np.float64) - np.mean(x, axis=0, dtype=np.float64)
    _, size, direction = np.linalg.svd(centred, full_matrices=False)
    size, direction = size[:2], direction[:2]
    largest = np.take_along_axis(direction, np.abs(direction).argmax(1)[:, None], axis=1)
    found = centred @ (direction * np.where(largest < 0, -1.0, 1.0)).T
    total = np.square(centred).sum()
    share = np.square(size) / total if total > 0 else np.zeros(len(size))
    missing = 2 - len(size)
    return np.pad(found, ((0, 0), (0, missing))), np.pad(share, (0, missing))


def tsne(x: Array) -> Array:
    """Return t-SNE coordinates (van der Maaten and Hinton 2008): (M, Z) -> (M, 2).

    It starts from a small PCA; the perplexity is 30 or a third of the rows.

    Raises:
        UserError: if scikit-learn is not installed.
    """
    start, _ = pca(x)
    start *= 1e-4 / max(start.std(), 1e-12)
    perplexity = min(30.0, (len(x) - 1) / 3)
    return np.asarray(find_tsne()(2, perplexity=perplexity, init=start, random_state=0).fit_transform(x), np.float64)


def find_tsne() -> Any:
    """Import scikit-learn's t-SNE class.

    Raises:
        UserError: if scikit-learn is not installed.
    """
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise UserError(
            "embedding.projection is tsne and scikit-learn is not installed: run `pip install scikit-learn`, or use pca."
        ) from error
    return TSNE


def project(pairs: EmbeddedPairs, reduction: Reduction = "pca") -> Projection:
    """Project the embeddings of all segments onto a plane.

    Raises:
        UserError: if an embedding is not finite, or t-SNE is requested without scikit-learn.
    """
    x = np.asarray(pairs.z, np.float64).reshape(-1, pairs.z.shape[-1])
    if not np.isfinite(x).all():
        raise UserError("Some embeddings are not finite, so they cannot be drawn: the encoder has diverged, lower encoder_lr.")
    if reduction == "tsne":
        return Projection(tsne(x).reshape(*pairs.z.shape[:2], 2), ("t-SNE, first axis", "t-SNE, second axis"))
    point, share = pca(x)
    first, second = (
        f"{which} principal component ({100 * part:.1f} % of the variance)"
        for which, part in zip(("first", "second"), share, strict=True)
    )
    return Projection(point.reshape(*pairs.z.shape[:2], 2), (first, second))


# Panels ------------------------------------------------------------------------------------------------------------------


def draw_map(axes: Axes, pairs: EmbeddedPairs, projection: Projection, title: str = "") -> None:
    """Draw segments as points coloured by return, and the first pairs of each kind as lines."""
    from matplotlib.collections import LineCollection

    point = projection.point
    for name, status, colour in KINDS:
        chosen = point[pairs.status == status]
        shown = "" if len(chosen) <= LINES else f", {LINES} shown"
        label = f"{name} pairs (n = {len(chosen)}{shown})"
        axes.add_collection(LineCollection(list(chosen[:LINES]), colors=colour, linewidths=0.7, alpha=0.55, label=label))
    x, y = point.reshape(-1, 2).T
    dots = axes.scatter(x, y, c=pairs.returns.reshape(-1), s=9, cmap="viridis", zorder=2)
    source = "true return (environment reward)" if pairs.true_returns else "predicted return"
    axes.figure.colorbar(dots, ax=axes, label=f"{source} of a segment")
    axes.set(xlabel=projection.axes[0], ylabel=projection.axes[1], title=title)
    axes.legend(fontsize="small")


def draw_distances(axes: Axes, pairs: EmbeddedPairs) -> None:
    """Draw histograms of the embedding distance of clear and of ambiguous pairs, each of area 1; the title is the AUC."""
    distance = pairs.distance
    kinds = [(name, distance[pairs.status == status], colour) for name, status, colour in KINDS]
    edges = np.histogram_bin_edges(np.concatenate([values for _, values, _ in kinds]), BINS).tolist()
    for name, values, colour in kinds:
        if len(values):
            axes.hist(values, edges, density=True, alpha=0.55, color=colour, label=f"{name} (n = {len(values)})")
    if any(len(values) for _, values, _ in kinds):
        axes.legend(fontsize="small")
    which = "held-out" if pairs.held_out else "answered"
    axes.set(xlabel="distance of the two embeddings", ylabel="density", title=f"AUC {number_text(pairs.auc)} ({which} pairs)")


# Files -------------------------------------------------------------------------------------------------------------------


def embedding_pictures(folder: str | Path, pairs: EmbeddedPairs, reduction: Reduction = "pca", title: str = "") -> None:
    """Write ``embedding_map.png``, ``embedding_distance.png`` and ``embedding.npz`` to a run folder.

    Raises:
        UserError: as :func:`project`, or when the folder cannot be written.
    """
    folder, projection = Path(folder), project(pairs, reduction)
    with replacing(folder / FILE) as part, part.open("wb") as file:
        np.savez(file, point=projection.point, axes=np.array(projection.axes), auc=pairs.auc, **pairs._asdict())
    figure, (axes,) = new_figure(1, size=PANEL)
    draw_map(axes, pairs, projection)
    save_figure(figure, folder / "embedding_map.png", title)
    figure, (axes,) = new_figure(1, size=PANEL)
    draw_distances(axes, pairs)
    save_figure(figure, folder / "embedding_distance.png", title)


def read_embedding(path: str | Path) -> tuple[EmbeddedPairs, Projection]:
    """Read the file of :func:`embedding_pictures`.

    Raises:
        UserError: if the file is damaged.
    """
    with reading(path, "is damaged", "test the run again to rewrite it"):
        with Path(path).open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            flags = (bool(file["true_returns"]), bool(file["held_out"]))
            pairs = EmbeddedPairs(file["z"], file["returns"], file["status"], *flags)
            first, second = (str(name) for name in file["axes"])
            projection = Projection(file["point"], (first, second))
        pair_count, segments, _ = pairs.z.shape
        if not projection.point.shape[:2] == pairs.returns.shape == (pair_count, segments) == (len(pairs.status), 2):
            raise ValueError("sizes do not fit")
    return pairs, projection


def plot_embeddings(run_paths: str | Path | Iterable[str | Path], out: str | Path) -> Path:
    """Draw map and histogram of every run that has kept an embedding, one row per run.

    Args:
        run_paths: run folders, or folders that hold some.
        out: the figure; its ending chooses the format (png, pdf, svg).

    Raises:
        UserError: if no run is found, or none has an embedding.
    """
    runs = [run for run in find_runs(run_paths) if (run.path / FILE).is_file()]
    if not runs:
        raise UserError(
            f"None of these runs has an {FILE}: methods with an encoder (CLARIFY) write it at the end of a fit, and when tested."
        )
    figure, panels = new_figure(2 * len(runs), columns=2, size=PANEL)
    for run, left, right in zip(runs, panels[::2], panels[1::2], strict=True):
        pairs, projection = read_embedding(run.path / FILE)
        draw_map(left, pairs, projection, run_name(run))
        draw_distances(right, pairs)
    return save_figure(figure, out, "")


def run_name(run: Run) -> str:
    """Return stage and seed, the title of a run in figures."""
    return run.stage if run.seed is None else f"{run.stage}/{run.path.name}"
