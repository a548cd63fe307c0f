"""Query coverage: the query-policy misalignment figure of QPA (arXiv 2305.17400, Fig. 1), for any query strategy.

A reward model that is asked about states which the policy no longer visits is accurate in the wrong place. For every round with
questions, a run keeps a sample of three kinds of state: all stored states, those of the policy's newest episodes, and those of
the segments in the round's questions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lightning_pbrl.data.atomic import replacing
from lightning_pbrl.data.guard import reading
from lightning_pbrl.errors import UserError
from lightning_pbrl.reports.embedding import pca, run_name
from lightning_pbrl.reports.metrics import find_runs
from lightning_pbrl.reports.plot import new_figure, save_figure
from lightning_pbrl.reports.tables import number_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = npt.NDArray[Any]

FILE = "coverage.npz"
"""File in the run folder, sufficient to redraw the figure."""
PANELS = 4
"""Number of rounds that are drawn: the first, the last, and evenly between."""
SIZE = (4.0, 3.6)
"""Width and height of a panel, inches."""
KINDS = (
    ("stored", "all that is stored", "0.8"),
    ("visited", "the policy's newest episodes", "tab:blue"),
    ("asked", "asked about", "tab:red"),
)
"""Field of :class:`Coverage`, name and colour, in drawing order."""


class Coverage(NamedTuple):
    """Samples of states at one round's questions.

    Attributes:
        env_steps: env steps so far.
        stored: states from the whole replay, (n, O).
        visited: states of the policy's newest finished episodes, (n, O).
        asked: states of the segments in the questions, (n, O).
    """

    env_steps: int
    stored: Array
    visited: Array
    asked: Array

    @property
    def distance_ratio(self) -> float:
        """Relative distance of the questions from the states that the policy visits.

        The mean distance of an asked state to the nearest visited one, divided by that of a visited state to the nearest *other*
        visited one. Every entry is in units of its standard deviation over the stored states. At 1 the questions cover the
        policy's states; far above 1 they lie elsewhere. NaN if all visited states are equal.
        """
        scale = self.stored.std(0, dtype=np.float64)
        kept = scale > 0
        visited, asked = (x[:, kept] / scale[kept] for x in (self.visited.astype(np.float64), self.asked))
        among = _distances(visited, visited)
        np.fill_diagonal(among, np.inf)
        own = among.min(1).mean()
        return float(_distances(asked, visited).min(1).mean() / own) if own > 0 else float("nan")


def _distances(a: Array, b: Array) -> Array:
    """Return the Euclidean distances of all rows, (A, B)."""
    square = np.square(a).sum(1)[:, None] + np.square(b).sum(1)[None] - 2.0 * a @ b.T
    return np.asarray(np.sqrt(np.maximum(square, 0.0)))


def draw_coverage(panels: Sequence[Axes], rounds: Sequence[Coverage], title: str = "") -> None:
    """Draw one panel per round, all in the plane of the first two principal components of all samples."""
    states = np.concatenate([getattr(found, kind) for found in rounds for kind, _, _ in KINDS])
    centre, scale = states.mean(0), np.where(states.std(0) > 0, states.std(0), 1.0)
    point, share = pca((states - centre) / scale)
    at = 0
    for axes, found in zip(panels, rounds, strict=True):
        for kind, name, colour in KINDS:
            count = len(getattr(found, kind))
            x, y = point[at : at + count].T
            axes.scatter(x, y, s=5, color=colour, alpha=0.6, linewidths=0, label=name)
            at += count
        ratio = number_text(found.distance_ratio)
        axes.set_title(f"{title}{found.env_steps:,} env steps, distance ratio {ratio}", fontsize="small")
        axes.set_xlabel(f"first principal component ({100 * share[0]:.0f} %)")
    panels[0].set_ylabel(f"second principal component ({100 * share[1]:.0f} %)")
    panels[0].legend(fontsize="x-small", markerscale=2)


def spread(rounds: Sequence[Coverage], count: int = PANELS) -> list[Coverage]:
    """Return at most ``count`` rounds: the first, the last, and evenly between."""
    wanted = np.unique(np.linspace(0, len(rounds) - 1, min(count, len(rounds))).round().astype(int))
    return [rounds[i] for i in wanted]


def write_coverage(folder: str | Path, rounds: Sequence[Coverage], title: str = "") -> None:
    """Write ``coverage.png`` and ``coverage.npz`` to a run folder.

    Raises:
        UserError: if the folder cannot be written.
    """
    arrays = {f"{kind}_{i}": getattr(found, kind) for i, found in enumerate(rounds) for kind, _, _ in KINDS}
    with replacing(Path(folder) / FILE) as part, part.open("wb") as file:
        np.savez_compressed(file, env_steps=np.array([found.env_steps for found in rounds]), **arrays)
    shown = spread(rounds)
    figure, panels = new_figure(len(shown), columns=PANELS, size=SIZE)
    draw_coverage(panels, shown)
    save_figure(figure, Path(folder) / "coverage.png", title)


def read_coverage(path: str | Path) -> list[Coverage]:
    """Read the file of :func:`write_coverage`, by round.

    Raises:
        UserError: if the file is damaged.
    """
    damaged = reading(path, "is damaged", "remove it, a further fit writes it anew")
    with damaged, Path(path).open("rb") as opened, np.load(opened, allow_pickle=False) as file:
        return [Coverage(int(steps), *(file[f"{kind}_{i}"] for kind, _, _ in KINDS)) for i, steps in enumerate(file["env_steps"])]


def plot_coverage(run_paths: str | Path | Iterable[str | Path], out: str | Path) -> Path:
    """Draw the coverage of every run that has kept it, one row per run, each in its own plane.

    Args:
        run_paths: run folders, or folders that hold some.
        out: the figure; its ending chooses the format (png, pdf, svg).

    Raises:
        UserError: if no run is found, or none has a coverage.
    """
    runs = [run for run in find_runs(run_paths) if (run.path / FILE).is_file()]
    if not runs:
        raise UserError(
            f"None of these runs has a {FILE}: methods that ask while they act (PEBBLE, QPA ...) write it during a fit."
        )
    found = [spread(read_coverage(run.path / FILE)) for run in runs]
    columns = max(len(rounds) for rounds in found)
    figure, panels = new_figure(columns * len(runs), columns=columns, size=SIZE)
    for i, (run, rounds) in enumerate(zip(runs, found, strict=True)):
        row = panels[i * columns : (i + 1) * columns]
        draw_coverage(row[: len(rounds)], rounds, f"{run_name(run)}: ")
        for unused in row[len(rounds) :]:
            unused.remove()
    return save_figure(figure, out, "")
