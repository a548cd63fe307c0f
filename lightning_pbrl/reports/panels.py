"""Panels of figures: a drawing with the table behind it, sheets of panels, colours for any colour vision."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lightning_pbrl.reports.feedback_numbers import even_edges
from lightning_pbrl.reports.plot import new_figure, save_figure
from lightning_pbrl.reports.tables import write_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable

Array = npt.NDArray[Any]

BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "0.6"
"""Colours of M. Okabe and K. Ito, "Color Universal Design" (2008), distinguishable with any colour vision."""
PALETTE = (BLUE, ORANGE, GREEN, PURPLE, "#E69F00", "#56B4E9", "0.3")
"""Line colours of groups, in this order."""
SIZE = (4.0, 3.3)
"""Width and height of a panel, inches."""
BINS = 30
"""Number of bins of a histogram."""


class Panel(NamedTuple):
    """Panel of a figure, with the numbers behind it.

    Attributes:
        name: name of its table: lower case, words joined by hyphens.
        table: columns of one length, by name.
        draw: function that draws the panel on axes.
    """

    name: str
    table: Mapping[str, Sequence[Any] | Array]
    draw: Callable[[Axes], None]


def draw_sheet(panels: Sequence[Panel], out: str | Path, title: str = "", columns: int = 4) -> Path:
    """Draw all panels in one figure, at most ``columns`` per row.

    Raises:
        UserError: if the figure cannot be written.
    """
    figure, axes = new_figure(len(panels), columns=columns, size=SIZE)
    for panel, place in zip(panels, axes, strict=True):
        panel.draw(place)
    return save_figure(figure, out, title)


def write_tables(panels: Sequence[Panel], out: str | Path) -> list[Path]:
    """Write the numbers behind every panel, as ``<name of the figure>-<name of the panel>.csv`` beside the figure.

    Raises:
        UserError: if a file cannot be written.
    """
    return [write_table(panel.table, Path(out).with_name(f"{Path(out).stem}-{panel.name}.csv")) for panel in panels]


# Drawing -----------------------------------------------------------------------------------------------------------------


def label(axes: Axes, x: str, y: str, title: str = "") -> None:
    """Name both axes and set a title that states the key number."""
    axes.set_xlabel(x, fontsize="small")
    axes.set_ylabel(y, fontsize="small")
    axes.tick_params(labelsize="small")
    axes.set_title(title, fontsize="medium")


def colour_bar(axes: Axes, drawn: ScalarMappable, name: str, text: Callable[[float, float | None], str] | None = None) -> None:
    """Draw the colour bar of a panel, in its font size."""
    bar = axes.figure.colorbar(drawn, ax=axes, format=text)
    bar.set_label(name, fontsize="small")
    bar.ax.tick_params(labelsize="small")


def legend(axes: Axes) -> None:
    """Draw a small legend, if there is anything to explain."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="x-small", framealpha=0.7)


def shares(axes: Axes, groups: Sequence[tuple[str, Array, str]], edges: Array | None = None, mark_means: bool = False) -> Array:
    """Draw histograms of several groups over one range, each as shares of its own group; return the edges, (bins + 1,).

    Args:
        axes: axes to draw on.
        groups: name, finite values and colour; empty ones are left out.
        edges: edges of the bins; None for :data:`BINS` over the common range.
        mark_means: draw each group's mean as a dashed line and write it into the legend.
    """
    edges = histogram_edges([values for _, values, _ in groups]) if edges is None else edges
    for name, values, colour in groups:
        if not len(values):
            continue
        counts, _ = np.histogram(values, edges)
        mean = f", mean {number(float(values.mean()))}" if mark_means else ""
        text = f"{name} (n = {len(values)}{mean})"
        axes.stairs(counts / len(values), edges, fill=True, color=colour, alpha=0.35)
        axes.stairs(counts / len(values), edges, color=colour, linewidth=1.4, label=text)
        if mark_means:
            axes.axvline(float(values.mean()), color=colour, linestyle="--", linewidth=1.2)
    axes.set_ylim(0, 1.25 * axes.get_ylim()[1])  # room for the legend
    legend(axes)
    return edges


def histogram_edges(groups: Sequence[Array], bins: int = BINS) -> Array:
    """Return the edges of equal bins over the range of all groups together."""
    return even_edges(np.concatenate([np.asarray(group, np.float64) for group in groups]), bins)


def histogram_table(groups: Sequence[tuple[str, Array, str]], edges: Array) -> dict[str, Array]:
    """Return bins and counts of the groups, one column each."""
    counts = {name.replace(" ", "_"): np.histogram(values, edges)[0] for name, values, _ in groups}
    return {"low": edges[:-1], "high": edges[1:], **counts}


def number(value: float) -> str:
    """Format a number with three significant digits; a dash for NaN."""
    return "–" if value != value else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def thousands(x: float, position: float | None = None) -> str:
    """Format env steps in thousands or millions, as axes show them: 300k, 1.5M."""
    return f"{x / 1e6:g}M" if abs(x) >= 1e6 else f"{x / 1e3:g}k" if abs(x) >= 1e3 else f"{x:g}"
