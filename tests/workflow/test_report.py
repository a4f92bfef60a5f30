"""The report: what it says follows the records, it names what is missing, and it works offline."""

import base64
import json
import os
import re
import shutil
from html import escape, unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote

import nbformat
import numpy as np
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from experiments.common.provenance import Provenance
from experiments.common.records import Config, Record, write_record
from experiments.verdicts.tables import in_numbers
from headings import out_of_order
from notebook_html import convert, make_html, mathml, rebase_links
from report import group_figures, main, make_report

CAPTION = "Red: $a < b$ \N{PLUS-MINUS SIGN} 1"
LEDGER = """
- {id: better, place: "Section 2, Figure 1", claim: UBN is <better>., paper: 6 %,
   statistic: paired difference, margin: 0.02, seeds: 3, profile: quick, note: a & b,
   caveat: after <trials>, requires: {present: {statistic: mean, direction: smaller, threshold: 1.0,
   query: {experiment: toy, metric: score, where: {kind: bn}}}},
   query: {experiment: toy, metric: score, where: {kind: ubn}, baseline: {kind: bn}}}
- {id: large, place: Section 3, claim: It is large., statistic: mean, threshold: 0.5, margin: 0.1,
   seeds: 3, profile: standard, query: {experiment: toy, metric: score, where: {kind: ubn}}}
- {id: unlikely, place: beyond the paper, claim: It is cheap., note: nobody has tried,
   statistic: mean, query: {experiment: toy, metric: price, where: {kind: none}}}
"""
STATEMENTS = """
lines: {The toy: [is-better], Size: [is-large]}
statements:
- {id: is-better, place: Section 2, says: UBN is <better>., picture: 02_better,
   claims: {better: more accurate than BN, forgotten: it is there}}
- {id: is-large, place: Section 3, says: It is large., claims: {large: how large}}
"""
TEXT = """# 2. The toy

About `better`.

## Figure 1: what it is worth $x^2$

## Paper against ours

## Deviations from the paper

- Smaller by $\\frac{1}{2}$; see [the plan](../docs/plan.md).
"""
DONE = {"parameters": {"results": "/x", "steps": 5}, "duration": 61.0, "end_time": "now"}


def write_notebook(path: Path, text: str, claims: tuple = (), run: dict | None = None) -> None:
    cells = [new_markdown_cell(text), new_code_cell("1 + 1")]
    notebook = new_notebook(cells=cells)
    notebook.metadata.ubn = {"section": "2: the toy", "claims": list(claims)}
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "", "language": "python"}
    if run:
        notebook.metadata.papermill = run
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)


class Toy(Config):
    version: ClassVar[int] = 1
    experiment: str = "toy"
    kind: str


UBN = Toy(kind="ubn").key


