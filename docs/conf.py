"""The documentation site: `make docs`.

The source folder is the repository's root, so that a link between Markdown
files leads to the same place on the site and in a checkout; only what is in
`include_patterns` is read. Nothing is fetched: formulas are MathML, notebooks
are shown as they were executed.
"""

import os
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import gnsmall_keras
from gnsmall_keras.quiet import quieten_tensorflow

quieten_tensorflow()
project = "gnsmall_keras"
author = "The gnsmall_keras developers"
version = release = gnsmall_keras.__version__
root_doc = "docs/index"
include_patterns = [
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "docs/**",
    "papermill_runs/gallery/*.ipynb",
    "tflite/*.md",
    "tflite/*/*.md",
]
exclude_patterns = ["build", "runs", "**/.*", ".venv", "docs/_static"]
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "site_parts",
]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"
nb_merge_streams = True
nb_render_markdown_format = "myst"
copybutton_prompt_text = r"\$ |>>> "
copybutton_prompt_is_regexp = True

default_role = "code"  # docstrings write `x`, as Markdown does
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints = "both"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 60  # then a parameter a line
autodoc_typehints_description_target = "documented_params"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
html_math_renderer = "mathml"

html_theme = "pydata_sphinx_theme"
html_title = "gnsmall_keras"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "navigation_depth": 2,
    "show_toc_level": 2,
    "secondary_sidebar_items": ["page-toc"],
    "navbar_end": ["theme-switcher"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_sidebars = {"docs/index": []}
project_copyright = "The gnsmall_keras developers, Apache-2.0"


def setup(app):
    """Writes the pages of the API before they are read."""
    from site_parts import escape_names, sign, write_api

    app.connect("autodoc-process-docstring", escape_names)
    app.connect("autodoc-process-signature", sign)
    app.connect("build-finished", redirect)
    pages = Path(__file__).parent / "api"
    shutil.rmtree(pages, ignore_errors=True)
    write_api(pages)


def redirect(app, error):
    """Leads from the site's folder to its first page."""
    if not error and app.builder.name == "html":
        (Path(app.outdir) / "index.html").write_text(
            '<meta http-equiv="refresh" content="0; url=docs/index.html">\n'
        )
