"""The directive ``package``: autodoc of every module of a package, by name.

.. code-block:: rst

    .. package:: lightning_pbrl.queries
       :without: base bald

A module that is added to the package is on the page by itself. A name after ``without`` that is no module of it is an error.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any, ClassVar

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


def modules_of(package: str, without: str = "") -> list[str]:
    """Return the full names of the modules of ``package``, sorted, less those that ``without`` names (separated by spaces).

    Raises:
        ValueError: for a name in ``without`` that the package does not have.
    """
    names = sorted(module.name for module in pkgutil.iter_modules(importlib.import_module(package).__path__))
    unknown = set(without.split()) - set(names)
    if unknown:
        raise ValueError(f"{package} has no module {', '.join(sorted(unknown))}: correct `without` in docs/api.md.")
    return [f"{package}.{name}" for name in names if name not in without.split()]


class PackageDirective(SphinxDirective):
    """Document the modules of the package that is its argument."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {"without": str}

    def run(self) -> list[nodes.Node]:
        names = modules_of(self.arguments[0], self.options.get("without", ""))
        return self.parse_text_to_nodes("\n\n".join(f".. automodule:: {name}" for name in names))


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("package", PackageDirective)
    return {"parallel_read_safe": True}
