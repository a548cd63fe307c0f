"""Which files a reader opens to follow one round of QPA."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from benchmarks.house_source import LEARNERS, Tree

METHOD, REWARD = "QPA", "RewardEnsemble"
"""The method, and the reward model that it fits unless told otherwise."""
ROOTS = ("plan", "programs")

Place = tuple[str, str, str]
"""The class whose object ``self`` is, the class that defines the function, the function's name."""


def files(tree: Tree) -> dict[str, list[str]]:
    """Return the files of ``methods/`` and ``rewards/`` that a round of QPA runs through, with the functions it runs.

    A reader begins at ``plan`` (the order of the round) and ``programs`` (its updates) of QPA. Every ``self.x``, ``super().x``
    and ``self.reward_model.x`` found there leads to the function or property of that name, and from it on. Attributes that no
    class defines as a function (``self.asked``) lead nowhere.
    """
    method = tree.named(METHOD)
    found: dict[str, set[str]] = {method.split(":")[0]: set()}
    waiting = [place for name in ROOTS for place in _lookup(tree, method, name)]
    seen: set[Place] = set()
    while waiting:
        place = waiting.pop()
        if place not in seen:
            seen.add(place)
            path, _ = place[1].split(":")
            found.setdefault(path, set()).add(place[2])
            waiting += _named(tree, place)
    return {path: sorted(found[path]) for path in sorted(found) if path.startswith(LEARNERS)}


def _named(tree: Tree, place: Place) -> Iterator[Place]:
    """Go through the functions that one function names."""
    owner, definer, name = place
    for node in ast.walk(_functions(tree, definer)[name]):
        if not isinstance(node, ast.Attribute):
            continue
        on = node.value
        if isinstance(on, ast.Name) and on.id == "self":
            yield from _lookup(tree, owner, node.attr)
        elif isinstance(on, ast.Call) and isinstance(on.func, ast.Name) and on.func.id == "super":
            yield from _lookup(tree, owner, node.attr, after=definer)
        elif isinstance(on, ast.Attribute) and "reward" in on.attr and isinstance(on.value, ast.Name) and on.value.id == "self":
            yield from _lookup(tree, tree.named(REWARD), node.attr)


def _lookup(tree: Tree, owner: str, name: str, after: str = "") -> list[Place]:
    """Return the first definition of ``name`` in the class's resolution order (from the class after ``after`` on), if any."""
    order = tree.mro(owner)
    for definer in order[order.index(after) + 1 :] if after else order:
        if name in _functions(tree, definer):
            return [(owner, definer, name)]
    return []


def _functions(tree: Tree, name: str) -> dict[str, ast.FunctionDef]:
    return {node.name: node for node in tree.classes[name].body if isinstance(node, ast.FunctionDef)}