def write_toy(folder: Path, kind: str, scores: list[float]) -> Path:
    made = Provenance(
        revision="a" * 40, clean=True, versions={}, cpu="A processor", gpu=None,
        threads=1, peak_memory_mb=1, when="2026-01-02T00:00:00Z",
    )  # fmt: skip
    record = Record(
        experiment="toy", version=1, key=Toy(kind=kind).key, seeds=list(range(len(scores))),
        config=Toy(kind=kind).model_dump(),
        metrics={"score": scores}, curves={}, seconds=1, made=made,
    )  # fmt: skip
    return write_record(record, folder)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A project of two notebooks and two records, after a run that went well."""
    root = tmp_path_factory.mktemp("template")
    (root / "claims.yaml").write_text(LEDGER)
    (root / "statements.yaml").write_text(STATEMENTS)
    (root / "docs").mkdir()
    (root / "docs" / "plan.md").write_text("The plan.")
    (root / "profiles").mkdir()
    profile = {"description": "For <tests>.", "notebooks": {"02_toy": {}, "05_verdicts": {}}}
    (root / "profiles" / "quick.yaml").write_text(yaml.safe_dump(profile))
    for folder, run in (("notebooks", None), ("results/quick/notebooks", DONE)):
        write_notebook(root / folder / "02_toy.ipynb", TEXT, ("better", "large"), run)
        write_notebook(root / folder / "05_verdicts.ipynb", "# 5. Verdicts", (), run)
    results = root / "results" / "quick"
    write_toy(results / "records", "bn", [0.5, 0.6, 0.7, 0.8, 0.6])
    write_toy(results / "records", "ubn", [0.55, 0.66, 0.75, 0.86, 0.655])
    (results / "figures").mkdir()
    described = PngInfo()
    described.add_text("Description", CAPTION)
    red = Image.new("RGB", (900, 600), "red")
    red.save(results / "figures" / "02_a picture.png", pnginfo=described)
    (results / "figures" / "02_a picture.csv").write_text("x\n1\n")
    for name in ("02_toy", "05_verdicts"):
        convert(results / "notebooks" / f"{name}.ipynb", root / "notebooks")
    return root


@pytest.fixture
def project(template, tmp_path):
    """A copy of it, to change."""
    return shutil.copytree(template, tmp_path, dirs_exist_ok=True)


def results_of(root: Path) -> Path:
    return root / "results" / "quick"


def report(root: Path, profile: str = "quick") -> str:
    """Write the report's files as the command does, and return the page."""
    results = root / "results" / profile
    for name, text in make_report(root / "profiles" / f"{profile}.yaml", results, root).items():
        results.mkdir(parents=True, exist_ok=True)
        (results / name).write_text(text)
    return (results / "report.html").read_text()


class Page(HTMLParser):
    """Collect what a page links to, what it loads, and its anchors."""

    def __init__(self, page: str):
        super().__init__()
        self.links, self.loads, self.anchors = [], [], set()
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        for key, value in attributes:
            if key == "id":
                self.anchors.add(value)
            if key in ("src", "href"):
                (self.links if tag == "a" else self.loads).append(value)


def warnings(page: str) -> list[str]:
    box = re.search(r'id="warnings">(.*?)</div>', page, re.S)
    found = re.findall(r"<li>(.*?)</li>", box[1], re.S) if box else []
    return [unescape(re.sub("<[^>]+>", "", item)).strip() for item in found]


def article(page: str, claim: str) -> str:
    return re.search(rf'<article[^>]*id="claim-{claim}".*?</article>', page, re.S)[0]


def verdicts(part: str) -> list[str]:
    return re.findall(r'class="badge ([a-z-]+)"', part)


# What the page says.


def test_the_page_follows_the_records(project):
    page = report(project)
    better, large = article(page, "better"), article(page, "large")
    assert "<b>+0.055 [0.049, 0.061]</b>" in better and verdicts(better) == ["reproduced"]
    assert "5 seeds · the interval lies beyond the margin" in better
    assert "UBN is &lt;better&gt;." in better and "The paper: 6 %." in better
    assert "<i>after &lt;trials&gt;</i>" in better
    told = "present (score at most 1): 0.640 t[0.498, 0.782]"
    assert "<dt>Precondition</dt>" in better and told in better
    assert "a &amp; b" in better and "make claim" not in better  # no notebook here makes its runs
    assert "A processor · finished 2026-01-02 · revision\naaaaaaaaaaaa" in better
    assert verdicts(large) == ["inconclusive"] and "an indication" in large
    unlikely = article(page, "unlikely")
    assert verdicts(unlikely) == ["not-run"] and "nobody has tried" in unlikely
    assert warnings(page) == []
    assert "2 claims of the paper: 1 reproduced and 1 inconclusive. Apart from these" in page
    (answer,) = re.findall(r'<ol class="answer">(.*?)</ol>', page, re.S)
    assert verdicts(answer) == ["reproduced", "not-run", "inconclusive"]
    assert "more accurate than BN" in answer and "+0.055 [0.049, 0.061]" in answer
    assert "\N{DAGGER}" in answer and "0.695 [" in answer
    assert "(after &lt;trials&gt;)" not in answer and "(after &lt;trials&gt;)" in page

    write_toy(results_of(project) / "records", "ubn", [0.5, 0.6, 0.7, 0.8, 0.6])
    better = article(report(project), "better")
    assert "<b>0 [0, 0]</b>" in better and verdicts(better) == ["no-difference"]
    write_toy(results_of(project) / "records", "bn", [0.5, 0.6, 0.7, 1.8, 0.6])
    better = article(report(project), "better")
    assert verdicts(better) == ["not-tested-here"] and "5 seeds · present (score at" in better


