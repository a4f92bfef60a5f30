"""The standard report in a browser: nothing asked of the network, links, the filter."""

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


def test_the_first_screen_answers_and_statements_unfold(standard, browser):
    for width, height, shown in ((1400, 900, 5), (390, 1200, 1)):
        page = browser.new_page(viewport={"width": width, "height": height})
        page.goto((standard / "report.html").as_uri())
        lines = page.locator("ol.answer >> nth=0").locator("> li")
        assert lines.count() == 5
        box = lines.nth(shown - 1).bounding_box()
        assert box["y"] + box["height"] < height
    claim = page.locator("#claim-fig2-accuracy")
    assert not claim.is_visible()
    page.evaluate("location.hash = 'claim-fig2-accuracy'")  # as by a link to a folded claim
    claim.wait_for(state="visible")


def test_all_claims_are_there_without_scripts(standard, browser):
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto((standard / "report.html").as_uri())
    assert page.locator("article").count() == len(load_claims(ROOT / "claims.yaml"))
    assert not page.locator("#claim-fig2-accuracy").is_visible()
    page.click("#statement-spiral summary")
    assert page.locator("#claim-fig2-accuracy").is_visible()
