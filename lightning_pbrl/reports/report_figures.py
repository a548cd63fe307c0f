"""Figures of a report as pictures within its page, for light and dark: learning curves, intervals, performance profiles."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lightning_pbrl.reports.comparison import profile
from lightning_pbrl.reports.metrics import Array, Metrics
from lightning_pbrl.reports.plot import AXIS, FRACTIONS, X_AXES, curves_of, decorate, new_figure
from lightning_pbrl.reports.statistics import Summary
from lightning_pbrl.reports.tables import interval_text, number_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {
    "light": ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#9a6a00", "#3b8fc4", "#555555"),
    "dark": ("#56B4E9", "#F28E4B", "#2FC79B", "#E0A3C8", "#E6B422", "#9fc7ef", "#bbbbbb"),
}
"""Colours of stages after M. Okabe and K. Ito (2008), darkened or lightened for their ground."""
INK = {"light": ("#1b1f24", "#ffffff"), "dark": ("#e8ebef", "#1e2329")}
"""Colours of text and ground."""
MOST_POINTS = 200
"""Number of points of a curve that are drawn; more are thinned evenly."""
STYLES = ("-", "--", ":", "-.")
Values = Mapping[str, Sequence[float]]
"""Stage -> final values over its seeds."""


class Picture(NamedTuple):
    """Figure in a page.

    Attributes:
        light: data URI for a light ground.
        dark: data URI for a dark one.
        text: the figure in words, for those who cannot see it.
    """

    light: str
    dark: str
    text: str


def data_uri(content: bytes, kind: str) -> str:
    """Return content as an address that needs no file.

    Args:
        content: the bytes of a file.
        kind: its media type, such as "image/png".
    """
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _drawn(draw: Callable[[Axes, Sequence[str]], None], text: str, height: float = 3.2) -> Picture:
    """Draw a panel twice; ``draw`` takes axes and the colours of the stages."""
    import matplotlib as mpl
    from matplotlib.text import Text

    found = {}
    for ground, colours in COLOURS.items():
        ink, paper = INK[ground]
        lines = {f"{name}.color": ink for name in ("text", "xtick", "ytick")} | {"axes.labelcolor": ink, "axes.edgecolor": ink}
        look: Any = {**lines, "figure.facecolor": paper, "axes.facecolor": paper, "legend.facecolor": paper}
        with mpl.rc_context({**look, "svg.hashsalt": "report", "axes.spines.top": False, "axes.spines.right": False}):
            figure, (axes,) = new_figure(1, size=(4.8, height))
            draw(axes, colours)
            for piece in figure.findobj(Text):
                piece.set_parse_math(False)
            if engine := figure.get_layout_engine():
                engine.execute(figure)
                figure.set_layout_engine(None)  # savefig would draw everything twice for it
            buffer = io.BytesIO()
            figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        found[ground] = data_uri(buffer.getvalue(), "image/svg+xml")
    return Picture(found["light"], found["dark"], text)


def _line(number: int) -> str:
    return STYLES[number // len(COLOURS["light"]) % len(STYLES)]


def curves(groups: Sequence[tuple[str, Sequence[Metrics]]], name: str) -> Picture | None:
    """Draw a metric over training, mean over seeds with the 95 % interval of that mean; None without a second point.

    Args:
        groups: stages with the metrics of their seeds; a stage's place chooses its colour.
        name: the metric.
    """
    found = [curve for curve in curves_of(groups, name) if len(curve.x)]
    if not any(len(curve.x) > 1 for curve in found):
        return None

    def draw(axes: Axes, colours: Sequence[str]) -> None:
        for curve in found:
            some = np.unique(np.linspace(0, len(curve.x) - 1, MOST_POINTS).round().astype(int))
            x, colour = curve.x[some], colours[curve.number % len(colours)]
            few = "." if len(x) <= 30 else None
            label = f"{_short(curve.group)} (n = {curve.seeds})"
            axes.plot(x, curve.middle[some], _line(curve.number), color=colour, marker=few, label=label)
            if curve.seeds > 1:
                axes.fill_between(x, curve.low[some], curve.high[some], color=colour, alpha=0.18, linewidth=0)
        decorate(axes, name, X_AXES[found[-1].x_is])
        axes.legend(fontsize="small", framealpha=0.6)

    ends = ", ".join(f"{curve.group} ends at {number_text(float(curve.middle[-1]))}" for curve in found)
    return _drawn(draw, f"Learning curves of {AXIS.get(name, name)} against {X_AXES[found[-1].x_is]}: {ends}.")


def intervals(values: Values, summaries: Mapping[str, Summary], metric: str, stages: Sequence[str]) -> Picture:
    """Draw each stage's interquartile mean with its 95 % interval over its runs.

    Args:
        values: final values over seeds, by stage.
        summaries: their figures, by stage.
        metric: name of the metric.
        stages: all stages of the task; a stage's place chooses its colour, the same in every figure.
    """

    def draw(axes: Axes, colours: Sequence[str]) -> None:
        for place, (stage, seeds) in enumerate(values.items()):
            s, colour = summaries[stage], colours[stages.index(stage) % len(colours)]
            axes.plot(seeds, [place] * len(seeds), "o", color=colour, alpha=0.35, markersize=5, markeredgewidth=0)
            if s.low == s.low:
                axes.plot([s.low, s.high], [place, place], color=colour, linewidth=5, alpha=0.5, solid_capstyle="butt")
            axes.plot([s.iqm], [place], "|", color=colour, markersize=17, markeredgewidth=2.5)
        axes.set_yticks(range(len(values)), [_short(stage) for stage in values])
        axes.set_ylim(len(values) - 0.4, -0.6)
        axes.set_xlabel(_axis(metric))
        axes.grid(axis="x", alpha=0.3)
        axes.ticklabel_format(axis="x", useOffset=False)
        axes.set_title("IQM, 95 % interval, single runs", fontsize="medium")

    told = "; ".join(f"{stage} {number_text(s.iqm)} {interval_text(s.low, s.high)}" for stage, s in summaries.items())
    return _drawn(draw, f"Interquartile means of {metric} with 95 % intervals: {told}.", max(2.2, 1.3 + 0.42 * len(values)))


def profiles(values: Values, metric: str, stages: Sequence[str]) -> Picture:
    """Draw the share of each stage's runs above every score, with 95 % bands.

    Args:
        values: final values over seeds, by stage.
        metric: name of the metric.
        stages: all stages of the task, as for :func:`intervals`.
    """
    scores = profile_scores(values, metric)

    def draw(axes: Axes, colours: Sequence[str]) -> None:
        for stage, seeds in values.items():
            place = stages.index(stage)
            found, colour = profile(seeds, scores), colours[place % len(colours)]
            axes.plot(scores, found.share, _line(place), color=colour, drawstyle="steps-post", label=_short(stage))
            if len(seeds) > 1:
                axes.fill_between(scores, found.low, found.high, step="post", color=colour, alpha=0.15, linewidth=0)
        axes.set_ylim(-0.03, 1.03)
        axes.set_xlabel(_axis(metric))
        axes.set_ylabel("share of runs above the score")
        axes.grid(alpha=0.3)
        axes.set_title("performance profile", fontsize="medium")
        axes.legend(fontsize="small", framealpha=0.6)

    middle = float(np.median(np.concatenate([np.asarray(seeds, np.float64) for seeds in values.values()])))
    told = "; ".join(f"{stage} {float(profile(seeds, [middle]).share[0]):.0%}" for stage, seeds in values.items())
    return _drawn(draw, f"Performance profiles of {metric}. Share of runs above {number_text(middle)}: {told}.")


def profile_scores(values: Values, metric: str) -> Array:
    """Return the scores of a profile: over [0, 1] for fractions, else over the range of all runs and a little beyond."""
    every = np.concatenate([np.asarray(seeds, np.float64) for seeds in values.values()])
    if metric.rsplit("/", 1)[-1] in FRACTIONS:
        return np.linspace(0.0, 1.0, 101)
    beyond = 0.05 * float(np.ptp(every)) or 0.5
    return np.linspace(every.min() - beyond, every.max() + beyond, 101)


def _axis(metric: str) -> str:
    """Return the name of a metric's axis, found by the last part of its name."""
    last = metric.rsplit("/", 1)[-1]
    return next((text for name, text in AXIS.items() if name.rsplit("/", 1)[-1] == last), metric)


def _short(name: str, most: int = 26) -> str:
    return name if len(name) <= most else f"…{name[1 - most :]}"


def sheet(run: Path) -> Picture | None:
    """Return the feedback sheet of a run, drawn anew if its picture is missing; None for a run without a record."""
    from lightning_pbrl.reports.feedback_record import FILE

    if not (run / FILE).is_file():
        return None
    if not (picture := run / "feedback.png").is_file():
        return _sheet_drawn(run)
    uri = data_uri(picture.read_bytes(), "image/png")
    return Picture(uri, uri, SHEET)


SHEET = "Feedback sheet: predicted and true returns of clips, what was asked, and how sure the reward was of the answers."


def _sheet_drawn(run: Path) -> Picture:
    import tempfile

    from lightning_pbrl.reports.feedback_record import FILE, read_records
    from lightning_pbrl.reports.feedback_sheet import write_sheet
    from lightning_pbrl.reports.metrics import read_metrics

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "sheet.png"
        write_sheet(read_records(run / FILE), read_metrics(run), out, run.name)
        uri = data_uri(out.read_bytes(), "image/png")
    return Picture(uri, uri, SHEET)
