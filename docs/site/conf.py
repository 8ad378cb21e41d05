"""Sphinx's settings for the site. `docs/site/build.py` gathers the pages and calls Sphinx."""

from reference_math import _types as numpy_types
from reference_math.conformance import _types as conformance_types
from rewards import _types as rewards_types

project = "posttraining-lab"
copyright = "the posttraining-lab authors"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx-mathjax-offline", "sphinx_copybutton"]
html_theme = "furo"
html_title = "posttraining-lab"
html_theme_options = {
    "light_css_variables": {"font-stack": "system-ui, sans-serif"},
    "dark_css_variables": {"font-stack": "system-ui, sans-serif"},
}
nb_execution_mode = "off"  # the lessons come executed
nb_merge_streams = True
nb_render_markdown_format = "myst"  # formulas in the outputs of puzzles, too
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True  # as written: a value may be a path of the machine that builds
# A type by its name. Spelt out, numpy's ArrayLike is six types long and hides the arguments.
autodoc_type_aliases = {
    name: name
    for module in (numpy_types, conformance_types, rewards_types)
    for name in vars(module)
    if name[0].isupper()
}
python_maximum_signature_line_length = 90  # beyond it, one argument per line
# Long tables of outputs have texts that Pygments does not know as a language.
suppress_warnings = ["misc.highlighting_failure", "mystnb.unknown_mime_type", "myst.header"]
html_copy_source = False
html_show_sourcelink = False


def as_it_stands(app, what, name, obj, options, lines):
    """Docstrings keep their own lines: formulas and aligned shapes are laid out by hand."""
    if lines:
        lines[:] = ["::", "", *(f"    {line}" for line in lines), ""]


def setup(app):
    app.connect("autodoc-process-docstring", as_it_stands)
