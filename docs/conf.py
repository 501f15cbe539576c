"""How the documentation is built: ``make docs``."""

from __future__ import annotations

import importlib.metadata
import os
import sys
import warnings
from pathlib import Path

from sphinx.application import Sphinx

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "extensions"))
os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")  # no screen is needed

project = "multiscale"
author = "The multiscale authors"
copyright = "2026, the multiscale authors"
release = importlib.metadata.version("multiscale-metamaterials")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_gallery.gen_gallery",
    "mathml",
]
exclude_patterns = ["extensions", "examples", "**/*.codeobj.json", "sg_execution_times.rst"]

# ------------------------------------------------------------------------ pages
myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 3
html_math_renderer = "mathml"
html_theme = "furo"
html_title = f"multiscale {release}"
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
pygments_style = "friendly"
pygments_dark_style = "monokai"

# ------------------------------------------------------------------ Python API
autodoc_member_order = "bysource"
# Docstrings say types, shapes and units; the annotations of arrays would only repeat the first.
autodoc_typehints = "none"
napoleon_google_docstring = False
# Types are prose ("bool array, shape (m, n, n, n)"): as plain text, or else its words become links by chance.
napoleon_use_param = False
napoleon_use_rtype = False
napoleon_custom_sections = [("Attributes", "params_style")]
maximum_signature_line_length = 88

# -------------------------------------------------------------------- examples
sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"\.py$",
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "remove_config_comments": True,
    "plot_gallery": True,
    "min_reported_time": 0,
    "show_memory": False,
    "show_signature": False,
}
warnings.filterwarnings("error", module="__main__")  # a warning in an example is a mistake, as in tests


def _write_reference(app: Sphinx) -> None:
    """Write ``case-reference.md`` from the schema, unless it is there already."""
    from case_reference import page

    from multiscale.case.case import case_schema

    file, text = HERE / "case-reference.md", page(case_schema())
    if not file.exists() or file.read_text(encoding="utf-8") != text:
        file.write_text(text, encoding="utf-8")


def _front_page(app: Sphinx, docname: str, source: list[str]) -> None:
    """On the web the README is the front page."""
    source[0] = source[0].replace("](../README.md)", "](index.md)")


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("builder-inited", _write_reference)
    app.connect("source-read", _front_page)
