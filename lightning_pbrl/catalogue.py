"""Catalogue of the classes that a config can name, read from the library's source without importing it.

Importing every method, simulator and reader takes seconds; a list of them does not need it.
:func:`lightning_pbrl.registry.classes` returns the classes themselves, those of other packages included.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from lightning_pbrl.registry import PACKAGES

ROOT = Path(__file__).parent
FOLDERS = sorted({package.rpartition(".")[2] for package, *_ in PACKAGES.values()})


class Entry(NamedTuple):
    """A class as its source describes it.

    Attributes:
        folder: package that it is in.
        name: its name.
        bases: names of its base classes, in order.
        about: first line of its docstring; empty without one.
        abstract: names that it declares abstract.
        defined: other names that its body defines.
        constants: those of them that are set to true or false, with that.
    """

    folder: str
    name: str
    bases: tuple[str, ...]
    about: str
    abstract: frozenset[str]
    defined: frozenset[str]
    constants: dict[str, bool]


def catalogue(kind: str) -> dict[str, str]:
    """Return the concrete classes of one kind: first line of the docstring by name, sorted.

    Args:
        kind: a key of :data:`lightning_pbrl.registry.PACKAGES`.
    """
    return dict(sorted((line[0].name, next((each.about for each in line if each.about), "")) for line in _concrete(kind)))


def constants(kind: str, attribute: str) -> dict[str, Any]:
    """Return a class attribute of the concrete classes of one kind, true or false, which all set or inherit, by class name."""
    return {line[0].name: next(e.constants[attribute] for e in line if attribute in e.constants) for line in _concrete(kind)}


def _concrete(kind: str) -> list[list[Entry]]:
    """Return the concrete classes of one kind, each followed by its ancestors."""
    base = PACKAGES[kind][2]
    ancestries = [_ancestry(entry) for folder in FOLDERS for entry in _entries(folder).values() if not entry.name.startswith("_")]
    return [line for line in ancestries if base in [each.name for each in line[1:]] and not _is_abstract(line)]


CLASS = re.compile(r"^class (\w+)(?:\((.*?)\))?:\n((?:(?: [^\n]*)?\n)*)", re.MULTILINE | re.DOTALL)
"""A class of a formatted module: name, bases, body."""
BASE = re.compile(r"(?:^|,)\s*([\w.]+)(?:\[[^\]]*\])?\s*(?=,|$)")
"""A base class, Base or Base[int]; not a keyword."""
DOCSTRING = re.compile(r'\s*r?"""(.*)')
METHOD = re.compile(r"^((?:    @.*\n)*)    def (\w+)", re.MULTILINE)
"""A method: decorators, name."""
SET = re.compile(r"^    (\w+)(?:: .+?)? = ", re.MULTILINE)
"""An attribute that a class's body sets."""
SWITCH = re.compile(r"^    (\w+)(?:: .+?)? = (True|False)$", re.MULTILINE)
"""An attribute that it sets to true or false."""


@cache
def _entries(folder: str) -> dict[str, Entry]:
    """Return every class of a package's modules, by name.

    Patterns are enough for formatted source, and parsing it would take half a second.
    """
    texts = [path.read_text(encoding="utf-8") for path in sorted((ROOT / folder).glob("*.py"))]
    return {found[1]: _entry(folder, *found.groups()) for text in texts for found in CLASS.finditer(f"{text}\n")}


def _entry(folder: str, name: str, bases: str | None, body: str) -> Entry:
    written = BASE.findall(bases or "")
    methods = METHOD.findall(body)
    abstract = frozenset(each for decorators, each in methods if "@abstractmethod" in decorators)
    about = DOCSTRING.match(body)
    line = about[1].removesuffix('"""').strip() if about else ""
    defined = frozenset({*(each for _, each in methods), *SET.findall(body)})
    bases_of = tuple(base.rpartition(".")[2] for base in written)
    constants = {target: value == "True" for target, value in SWITCH.findall(body)}
    return Entry(folder, name, bases_of, line, abstract, defined - abstract, constants)


def _ancestry(entry: Entry) -> list[Entry]:
    """Return a class and its ancestors, nearest first; a base of its own package goes before one of the same name elsewhere."""
    line = [entry]
    for name in entry.bases:
        found = [known[name] for folder in (entry.folder, *FOLDERS) if name in (known := _entries(folder))]
        line += _ancestry(found[0]) if found and found[0] != entry else []
    return line


def _is_abstract(line: list[Entry]) -> bool:
    """Return True if a class declares or inherits an abstract method that nothing nearer defines."""
    return any(
        not any(wanted in other.defined for other in line[:place]) for place, each in enumerate(line) for wanted in each.abstract
    )
