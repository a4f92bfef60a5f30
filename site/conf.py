"""Sphinx's settings for the website; `build.py` beside it stages the sources and runs Sphinx."""

from importlib.metadata import version as version_of

project = "Unsupervised Batch Normalization"
author = "The UBN companion authors"
copyright = "The UBN companion authors. MIT license"
version = release = version_of("ubnlib")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "offline"]
exclude_patterns = ["README.md"]  # index.md includes it

# Notebooks are shown as they were committed.
nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 4
myst_fence_as_directive = ["mermaid"]

# Docstrings: Google's sections, and code in single backquotes.
default_role = "py:obj"
autodoc_default_options = {"exclude-members": "model_config"}  # of pydantic
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # attributes are described once, with their class

html_theme = "furo"
html_title = "UBN, a reproducible companion"
html_static_path = ["static"]
templates_path = ["templates"]
# Furo's, with a link to the playground, which is no page of Sphinx's.
html_sidebars = {
    "**": [
        "sidebar/brand.html",
        "sidebar/search.html",
        "sidebar/scroll-start.html",
        "playground.html",
        "sidebar/navigation.html",
        "sidebar/scroll-end.html",
    ]
}
html_css_files = ["site.css"]
html_js_files = [("zoom.js", {"defer": "defer"})]
html_scaled_image_link = False  # a click enlarges, by zoom.js
html_math_renderer = "mathml"
html_copy_source = False
# The summary is fetched from the page, which browsers refuse to pages opened as files.
html_show_search_summary = False