def test_each_cell_of_a_grid_is_shown(project):
    ledger = project / "claims.yaml"
    cells = "grid: {all of it: {kind: ubn}, nothing: {kind: none}},"
    ledger.write_text(ledger.read_text().replace("threshold: 0.5, margin", f"{cells} margin"))
    large = article(report(project), "large")
    assert verdicts(large) == ["inconclusive", "inconclusive", "not-run"]
    assert large.count("<svg") == 1 and "<b>0.695 [" in large
    assert '<span class="soft">nothing</span>' in large
    judged = json.loads((results_of(project) / "claims.json").read_text())["claims"][1]["judgement"]
    assert judged["estimate"] is None and judged["cells"]["nothing"]["verdict"] == "not run"
    assert judged["cells"]["all of it"]["estimate"] == pytest.approx(0.695)


def test_a_quick_run_is_shown_beside_the_committed_records(project):
    for kind, score in (("bn", 0.5), ("ubn", 0.9)):
        write_toy(
            project / "results" / "standard" / "records", kind, [score, score + 0.01, *[score] * 3]
        )
    page = report(project)
    large = article(page, "large")
    assert verdicts(large) == ["reproduced", "inconclusive"]  # the larger profile comes first
    assert f'href="../standard/records/toy-{UBN}.json"' in large
    first, second = re.findall(r'<ol class="answer">(.*?)</ol>', page, re.S)
    assert verdicts(first) == ["reproduced", "not-run", "reproduced"]
    assert verdicts(second) == ["reproduced", "not-run", "inconclusive"]
    assert "By this run, profile quick: an indication" in page
    check_links(results_of(project) / "report.html")


def test_a_run_on_kitti_says_so(project):
    run = {**DONE, "parameters": {"kitti_root": "/data/kitti"}}
    write_notebook(results_of(project) / "notebooks" / "02_toy.ipynb", TEXT, ("better",), run)
    page = report(project)
    assert "<td>/data/kitti</td>" in page


def test_a_claim_leads_to_the_section_that_discusses_it(project):
    page = report(project)
    assert '<a href="notebooks/02_toy.html#Figure-1:-' in article(page, "better")
    assert '<a href="notebooks/02_toy.html#Paper-against-ours">' in article(page, "large")
    assert "notebooks/" not in article(page, "unlikely")


def test_deviations_have_formulas_and_their_links_lead_on(project):
    page = report(project)
    section = page[page.index('id="deviations"') : page.index('id="notebooks"')]
    assert "<mfrac>" in section and 'href="../../docs/plan.md"' in section
    assert "ran in 1 min 01 s" in page and "steps = 5" in page
    notebook = (results_of(project) / "notebooks" / "02_toy.html").read_text()
    assert 'href="../../../docs/plan.md"' in notebook


def check_links(path: Path) -> None:
    """Every link of a page leads to a file, and every anchor is there."""
    page = Page(path.read_text())
    assert [load for load in page.loads if not load.startswith("data:")] == []
    pages = {}
    for link in page.links:
        file, _, anchor = link.partition("#")
        target = path.parent / unquote(file) if file else path
        assert target.is_file(), link
        if anchor:
            pages[target] = pages.get(target) or Page(target.read_text())
            assert unquote(anchor) in pages[target].anchors, link


