"""Catalogue of the classes that a config can name, read from the library's source without importing it.

Importing every method, simulator and reader takes seconds; a list of them does not need it.
:func:`lightning_pbrl.registry.classes` returns the classes themselves, those of other packages included.
"""

from __future__ import annotations

import ast
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
        constants: those of them that are set to a constant, with that.
    """

    folder: str
    name: str
    bases: tuple[str, ...]
    about: str
    abstract: frozenset[str]
    defined: frozenset[str]
    constants: dict[str, object]


def catalogue(kind: str) -> dict[str, str]:
    """Return the concrete classes of one kind: first line of the docstring by name, sorted.

    Args:
        kind: a key of :data:`lightning_pbrl.registry.PACKAGES`.
    """
    return dict(sorted((line[0].name, next((each.about for each in line if each.about), "")) for line in _concrete(kind)))


def constants(kind: str, attribute: str) -> dict[str, Any]:
    """Return a class attribute of the concrete classes of one kind, which all set or inherit to a constant, by class name."""
    return {line[0].name: next(e.constants[attribute] for e in line if attribute in e.constants) for line in _concrete(kind)}


def _concrete(kind: str) -> list[list[Entry]]:
    """Return the concrete classes of one kind, each followed by its ancestors."""
    base = PACKAGES[kind][2]
    ancestries = [_ancestry(entry) for folder in FOLDERS for entry in _entries(folder).values() if not entry.name.startswith("_")]
    return [line for line in ancestries if base in [each.name for each in line[1:]] and not _is_abstract(line)]


@cache
def _entries(folder: str) -> dict[str, Entry]:
    """Return every class of a package's modules, by name."""
    trees = [ast.parse(path.read_bytes(), str(path)) for path in sorted((ROOT / folder).glob("*.py"))]
    return {node.name: _entry(folder, node) for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)}


def _entry(folder: str, node: ast.ClassDef) -> Entry:
    bases = [base.value if isinstance(base, ast.Subscript) else base for base in node.bases]  # Base[int]
    names = tuple(base.id if isinstance(base, ast.Name) else getattr(base, "attr", "") for base in bases)
    methods = [each for each in node.body if isinstance(each, ast.FunctionDef)]
    abstract = frozenset(each.name for each in methods if "abstractmethod" in map(ast.unparse, each.decorator_list))
    defined = frozenset({*(each.name for each in methods), *(target for each in node.body for target in _targets(each))})
    fixed = [each for each in node.body if isinstance(getattr(each, "value", None), ast.Constant)]
    constants = {target: each.value.value for each in fixed for target in _targets(each)}  # type: ignore[attr-defined]
    about = (ast.get_docstring(node) or "").partition("\n")[0]
    return Entry(folder, node.name, names, about, abstract, defined - abstract, constants)


def _targets(node: ast.stmt) -> list[str]:
    """Return the names that an assignment in a class's body sets."""
    if isinstance(node, ast.AnnAssign):
        return [node.target.id] if node.value is not None and isinstance(node.target, ast.Name) else []
    return [target.id for target in node.targets if isinstance(target, ast.Name)] if isinstance(node, ast.Assign) else []


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
