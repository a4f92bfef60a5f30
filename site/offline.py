"""A Sphinx extension: formulas and charts that ask nothing of the network.

Formulas become MathML, which browsers draw themselves. README's flow chart, which GitHub draws
with mermaid, becomes a nested list.
"""

import re

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx

from notebook_html import mathml

NODE = r'(\w+)(?:\{\{"([^"]*)"\}\}|\["([^"]*)"\])?'
EDGE = re.compile(rf'\s*{NODE} --(?: (?:"([^"]+)"|(\w+)) --)?> {NODE}\s*')


def inline_math(translator, node: nodes.Element) -> None:
    """Write `$...$`."""
    translator.body.append(mathml(node.astext(), block=False))
    raise nodes.SkipNode


def block_math(translator, node: nodes.Element) -> None:
    """Write `$$...$$`."""
    translator.body.append(f'<div class="math">{mathml(node.astext(), block=True)}</div>\n')
    raise nodes.SkipNode


def read_flowchart(lines: list[str]) -> tuple[dict[str, str], dict[str, list[tuple[str, str]]]]:
    """Read a mermaid flow chart of labeled boxes, one arrow a line.

    Returns:
        The text of each box, and the arrows that leave it: label and next box.

    Raises:
        ValueError: A line is no arrow between two boxes.
    """
    texts, arrows = {}, {}
    for line in lines:
        if not (match := EDGE.fullmatch(line)):
            raise ValueError(f"{line.strip()!r} is no arrow of a flow chart that can be read here.")
        words = [(word or "").replace("<br>", " ") for word in match.groups()]
        start, question, answer, quoted, label, end, *at_end = words
        for box, text in ((start, question or answer), (end, "".join(at_end))):
            texts[box] = text or texts.get(box, box)
        arrows.setdefault(start, []).append((quoted or label, end))
    return texts, arrows


class Mermaid(Directive):
    """A flow chart as nested lists: an item a box, after the answer that leads to it."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return the chart, or its source where it is of another kind."""
        try:
            texts, arrows = read_flowchart(self.content[1:])
        except ValueError:
            return [nodes.literal_block(text="\n".join(self.content))]

        def item(label: str, box: str) -> nodes.list_item:
            answer = [nodes.strong(text=f"{label}: ")] if label else []
            result = nodes.list_item("", nodes.paragraph("", "", *answer, nodes.Text(texts[box])))
            if box in arrows:
                result += nodes.bullet_list("", *(item(*arrow) for arrow in arrows[box]))
            return result

        return [nodes.bullet_list("", item("", next(iter(arrows))), classes=["flowchart"])]


def escape_bars(app, what, name, obj, options, lines: list[str]) -> None:
    """Keep |x| in a docstring from being taken for a substitution of reStructuredText."""
    lines[:] = [x if x.lstrip().startswith(">>>") else x.replace("|", r"\|") for x in lines]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer `mathml` and the directive `mermaid`."""
    app.add_html_math_renderer("mathml", (inline_math, None), (block_math, None))
    app.add_directive("mermaid", Mermaid)
    app.connect("autodoc-process-docstring", escape_bars)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
