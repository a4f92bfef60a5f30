"""What the report shows of notebooks: each as a page that asks nothing of the network.

nbconvert's own page loads MathJax, require.js and mermaid from other servers. Here formulas
become MathML, which browsers draw themselves, and the scripts are left out.
"""

import os
import re
import xml.etree.ElementTree as ElementTree
from html import escape, unescape
from pathlib import Path
from typing import Any

from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from jinja2 import pass_context
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from experiments.common.files import whole
from job import duration
from parameters import read_notebook

TEMPLATE = """
{%- extends 'lab/index.html.j2' -%}
{%- set DARK = 'media="screen and (prefers-color-scheme: dark)"' -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block jupyter_widgets -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block notebook_css -%}
{{ super() }}
{{ resources.include_css("static/theme-dark.css") | replace('type="text/css"', DARK) }}
<style>STYLE</style>
{%- endblock -%}
{%- block input -%}
{%- if cell.metadata.get("jupyter", {}).get("source_hidden") -%}
<details><summary>Code</summary>{{ super() }}</details>
{%- else -%}{{ super() }}{%- endif -%}
{%- endblock -%}
{%- block data_png -%}
{%- set kept = output.metadata.get("image/png", {}) -%}
{%- if kept.alt -%}
<figure class="jp-RenderedImage jp-OutputArea-output">
<img src="data:image/png;base64,{{ output.data["image/png"] | escape_html }}"
 alt="{{ kept.alt | escape_html }}" width="{{ kept.width }}" style="height: auto">
<figcaption>{{ kept.alt | escape_html }}</figcaption>
</figure>
{%- else -%}{{ super() }}{%- endif -%}
{%- endblock -%}
{%- block data_latex -%}{{ output.data['text/latex'] | markdown2html }}{%- endblock -%}
"""
# Dark where the reader's pages are; and nothing is cut on a phone or on paper.
STYLE = """
:root { color-scheme: light dark; }
:is(.jp-RenderedHTMLCommon, .jp-RenderedImage) img, .jp-RenderedSVG svg {
  max-width: 100%; height: auto; background: #fff; }
details > summary, figcaption { font-family: var(--jp-content-font-family); font-size: .9em; }
details > summary { cursor: pointer; margin: .3rem 0; }
.jp-OutputArea-output, .jp-RenderedHTMLCommon { min-width: 0; overflow-wrap: anywhere; }
.jp-OutputArea-output:has(table) { overflow-x: auto; }
math[display=block] { display: block math; max-width: 100%; overflow: auto hidden; }
@media print, (max-width: 760px) {
  body.jp-Notebook { padding: .4rem !important; }
  .jp-InputPrompt, .jp-OutputPrompt, .jp-Collapser { display: none !important; }
  .jp-Cell { padding: 0; }
  :is(.highlight, .jp-OutputArea-output) pre {
    white-space: pre-wrap !important; word-break: normal; }
  .jp-RenderedHTMLCommon :is(td, th) { padding: .2em; overflow-wrap: normal; }
}
@media print {
  :root { color-scheme: light; }
  .jp-RenderedHTMLCommon table { font-size: 7pt; }
  .jp-OutputArea-output:has(table) { overflow: visible; }
}
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
        result = result.replace("&ApplyFunction;", "&#x2061;")  # behind log, unknown to XML
        ElementTree.fromstring(result)
    except (MathError, ElementTree.ParseError, IndexError, KeyError, AttributeError):
        return f"<code>{escape(source)}</code>"
    return re.sub(r"\n\s*", "", result)


class MathRenderer(IPythonRenderer):
    """nbconvert's Markdown renderer, with formulas as MathML, and parts that unfold."""

    def block_html(self, html: str) -> str:
        """Leave HTML as it is where it embeds no picture; nbconvert closes what is open in it."""
        return super().block_html(html) if "<img" in html else html

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
    """Turn links and pictures that are relative to one folder into ones relative to another."""

    def rebase(match: re.Match[str]) -> str:
        path, _, anchor = match[2].partition("#")
        moved = os.path.relpath(os.path.abspath(meant_from / path), os.path.abspath(page_in))
        return f'{match[1]}="{Path(moved).as_posix()}{"#" + anchor if anchor else ""}"'

    return re.sub(r'\b(href|src)="(?![a-z+.-]+:|#|/)([^"]+)"', rebase, html)


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
    """Convert an executed notebook to a self-contained page beside it.

    `source` is the folder that the notebook's links are meant from, if it is another one.
    """
    exporter = OfflineExporter(raw_template=TEMPLATE.replace("STYLE", STYLE))
    html, _ = exporter.from_filename(str(notebook))
    return rebase_links(html, source, notebook.parent) if source else html


