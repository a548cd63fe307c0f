"""Facts that run folders hold beside their metrics: settings, task, questions, versions, command, state."""

from __future__ import annotations

import json
import re
import shlex
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lightning_pbrl import run_folder
from lightning_pbrl.data.status import Status
from lightning_pbrl.reports.metrics import Run, read_results

Settings = dict[str, str]
"""Dotted key -> value as text."""

OWN = ("seed_everything", "run_dir", "resume", "overwrite", "progress", "ckpt_path")
"""Keys of a config that belong to one run, or to how it was watched."""
BY_SEED = "differs by seed"
"""Value of a setting in which the seeds of a stage differ."""
_SECRET = re.compile(r"(\w+://[^\s:/@]*):[^\s/@]+@")
_NAMES = ("task", "id", "env_id", "env")
_ABOVE = 5
"""Number of folders above a run in which its study's record is looked for."""


def config_of(run: Path) -> dict[str, Any]:
    """Return the resolved config of a run; empty if there is none, or it is damaged."""
    try:
        found = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def settings(runs: Sequence[Run]) -> Settings:
    """Return the settings of a stage; passwords in addresses are hidden."""
    found = [dict(_flat({k: v for k, v in config_of(run.path).items() if k not in OWN})) for run in runs]
    together: Settings = {}
    for key in dict.fromkeys(key for each in found for key in each):
        values = {each.get(key, "") for each in found}
        together[key] = values.pop() if len(values) == 1 else BY_SEED
    return together


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _flat(inner, f"{key}.{name}" if key else str(name))
        return
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    yield key, re.sub(r"\bseed\d+\b", "seed*", without_secrets(text))


def without_secrets(text: str) -> str:
    """Hide the passwords of addresses such as ``postgresql://user:password@host``."""
    return _SECRET.sub(r"\1:***@", text)


def compared(stages: Mapping[str, Settings]) -> tuple[dict[str, list[str]], dict[str, list[str]], dict[str, str]]:
    """Compare the settings of stages that have a config.

    Returns:
        Three tables by key: settings that all stages have and that differ, a value per stage; settings that some stages lack (an
        empty text there); settings in common.
    """
    known = [each for each in stages.values() if each]
    differing, partial, common = dict[str, list[str]](), dict[str, list[str]](), dict[str, str]()
    for key in dict.fromkeys(key for each in known for key in each):
        values = [each.get(key, "") for each in stages.values()]
        if not all(key in each for each in known):
            partial[key] = values
        elif len({each[key] for each in known}) > 1:
            differing[key] = values
        else:
            common[key] = known[0][key]
    return differing, partial, common


def task_of(run: Path) -> str:
    """Return the task that a run's config or test results name; empty if they name none."""
    data = config_of(run).get("data")
    arguments = data.get("init_args") if isinstance(data, dict) else None
    if isinstance(arguments, dict):
        simulator = ""
        while isinstance(inner := arguments.get("simulator"), dict):  # a simulator may wrap another
            simulator = str(inner.get("class_path", "")).rsplit(".", 1)[-1]
            arguments = found if isinstance(found := inner.get("init_args"), dict) else {}
        names = [str(arguments[key]) for key in _NAMES if isinstance(arguments.get(key), str)]
        if names or simulator:
            return " ".join(filter(None, [simulator, *names[:1]]))
        if isinstance(arguments.get("path"), str):
            return Path(arguments["path"]).stem
    described = (read_results(run) or {}).get("simulator")
    while isinstance(described, dict) and isinstance(described.get("of"), dict):
        described = described["of"]
    if not isinstance(described, dict):
        return ""
    return " ".join(str(described[key]) for key in ("simulator", *_NAMES) if isinstance(described.get(key), str))


def state(folder: Path) -> str:
    """Return in words why a run's figures enter no mean; empty if they do.

    Only runs of ``run`` and ``sweep`` say whether they have finished; a fit of its own is taken as it is.
    """
    if run_folder.pruned(folder):
        return "ended early by a search (pruned)"
    if path := run_folder.outdated(folder):
        return f"made from {path}, which has changed since"
    if "digest" in run_folder.read_json(folder / "done.json"):
        return ""
    failed = run_folder.read_json(folder / "failed.json")
    if failed:
        return f"failed, exit code {failed.get('exit_code')}"
    return "not finished" if (folder / "started.json").is_file() else ""


def started(top: Path) -> Iterator[Path]:
    """Yield the folders at or below ``top`` in which a study has started a stage."""
    found = {path.parent for name in ("started.json", "failed.json", run_folder.PRUNED) for path in top.rglob(name)}
    yield from sorted(found)


class AskedKind(NamedTuple):
    """Questions of a stage that share kind, strategy and teacher, with the number of each outcome."""

    kind: str
    strategy: str
    teacher: str
    outcomes: Counter[Status]


def questions(runs: Iterable[Run]) -> tuple[list[AskedKind], list[str]]:
    """Count the questions in the label stores of a stage's runs.

    Returns:
        The counts, and a sentence for each store that could not be read.
    """
    counts: dict[tuple[str, str, str], Counter[Status]] = {}
    problems = []
    for run in runs:
        ask = config_of(run.path).get("ask")
        ask = ask if isinstance(ask, dict) else {}
        named = ask.get("store")
        if isinstance(named, str) and "://" in named:
            problems.append(f"The questions of {run.path.name} are in the database {without_secrets(named)}, which is not read.")
            continue
        path = Path(named) if isinstance(named, str) else run.path / "labels.sqlite"
        if not path.is_file():
            continue
        own = "" if not isinstance(named, str) else str(ask.get("run") or run.path.name)  # a shared store has others' rows too
        query = "SELECT kind, strategy, teacher, status, COUNT(*) FROM pbrl_questions WHERE ? IN ('', run) GROUP BY 1, 2, 3, 4"
        try:
            with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as db:
                for kind, strategy, teacher, status, count in db.execute(query, (own,)):
                    key = (str(kind), _described(strategy), _described(teacher))
                    counts.setdefault(key, Counter())[Status(status)] += count
        except (sqlite3.Error, ValueError) as error:
            problems.append(f"The label store {path} cannot be read ({error}).")
    return [AskedKind(*key, outcomes) for key, outcomes in sorted(counts.items())], problems


def _described(text: str) -> str:
    """Return the class and settings of a strategy or teacher from the JSON in the store."""
    found = json.loads(text)
    if not isinstance(found, dict):
        return str(found)
    rest = ", ".join(f"{key} {value}" for key, value in found.items() if key not in ("class", "notes"))
    return f"{found.get('class', '')}{f' ({rest})' if rest else ''}"


def versions(runs: Iterable[Run]) -> dict[str, list[str]]:
    """Return the versions with which the runs were tested, by package."""
    found: dict[str, set[str]] = {}
    for run in runs:
        told = (read_results(run.path) or {}).get("versions")
        for name, version in (told if isinstance(told, dict) else {}).items():
            found.setdefault(str(name), set()).add(str(version))
    return {name: sorted(several) for name, several in sorted(found.items())}


def command(run: Path) -> str:
    """Return the command that made a run, as its study recorded it; else one that fits its config again."""
    for folder in list(run.parents)[:_ABOVE]:
        for name in ("experiment.json", "sweep.json"):
            said = run_folder.read_json(folder / name).get("command")
            if isinstance(said, str) and said:
                return without_secrets(said)
    if not (run / "config.yaml").is_file():
        return ""
    here = run.relative_to(Path.cwd()) if run.is_relative_to(Path.cwd()) else run
    return f"lightning-pbrl fit -c {shlex.quote(str(here / 'config.yaml'))} --run_dir NEW"
