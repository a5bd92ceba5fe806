"""How Sphinx builds the site: `python -m sphinx -W docs docs/_build/html`."""

from __future__ import annotations

import inspect
import os
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS / "_ext"), str(DOCS.parent)]
# No picture opens a window.
os.environ.setdefault("MPLBACKEND", "Agg")

import pytorch_sphinx_theme2  # noqa: E402
from sphinx.application import Sphinx  # noqa: E402
from sphinx_gallery.sorting import FileNameSortKey  # noqa: E402

import torchrl_td  # noqa: E402

project = "torchrl_td"
author = "The torchrl_td authors"
project_copyright = "the torchrl_td authors, MIT licence"
release = version = torchrl_td.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_gallery.gen_gallery",
    "settings_reference",
    "results_tables",
]
exclude_patterns = ["_build", "gallery", "generated/*.inc.md"]
templates_path = ["_templates"]

# Prose. Documents of the repository are included as they stand, with their links to its files.
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header", "config.cache"]

# The API, from the docstrings. What a class inherits from PyTorch is not repeated.
autosummary_generate = True
autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the signature has them
autodoc_inherit_docstrings = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

# The method's pictures, which our own code draws while the site is built.
sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "method",
    "within_subsection_order": FileNameSortKey,
    "filename_pattern": r"plot_",
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "abort_on_example_error": True,
    "min_reported_time": 1000,
    "write_computation_times": False,  # its page would load scripts from elsewhere
}

html_theme = "pytorch_sphinx_theme2"
html_theme_path = [pytorch_sphinx_theme2.get_html_theme_path()]
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_title = "torchrl_td"
html_show_sourcelink = False
html_theme_options = {
    "logo": {"text": "torchrl_td"},
    "header_links_before_dropdown": 8,
    "navbar_start": ["navbar-logo"],
    "navbar_center": ["navbar-nav"],
    "navbar_end": ["search-button", "theme-switcher"],
    "article_header_end": [],
    "secondary_sidebar_items": ["page-toc"],
    "article_footer_items": ["prev-next.html"],
    "show_prev_next": True,
    "use_edit_page_button": False,
    "show_lf_header": False,
    "show_lf_footer": False,
    "show_pytorch_org_link": False,
    "llm_disabled": True,
}


def constructor_signature(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str, annotation: str
) -> tuple[str, str] | None:
    """A class' signature from its `__init__`: the metaclasses of modules and losses hide it."""
    if what != "class" or "__init__" not in vars(obj):
        return None
    own = inspect.signature(obj.__init__)
    parameters = [p.replace(annotation=p.empty) for p in list(own.parameters.values())[1:]]
    return str(own.replace(parameters=parameters, return_annotation=own.empty)), ""


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-signature", constructor_signature)
