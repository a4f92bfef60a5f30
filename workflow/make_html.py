"""Turn an executed notebook into one HTML file that asks nothing of the network.

nbconvert's own page loads MathJax, require.js and mermaid from other servers. Here formulas
become MathML, which browsers draw themselves, and the scripts are left out.
"""

import os
import re
import xml.etree.ElementTree as ElementTree
from html import escape
from pathlib import Path

from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from jinja2 import pass_context
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

TEMPLATE = """
{%- extends 'lab/index.html.j2' -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block jupyter_widgets -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block data_latex -%}{{ output.data['text/latex'] | markdown2html }}{%- endblock -%}
"""
XMLNS = ' xmlns="http://www.w3.org/1998/Math/MathML"'
# What docutils' converter does not know, in terms that it knows.
REWRITES = [
    (r"\\tag\{(.*?)\}", r"\\qquad \\text{(\1)}"),
    (r"\\[dt]?frac\s*(\w)\s*(\w)", r"\\frac{\1}{\2}"),
    (r"\\[dt]frac\b", r"\\frac"),
    (r"\\(begin|end)\{(align|equation|gather)\*?\}", r"\\\1{aligned}"),
]


def mathml(formula: str, block: bool) -> str:
    r"""Convert a TeX formula to MathML.

    `\tag{1}` becomes (1) at the formula's right; what cannot be converted is shown as its source.
    """
    source = formula.strip()
    for pattern, replacement in REWRITES:
        formula = re.sub(pattern, replacement, formula.strip())
    try:
        # Without the namespace, which HTML does not need and nbconvert's headings stumble over.
        result = tex2mathml(formula, as_block=block).replace(XMLNS, "")
        ElementTree.fromstring(result)
    except (MathError, ElementTree.ParseError, IndexError, KeyError, AttributeError):
        return f"<code>{escape(source)}</code>"
    return re.sub(r"\n\s*", "", result)


class MathRenderer(IPythonRenderer):
    """nbconvert's Markdown renderer, with formulas as MathML."""

    def inline_math(self, body: str) -> str:
        """Convert `$...$`."""
        return mathml(body, block=False)

    def block_math(self, body: str) -> str:
        """Convert `$$...$$`."""
        return mathml(body, block=True)

    def latex_environment(self, name: str, body: str) -> str:
        r"""Convert a bare `\\begin{align}...\\end{align}`."""
        return mathml(rf"\begin{{{name}}}{body}\end{{{name}}}", block=True)


def markdown_to_html(source: str, meant_from: Path, page_in: Path) -> str:
    """Convert Markdown with formulas, for a page in another folder than its links' own."""
    renderer = MathRenderer(escape=False, exclude_anchor_links=True)
    html = MarkdownWithMath(renderer=renderer).render(source)
    return rebase_links(html, meant_from, page_in)


def rebase_links(html: str, meant_from: Path, page_in: Path) -> str:
    """Turn links that are relative to one folder into links relative to another."""

    def rebase(match: re.Match[str]) -> str:
        path, _, anchor = match[1].partition("#")
        moved = os.path.relpath(os.path.abspath(meant_from / path), os.path.abspath(page_in))
        return f'href="{Path(moved).as_posix()}{"#" + anchor if anchor else ""}"'

    return re.sub(r'href="(?![a-z+.-]+:|#|/)([^"]+)"', rebase, html)


class OfflineExporter(HTMLExporter):
    """nbconvert's HTML export without requests to other servers."""

    @pass_context
    def markdown2html(self, context, source: str) -> str:
        """Convert one Markdown cell; pictures are embedded."""
        renderer = MathRenderer(
            escape=False,
            attachments=context.get("cell", {}).get("attachments", {}),
            embed_images=True,
            path=context.get("resources", {}).get("metadata", {}).get("path", ""),
            anchor_link_text=self.anchor_link_text,
        )
        return MarkdownWithMath(renderer=renderer).render(source)


def make_html(notebook: Path, source: Path | None = None) -> str:
    """Convert an executed notebook to a self-contained page.

    Args:
        notebook: The notebook; its page is meant to lie beside it.
        source: The folder that the notebook's links are meant from, if it is another one.
    """
    exporter = OfflineExporter(raw_template=TEMPLATE)
    html, _ = exporter.from_filename(str(notebook))
    return rebase_links(html, source, notebook.parent) if source else html
