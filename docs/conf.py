# Settings of the documentation build: make docs, or sphinx-build -W -b html docs docs/_build/html

from __future__ import annotations

import os
import sys
import tomllib
from pathlib import Path

from sphinx.ext.napoleon.docstring import GoogleDocstring

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]  # autodoc reads this tree even where another version is installed
os.environ.setdefault("MUJOCO_GL", "egl")

project = "lightning-pbrl"
author = "lightning-pbrl contributors"
copyright = author
release = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "package_directive",
]
exclude_patterns = ["_build"]
toc_object_entries = False  # else every page's navigation holds the API's thousand objects: ten minutes instead of two
html_theme = "furo"
html_title = "lightning-pbrl"

myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_inherit_docstrings = False  # an override without a docstring is documented where it is defined, Lightning's are not ours
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

# An attribute's docstring is a sentence. Napoleon would take the words before its first colon for a type.
GoogleDocstring._consume_inline_attribute = lambda self: ("", self._dedent(self._consume_to_end()))
