"""The standard report in a browser: nothing asked of the network, links, the filter."""

import json

from experiments.verdicts.claims import load_claims
from small_project import ROOT

HAS_ANCHOR = """() => !location.hash ||
    !!document.getElementById(decodeURIComponent(location.hash.slice(1)))"""


def test_the_page_works_in_a_browser(standard, browser):
    page = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme="dark")
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((standard / "report.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    links = page.eval_on_selector_all("a[href]", "all => all.map(a => a.href)")
    for link in sorted({link for link in links if ".html" in link}):
        page.goto(link)
        assert page.evaluate(HAS_ANCHOR), link
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []


def test_claims_are_filtered_in_a_browser(standard, browser):
    claims = json.loads((standard / "claims.json").read_text())["claims"]
    wanted = [claim["judgement"]["verdict"] for claim in claims]
    page = browser.new_page()
    page.goto((standard / "report.html").as_uri())
    shown = page.locator("article:visible")
    assert shown.count() == len(wanted)
    page.click("button[data-verdict='not reproduced']")
    assert shown.count() == wanted.count("not reproduced")
    page.click("button[data-section='Section 4']")
    names = shown.evaluate_all("all => all.map(a => a.id)")
    assert "claim-fig6-kitti" not in names and "claim-fig2-accuracy" not in names
    assert page.locator(".filter [role=status]").inner_text().startswith(f"{len(names)} of")
    page.evaluate("location.hash = 'claim-fig2-accuracy'")  # as by a link to a hidden claim
    page.wait_for_function("document.querySelectorAll('article[hidden]').length === 0")


def test_all_claims_are_there_without_scripts(standard, browser):
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto((standard / "report.html").as_uri())
    assert page.locator("article:visible").count() == len(load_claims(ROOT / "claims.yaml"))
    assert not page.locator(".filter").is_visible()
