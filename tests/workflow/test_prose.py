"""The pages and notebooks name modules and files that exist."""

import re
from pathlib import Path

import pytest
from PIL import Image

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
