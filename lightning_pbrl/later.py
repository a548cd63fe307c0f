"""Put off what Lightning imports and few processes need: ``torch._dynamo``, ``scipy.signal``, ``matplotlib``.

They take two thirds of the seconds of ``import pytorch_lightning``, which asks for a few of their names and calls none. While it
is imported, stand-ins with these names are in ``sys.modules``. Afterwards whoever imports such a module gets the module itself. A
stand-in that Lightning has kept hands on whatever is asked of it. Asked for another name while Lightning is imported, it imports
its module at once: a version that needs more starts no faster than it would without all this.
"""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

LIGHTNING = ("lightning_fabric", "pytorch_lightning", "torchmetrics")
"""Packages whose import puts off."""


class StandIn(ModuleType):
    """Module that has not been imported: a few names, and the way to the others.

    Args:
        name: of the module.
        names: what is asked of it before it is needed.

    Attributes:
        lacked: True if a submodule has been asked for; it has none.
    """

    def __init__(self, name: str, **names: Any) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)
        vars(self).update(names)
        self.__names = tuple(names)
        self.lacked = False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked by those who look through all modules, and by the import of a submodule
            self.lacked |= name == "__path__"
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(imported(self.__name__), name)

    def hand_on(self) -> None:
        """Keep no names: from now on they are those of the module."""
        for name in self.__names:
            vars(self).pop(name, None)


def imported(name: str) -> ModuleType:
    """Return a module itself, whose stand-in it takes the place of."""
    if isinstance(sys.modules.get(name), StandIn):
        package = name.partition(".")[0]
        for each in [each for each, module in sys.modules.items() if isinstance(module, StandIn)]:
            if each.partition(".")[0] == package:
                del sys.modules[each]
    return importlib.import_module(name)


def _loaded(name: str) -> Any:
    """Return a module that has been imported; None before."""
    module = sys.modules.get(name)
    return None if isinstance(module, StandIn) else module


class _Class(type):
    """Type of a class that stands for one of a module: nothing is an instance of it before that has been imported."""

    def __new__(cls, name: str, module: str) -> _Class:
        return super().__new__(cls, name, (), {"__module__": module})

    def __init__(cls, name: str, module: str) -> None:
        super().__init__(name, (), {})

    def _itself(cls) -> Any:
        return getattr(_loaded(cls.__module__), cls.__name__, None)

    def __instancecheck__(cls, thing: object) -> bool:
        itself = cls._itself()
        return itself is not None and isinstance(thing, itself)

    def __subclasscheck__(cls, other: type) -> bool:
        itself = cls._itself()
        return other is cls or (itself is not None and issubclass(other, itself))

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return getattr(imported(cls.__module__), cls.__name__)(*args, **kwargs)


def _disable(fn: Any = None, *args: Any, **kwargs: Any) -> Any:
    """Return a function that ``torch._dynamo`` does not look into; before it is imported, nothing does."""
    if not callable(fn) or isinstance(fn, type):
        return imported("torch._dynamo").disable(fn, *args, **kwargs)
    made: list[Callable[..., Any]] = []

    @wraps(fn)
    def disabled(*its_args: Any, **its_kwargs: Any) -> Any:
        if not made and (disable := getattr(_loaded("torch._dynamo"), "disable", None)):
            made.append(disable(fn, *args, **kwargs))
        return (made[0] if made else fn)(*its_args, **its_kwargs)

    disabled._torchdynamo_disable, disabled._torchdynamo_disable_msg = True, None  # type: ignore[attr-defined]  # as dynamo marks its own
    return disabled


@contextmanager
def _style(*args: Any, **kwargs: Any) -> Iterator[None]:
    """Draw in a style, as ``matplotlib.pyplot.style.context``; what it decorates needs matplotlib when it is called."""
    with importlib.import_module("matplotlib.pyplot").style.context(*args, **kwargs):
        yield


def _stand_ins() -> dict[str, list[StandIn]]:
    """Return new stand-ins by the module that must not be there yet."""
    axes = StandIn("matplotlib.axes", Axes=_Class("Axes", "matplotlib.axes"))
    colors = StandIn("matplotlib.colors", Colormap=_Class("Colormap", "matplotlib.colors"))
    figure = _Class("Figure", "matplotlib.figure")
    pyplot = StandIn("matplotlib.pyplot", Figure=figure, style=SimpleNamespace(context=_style))
    dynamo = {"OptimizedModule": _Class("OptimizedModule", "torch._dynamo"), "disable": _disable, "graph_break": lambda: None}
    return {
        "torch._dynamo": [StandIn("torch._dynamo", **dynamo)],
        "scipy.signal": [StandIn("scipy.signal", hamming=None)],  # which torchmetrics adds for another package
        "matplotlib": [StandIn("matplotlib", axes=axes, colors=colors, pyplot=pyplot), axes, colors, pyplot],
    }


@contextmanager
def put_off(*names: str) -> Iterator[list[StandIn]]:
    """Let stand-ins take the place of modules that have not been imported, and give them.

    Args:
        names: of the modules; all that this file knows without.
    """
    names = tuple(name for name in names or ("torch._dynamo", "scipy.signal", "matplotlib") if name not in sys.modules)
    if not names:
        yield []
        return
    known = _stand_ins()
    placed = {module.__name__: module for name in names for module in known[name]}
    sys.modules |= placed
    try:
        yield list(placed.values())
    finally:
        for name, module in placed.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]
            module.hand_on()


@contextmanager
def uncollected() -> Iterator[None]:
    """Import without looking for garbage, which takes a sixth of the time and finds none."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _Putting:
    """Finder and loader of Lightning: the usual ones, while the modules above are put off."""

    def __init__(self, usual: Any = None) -> None:
        self.usual = usual

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in LIGHTNING:
            return None
        others = [finder for finder in sys.meta_path if not isinstance(finder, _Putting)]
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _Putting(spec.loader)  # type: ignore[assignment]
        return spec

    def __getattr__(self, name: str) -> Any:
        return getattr(self.usual, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self.usual.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self.usual
        if module.__spec__ is not None:
            module.__spec__.loader = self.usual
        with uncollected():
            self._exec(module)

    def _exec(self, module: ModuleType) -> None:
        importlib.import_module("torch")  # which needs what it imports, and cannot be imported twice
        stand_ins: list[StandIn] = []
        try:
            with put_off() as stand_ins:
                self.usual.exec_module(module)
        except ImportError:
            if not any(stand_in.lacked for stand_in in stand_ins):
                raise
            self.usual.exec_module(module)  # a version that needs more than a stand-in can give


if not any(isinstance(finder, _Putting) for finder in sys.meta_path):
    sys.meta_path.insert(0, _Putting())


def import_matplotlib() -> None:
    """Import matplotlib's figures without the tables of properties in their docstrings, a fifth of the seconds of ``plot``.

    For a process that draws and ends: nobody reads them there.
    """
    if "matplotlib.figure" in sys.modules:
        return
    artist: Any = importlib.import_module("matplotlib.artist")
    table, artist.kwdoc = artist.kwdoc, lambda _: ""
    try:
        importlib.import_module("matplotlib.figure")
    finally:
        artist.kwdoc = table
