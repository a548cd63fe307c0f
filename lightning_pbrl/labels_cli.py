"""The commands ``labels import``, ``labels export`` and ``labels show``."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from lightning_pbrl.arguments import Arguments
from lightning_pbrl.data.feedback import Status
from lightning_pbrl.data.jsonl import starts
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.errors import UserError
from lightning_pbrl.label_cli import teacher_of
from lightning_pbrl.labelling.contents import with_content
from lightning_pbrl.labelling.exchange import fingerprint_of, given, keep, location, of_expert, open_store, records_of
from lightning_pbrl.labelling.formats import FORMATS, Context, format_of
from lightning_pbrl.labelling.formats.records import Given, Record, key_of
from lightning_pbrl.labelling.quality import Quality
from lightning_pbrl.labelling.settling import Rule


def labels_command(args: list[str]) -> None:
    """``lightning-pbrl labels import|export|show STORE ...``: move answers between a label store and files, and list them."""
    parser = Arguments("lightning-pbrl labels", description="Move answers between a label store and files, and list them.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="import|export|show")
    for verb, about in (("import", "read a file of answers"), ("export", "write a file"), ("show", "print who answered what")):
        sub = verbs.add_parser(verb, help=about, description=about)
        sub.add_argument("store", help="label store: a file, a run folder, or a SQLAlchemy URL")
        sub.add_argument(
            "--run", help="only this run" if verb != "import" else "name of the run for files that name none (imported)"
        )
        sub.add_argument(
            "-c", "--config", action="append", default=[], metavar="DATA.yaml", help="the data, where the command needs them"
        )
        if verb == "show":
            sub.add_argument("--sheet", type=Path, metavar="FILE", help="draw questions into a .png or .html file")
            sub.add_argument("--questions", type=int, default=20, metavar="N", help="at most so many of them (default 20)")
            continue
        sub.add_argument("file", type=Path, help="file, or folder of Uni-RLHF")
        sub.add_argument("--format", choices=list(FORMATS), help="default: by the ending")
        if verb == "import":
            sub.add_argument("--gold", metavar="NAME", help="expert whose answers these are: they stand, as in label --gold NAME")
        if verb == "export":
            sub.add_argument(
                "--open", action="store_true", help="only questions without an answer, to have them answered elsewhere"
            )
            sub.add_argument("--content", action="store_true", help="with the segments that the label store keeps (jsonl)")
            sub.add_argument("--media", default="", metavar="URL", help="text before the names of clips, for labelling tools")
    options = parser.parse_args(args)
    verb_of: dict[str, Callable[[Namespace], str]] = {"import": _import, "export": _export, "show": _show}
    from rich.console import Console

    if told := verb_of[options.verb](options):
        Console().print(told, soft_wrap=True, markup=False, highlight=False)


def _import(options: Namespace) -> str:
    chosen, source = format_of(options.file, options.format), _data(options.config)
    fingerprint = fingerprint_of(options.store)
    known = {key_of(row): row for row in open_store(options.store).records()} if fingerprint else {}
    expected = fingerprint or (source.fingerprint if source else None)
    records = chosen.read(options.file, Context(expected, known, source, options.run or "imported"))
    asked = teacher_of(options.store)
    rule = Rule(**{name: asked[name] for name in ("overlap", "combine") if name in asked}, gold=options.gold)
    if options.gold is not None:
        Quality(options.gold).check()
        records = of_expert(records, options.gold)
    new, answers = keep(open_store(options.store, records[0]["fingerprint"]), records, rule)
    return f"read {answers} answers to {len({key_of(row) for row in records})} questions, {new} of them new in {options.store}"


def _export(options: Namespace) -> str:
    chosen, source = format_of(options.file, options.format), _data(options.config)
    answers = "label" if options.open else chosen.answers
    records = [row for row in records_of(open_store(options.store), answers) if options.run in (None, row["run"])]
    if options.open:
        records = [row for row in records if row["status"] == Status.PENDING]
    if options.content and chosen is not FORMATS["jsonl"]:
        raise UserError("--content is for JSON lines (.jsonl): other files hold no segments, and .npz always does.")
    if options.content or (chosen is FORMATS["npz"] and source is None):
        records = with_content(location(options.store), records)
    if options.content and not any("content" in row for row in records):
        raise UserError(f"The label store {options.store} holds rows of its data and no segments: leave out --content.")
    chosen.write(records, options.file, Context(source=source, media=options.media))
    return f"wrote {options.file} from {len({key_of(row) for row in records})} questions"


def _show(options: Namespace) -> str:
    from rich.console import Console

    from lightning_pbrl.labelling.show import tables

    store = open_store(options.store)
    console = Console()
    records = [row for row in records_of(store) if options.run in (None, row["run"])]
    answers = [each for each in given(store) if options.run in (None, each.key[0])]
    for table in tables(records, answers):
        console.print(table, soft_wrap=isinstance(table, str), highlight=False)
    return _sheet(options, records, answers) if options.sheet else ""


def _sheet(options: Namespace, records: list[Record], answers: list[Given]) -> str:
    """Draw questions into a file; return the sentence that says so."""
    from lightning_pbrl.clips.online import recording_of
    from lightning_pbrl.label_cli import place_of
    from lightning_pbrl.labelling.films import NO_DATA, drawn_by
    from lightning_pbrl.labelling.sheet import entries, spread, write

    if options.questions < 1:
        raise UserError(f"--questions is {options.questions}: give at least 1.")
    place = place_of(options.store, tuple(options.config))
    if place.folder is None or place.load is None:
        raise UserError(NO_DATA)
    renderer, recorded = drawn_by(place.folder, place.load, place.where)

    def segment(row: Record, which: int) -> int:
        return int(recording_of(row["number"], which) if recorded else starts(row)[which])

    with renderer() as drawing:
        count = write(options.sheet, entries(spread(records, options.questions), answers, drawing, segment))
    return f"drew {count} questions into {options.sheet}"


def _data(configs: list[str]) -> Transitions | None:
    """Return the data of configs with a ``data:`` key; None without configs."""
    if not configs:
        return None
    from lightning_pbrl.commands import ready_data

    return ready_data(configs, "lightning-pbrl labels").source
