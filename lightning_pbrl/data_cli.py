"""The command ``data show``: what a file or folder of data holds, before a config is written for it."""

from __future__ import annotations

import tempfile
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_pbrl.arguments import Arguments

if TYPE_CHECKING:
    from lightning_pbrl.data.transitions import Transitions


def data_command(args: list[str]) -> None:
    """``lightning-pbrl data show PATH``: guess the format of data and describe them."""
    parser = Arguments("lightning-pbrl data", description="Look at data before a config names them.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="show")
    about = "guess the format and print counts, ranges and what is not normalised; draw three film strips"
    show = verbs.add_parser("show", help=about, description=about)
    show.add_argument("path", type=Path, help="data file or folder")
    show.add_argument("--env", metavar="ID", help="environment that draws the frames, such as Hopper-v5 (default: none)")
    show.add_argument("--out", type=Path, default=Path("strips.png"), help="picture to write (default strips.png)")
    show.add_argument("--no-strips", action="store_true", help="draw nothing")
    _show(parser.parse_args(args))


def _show(options: Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    from lightning_pbrl.data import uni_rlhf
    from lightning_pbrl.data.formats import FORMATS, format_of, keys_of, read_format
    from lightning_pbrl.errors import UserError
    from lightning_pbrl.reports import data_sheet

    console = Console()
    if uni_rlhf.recognises(options.path):
        if options.env:
            raise UserError(f"--env {options.env} draws no frame: {options.path} holds labels alone; show the data with it.")
        table = Table(title="Uni-RLHF labels", title_justify="left", show_header=False, box=None, padding=(0, 2))
        for what, said in uni_rlhf.summary(options.path):
            table.add_row(what, said)
        console.print(
            table, "\nThese are labels alone: show the data as well, and name both in UniRLHFDataModule.", highlight=False
        )
        return
    replay = options.path.suffix == ".ckpt" and options.path.is_file()
    key = "" if replay else format_of(options.path)
    console.print(f"[bold]{'replay of a run' if replay else FORMATS[key].title}[/bold]", highlight=False)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        source = _replay(options.path) if replay else read_format(options.path, key, folder)
        console.print(data_sheet.counts(source))
        keys = Table("key", "shape", "type", box=None, padding=(0, 2))
        found = [] if replay else keys_of(options.path)
        for row in found[: data_sheet.ENTRIES]:
            keys.add_row(*row)
        if len(found) > data_sheet.ENTRIES:
            keys.add_row(f"{len(found) - data_sheet.ENTRIES} more")
        if found:
            console.print("", keys)
        console.print("", data_sheet.columns(source))
        console.print("\n[bold]Not normalised[/bold]", highlight=False)
        for sentence in data_sheet.not_normalised(source) or ["Nothing that stands out."]:
            console.print(f"  {sentence}", soft_wrap=True, markup=False, highlight=False)
        if not options.no_strips:
            console.print(f"\n{_strips(options, source)}", soft_wrap=True, markup=False, highlight=False)


def _strips(options: Namespace, source: Transitions) -> str:
    """Draw the film strips and return the sentence that says so."""
    from lightning_pbrl.clips.choose import renderer_for
    from lightning_pbrl.clips.plots import ObservationPlots
    from lightning_pbrl.clips.strips import write_strips
    from lightning_pbrl.errors import UserError

    simulator, told = None, ""
    if source.about.get("format") == "lerobot" and source.about["cameras"]:
        try:
            source, told = _filmed(options.path, source), f", camera {source.about['cameras'][0]}"
        except UserError as error:  # films may lie elsewhere
            told = f"; no pictures: {error}"
    if options.env:
        from lightning_pbrl.envs.make import make

        simulator = make(options.env)
    file = options.path if options.path.is_file() else None
    renderer = renderer_for(source, 128, plots=True, simulator=simulator, file=file)
    if options.env and (source.has_pictures or isinstance(renderer, ObservationPlots)):
        why = (
            "the data hold pictures, which are drawn"
            if source.has_pictures
            else f"an observation of {options.env} does not determine its state, and the data hold no states of it"
        )
        raise UserError(f"--env {options.env} draws no frame: {why}; leave it out.")
    try:
        with renderer:
            places = write_strips(options.out, renderer, source)
    except UserError as error:
        if options.env or isinstance(renderer, ObservationPlots) or source.has_pictures:
            raise UserError(str(error).replace("data.simulator", "--env")) from error
        told = f"; no frames: {error}"  # the scene of a file needs what is not installed, say
        with ObservationPlots(source, 128) as renderer:
            places = write_strips(options.out, renderer, source)
    chosen = [source.about.get("demos", range(len(source.episodes)))[place] for place in places]
    return f"drew episodes {', '.join(map(str, chosen))} into {options.out} ({renderer.how}{told})"


def _replay(path: Path) -> Transitions:
    """Return what a run that acted has collected, from its checkpoint."""
    from lightning_pbrl.datamodules.replay import ReplayDataModule

    return ReplayDataModule(str(path)).read()


def _filmed(path: Path, source: Transitions) -> Transitions:
    """Return the episodes of a LeRobotDataset that strips show, with pictures of its first camera."""
    from lightning_pbrl.clips.strips import episodes_of
    from lightning_pbrl.data.lerobot import read_lerobot

    episodes = [source.about["demos"][place] for place in episodes_of(source)]
    return read_lerobot(path, camera=source.about["cameras"][0], size=128, episodes=episodes, clip_actions=True)
