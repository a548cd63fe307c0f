"""Everything that can be named in a config, by kind: what `list` shows and what short class names resolve to.

The library's own parts are found by importing their packages; an outside package declares the entry point
``lightning_pbrl.plugins`` (a module to import), or is simply imported or named by its full class path.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from lightning_pbrl.errors import UserError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

PACKAGES = {
    "methods": ("lightning_pbrl.methods", "base", "Method"),
    "rewards": ("lightning_pbrl.rewards", "base", "RewardModel"),
    "teachers": ("lightning_pbrl.teachers", "base", "Teacher"),
    "queries": ("lightning_pbrl.queries", "base", "QueryStrategy"),
    "data": ("lightning_pbrl.datamodules", "base", "FeedbackDataModule"),
    "examples": ("lightning_pbrl.data", "example_choosers", "ExampleChooser"),
    "envs": ("lightning_pbrl.envs", "base", "Simulator"),
}
"""Kind -> (package whose modules hold it, the module of its base class, that class)."""


PLUGINS = "lightning_pbrl.plugins"
"""Entry points of outside packages: modules to import."""


def import_all() -> None:
    """Import every module that defines a nameable class, outside plugins included."""
    import pkgutil

    for package, *_ in PACKAGES.values():
        for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
            importlib.import_module(f"{package}.{module.name}")
    for plugin in plugins():
        plugin.load()


def plugins() -> EntryPoints:
    """Return the entry points of outside packages."""
    return _plugins(tuple(sys.path))


@cache
def _plugins(path: tuple[str, ...]) -> EntryPoints:
    from importlib.metadata import entry_points

    return entry_points(group=PLUGINS)


@contextmanager
def seeing_working_folder() -> Iterator[None]:
    """Let modules of the working folder be imported, after all others: a script of its own name hides nothing."""
    here = os.getcwd()
    if here in sys.path:
        yield
        return
    sys.path.append(here)
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)


def import_named(modules: Iterable[str]) -> None:
    """Import the modules that ``imports`` names, so that the classes they define can be named and their checkpoints be read.

    Raises:
        UserError: for a module that is not there.
    """
    for name in modules:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise UserError(
                    f"imports names {name}, which imports {error.name}, and that is not installed: install it."
                ) from error
            raise UserError(
                f"imports names the module {name!r} and there is none: start in the folder that holds it, install its package, "
                "or put its folder on PYTHONPATH."
            ) from error


def classes(kind: str) -> dict[str, type]:
    """Concrete classes of one kind by short name.

    Args:
        kind: a key of :data:`PACKAGES`.
    """
    import inspect

    import_all()
    package, module, base_name = PACKAGES[kind]
    base = getattr(importlib.import_module(f"{package}.{module}"), base_name)
    found: dict[str, type] = {}
    waiting = [base]
    while waiting:
        cls = waiting.pop()
        waiting += cls.__subclasses__()
        toy = cls.__name__.startswith("_") or cls.__module__ == "lightning_pbrl.testing.toys"
        if cls is not base and not inspect.isabstract(cls) and not toy:
            found[cls.__name__] = cls
    return dict(sorted(found.items()))


def lines(kind: str) -> dict[str, str]:
    """Return the line of each class of a kind that ``list`` prints, by name.

    The library's own are read from its source (:mod:`~lightning_pbrl.catalogue`); other packages' are there once something of
    them has been imported, or where there are plugins.
    """
    if _is_imported(kind):
        return {name: first_line(cls) for name, cls in classes(kind).items()}
    from lightning_pbrl.catalogue import catalogue

    return catalogue(kind)


def devices() -> dict[str, str]:
    """Return the devices that a fit of each method can use, "one" or "many", by name; read as :func:`lines` are."""
    from lightning_pbrl.catalogue import constants

    found = classes("methods") if _is_imported("methods") else None
    several = constants("methods", "ddp") if found is None else {name: cls.ddp for name, cls in found.items()}  # type: ignore[attr-defined]
    return {name: "many" if ddp else "one" for name, ddp in several.items()}


def _is_imported(kind: str) -> bool:
    """Return True if classes of a kind have been imported, or outside packages may have some."""
    package, module, _ = PACKAGES[kind]
    return f"{package}.{module}" in sys.modules or bool(plugins())


def first_line(cls: type) -> str:
    """Return the one line that ``list`` prints."""
    import inspect

    return (inspect.getdoc(cls) or "").split("\n", 1)[0]
