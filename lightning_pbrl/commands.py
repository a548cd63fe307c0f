"""The small commands: collect, list, plot, report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_pbrl import registry
from lightning_pbrl.arguments import Arguments, with_packaged_configs
from lightning_pbrl.configs import SHIPPED, rows_of
from lightning_pbrl.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from lightning_pbrl.datamodules.base import FeedbackDataModule


def list_command(args: list[str]) -> None:
    """List everything a config can name, one line each, and the studies that are shipped: ``lightning-pbrl list [KIND]``."""
    parser = Arguments("lightning-pbrl list", description="Everything a config can name, and the studies that are shipped.")
    parser.add_argument("kind", nargs="?", choices=[*registry.PACKAGES, "studies"], help="only this kind")
    parser.add_argument("--imports", nargs="+", default=[], metavar="MODULE", help="modules of yours to import first")
    options = parser.parse_args(args)
    registry.import_named(options.imports)
    chosen = options.kind
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    for kind in [chosen] if chosen else [*registry.PACKAGES, "studies"]:
        if kind == "studies":
            _list_studies(console)
            continue
        methods = kind == "methods"
        table = Table(title=kind, title_justify="left", show_header=methods, box=None, padding=(0, 2))
        for header in ("", "devices", "") if methods else ("", ""):
            table.add_column(header)
        devices = registry.devices() if methods else {}
        for name, about in registry.lines(kind).items():
            table.add_row(f"[bold]{name}", *([devices[name]] if methods else []), escape(about))
        console.print(table, "")


def _list_studies(console: Console) -> None:
    from rich.markup import escape

    console.print("[italic]studies: lightning-pbrl run NAME --task ROWS --seeds 0-4[/italic]")
    for folder in ("experiment", "sweep"):
        for path in sorted((SHIPPED / folder).rglob("*.yaml")):
            about = path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
            console.print(f"  [bold]{path.relative_to(SHIPPED)}[/bold]  {escape(about)}", soft_wrap=True, highlight=False)
            console.print(f"      {escape(_size(path))}", soft_wrap=True, highlight=False)


def _size(path: Path) -> str:
    """Return what a study runs, such as "stages reward, policy x tasks box-close, hammer"."""
    from lightning_pbrl.study.file import read_studies

    rows = list(rows_of(path))
    study = read_studies(str(path), rows[0] if rows else None)[0]
    stages = [name or "fit" for base in study.bases.values() for name in base.stages]
    parts = [f"bases {', '.join(study.bases)}" if len(study.bases) > 1 else f"stages {', '.join(stages)}"]
    parts += [f"{len(axis.values)} values of {axis.keys[0].split('.')[-1]}" for axis in study.axes if len(axis.values) > 1]
    parts += [f"seeds {', '.join(map(str, study.seeds))}"] if len(study.seeds) > 1 else []
    return " x ".join([*parts, f"tasks {', '.join(rows)}"] if rows else parts)


def collect_command(args: list[str]) -> None:
    """``lightning-pbrl collect -c DATA.yaml``: make (or finish) a data set and describe it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from lightning_pbrl.reports.dataset import describe_dataset

    data: Any = data_module(args, "lightning-pbrl collect", "Make a data set.")
    if not hasattr(data, "progress"):
        raise UserError(f"{type(data).__name__} reads data that exist; collect needs one that makes them: CollectedDataModule.")
    columns = (TextColumn("collecting episodes"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar:
        task = bar.add_task("collect", total=None)
        data.progress = lambda done, total: bar.update(task, completed=done, total=total)
        data.prepare_data()
    data.setup("fit")
    console = Console()
    console.print(describe_dataset(data.source))
    console.print(f"{data.path} (fingerprint {data.source.fingerprint})", soft_wrap=True, markup=False)


def data_module(args: list[str], program: str, about: str) -> FeedbackDataModule:
    """Return the data module that ``-c`` and ``--data`` name, not set up yet.

    Args:
        args: arguments of the command line.
        program: name of the command, for ``--help`` and errors.
        about: what the command does, for ``--help``.
    """
    import jsonargparse

    from lightning_pbrl.datamodules.base import FeedbackDataModule
    from lightning_pbrl.same_run import imports_of

    registry.import_all()
    parser = jsonargparse.ArgumentParser(program, description=about, parser_mode="omegaconf+", exit_on_error=False)
    parser.add_argument("-c", "--config", action="config", help="config with a `data:` key, as for fit")
    parser.add_argument("--imports", type=list[str], default=[], help="modules of yours to import first: [my_package]")
    parser.add_subclass_arguments(FeedbackDataModule, "data", required=True)
    args = with_packaged_configs(args)
    registry.import_named(imports_of(args))
    data: FeedbackDataModule = parser.instantiate(parser.parse_args(args)).data
    return data


def ready_data(configs: Sequence[str], program: str) -> FeedbackDataModule:
    """Return the data module of configs with a ``data:`` key, set up.

    Args:
        configs: paths of the configs.
        program: name of the command, for errors.
    """
    data = data_module([word for config in configs for word in ("-c", config)], program, "Read data.")
    data.prepare_data()
    data.setup("fit")
    return data


def plot_command(args: list[str]) -> None:
    """``lightning-pbrl plot RUN...``: learning curves over seeds and an IQM table, or pictures of one subject."""
    parser = Arguments("lightning-pbrl plot", description="Learning curves with 95 % bootstrap intervals.")
    parser.add_argument("runs", nargs="+", type=Path, help="run folders, or folders that hold run folders")
    parser.add_argument("--metric", help="metric to draw (default: the main ones that were logged, one panel each)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--embedding", action="store_true", help="draw each run's embedding and its distances, one row per run")
    what.add_argument(
        "--coverage", action="store_true", help="draw where each run asked and where its policy went, one row per run"
    )
    what.add_argument(
        "--feedback", action="store_true", help="a sheet per run: predicted and true returns, what was asked, calibration"
    )
    what.add_argument(
        "--efficiency", action="store_true", help="compare stages by the env steps and by the labels that --metric has cost"
    )
    what.add_argument("--mix", action="store_true", help="draw how each stage shared its budget between pairs and ratings")
    parser.add_argument("--round", type=int, help="with --feedback: as of this round (default: the newest)")
    parser.add_argument(
        "--x",
        choices=["labels", "env_steps"],
        help="with --efficiency (default: both) or --mix (env steps): against this",
    )
    parser.add_argument("--middle", choices=["mean", "iqm"], help="with --efficiency: mean (default) or interquartile mean")
    parser.add_argument("--out", type=Path, default=Path("plot.png"), help="picture to write (default plot.png)")
    options = parser.parse_args(args)
    for name, owner, belongs in (
        ("round", "--feedback", options.feedback),
        ("x", "--efficiency or --mix", options.efficiency or options.mix),
        ("middle", "--efficiency", options.efficiency),
    ):
        if getattr(options, name) is not None and not belongs:
            raise UserError(f"lightning-pbrl plot: --{name} belongs to {owner}; add that, or leave --{name} out.")
    if options.metric and (options.embedding or options.coverage or options.feedback or options.mix):
        raise UserError("lightning-pbrl plot: --metric belongs to learning curves and --efficiency; leave it out.")
    from rich.console import Console

    from lightning_pbrl.later import import_matplotlib

    for path in options.runs:
        if not path.exists():
            raise UserError(f"There is no run folder {path}; give folders that fit or run have written.")
    import_matplotlib()
    console = Console()
    written: list[Path] = []
    if options.feedback:
        from lightning_pbrl.reports.feedback_sheet import plot_feedback

        written = plot_feedback(options.runs, options.out, options.round)
    elif options.efficiency:
        from lightning_pbrl.reports.efficiency import plot_efficiency

        written = [plot_efficiency(options.runs, options.out, options.metric, options.x, options.middle or "mean")]
    elif options.mix:
        from lightning_pbrl.reports.mix import plot_mix

        written = [plot_mix(options.runs, options.out, options.x)]
    elif options.embedding:
        from lightning_pbrl.reports.embedding import plot_embeddings

        written = [plot_embeddings(options.runs, options.out)]
    elif options.coverage:
        from lightning_pbrl.reports.coverage import plot_coverage

        written = [plot_coverage(options.runs, options.out)]
    if written:
        for path in written:
            console.print(f"wrote {path}", soft_wrap=True, markup=False)
        return
    from lightning_pbrl.reports.plot import plot, summary_table

    console.print(f"wrote {plot(options.runs, options.out, options.metric)}", soft_wrap=True, markup=False)
    console.print(summary_table(options.runs, [options.metric] if options.metric else None))


def report_command(args: list[str]) -> None:
    """``lightning-pbrl report RUN...``: one page with tables, comparisons, curves, films, questions and settings of runs."""
    parser = Arguments("lightning-pbrl report", description="One HTML page about runs, without other files.")
    parser.add_argument("runs", nargs="+", type=Path, help="run folders, or folders that hold run folders")
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="page to write (default report.html)")
    parser.add_argument("--metric", help="metric to report (default: the main ones that were measured)")
    parser.add_argument(
        "--baseline", metavar="STAGE", help="stage that the others are compared with (default: the first by name)"
    )
    options = parser.parse_args(args)
    from rich.console import Console

    from lightning_pbrl.later import import_matplotlib

    import_matplotlib()
    from lightning_pbrl.reports.report import write_report

    written = write_report(options.runs, options.out, options.metric, options.baseline)
    Console().print(f"wrote {written}", soft_wrap=True, markup=False)