def test_every_link_leads_somewhere_and_nothing_is_loaded(project):
    page = report(project)
    check_links(results_of(project) / "report.html")
    files = Page(page).links
    assert {"figures/02_a%20picture.png", "figures/02_a%20picture.csv"} <= set(files)
    assert f"records/toy-{UBN}.json" in files and "notebooks/02_toy.ipynb" in files
    assert 'src="data:image/webp;base64,' in page
    assert "@import" not in page and "url(" not in page


# What is missing or broken.


def test_all_that_is_missing_or_broken_is_named(project):
    results = results_of(project)
    executed = results / "notebooks"
    (executed / "02_toy.ipynb").rename(executed / "02_toy.failed.ipynb")
    (executed / "05_verdicts.ipynb").unlink()
    (results / "logs").mkdir()
    runs = [f"toy-{Toy(kind='bn').key}", f"toy-{'c' * 16}"]
    planned = [{"record": f"records/{name}.json", "label": name} for name in runs]
    (results / "plan.json").write_text(json.dumps({"jobs": {"02_toy-1": {"runs": planned}}}))
    for name in ("02_toy", "05_verdicts", "02_toy-1"):
        (results / "logs" / f"{name}.log").write_text("a log")
    (results / "records" / "toy-dddd.json").write_text("{")
    (results / "records" / f"toy-{UBN}.json").unlink()
    (results / "figures" / "05_broken.png").write_text("no picture")
    page = report(project)
    found = warnings(page)
    assert len(found) == 5
    assert found[0].startswith("Notebook 02_toy failed; kept up to the error.")
    assert found[1].startswith("Notebook 05_verdicts has not been run to its end.")
    assert found[2].startswith(f"The run toy-{'c' * 16} left no record")
    assert "toy-dddd.json" in found[3] and "is not a run record" in found[3]
    assert found[4] == "No record of a run yet for: better."
    assert str(project) not in " ".join(found)
    assert verdicts(article(page, "better")) == ["not-run"]
    assert "05_broken" in page and "<mfrac>" in page
    check_links(results / "report.html")
    assert 'href="notebooks/02_toy.failed.html"' in page and 'href="logs/02_toy-1.log"' in page


def test_before_anything_has_run_there_is_a_report_too(project):
    shutil.rmtree(project / "results")
    page = report(project)
    assert len(warnings(page)) == 3 and "There are none yet." in page
    (answer,) = re.findall(r'<ol class="answer">(.*?)</ol>', page, re.S)
    assert answer.count("<li>") == 2 and verdicts(answer) == ["not-run"] * 3
    assert answer.count("there are no records") == 2
    assert "claims.yaml has no such claim" in answer and "02_better is missing" in page
    assert "records of the standard profile, results/standard/records, are not there" in page
    assert "<mfrac>" in page  # the deviations are those of the committed notebooks
    check_links(results_of(project) / "report.html")


def test_a_broken_executed_notebook_does_not_stop_the_report(project):
    (results_of(project) / "notebooks" / "02_toy.ipynb").write_text("{")
    found = warnings(report(project))
    assert len(found) == 1 and "02_toy cannot be shown" in found[0]


def test_only_what_is_new_is_converted_again(project):
    notebook = results_of(project) / "notebooks" / "02_toy.ipynb"
    page = notebook.with_suffix(".html")
    assert convert(notebook, project / "notebooks") == ""
    page.write_text("kept")
    os.utime(page, ns=(notebook.stat().st_mtime_ns,) * 2)
    convert(notebook, project / "notebooks")
    assert page.read_text() == "kept"
    os.utime(page, (1, 1))
    convert(notebook, project / "notebooks")
    assert page.read_text() != "kept"


def test_a_broken_ledger_or_profile_gives_one_sentence(project, monkeypatch):
    monkeypatch.chdir(project)
    with pytest.raises(SystemExit, match=r"no profile 'qick' .* there are: quick"):
        main("profiles/qick.yaml", "results/quick")
    (project / "claims.yaml").write_text("nothing")
    with pytest.raises(SystemExit, match=r"No report can be made: .*claims.yaml is not a list"):
        main("profiles/quick.yaml", "results/quick")
    assert not (results_of(project) / "report.html").exists()


