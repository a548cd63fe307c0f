"""Counts over a source tree: files, lines, classes, imports. Reads syntax trees and imports nothing of what it counts."""

from __future__ import annotations

import ast
import os
import subprocess
from collections.abc import Iterator
from functools import cache, cached_property
from pathlib import Path

PARTS = ("lightning_pbrl", "callbacks", "datamodules")
"""Folders of the root that are the package; the links of ``lightning_pbrl/`` to the other two are not followed."""
LEARNERS = ("lightning_pbrl/methods/", "lightning_pbrl/rewards/")
CODE = (*LEARNERS, "lightning_pbrl/engine/")
FITTING = ("lightning_pbrl/fitting/", "lightning_pbrl/compute/")
DRAWS = "lightning_pbrl/engine/draws.py:"
NOUN_CLAUSES = ("What", "How", "Whether", "Where")


class Tree:
    """The Python files of a checkout.

    Args:
        root: of the checkout.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def modules(self) -> dict[str, ast.Module]:
        """Syntax trees of the package by path in the checkout, such as ``lightning_pbrl/methods/sac.py``."""
        return {path: ast.parse((self.root / path).read_text()) for part in PARTS for path in self.files(part)}

    @cached_property
    def classes(self) -> dict[str, ast.ClassDef]:
        """Classes of the package by ``path:Name``."""
        of = self.modules.items()
        return {f"{path}:{node.name}": node for path, module in of for node in module.body if isinstance(node, ast.ClassDef)}

    def files(self, folder: str, ending: str = ".py") -> list[str]:
        """Return the paths below ``folder`` with this ending, in order; none if there is no such folder."""
        walk = os.walk(self.root / folder)
        found = [Path(at, name).relative_to(self.root).as_posix() for at, _, names in walk for name in names]
        return sorted(path for path in found if path.endswith(ending))

    def lines(self, path: str) -> int:
        """Return the number of lines of a file; 0 if it does not exist."""
        file = self.root / path
        return len(file.read_text().splitlines()) if file.exists() else 0

    def learners(self) -> Iterator[tuple[str, ast.AST]]:
        """Go through the syntax nodes of methods and rewards, each with the path of its file."""
        for path, module in self.modules.items():
            if path.startswith(LEARNERS):
                yield from ((path, node) for node in ast.walk(module))

    def named(self, name: str, folders: tuple[str, ...] = LEARNERS) -> str:
        """Return the class ``name`` of the last of these folders that has it, as ``path:Name``.

        Raises:
            KeyError: when none has.
        """
        for folder in reversed(folders):
            for key in self.classes:
                if key.startswith(folder) and key.endswith(f":{name}"):
                    return key
        raise KeyError(name)

    @cached_property
    def paths(self) -> dict[str, str]:
        """Paths of the package's files by the name they are imported by."""
        return {module_name(path): path for path in self.modules}

    def resolve(self, path: str, name: str) -> str | None:
        """Return the class that ``C`` or ``module.C`` means in a file, as ``path:Name``; None if it is not of the package."""
        if f"{path}:{name}" in self.classes:
            return f"{path}:{name}"
        first, _, rest = name.partition(".")
        for node in ast.walk(self.modules[path]):
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    if first == (alias.asname or alias.name):
                        module, inside = (f"{node.module}.{alias.name}", rest) if rest else (node.module, alias.name)
                        return self.resolve(self.paths[module], inside) if module in self.paths else None
        return None

    @cache  # noqa: B019 - a tree lives as long as the process
    def bases(self, key: str) -> list[str]:
        """Return the direct bases of a class, without those of other packages."""
        found = [self.resolve(key.split(":")[0], ast.unparse(base)) for base in self.classes[key].bases]
        return [base for base in found if base is not None]

    @cache  # noqa: B019
    def mro(self, key: str) -> list[str]:
        """Return the own classes of a class's method resolution order (C3, as Python computes it)."""
        bases = self.bases(key)
        rows, order = [*map(self.mro, bases), bases], [key]
        while rows := [row for row in rows if row]:
            head = next(row[0] for row in rows if not any(row[0] in other[1:] for other in rows))
            order.append(head)
            rows = [[each for each in row if each != head] for row in rows]
        return order


