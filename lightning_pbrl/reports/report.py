"""Report of runs: one static page with figures over seeds, comparisons, curves, films, questions and settings."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from lightning_pbrl.data.atomic import replacing
from lightning_pbrl.data.status import Status
from lightning_pbrl.errors import UserError
from lightning_pbrl.reports import report_figures as figures
from lightning_pbrl.reports.metrics import Run, read_metrics, read_results
from lightning_pbrl.reports.page import Html, document, el, joined, table
from lightning_pbrl.reports.plot import AXIS
from lightning_pbrl.reports.report_numbers import Gathered, Table, gather, tables
from lightning_pbrl.reports.run_facts import command, compared, questions, settings, versions
from lightning_pbrl.reports.tables import LAST, LAST_EVALUATIONS, interval_text, number_text, physics_note

FILM = 1_000_000
"""Largest film that lies in the page itself, bytes; larger ones are linked."""
FILMS = 8_000_000
"""Largest sum of films in the page, bytes."""
HEADINGS = {
    "success_rate": "Success rate",
    "return_mean": "Return",
    "normalized_score": "D4RL score",
    "accuracy": "Accuracy on held-out pairs",
    "return_pearson": "Correlation with true returns",
    "clear_ratio": "Clear answers",
    "auc": "AUC of the embedding",
}
"""Headings of metrics."""

MEASURED = {
    "test": "the test after training",
    f"last {LAST_EVALUATIONS} evals": f"mean of the last {LAST_EVALUATIONS} evaluations while training",
    LAST: "the last that training logged",
}
"""Sources of values in words."""


def write_report(paths: Sequence[Path], out: Path, metric: str | None = None, baseline: str | None = None) -> Path:
    """Write the page; it needs no network and no other file, apart from films that are too large for it.

    Args:
        paths: run folders, or folders that hold some.
        out: the page, an .html file.
        metric: metric to report; None for the usual ones that were measured.
        baseline: stage that the others are compared with; None for each task's first by name.

    Raises:
        UserError: if ``out`` is no .html file, nothing has finished, or no run has the metric.
    """
    if out.suffix not in (".html", ".htm"):
        raise UserError(f"A report is an .html file, not {out.name}: name it so with --out.")
    found = gather(paths)
    measured = tables(found, metric, baseline)
    sections = [
        ("results", "Results", _results(measured, found)),
        ("curves", "Learning curves", _curves(found, metric)),
        ("films", "Films", _films(found, out)),
        ("questions", "Questions and answers", _questions(found)),
        ("settings", "Settings", _settings(found)),
        ("made", "Commands and versions", _made(found)),
        ("left-out", "Left out", _left_out(found)),
        ("reading", "How to read this page", _reading()),
    ]
    shown = [(name, title, content) for name, title, content in sections if content]
    names = [path.resolve().name for path in paths]
    title = ", ".join(names) if len(names) <= 3 else f"{names[0]} and {len(names) - 1} more"
    links = el("nav", el("ul", *(el("li", el("a", title, href=f"#{name}")) for name, title, _ in shown)), aria_label="Sections")
    header = el("header", el("h1", title), el("p", _subtitle(found), class_="quiet"), _key_figures(found), links)
    main = el("main", *(el("section", el("h2", title), content, id=name) for name, title, content in shown))
    said = f"Made by lightning-pbrl {_version()} on {time.strftime('%Y-%m-%d')}."
    with replacing(out) as part:
        part.write_text(document(title, header, main, el("footer", el("p", said, class_="quiet"))), encoding="utf-8")
    return out


def _version() -> str:
    import lightning_pbrl

    return lightning_pbrl.__version__


def _subtitle(found: Gathered) -> str:
    tasks = [task for task in found.tasks if task]
    return (
        f"Tasks: {', '.join(tasks)}." if len(tasks) > 1 else f"Task: {tasks[0]}." if tasks else "Runs compared over their seeds."
    )


def _key_figures(found: Gathered) -> Html:
    runs = [run for runs in found.stages.values() for run in runs]
    counts = {"stages": len(found.stages), "runs": len(runs)}
    counts |= {"tasks": len(found.tasks)} if len(found.tasks) > 1 else {}
    counts |= {"runs left out": len(found.left_out)} if found.left_out else {}
    return el("dl", *(el("div", el("dt", name), el("dd", f"{count:,}")) for name, count in counts.items()), class_="figures")


# Numbers and pictures -------------------------------------------------------------------------------------------------


def _results(measured: Sequence[Table], found: Gathered) -> Html:
    parts, seen = list[Html](), Counter[str]()
    for each in measured:
        seen[each.metric] += 1
        if seen[each.metric] == 1:
            parts.append(el("h3", HEADINGS.get(each.metric, each.metric)))
        parts += [el("h4", each.task)] if each.task and len(found.tasks) > 1 else []
        parts += [_numbers(each), *_notes(each, found)]
        values, stages = {line.stage: line.values for line in each.lines}, list(found.tasks[each.task])
        pictures = [figures.intervals(values, {line.stage: line.summary for line in each.lines}, each.metric, stages)]
        pictures += [figures.profiles(values, each.metric, stages)] if max(map(len, values.values())) > 1 else []
        parts.append(el("div", *(_figure(picture) for picture in pictures), class_="pictures"))
    return joined(parts)


def _numbers(each: Table) -> Html:
    versus = f"P(above stage {each.baseline})"
    sources = {line.source for line in each.lines}
    header = ["stage", "seeds", "mean ± sd", "IQM", "95 % interval"]
    compares = any(line.better for line in each.lines)
    header += [versus, "95 % interval"] if compares else []
    header += ["measured by"] if len(sources) > 1 else []
    rows = []
    for line in each.lines:
        s, better = line.summary, line.better
        spread = number_text(s.mean) if s.n < 2 else f"{number_text(s.mean)} ± {number_text(s.std)}"
        row = [line.stage, str(s.n), spread, number_text(s.iqm), interval_text(s.low, s.high)]
        if compares:
            none = ["baseline" if line.stage == each.baseline else "-", ""]
            row += [f"{better.probability:.2f}", _two_digits(better.low, better.high)] if better else none
        rows.append([*row, line.source] if len(sources) > 1 else row)
    return table(f"{each.metric} {each.task}".strip(), header, rows)


def _two_digits(low: float, high: float) -> str:
    return "-" if low != low else f"[{low:.2f}, {high:.2f}]"


def _notes(each: Table, found: Gathered) -> list[Html]:
    sources = {line.source for line in each.lines}
    said = (
        f"Values: {MEASURED.get(first := next(iter(sources)), first)}."
        if len(sources) == 1
        else "Stages were not measured alike: see the last column."
    )
    if each.metric.endswith("normalized_score"):
        runs = [run for line in each.lines for run in found.stages[line.stage]]
        said += f" {physics_note([results for run in runs if (results := read_results(run.path))]).removeprefix('; ')}."
    for line in each.lines:
        said += f" {line.unknown} of {line.stage} without a finite value left out." if line.unknown else ""
    few = [line.stage for line in each.lines if line.summary.n < 2]
    said += f" One seed shows no spread, so there is no interval for {', '.join(few)}." if few else ""
    return [el("p", said, class_="quiet")]


def _figure(picture: figures.Picture, caption: str | None = None) -> Html:
    image = el("img", src=picture.light, alt=picture.text)
    if picture.dark != picture.light:
        image = el("picture", el("source", media="(prefers-color-scheme: dark)", srcset=picture.dark), image)
    return el("figure", image, el("figcaption", caption) if caption else None)


def _curves(found: Gathered, metric: str | None) -> Html:
    parts = []
    for task, stages in found.tasks.items():
        groups = [(name, [read_metrics(run.path) for run in runs]) for name, runs in stages.items()]
        logged = {key for _, seeds in groups for metrics in seeds for key in metrics}
        last = metric.rsplit("/", 1)[-1] if metric else None
        names = [name for name in AXIS if name in logged and last in (None, name.rsplit("/", 1)[-1])]
        if metric in logged:
            names = [str(metric)]
        drawn = [picture for name in names if (picture := figures.curves(groups, name))]
        if drawn:
            parts += [el("h3", task)] if task and len(found.tasks) > 1 else []
            parts.append(el("div", *(_figure(picture) for picture in drawn), class_="pictures"))
    said = "Mean over seeds, with the 95 % bootstrap interval of that mean; drawn where all seeds of a stage have values."
    return joined([el("p", said, class_="quiet"), *parts]) if parts else Html()


def _films(found: Gathered, out: Path) -> Html:
    shown, links, room = [], [], FILMS
    for name, runs in found.stages.items():
        film = next((path for run in runs if (path := run.path / "video.mp4").is_file()), None)
        if film is None:
            continue
        caption, size = f"{name}, {film.parent.name}", film.stat().st_size
        if size <= min(FILM, room):
            room -= size
            uri = figures.data_uri(film.read_bytes(), "video/mp4")
            video = el(
                "video", src=uri, controls="", loop="", muted="", playsinline="", aria_label=f"Film of an episode: {caption}"
            )
            shown.append(el("figure", video, el("figcaption", caption)))
        else:
            address = quote(os.path.relpath(film, out.resolve().parent))
            links.append(el("li", el("a", caption, href=address), f" ({size / 1e6:.1f} MB, a file beside this page)"))
    return joined([el("div", *shown, class_="pictures") if shown else None, el("ul", *links) if links else None])


# What the runs were ---------------------------------------------------------------------------------------------------


def _questions(found: Gathered) -> Html:
    rows, parts, problems, drawn = [], list[Html](), list[str](), list[Html]()
    for name, runs in found.stages.items():
        asked, said = questions(runs)
        problems += said
        for each in asked:
            counts = [each.outcomes[status] for status in (Status.ANSWERED, Status.EQUAL, Status.SKIPPED, Status.PENDING)]
            rows.append([name, each.kind, each.strategy, each.teacher, *map(str, counts), str(sum(counts))])
        if picture := figures.sheet(runs[0].path):
            drawn.append(_figure(picture, f"{name}, {runs[0].path.name}: predicted and true returns, questions, calibration"))
    if rows:
        header = ["stage", "kind", "strategy", "teacher", "answered", "equal", "skipped", "open", "all"]
        parts += [el("p", "Counted over all seeds of a stage.", class_="quiet"), table("Questions", header, rows, words=4)]
    parts += [el("p", sentence, class_="warn") for sentence in problems]
    parts += [el("details", el("summary", "Feedback sheets, the first seed of each stage"), *drawn)] if drawn else []
    return joined(parts)


def _settings(found: Gathered) -> Html:
    stages = {name: settings(runs) for name, runs in found.stages.items()}
    if not any(stages.values()):
        return Html()
    differing, partial, common = compared(stages)
    parts = []
    if len(stages) > 1:
        said = (
            f"{len(differing)} settings differ between the stages." if differing else "No setting that all stages have differs."
        )
        parts.append(el("p", said))
        if differing:
            rows = ([key, *values] for key, values in differing.items())
            parts.append(table("Settings that differ", ["setting", *stages], rows, words=len(stages) + 1))
        if partial:
            rows = ([key, *(value or "–" for value in values)] for key, values in partial.items())
            inner = table("Settings that some stages lack", ["setting", *stages], rows, words=len(stages) + 1)
            parts.append(el("details", el("summary", f"{len(partial)} settings that only some stages have"), inner))
    if common:
        inner = table("Settings in common", ["setting", "value"], ([k, v] for k, v in common.items()), words=2)
        parts.append(el("details", el("summary", f"{len(common)} settings in common"), inner))
    without = [name for name, each in stages.items() if not each]
    parts += [el("p", f"Without a config.yaml: {', '.join(without)}.", class_="quiet")] if without else []
    return joined(parts)


def _made(found: Gathered) -> Html:
    made: dict[str, list[str]] = {}
    for name, runs in found.stages.items():
        if said := command(runs[0].path):
            made.setdefault(said, []).append(name)
    parts = [joined([el("p", ", ".join(names)), el("pre", el("code", said))]) for said, names in made.items()]
    every: list[Run] = [run for runs in found.stages.values() for run in runs]
    if told := versions(every):
        mixed = [name for name, several in told.items() if len(several) > 1]
        parts += [el("p", f"Not all runs were tested with the same {', '.join(mixed)}.", class_="warn")] if mixed else []
        rows = ([name, ", ".join(several)] for name, several in told.items())
        parts.append(el("details", el("summary", "Versions"), table("Versions", ["package", "version"], rows, words=2)))
    return joined(parts)


def _left_out(found: Gathered) -> Html:
    if not found.left_out:
        return Html()
    every = [run.path.parent.parent for runs in found.stages.values() for run in runs]
    top = os.path.commonpath([*every, *(path.parent for path, _ in found.left_out)])
    rows = ([os.path.relpath(path, top), why] for path, why in found.left_out)
    said = "These runs enter no figure on this page."
    return joined([el("p", said), table("Runs left out", ["run", "why"], rows, words=2)])


TERMS = {
    "mean ± sd": "mean over seeds and sample standard deviation.",
    "IQM": "interquartile mean: the mean after a quarter of the seeds is cut at each end. Up to three seeds nothing is cut.",
    "95 % interval": "percentile bootstrap over seeds, 2,000 resamples. With few seeds it is too narrow rather than too wide.",
    "P(above stage ...)": "probability of improvement: share of pairs of runs in which the stage has the larger value, ties "
    "half. 0.5 is no difference. An interval that contains 0.5 leaves open which of the two is better.",
    "performance profile": "share of a stage's runs above each score. A curve that is higher at every score is better.",
}
"""Words of the page that need one sentence."""
SOURCE = "Agarwal et al. 2021, Deep Reinforcement Learning at the Edge of the Statistical Precipice, arXiv 2108.13264."


def _reading() -> Html:
    terms = (joined([el("dt", el("strong", name)), el("dd", about)]) for name, about in TERMS.items())
    return joined([el("dl", *terms), el("p", SOURCE, class_="quiet")])
