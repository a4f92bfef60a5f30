"""Fill the numbers of pages and notebooks from the committed records.

    python workflow/prose.py

run in the project's folder, writes README.md, docs/*.md and the Markdown cells of notebooks anew
where `<!-- = NAME -->...<!-- / -->` stands. NAME is a block: `answer` (five lines), `words` (the
verdicts' meanings), `statements` (with all claims), `peers`, `ingredients`, `bias and noise` (the
ablation's tables); or a number: a claim, `CLAIM: CELL` of its grid, a query as in claims.yaml, in
braces, or times of a benchmark, `FILE.json: METHOD` or `FILE.json: METHOD / METHOD`. `verdict of`,
`estimate of` or `size of` (without sign) may stand before it. A test fails where a page says
something else.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import yaml
from PIL import Image
from pydantic import ValidationError
from scipy.stats import quantile_test

from experiments.ablation import analysis
from experiments.common.files import whole
from experiments.common.stats import interval
from experiments.verdicts import answer, tables
from experiments.verdicts.claims import Query, find, gather, load_claims, read_evidence

COMMITTED = "standard"  # the profile whose records are part of the repository
MARKED = re.compile(r"<!-- = (.*?) -->(.*?)<!-- / -->", re.DOTALL)
ASKS = re.compile(r"(?:(verdict|estimate|size) of )?(.+)")
TIMES = re.compile(r"(\S+\.json): (?:(\d+) x )?(.+?)(?: / (.+))?")


def filler(root: Path) -> Callable[[str], str]:
    """Return a function that fills a Markdown text by the project's committed records."""
    records = read_evidence(root / "results" / COMMITTED / "records").complete()
    table = tables.judge_all(load_claims(root / "claims.yaml"), records, COMMITTED)
    stated = answer.load_answer(root / "statements.yaml")
    judged = answer.judge_statements(stated, table)
    rows = {row["claim"]: row for row in table.to_dict("records")}

    def picture(name: str) -> str:
        path = f"results/{COMMITTED}/figures/{name}.png"
        with Image.open(root / path) as figure:
            return f"![{figure.info.get('Description', name)}]({path})"

    blocks = {
        "answer": lambda: answer.lines_markdown(stated, judged),
        "words": lambda: answer.WORDS,
        "statements": lambda: answer.statements_markdown(judged, table, picture),
    } | {
        name: lambda name=name: analysis.in_markdown(find(records, "ablation"), name)
        for name in analysis.TABLES
    }

    def value(name: str) -> str:
        if name in blocks:
            return blocks[name]()
        what, asked = ASKS.fullmatch(name).groups()
        if asked.startswith("{"):
            numbers = _of_query(asked, records)
        elif times := TIMES.fullmatch(asked):
            numbers = _of_times(root / "results" / "benchmarks" / times[1], *times.groups()[1:])
        else:
            row = _of_claim(name, what, *asked.partition(": ")[::2])
            if what == "verdict":
                return row["verdict"]
            numbers = row["ours"] or f"({row['verdict']})"
        if what is None:
            return numbers
        return numbers.partition(" [")[0].lstrip("+-" if what == "size" else "")

    def _of_claim(name: str, what: str | None, claim: str, cell: str) -> dict[str, Any]:
        if claim not in rows:
            raise ValueError(f"'{name}' is neither a block nor a claim of claims.yaml: rename it.")
        row = rows[claim]
        cells = {one["claim"]: one for one in row["cells"]}
        if not cell and (what == "verdict" or not cells):
            return row
        if cell not in cells:
            there = ", ".join(cells) or "no cells"
            raise ValueError(f"'{name}': {claim} has {there}; name one of these.")
        return cells[cell]

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
    return tables.in_numbers(values.mean(), *interval(values), signed=query.baseline is not None)


def _of_times(path: Path, factor: str | None, of: str, by: str | None) -> str:
    """Return the median of a benchmark's times, or of their ratios turn by turn, with interval.

    The 95 % interval is by order statistics, and left out where there are too few turns for one.
    """
    taken = dict(_taken(json.loads(path.read_text(encoding="utf-8"))))
    if missing := {of, by} - {None, *taken}:
        raise ValueError(f"{path} has no {' and no '.join(missing)}; it has {'; '.join(taken)}.")
    values = int(factor or 1) * np.array(taken[of]) / (np.array(taken[by]) if by else 1)
    ends = quantile_test(values, p=0.5).confidence_interval(0.95)
    middle, *ends = (f"{x:.0f}" if x >= 100 else f"{x:#.3g}" for x in (np.median(values), *ends))
    return middle if "nan" in ends else f"{middle} [{', '.join(ends)}]"


def _taken(found: Any, said: tuple[str, ...] = ()) -> Iterator[tuple[str, list[float]]]:
    """Yield the series of numbers in a benchmark's file, each by the names on the way to it."""
    if isinstance(found, dict):
        said += tuple(
            str(found[name]) for name in ("name", "k", "engine", "method") if name in found
        )
        for name, inner in found.items():
            known = name in ("steps", "measurements", "rows", "milliseconds", "values")
            if name not in ("setting", "provenance"):
                yield from _taken(inner, said if known else (*said, name))
    elif isinstance(found, list) and found and isinstance(found[0], dict):
        for inner in found:
            yield from _taken(inner, said)
    elif isinstance(found, list | float):
        yield ", ".join(said), found if isinstance(found, list) else [found]


def pages(root: Path) -> list[Path]:
    """List the pages that are filled."""
    found = (sorted(root.glob(pattern)) for pattern in ("docs/*.md", "notebooks/*.ipynb"))
    first = (root / "README.md", root / "results" / "benchmarks" / "README.md")
    return [*first, *(path for paths in found for path in paths)]


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
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
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