def last_name(node: ast.AST) -> str:
    """Return ``C`` of a name ``C`` or ``a.b.C``; the empty string of anything else."""
    return getattr(node, "attr", getattr(node, "id", ""))


def here(path: str, node: ast.AST, text: str = "") -> str:
    """Return where a finding is, as ``file:line text``."""
    return f"{path}:{getattr(node, 'lineno', 0)} {text or ast.unparse(getattr(node, 'test', node))}"


def commit(root: Path) -> str:
    """Return the abbreviated commit of a checkout, with ``+`` where files differ from it; empty without git."""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()


# Size ------------------------------------------------------------------------------------------------------------------


def conf(tree: Tree) -> tuple[int, int]:
    """Count the YAML files of ``conf/`` and their lines."""
    files = tree.files("conf", ".yaml")
    return len(files), sum(map(tree.lines, files))


def longest(tree: Tree, *folders: str) -> tuple[int, str]:
    """Return lines and path of the longest Python file of some folders."""
    return max((tree.lines(path), path) for folder in folders for path in tree.files(folder))


def learner_lines(tree: Tree) -> int:
    """Count the lines of ``methods/``, ``rewards/`` and ``engine/``."""
    return sum(tree.lines(path) for folder in CODE for path in tree.files(folder))


def fit_lines(tree: Tree) -> int:
    """Count the same, ``fitting/`` (part of ``methods/`` once) and ``compute/`` (of ``engine/`` and ``nn/``)."""
    return learner_lines(tree) + sum(tree.lines(path) for part in FITTING for path in tree.files(part))


# Classes ---------------------------------------------------------------------------------------------------------------


def depth(tree: Tree) -> tuple[int, str]:
    """Return the most own classes between a method and ``pl.LightningModule``, and which they are.

    Counted are the own LightningModules of the method resolution order, the class itself included: as many places in which a
    ``self.x`` or ``super().x`` may be defined. A mixin counts like a parent; one that is no LightningModule does not.
    Method and its mixins ``Acting`` and ``EpisodeEvaluation`` are three.
    """
    found = [[each for each in tree.mro(name) if _is_lightning(tree, each)] for name in tree.classes]
    longest = max(found, key=len)
    return len(longest), _chain(longest)


def longest_path(tree: Tree) -> tuple[int, str]:
    """Return the longest chain of own classes, each a direct base of the one before, above ``pl.LightningModule``."""

    def path(name: str) -> list[str]:
        if not _is_lightning(tree, name):
            return []
        return [name, *max((path(base) for base in tree.bases(name)), key=len, default=[])]

    longest = max(map(path, tree.classes), key=len)
    return len(longest), _chain(longest)


def _is_lightning(tree: Tree, name: str) -> bool:
    return any("LightningModule" in map(last_name, tree.classes[each].bases) for each in tree.mro(name))


def _chain(keys: list[str]) -> str:
    return " > ".join(key.split(":")[1] for key in keys)


def noun_clauses(tree: Tree) -> list[str]:
    """List the public classes whose docstring begins with What, How, Whether or Where."""
    found = []
    for key, node in tree.classes.items():
        text = (ast.get_docstring(node) or "").split(maxsplit=1)
        if not node.name.startswith("_") and text and text[0].strip(",.:;") in NOUN_CLAUSES:
            found.append(here(key.split(":")[0], node, node.name))
    return found


# Imports ---------------------------------------------------------------------------------------------------------------


def circles(tree: Tree) -> list[list[str]]:
    """List the circles of own modules that import each other at module level, those under ``TYPE_CHECKING`` included.

    A circle is a strongly connected component of two modules or more. ``from a.b import c`` is an import of ``a.b.c`` where
    that is a module, and of ``a.b`` otherwise; the packages that Python runs on the way are not counted.
    """
    return _components(tree, [ast.FunctionDef, ast.AsyncFunctionDef])


