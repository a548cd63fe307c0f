"""The command line: stock LightningCLI for fit, validate, test and predict, and the commands beside it.

Errors of users are one sentence and exit code 2; ``--debug`` shows the traceback.
"""

from __future__ import annotations

import re
import signal
import sys
import traceback
from typing import NoReturn

from lightning_pbrl import signals
from lightning_pbrl.arguments import TRAINER_VERBS
from lightning_pbrl.errors import UserError, mistake_behind
from lightning_pbrl.later import uncollected
from lightning_pbrl.registry import seeing_working_folder

USAGE = """\
lightning-pbrl: teach a policy from feedback.

  fit | validate | test | predict   one stage: -c CONFIG.yaml (later files win) and --key value; --print_config, --help
  run STUDY.yaml                    stages for tasks, values and seeds: --task ROWS, --seeds 0-4, --jobs 2, --dry-run, --report
  sweep STUDY.yaml                  the same with a process on every core, on SLURM or on Ray: --launcher ray
  collect -c DATA.yaml              make a data set
  data show PATH                    format, counts, ranges and film strips of a data file or folder
  list                              methods, teachers, queries, data, envs, studies
  label RUN|STORE                   the page on which people answer: --people Ada Bob, --researcher Cy
  labels import|export|show STORE   answers in and out of files, and who gave them
  plot RUN...                       learning curves with confidence intervals, IQM table
  report RUN...                     one HTML page: tables, comparisons, curves, films, questions, settings

Add --debug to any of them to see the traceback of an error."""


def main(args: list[str] | None = None) -> None:
    """Run a command of ``lightning-pbrl``; a process of its own runs :func:`program`.

    Args:
        args: command line without the program's name; ``sys.argv`` when None.
    """
    args = list(sys.argv[1:] if args is None else args)
    _print_anywhere()
    debug = "--debug" in args
    args = [arg for arg in args if arg != "--debug"]
    signals.end_with_parent()
    try:
        with seeing_working_folder(), signals.listening():
            _dispatch(args)
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        if told := signals.told(error):
            what = "interrupted" if told == signal.SIGINT else f"ended by {told.name}"
            print(f"{what}; the same command goes on where a `run` or `sweep` was, and --resume where a fit was", file=sys.stderr)
            raise SystemExit(128 + told) from None
        if not isinstance(error, Exception):
            raise
        mistake = mistake_behind(error)
        parser = sys.modules.get("jsonargparse")  # whose errors these may be, where a command has needed it
        if mistake is None and not (parser and isinstance(error, parser.ArgumentError)):
            raise
        if debug:
            traceback.print_exc()
        print(f"error: {_one_sentence(mistake or error)}", file=sys.stderr)
        raise SystemExit(2) from None


def program() -> NoReturn:
    """Run the command line as a process of its own."""
    signals.leave(main)


def _print_anywhere() -> None:
    """Let a terminal that lacks a sign show another in its place: no run ends because of a text."""
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", None) in ("strict", "surrogateescape"):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]


def _one_sentence(error: Exception) -> str:
    """Return the error without the parser's notes about types that were tried too."""
    text = str(error)
    key = re.match(r'Parser key "([^"]+)":', text)
    unknown = re.search(r"Expected a dot import path string: (\w+)", text)
    if unknown:
        from lightning_pbrl import registry
        from lightning_pbrl.errors import nearest

        known = [name for kind in registry.PACKAGES for name in registry.classes(kind)]
        return f"{key[1] if key else 'config'}: there is no class {unknown[1]!r}; {nearest(unknown[1], known)}"
    causes = re.search(r"Errors:\n(.*?)\n\s*(?:- Expected a <class 'NoneType'>|Given value)", text, flags=re.DOTALL)
    if key and causes:
        text = f"{key[1]}: {causes[1].strip(' -')}; see --help, or `lightning-pbrl list`"
    text = " ".join(text.split())
    option = r"^unrecognized arguments: --([\w.]+)|(?:Subcommand|Group '(\w+)').* not accept option '([\w.]+)'"
    if other := re.search(option, text):
        text = f"{text}; {_nearest_option('.'.join(filter(None, other.groups())))}"
    if other := re.search(r"class_path '(?:\w+\.)*(\w+)': Option '([\w.]+)' is not accepted", text):
        text = f"{text}; {_nearest_argument(*other.groups())}"
    text = re.sub(r"argument (--\w+): ignored explicit argument", r"\1 is a switch: write it without a value, not with", text)
    missing = re.fullmatch(r"the following arguments are required: (?:fit\.|validate\.|test\.|predict\.)?(.+)", text)
    if missing:
        text = f"{missing[1]} is missing: name it in a config file (-c) or as --{missing[1]}; `lightning-pbrl list` shows choices"
    return text


