"""Fill the numbers of pages and notebooks from the committed records.

    python workflow/prose.py

run in the project's folder, writes README.md, docs/*.md and the Markdown cells of notebooks anew
where `<!-- = NAME -->...<!-- / -->` stands. NAME is `answer` (five lines), `words` (the verdicts'
meanings), `statements` (with all claims), a claim, `CLAIM: CELL` of its grid, either with `of` and
`verdict`, `estimate` or `size` (without sign) before it, or a query as in claims.yaml, in braces,
for numbers that no claim is about. A test fails where a page says something else.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import yaml
from pydantic import ValidationError

from experiments.common.files import whole
from experiments.common.stats import interval
from experiments.verdicts import answer, tables
from experiments.verdicts.claims import Query, gather, load_claims, read_evidence

COMMITTED = "standard"  # the profile whose records are part of the repository
MARKED = re.compile(r"<!-- = (.*?) -->(.*?)<!-- / -->", re.DOTALL)
ASKS = re.compile(r"(?:(verdict|estimate|size) of )?([a-z0-9-]+)(?:: (.+))?")


def filler(root: Path) -> Callable[[str], str]:
    """Return a function that fills a Markdown text by the project's committed records."""
    records = read_evidence(root / "results" / COMMITTED / "records").table
    table = tables.judge_all(load_claims(root / "claims.yaml"), records, COMMITTED)
    stated = answer.load_answer(root / "statements.yaml")
    judged = answer.judge_statements(stated, table)
    rows = {row["claim"]: row for row in table.to_dict("records")}
    figures = f"results/{COMMITTED}/figures"
    blocks = {
        "answer": lambda: answer.lines_markdown(stated, judged),
        "words": lambda: answer.WORDS,
        "statements": lambda: answer.statements_markdown(judged, table, figures),
    }

    def value(name: str) -> str:
        if name in blocks:
            return blocks[name]()
        if name.startswith("{"):
            return _of_query(name, records)
        asked = ASKS.fullmatch(name)
        if not asked or asked[2] not in rows:
            raise ValueError(f"'{name}' is neither a block nor a claim of claims.yaml: rename it.")
        what, claim, cell = asked.groups()
        row = rows[claim]
        cells = {one["claim"]: one for one in row["cells"]}
        if cell or (cells and what != "verdict"):
            if cell not in cells:
                there = ", ".join(cells) or "no cells"
                raise ValueError(f"'{name}': {claim} has {there}; name one of these.")
            row = cells[cell]
        if what == "verdict":
            return row["verdict"]
        numbers = row["ours"] or f"({row['verdict']})"
        if what is None:
            return numbers
        return numbers.partition(" [")[0].lstrip("+-" if what == "size" else "")

    def fill(text: str) -> str:
        if text.count("<!-- = ") != len(MARKED.findall(text)):
            raise ValueError("each `<!-- = NAME -->` needs a `<!-- / -->` behind it.")
        return MARKED.sub(lambda found: _replaced(found, value(" ".join(found[1].split()))), text)

    return fill


def _replaced(found: re.Match[str], new: str) -> str:
    """Put a text between its marks, on lines of its own where the old one was."""
    name, old = found.groups()
    block = old.startswith("\n")
    if not block and found.string[: found.start()].endswith("\n"):
        raise ValueError(f"'{name}' begins a line, which Markdown takes for HTML: move it.")
    inner = f"\n{new.strip()}\n" if block else new
    return f"<!-- = {name} -->{inner}<!-- / -->"


def _of_query(text: str, records: pd.DataFrame) -> str:
    """Return mean and interval of what a query finds."""
    try:
        query = Query.model_validate(yaml.safe_load(text))
        values = gather(query, records).values
    except LookupError as nothing:
        return f"(not run: {nothing})"
    except (yaml.YAMLError, ValidationError) as error:
        raise ValueError(f"{text} is no query: {' '.join(str(error).split())}") from error
    ends = (np.nan if end is None else end for end in interval(values))
    return tables.in_numbers(values.mean(), *ends, signed=query.baseline is not None)


def pages(root: Path) -> list[Path]:
    """List the pages that are filled."""
    found = (sorted(root.glob(pattern)) for pattern in ("docs/*.md", "notebooks/*.ipynb"))
    return [root / "README.md", *(path for paths in found for path in paths)]


def filled(path: Path, fill: Callable[[str], str]) -> str:
    """Return a page, or a notebook, with the numbers of the records.

    Raises:
        ValueError: A name is unknown, or a mark is not closed; the sentence names the page.
    """
    text = path.read_text(encoding="utf-8")
    try:
        if path.suffix != ".ipynb":
            return fill(text)
        notebook = nbformat.reads(text, as_version=4)
        sources = [c.source for c in notebook.cells if c.cell_type == "markdown"]
        if all(fill(source) == source for source in sources):
            return text
        for cell in notebook.cells:
            cell.source = fill(cell.source) if cell.cell_type == "markdown" else cell.source
        return nbformat.writes(notebook) + "\n"
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def main() -> None:
    """Write the pages that have changed."""
    try:
        fill = filler(Path())
        for path in pages(Path()):
            new = filled(path, fill)
            if new != path.read_text(encoding="utf-8"):
                print(path)
                with whole(path) as partial:
                    partial.write_text(new, encoding="utf-8")
    except (ValueError, OSError) as error:
        sys.exit(f"The numbers cannot be filled: {error}")


if __name__ == "__main__":
    main()
