"""Pages and notebooks: modules and files they name exist, numbers are those of the records."""

import json
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from PIL import Image

from experiments.verdicts.claims import load_claims
from prose import MARKED, filled, filler, pages
from small_project import ROOT

PAGES = pages(ROOT)
NAMED = re.compile(r"`((?:ubnlib|experiments|workflow|data_scripts|tests|benchmarks)[./][\w./]+)`")
LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?!https?:|#)([^)#\s\"\\]+)")
PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")


def exists(name: str) -> bool:
    """Whether a path is there, or a module with the attribute that its last part may be."""
    if "/" in name:
        return (ROOT / name).exists()
    *module, last = name.split(".")
    path = ROOT.joinpath(*module)
    if (path / f"{last}.py").exists() or (path / last).is_dir():
        return True
    files = [path.with_suffix(".py"), path / "__init__.py", path.parent.with_suffix(".py")]
    return any(re.search(rf"\b{last}\b", file.read_text()) for file in files if file.exists())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_exists(page):
    text = page.read_text()
    assert [name for name in NAMED.findall(text) if not exists(name)] == []
    links = [link for link in LINK.findall(text) if "{" not in link]
    assert [link for link in links if not Path(page.parent, link).exists()] == []


def test_every_picture_of_a_page_says_what_it_shows():
    shown = [(page, *found) for page in PAGES for found in PICTURE.findall(page.read_text())]
    assert any(page.name == "README.md" for page, _, _ in shown)
    for page, says, picture in shown:
        assert len(says.split()) > 4, (page.name, picture)
        path = Path(page.parent, picture).resolve()
        assert path.exists(), (page.name, picture)
        if path.is_relative_to(ROOT / "results"):  # drawn by this code, so it has a caption itself
            with Image.open(path) as image:
                assert "Description" in image.info, (page.name, picture)


# Numbers: from the committed records, and nowhere else.

FILLED = [ROOT / "README.md", ROOT / "docs" / "results.md"]  # all of whose decimals are filled
# Only a result is written as a number with its interval, or as a difference with its sign.
RESULT = re.compile(r"\d\*{0,2} \[[-+]?\d[\d.]*, [-+]?\d[\d.]*\]|(?<=[\s|(*])[-+]\d*\.\d+")


@pytest.fixture(scope="module")
def fill():
    return filler(ROOT)


@pytest.mark.parametrize("page", pages(ROOT), ids=lambda page: page.name)
def test_the_numbers_of_a_page_are_those_of_the_records(page, fill):
    assert filled(page, fill) == page.read_text(), "make numbers"


def bare(page):
    """Return a page's prose, or that of a notebook's cells, without marks, code and formulas."""
    text = page.read_text()
    if page.suffix == ".ipynb":
        cells = nbformat.reads(text, as_version=4).cells
        text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return re.sub(r"```.*?```|`[^`\n]+`|\$[^$]+\$", "", MARKED.sub("", text), flags=re.DOTALL)


@pytest.mark.parametrize("page", FILLED, ids=lambda page: page.name)
def test_no_other_number_stands_in_the_prose(page):
    assert re.findall(r"(?<![\w.])[-+]?[01]\.\d+\b(?!\.)", bare(page)) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: "/".join(page.parts[-2:]))
def test_no_result_stands_in_prose_outside_a_mark(page):
    found = [line for line in bare(page).splitlines() if RESULT.search(line)]
    assert found == [], "write <!-- = QUERY --><!-- / --> there, then make numbers"


@pytest.mark.parametrize(
    "text", ["is +0.031 [0.021, 0.043] ahead", "| **-4.6** [-5.9, -3.5] |", "1.43 [1, 2]", "(-0.2)"]
)
def test_what_looks_like_a_result_is_found(text, tmp_path):
    (tmp_path / "page.md").write_text(text)
    assert RESULT.search(bare(tmp_path / "page.md"))
    (tmp_path / "page.md").write_text(
        f"seeds [0, 1], v1.2-0.3, `{text}`, <!-- = x -->{text}<!-- / -->"
    )
    assert not RESULT.search(bare(tmp_path / "page.md"))