# The exports.


def test_exports_agree_with_the_page_and_with_each_other(project):
    page, results = report(project), results_of(project)
    everything = json.loads((results / "claims.json").read_text())
    lines = (results / "claims.md").read_text().splitlines()
    rows = {line.split("`")[1]: line for line in lines if line.startswith("| `")}
    assert everything["profile"] == "quick"
    assert len(rows) == len(everything["claims"]) == page.count("<article") == 3
    for claim in everything["claims"]:
        judgement, row = claim["judgement"], rows[claim["id"]]
        assert judgement["verdict"] in row
        part = article(page, claim["id"])
        assert verdicts(part) == [judgement["verdict"].replace(" ", "-")]
        numbers = [judgement[name] for name in ("estimate", "low", "high")]
        numbers = [np.nan if number is None else number for number in numbers]
        text = in_numbers(*numbers, signed=claim["statistic"] == "paired difference")
        assert text in row and text in part
        for name in judgement["records"]:
            assert (results / "records" / f"{name}.json").is_file() and name in part


# The committed records.


def test_every_claim_of_the_ledger_has_its_verdict(standard, judged):
    page = (standard / "report.html").read_text()
    assert page.count("<article") == len(judged)
    for row in judged.to_dict("records"):
        part, shown = article(page, row["claim"]), [row, *row["cells"]]
        assert verdicts(part) == [one["verdict"].replace(" ", "-") for one in shown]
        assert row["reason"] in unescape(part)
        assert all(told in unescape(part) for one in shown for told in one["preconditions"])
        assert part.count('href="records/') == len(row["records"])
        assert part.count("<svg") == sum(np.isfinite(one["estimate"]) for one in shown)


def test_links_and_notebook_sections_of_the_standard_report(standard):
    check_links(standard / "report.html")
    page = (standard / "report.html").read_text()
    notebooks = [path.read_text() for path in (standard / "notebooks").glob("*.html")]
    assert notebooks and all(out_of_order(each) == [] for each in (page, *notebooks))
    assert 'href="../../docs/playground.html">Playground<' in page
    link = 'href="notebooks/02_toy_analysis.html#Figure-4:'
    assert link in article(page, "fig4-uncertainty")
    for claim, command in (
        ("eq1-batchnorm", "make claim CLAIM=eq1-batchnorm PROFILE=standard"),
        ("fig6-few-labels-rooms", "depth.claims --domain rooms --rgbd-root FOLDER --results"),
    ):
        assert command in article(page, claim)
    link = 'href="notebooks/03_depth_experiments.html#Figure-6:'
    assert link in article(page, "fig6-few-labels-rooms")
    assert len([w for w in warnings(page) if w.startswith("Notebook ")]) == 3


# The parts.


@pytest.mark.parametrize(
    ("formula", "part"),
    [
        (r"\frac{a}{b} \tag{3}", "<mtext>(3)</mtext>"),
        (r"|\log x|", "<mi>log</mi>"),
        (r"\tfrac12 x", "<mfrac><mn>1</mn><mn>2</mn></mfrac><mi>x</mi>"),
        (r"\begin{align*}a &= b \\ c &= d\end{align*}", "<mtable"),
        (r"\unknown{<x>}", r"<code>\unknown{&lt;x&gt;}</code>"),
    ],
)
def test_mathml(formula, part):
    assert part in mathml(formula, block=True)


def test_headings_out_of_order_are_told():
    assert out_of_order("<h1>a</h1><h2>b</h2><h3>c</h3><h2>d</h2>") == []
    assert out_of_order("<h1>a</h1><h3 id='x'>b <i>c</i></h3><h1>d</h1>") == [
        "2 first headings",
        "level 1 is followed by 3: b c",
    ]
    assert out_of_order("<h2>a</h2>") == ["0 first headings"]