def circles_at_runtime(tree: Tree) -> list[list[str]]:
    """List the circles that include imports inside functions, which Python resolves when they are called."""
    return _components(tree, [])


def _components(tree: Tree, skipped: list[type[ast.AST]]) -> list[list[str]]:
    known = set(tree.paths)
    edges = {name: _imports(tree.modules[path], known, skipped) - {name} for name, path in tree.paths.items()}
    reached = {name: _reach(name, edges) for name in edges}
    found = {frozenset({name, *(other for other in reached[name] if name in reached[other])}) for name in edges}
    return sorted(sorted(component) for component in found if len(component) > 1)


def module_name(path: str) -> str:
    """Return the name that a file is imported by: ``callbacks/progress.py`` is ``lightning_pbrl.callbacks.progress``."""
    name = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    return name if name.startswith("lightning_pbrl") else f"lightning_pbrl.{name}"


def _imports(module: ast.AST, known: set[str], skipped: list[type[ast.AST]]) -> set[str]:
    found: set[str] = set()
    for node in ast.iter_child_nodes(module):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & known
        elif isinstance(node, ast.ImportFrom) and node.module:
            named = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (named & known) | ({node.module} & known if named - known else set())
        elif not isinstance(node, tuple(skipped)):
            found |= _imports(node, known, skipped)
    return found


def _reach(start: str, edges: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = edges[waiting.pop()] - found
        found |= new
        waiting += new
    return found


# Methods ---------------------------------------------------------------------------------------------------------------


def phase_tests(tree: Tree) -> list[str]:
    """List the places of methods that ask which phase or which program runs.

    They are comparisons of a ``phase`` or an ``opening`` with a string, other conditions on ``.opening``, and choices between
    two calls by a key of the batch (``a(batch) if "first" in batch else b(batch)``).
    """
    return sorted(here(path, node) for path, node in tree.learners() if _compares(node) or _on_opening(node) or _by_key(node))


def _compares(node: ast.AST) -> bool:
    if not isinstance(node, ast.Compare | ast.Match):
        return False
    asked = node.subject if isinstance(node, ast.Match) else node
    names = {last_name(each) for each in ast.walk(asked)}
    return bool(names & {"phase", "opening"}) and any(map(_is_text, ast.walk(node)))


def _on_opening(node: ast.AST) -> bool:
    test = getattr(node, "test", None)
    return test is not None and not _compares(test) and any(last_name(each) == "opening" for each in ast.walk(test))


def _by_key(node: ast.AST) -> bool:
    if not (isinstance(node, ast.IfExp) and isinstance(node.test, ast.Compare) and isinstance(node.test.ops[0], ast.In)):
        return False
    return _is_text(node.test.left) and isinstance(node.body, ast.Call) and isinstance(node.orelse, ast.Call)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def samplers(tree: Tree) -> list[str]:
    """List the minibatch samplers that methods and rewards write themselves.

    They are functions that take a ``torch.Generator`` and are called ``sample...`` or ``draw...`` or take ``updates``, and
    subclasses of the engine's draws.
    """
    drawing = [(path, node) for path, node in tree.learners() if isinstance(node, ast.FunctionDef) and _draws(node)]
    found = []
    for path, node in drawing:
        if node.name.startswith(("sample", "draw")) or "updates" in [each.arg for each in node.args.args]:
            found.append(here(path, node, node.name))
    for key, cls in tree.classes.items():
        if key.startswith(LEARNERS) and any(each.startswith(DRAWS) for each in tree.mro(key)):
            found.append(here(key.split(":")[0], cls, cls.name))
    return sorted(found)


def other_draws(tree: Tree) -> list[str]:
    """List the other functions of methods and rewards that take a ``torch.Generator``."""
    found = {here(p, node, node.name) for p, node in tree.learners() if isinstance(node, ast.FunctionDef) and _draws(node)}
    return sorted(found - set(samplers(tree)))


def _draws(node: ast.FunctionDef) -> bool:
    every = (*node.args.args, *node.args.kwonlyargs)
    return any(each.annotation is not None and "Generator" in ast.unparse(each.annotation) for each in every)