def convert(notebook: Path, source: Path) -> str:
    """Write an executed notebook's page where it is missing or older; return what is wrong."""
    page = notebook.with_suffix(".html")
    if page.exists() and page.stat().st_mtime >= notebook.stat().st_mtime:
        return ""
    try:
        with whole(page) as partial:
            partial.write_text(make_html(notebook, source), encoding="utf-8")
    except Exception as error:  # nbconvert raises what it likes; the report names it and goes on
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    return ""


def notebook_entry(name: str, results: Path, source: Path) -> dict[str, Any]:
    """Read what a notebook says of itself: as it was executed, or else as it is committed.

    `source` is the folder of the committed notebooks. Files are named relative to `results`, and ""
    where there is none; so is `problem`, a sentence.
    """
    folder = results / "notebooks"
    done, failed = folder / f"{name}.ipynb", folder / f"{name}.failed.ipynb"
    executed = next((path for path in (failed, done) if path.exists()), None)
    state, problem = "done", ""
    if executed is None:
        state, problem = "missing", f"Notebook {name} has not been run to its end."
    elif wrong := convert(executed, source):
        state, problem = "failed", f"Notebook {name} cannot be shown: {wrong}"
    elif executed == failed:
        state, problem = "failed", f"Notebook {name} failed; kept up to the error."
    try:
        notebook = read_notebook(executed or source / f"{name}.ipynb")
    except (ValueError, OSError):
        notebook = {"metadata": {}, "cells": []}
    run = notebook["metadata"].get("papermill", {}) if executed else {}
    about = notebook["metadata"].get("ubn", {})
    cells = [cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "markdown"]
    page = executed.with_suffix(".html") if executed else None
    log = results / "logs" / f"{name}.log"
    parameters = {k: v for k, v in run.get("parameters", {}).items() if k != "results"}
    return {
        "name": name,
        "state": state,
        "problem": problem,
        "title": re.findall(r"^# +(.+)", "\n".join([*cells, f"# {name}"]), re.MULTILINE)[0],
        "section": about.get("section", ""),
        "claims": about.get("claims", []),
        "parameters": parameters,
        "duration": duration(run["duration"]) if run.get("duration") else "",
        "file": f"notebooks/{executed.name}" if executed else "",
        "page": f"notebooks/{page.name}" if page and page.exists() else "",
        "log": f"logs/{log.name}" if log.exists() else "",
        "cells": cells,
    }


def discussed(
    claim: str, place: str, notebooks: list[dict], results: Path
) -> dict[str, str] | None:
    """Return where a claim is discussed: `text` and `link` of the first notebook registered for it.

    The section is the one of the figure or equation that the claim's place names, or else the
    notebook's "Paper against ours". None where no notebook has been executed.
    """
    notebook = next((n for n in notebooks if claim in n["claims"] and n["page"]), None)
    if notebook is None:
        return None
    page = (results / notebook["page"]).read_text(encoding="utf-8")
    headings = {
        anchor: unescape(re.sub(r"<[^>]+>", "", text))
        for anchor, text in re.findall(r'<h2 id="([^"]+)">(.*?)<a class="anchor-link"', page, re.S)
    }
    named = re.findall(r"(?:figure|equation) \d+", place, re.IGNORECASE)
    for words in (*named, "Paper against ours"):
        for anchor, text in headings.items():
            if re.search(rf"\b{words}\b", text, re.IGNORECASE):
                link = f"{notebook['page']}#{unescape(anchor)}"
                return {"text": f"{notebook['name']}: {text}", "link": link}
    return {"text": notebook["name"], "link": notebook["page"]}


def deviations(notebook: dict[str, Any], source: Path, results: Path) -> str:
    """Return a notebook's section "Deviations from the paper" as HTML; "" if it has none."""
    text = "\n\n".join(notebook["cells"])
    found = re.search(r"^## Deviations from the paper\s*\n(.*?)(?=^#{1,2} |\Z)", text, re.M | re.S)
    return markdown_to_html(found[1], source, results) if found else ""