def _nearest_option(name: str) -> str:
    """Return what was meant by an option of a stage that there is not."""
    from lightning_pbrl.errors import nearest
    from lightning_pbrl.help_text import SHIPPED

    known = set(re.findall(r"--([a-z_]+(?:\.[a-z_]+)?)\b", SHIPPED.read_text(encoding="utf-8")))
    first, root = {each.partition(".")[0] for each in known}, name.partition(".")[0]
    return nearest(name, [each for each in known if each.startswith(f"{root}.")]) if root in first else nearest(root, first)


def _nearest_argument(name: str, argument: str) -> str:
    """Return what was meant by an argument that the class of this name does not have."""
    from lightning_pbrl import registry
    from lightning_pbrl.errors import nearest
    from lightning_pbrl.settings import kinds_of

    classes = {each: kind for folder in registry.PACKAGES for each, kind in registry.classes(folder).items()}
    part = argument.partition(".")[0]
    if part != argument or name not in classes:
        return nearest(part, ["class_path", "init_args"])
    return nearest(part, set(kinds_of(classes[name])) - {"args", "kwargs", "return"})


def _dispatch(args: list[str]) -> None:
    if not args or args[0] in ("-h", "--help"):
        print(USAGE)
        return
    verb, rest = args[0], args[1:]
    if verb in TRAINER_VERBS and rest in (["--help"], ["-h"]):
        from lightning_pbrl.help_text import show_help

        show_help(verb)
    elif verb in TRAINER_VERBS:
        with uncollected():
            from lightning_pbrl.train_cli import train_cli

        train_cli([verb, *rest])
    elif verb in ("run", "sweep"):
        from lightning_pbrl.study.command import run_command

        run_command(rest, verb)
    elif verb == "collect":
        from lightning_pbrl.commands import collect_command

        collect_command(rest)
    elif verb == "list":
        from lightning_pbrl.commands import list_command

        with uncollected():
            list_command(rest)
    elif verb == "label":
        from lightning_pbrl.labelling.serve import label_options

        label_options(rest)  # --help, and what is wrong, is told at once
        with uncollected():
            from lightning_pbrl.label_cli import command

        command(rest)
    elif verb == "labels":
        from lightning_pbrl.labels_cli import labels_command

        labels_command(rest)
    elif verb == "data":
        from lightning_pbrl.data_cli import data_command

        data_command(rest)
    elif verb == "plot":
        from lightning_pbrl.commands import plot_command

        with uncollected():  # which is not much, beside the import of matplotlib
            plot_command(rest)
    elif verb == "report":
        from lightning_pbrl.commands import report_command

        with uncollected():
            report_command(rest)
    elif verb == "--version":
        import lightning_pbrl

        print(lightning_pbrl.__version__)
    else:
        from lightning_pbrl.errors import nearest

        known = [*TRAINER_VERBS, "run", "sweep", "collect", "data", "list", "label", "labels", "plot", "report"]
        raise UserError(f"There is no command {verb!r}: {nearest(verb, known)}")
