"""Build the website of notebooks, docs and docstrings into a folder: what `make site` does.

Sphinx wants all pages below one folder, so they are copied there first. Opened as files, the pages
work without a network.
"""

import argparse
import json
import re
import shutil
import sys
from pathlib import Path

import bundle
from sphinx.cmd.build import main as sphinx_build

SITE = Path(__file__).parent
ROOT = SITE.parent
# What becomes a page, and what pages show or link to.
STAGED = [
    "README.md",
    "CHANGELOG.md",
    "docs/*",
    "examples/*.py",
    "notebooks/*.ipynb",
    "results/benchmarks/README.md",
    "results/standard/figures/*.png",
]
# Sphinx takes a page that is none of its own for a file to download, unless HTML links to it.
TO_PLAYGROUND = re.compile(r"\[([^\[\]\n]+)\]\(([\w./]*\bplayground\.html)\)")


def stage(source: Path) -> None:
    """Copy the pages' sources to an empty folder, as they lie in the project."""
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(SITE / "pages", source)
    for pattern in STAGED:
        for path in ROOT.glob(pattern):
            copy = source / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix in (".md", ".ipynb"):  # README is the start page
                text = path.read_text(encoding="utf-8").replace("../README.md", "../index.md")
                if path.suffix == ".ipynb":
                    text = described(text)
                copy.write_text(TO_PLAYGROUND.sub(r"<a href='\2'>\1</a>", text), encoding="utf-8")
            else:
                shutil.copy(path, copy)


def place_playground(target: Path) -> None:
    """Write the playground beside the studies, with links to the website's pages."""
    text = bundle.page().replace('href="../README.md', 'href="../index.html')
    page = target / "docs" / bundle.PAGE.name
    page.write_text(text.replace('href="toy_study.md', 'href="toy_study.html'), encoding="utf-8")


def described(notebook: str) -> str:
    """Return a notebook's text with its pictures' captions and widths where MyST-NB looks."""
    content = json.loads(notebook)
    for cell in content["cells"]:
        for output in cell.get("outputs", ()):
            if kept := output.get("metadata", {}).get("image/png"):
                image = {"alt": kept["alt"], "width": f"{kept['width']}px"}
                cell["metadata"]["mystnb"] = {"image": image}
    return json.dumps(content)


def main() -> int:
    """Stage and build; a warning is an error. Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", type=Path, help="folder of the website; DIR-source is made too")
    target = parser.parse_args().target
    source = target.with_name(f"{target.name}-source")
    stage(source)
    sys.path[:0] = [str(ROOT), str(ROOT / "workflow")]  # of the docstrings, and of mathml
    options = ["--fresh-env", "--fail-on-warning", "--keep-going", "--quiet"]
    status = sphinx_build([*options, "-c", str(SITE), str(source), str(target)])
    if status == 0:
        place_playground(target)
        print(target.absolute() / "index.html")
    return status


if __name__ == "__main__":
    sys.exit(main())