def test_a_notebooks_page_loads_nothing(project):
    page = make_html(project / "notebooks" / "02_toy.ipynb")
    assert "<mfrac>" in page and "$$" not in page
    assert Page(page).loads == []
    assert "<script src" not in page and "@import" not in page and "url(http" not in page
    assert '<style media="screen and (prefers-color-scheme: dark)">' in page


def test_what_unfolds_in_a_notebook_unfolds_on_its_page(project):
    """Its parts, and the code of cells that are folded in Jupyter."""
    path = project / "notebooks" / "02_toy.ipynb"
    text = "<details><summary>More</summary>\n\n| a |\n|---|\n| b |\n\n</details>\n\nafter"
    cells = [new_markdown_cell(text), new_code_cell("hidden = 1")]
    cells[1].metadata.jupyter = {"source_hidden": True}
    nbformat.write(new_notebook(cells=cells), path)
    page = make_html(path)
    inside = r"<summary>More</summary>\s*<table>.*</table>\s*</details>\s*<p>after"
    assert re.search(inside, page, re.S)
    assert re.search(r"<details><summary>Code</summary>.*hidden.*</details>", page, re.S)


def test_a_picture_has_its_caption_in_the_report_and_in_its_notebook(project, tmp_path):
    page = " ".join(report(project).split())
    assert f'alt="{escape(CAPTION)}" loading' in page
    assert f"<figcaption>{escape(CAPTION)} <a" in page
    png = base64.b64encode((project / "results/quick/figures/02_a picture.png").read_bytes())
    data = {"image/png": png.decode(), "text/plain": CAPTION}
    metadata = {"image/png": {"alt": CAPTION, "width": 450}}
    shown = new_output("display_data", data, metadata=metadata)
    other = new_output("display_data", data)
    cells = [new_code_cell("x", outputs=[shown, other])]
    nbformat.write(new_notebook(cells=cells), tmp_path / "one.ipynb")
    page = " ".join(make_html(tmp_path / "one.ipynb").split())
    (image,) = re.findall(rf'<img [^>]*alt="{re.escape(escape(CAPTION))}"[^>]*>', page)
    assert 'width="450"' in image
    assert f"<figcaption>{escape(CAPTION)}</figcaption>" in page
    assert page.count(png.decode()) == 2


def test_rebase_links():
    html = '<a href="../docs/a.md#b"> <a href="#c"> <a href="https://x.org/a"> <a href="/a">'
    moved = rebase_links(html, Path("p/notebooks"), Path("p/results/quick"))
    assert moved == html.replace("../docs/a.md", "../../docs/a.md")


def test_figures_go_to_the_notebook_of_their_number(tmp_path):
    for name in ("02_a.png", "02_a.csv", "02_b.png", "04_c.png", "other.png", "lonely.csv"):
        (tmp_path / name).touch()
    groups = group_figures(tmp_path, ["02_toy_analysis", "03_depth"])
    first = {"name": "02_a", "thumbnail": "", "caption": ""} | {
        k: f"02_a.{k}" for k in ("png", "csv")
    }
    assert groups["02_toy_analysis"][0] == first
    assert [figure["name"] for figure in groups["02_toy_analysis"]] == ["02_a", "02_b"]
    assert groups["03_depth"] == []
    assert [figure["name"] for figure in groups[""]] == ["04_c", "other"]


def test_a_picture_is_found_from_the_committed_notebooks_folder(tmp_path):
    """Also by the page of an executed copy, which lies elsewhere."""
    source, there = tmp_path / "notebooks", tmp_path / "results" / "quick" / "notebooks"
    there.mkdir(parents=True)
    Image.new("RGB", (2, 2)).save(tmp_path / "drawn.png")
    cell = new_markdown_cell("![drawn](../drawn.png)")
    nbformat.write(new_notebook(cells=[cell]), there / "one.ipynb")
    (found,) = re.findall(r'<img [^>]*?src="([^"]+)"', make_html(there / "one.ipynb", source))
    assert (there / found).resolve() == tmp_path / "drawn.png"
