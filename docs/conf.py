"""How Sphinx builds the site: `make docs`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

import poolscope

project = "poolscope"
author = "the poolscope authors"
version = release = poolscope.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "poolscope_reference"]
exclude_patterns = ["_ext"]

html_theme = "furo"
html_title = f"poolscope {version}"
html_show_copyright = False
html_show_sourcelink = False

# Links such as runbook.md#loop_blocked: anchors as code hosts make them from headings.
myst_heading_anchors = 3

# Two hyphens are an option, not a dash.
smartquotes = False

autodoc_default_options = {"member-order": "bysource"}
autodoc_typehints = "signature"