def test_a_changed_number_is_seen_and_put_right(fill, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("It is <!-- = eq4-no-unlabeled -->7<!-- / --> at most.\n")
    assert filled(page, fill) == "It is <!-- = eq4-no-unlabeled -->0<!-- / --> at most.\n"
    cells = [{"cell_type": "markdown", "id": "a", "metadata": {}, "source": page.read_text()}]
    notebook = nbformat.from_dict(
        {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells}
    )
    nbformat.write(notebook, tmp_path / "book.ipynb")
    text = filled(tmp_path / "book.ipynb", fill)
    assert "unlabeled -->0<!-- / --> at" in text
    (tmp_path / "book.ipynb").write_text(text)
    assert filled(tmp_path / "book.ipynb", fill) == text


def test_values_are_those_that_judge_gives(fill, judged):
    rows = {row["claim"]: row for row in judged.to_dict("records")}

    def value(name):
        return MARKED.fullmatch(fill(f"<!-- = {name} --><!-- / -->"))[2]

    cell = rows["fig2-accuracy"]["cells"][0]
    assert value(f"fig2-accuracy: {cell['claim']}") == cell["ours"]
    assert value(f"verdict of fig2-accuracy: {cell['claim']}") == cell["verdict"]
    bias = rows["fig3-bias"]
    assert value("verdict of fig3-bias") == bias["verdict"]
    assert value("estimate of fig3-bias") == f"{bias['estimate']:.3f}"
    assert value("size of fig3-bias") == f"{abs(bias['estimate']):.3f}"
    claim = next(c for c in load_claims(ROOT / "claims.yaml") if c.id == "fig3-bias")
    query = json.dumps(claim.query.model_dump(exclude_none=True))
    assert value(query) == value("fig3-bias")
    absent = query.replace("spiral_features", "absent")
    assert value(absent).startswith("(not run: no record of experiment absent")


def test_times_of_a_benchmark_are_medians_and_ratios_within_turns(tmp_path):
    folder = tmp_path / "results" / "benchmarks"
    folder.mkdir(parents=True)
    for name in ("claims.yaml", "statements.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    times = {"BN": [2.0, 4.0, 1.0, 8.0, 16.0, 3.0], "UBN": [3.0, 4.0, 2.0, 24.0, 16.0, 6.0]}
    (folder / "a.json").write_text(
        json.dumps({"steps": [{"method": m, "k": 1, "milliseconds": t} for m, t in times.items()]})
    )
    fill = filler(tmp_path)

    def value(name):
        return MARKED.fullmatch(fill(f"<!-- = a.json: {name} --><!-- / -->"))[2]

    # Of six values the least and the largest hold the median with 1 - 2 / 2 ** 6 = 97 %.
    assert value("1, BN") == "3.50 [1.00, 16.0]"
    assert value("1, UBN / 1, BN") == "1.75 [1.00, 3.00]"
    assert value("10 x 1, UBN / 1, BN") == "17.5 [10.0, 30.0]"
    with pytest.raises(ValueError, match="has no 2, BN; it has 1, BN; 1, UBN"):
        value("2, BN")


def test_the_tables_of_the_ablation_are_those_of_its_analysis(fill, evidence):
    """One number of each against numpy, by another way."""
    runs = evidence[(evidence["experiment"] == "ablation") & (evidence["domain"] == "spiral")]

    def accuracy(ingredient, name):
        chosen = runs[(runs["ingredient"] == ingredient) & (runs["name"] == name)]
        return chosen.set_index("seed")["accuracy"].sort_index()

    def line(block, start):
        text = fill(f"<!-- = {block} -->\n<!-- / -->")
        (found,) = [row for row in text.splitlines() if row.startswith(f"| {start} |")]
        return found.split("|")[2]

    ghost = 100 * (accuracy("peers", "Ghost BN") - accuracy("peers", "BN")).mean()
    assert line("peers", "Ghost BN").startswith(f" **{ghost:+.1f}** [")
    assert line("peers", "BN, accuracy") == f" {accuracy('peers', 'BN').mean():.3f} "
    first = 100 * (accuracy("layers", "first") - accuracy("baselines", "UBN")).mean()
    assert line("ingredients", "layers: first").startswith(f" **{first:+.1f}** [")
    cell = {n: accuracy("bias and noise", n).mean() for n in runs["name"].unique() if ", " in n}
    noise = sum(cell[f"{x}, batch"] - cell[f"{x}, all"] for x in ("labeled", "everything"))
    assert line("bias and noise", "more noise").startswith(f" {100 * noise / 2:+.1f} [")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a <!-- = fig9 --><!-- / -->", "'fig9' is neither a block nor a claim"),
        ("a <!-- = fig2-accuracy --><!-- / -->", "has batch 8, batch 16"),
        ("a <!-- = fig3-bias: batch 8 --><!-- / -->", "has no cells"),
        ("a <!-- = {experiment: x} --><!-- / -->", "is no query"),
        ("a <!-- = spiral_ensemble.json: x --><!-- / -->", "has no x; it has together, BN"),
        ("a <!-- = fig3-bias -->1", "needs a `<!-- / -->` behind it"),
        ("a\n<!-- = fig3-bias -->1<!-- / -->", "begins a line"),
    ],
)
def test_a_mark_that_cannot_be_filled_is_told_with_its_page(text, told, fill, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(ValueError, match=re.escape(told)) as error:
        filled(page, fill)
    assert str(error.value).startswith(f"{page}: ")
