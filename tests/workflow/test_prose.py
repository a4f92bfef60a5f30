"""Pages and notebooks: modules and files they name exist, numbers are those of the records."""

import json
import re
from pathlib import Path

import nbformat
import pytest
from PIL import Image

from experiments.verdicts.claims import load_claims, read_evidence
from experiments.verdicts.tables import judge_all
from prose import MARKED, filled, filler, pages
from small_project import ROOT

PAGES = [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("notebooks/*.ipynb")]
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


@pytest.fixture(scope="module")
def fill():
    return filler(ROOT)


@pytest.mark.parametrize("page", pages(ROOT), ids=lambda page: page.name)
def test_the_numbers_of_a_page_are_those_of_the_records(page, fill):
    assert filled(page, fill) == page.read_text(), "make numbers"


@pytest.mark.parametrize("page", FILLED, ids=lambda page: page.name)
def test_no_other_number_stands_in_the_prose(page):
    text = re.sub(r"```.*?```", "", MARKED.sub("", page.read_text()), flags=re.DOTALL)
    assert re.findall(r"(?<![\w.])[-+]?[01]\.\d+\b(?!\.)", text) == []


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


def test_values_are_those_that_judge_gives(fill):
    rows = {
        row["claim"]: row
        for row in judge_all(
            load_claims(ROOT / "claims.yaml"),
            read_evidence(ROOT / "results" / "standard" / "records").table,
            "standard",
        ).to_dict("records")
    }

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


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a <!-- = fig9 --><!-- / -->", "'fig9' is neither a block nor a claim"),
        ("a <!-- = fig2-accuracy --><!-- / -->", "has batch 8, batch 16"),
        ("a <!-- = fig3-bias: batch 8 --><!-- / -->", "has no cells"),
        ("a <!-- = {experiment: x} --><!-- / -->", "is no query"),
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
