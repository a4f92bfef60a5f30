"""The website: built once without a warning, whole, and readable without a network."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from headings import out_of_order

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
ORDER = [
    *(f"notebooks/{name}.html" for name in NOTEBOOKS),
    "docs/using_ubn.html",
    "CHANGELOG.html",
    "docs/reproducing.html",
    "docs/layout.html",
    "results/benchmarks/README.html",
    "docs/results.html",
    "docs/paper_statements.html",
    "docs/toy_study.html",
    "docs/depth_study.html",
    "docs/ablation_study.html",
    "docs/kitti.html",
    "docs/synthetic_drives.html",
    "docs/rgbd.html",
    *(f"api/{name}.html" for name in ("layer", "statistics", "kitti", "depth", "spiral")),
    *(f"api/{name}.html" for name in ("ablation", "records", "claims")),
]
WITHOUT_CONTENT = {"genindex.html", "py-modindex.html", "search.html"}


class Page(HTMLParser):
    """What a page loads, links to, and can be linked to at; and its formulas."""

    def __init__(self, text: str):
        super().__init__()
        self.loads, self.links, self.navigation, self.ids = [], [], [], set()
        self.formulas, self.blocks, self.in_tree, self.in_block = 0, [], False, False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        kind = attributes.get("class") or ""
        self.ids.add(attributes.get("id"))
        self.loads += [attributes[name] for name in ("src", "data", "poster") if name in attributes]
        self.loads += [part.split()[0] for part in attributes.get("srcset", "").split(",") if part]
        if tag == "link" and attributes.get("rel") not in ("index", "search", "next", "prev"):
            self.loads.append(attributes["href"])
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])
            if self.in_tree:
                self.navigation.append(attributes["href"])
        if tag == "div":
            self.in_tree = self.in_tree or "sidebar-tree" in kind
            if kind == "math":
                self.blocks.append(False)
        if tag == "math":
            self.formulas += 1
            if attributes.get("display") == "block" and self.blocks:
                self.blocks[-1] = True

    def handle_endtag(self, tag):
        if tag == "aside":
            self.in_tree = False


def links_lead_somewhere(pages: dict[Path, Page], file: Path) -> list[str]:
    """Look up each relative link; `pages` are all of the website."""
    complaints = []
    for link in pages[file].links:
        url = urlsplit(link)
        if url.scheme or url.netloc:
            continue
        target = (file.parent / unquote(url.path)).resolve() if url.path else file
        if not target.is_file():
            complaints.append(f"{link}: no such file")
        elif url.fragment and target in pages and unquote(url.fragment) not in pages[target].ids:
            complaints.append(f"{link}: no such place in that page")
    return complaints


# The website.


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("website") / "site"
    command = [sys.executable, str(ROOT / "site" / "build.py"), str(target)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(target / "index.html")
    return target.resolve()


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, Page]:
    files = [path for path in site.rglob("*.html") if "_static" not in path.parts]
    return {path: Page(path.read_text(encoding="utf-8")) for path in files}


def test_every_page_is_there_and_no_other(site, pages):
    names = {path.relative_to(site).as_posix() for path in pages}
    assert names == {"index.html", "docs/playground.html", *ORDER, *WITHOUT_CONTENT}


def test_headings_are_in_order(pages):
    written = [path for path in pages if path.name not in WITHOUT_CONTENT]
    faults = {path: out_of_order(path.read_text(encoding="utf-8")) for path in written}
    assert {path: found for path, found in faults.items() if found} == {}


def test_nothing_is_loaded_from_elsewhere(site, pages):
    elsewhere = re.compile(r"(?!file:)(\w+:)?//")
    assert [url for page in pages.values() for url in page.loads if elsewhere.match(url)] == []
    for sheet in site.rglob("*.css"):
        assert re.findall(r"url\(\s*['\"]?\w*:?//", sheet.read_text(encoding="utf-8")) == [], sheet


def test_links_lead_somewhere(pages):
    assert {file: found for file in pages if (found := links_lead_somewhere(pages, file))} == {}


def test_navigation_is_in_the_papers_order(site, pages):
    tree = [link for link in pages[site / "index.html"].navigation if "#" not in link]
    assert tree == ["docs/playground.html", *ORDER]


def test_a_flow_chart_is_a_list(site):
    text = (site / "docs" / "results.html").read_text(encoding="utf-8")
    assert 'class="flowchart' in text and "flowchart LR" not in text


def test_every_page_can_be_searched(site):
    text = (site / "searchindex.js").read_text(encoding="utf-8")
    index = json.loads(text.removeprefix("Search.setIndex(").removesuffix(")"))
    assert {f"{name}.html" for name in index["docnames"]} == {"index.html", *ORDER}
    assert len(index["terms"]["spiral"]) > 3


def test_formulas_are_mathml(site, pages):
    assert [file for file, page in pages.items() if not all(page.blocks)] == []
    method = site / "notebooks" / "01_method.html"
    assert len(pages[method].blocks) == 3
    assert pages[method].formulas > 15
    assert "<mtext>(4)</mtext>" in method.read_text(encoding="utf-8")


def test_the_playground_is_linked_to(pages, site):
    playground = site / "docs" / "playground.html"
    for file, page in pages.items():
        found = [(file.parent / link).resolve() == playground for link in page.navigation]
        assert found.count(True) == (file != playground), file
    for name in ("index", "notebooks/02_toy_analysis", "docs/toy_study"):  # in the text too
        page = site / f"{name}.html"
        found = [(page.parent / link).resolve() == playground for link in pages[page].links]
        assert found.count(True) == 2, name


# The website in a browser.


def test_search_finds_a_word(site, tab):
    tab.goto((site / "index.html").as_uri())
    tab.locator("input.sidebar-search").fill("islands")
    tab.keyboard.press("Enter")
    tab.locator("#search-results li").first.wait_for()
    hrefs = tab.locator("#search-results li a").evaluate_all("all => all.map(a => a.href)")
    assert any("02_toy_analysis" in href for href in hrefs)


def test_it_can_be_dark(site, tab):
    tab.goto((site / "notebooks" / "01_method.html").as_uri())
    ground = "getComputedStyle(document.body).backgroundColor"
    light = tab.evaluate(ground)
    while tab.locator("body").get_attribute("data-theme") != "dark":
        tab.locator(".theme-toggle:visible").first.click()
    assert brightness(light) > 0.9
    assert brightness(tab.evaluate(ground)) < 0.2
    cell = tab.locator(".cell_output table td").first
    assert brightness(cell.evaluate("e => getComputedStyle(e).color")) > 0.7


def brightness(color: str) -> float:
    """Mean of a CSS color's red, green and blue, from 0 to 1."""
    return sum(map(int, re.findall(r"\d+", color)[:3])) / (3 * 255)


def test_a_figure_can_be_enlarged(site, tab):
    tab.goto((site / "notebooks" / "02_toy_analysis.html").as_uri())
    figure = tab.locator(".cell_output img").first
    enlarged = tab.locator("dialog img")
    by_mouse = (figure.click, enlarged.click)
    by_keyboard = (lambda: figure.press("Enter"), lambda: tab.keyboard.press("Escape"))
    for start, end in (by_mouse, by_keyboard):
        start()
        enlarged.wait_for()
        assert enlarged.bounding_box()["height"] > 1.5 * figure.bounding_box()["height"]
        assert enlarged.get_attribute("src") == figure.get_attribute("src")
        end()
        enlarged.wait_for(state="hidden")
