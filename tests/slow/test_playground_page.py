"""The playground in Chromium: what its controls do, what it says, how fast it is."""

import re

import pytest

from small_project import ROOT

PAGE = ROOT / "docs" / "playground.html"
CANVASES = ["plane-0", "plane-1", "accuracy", "statistics-0", "statistics-1", "histogram-0"]
WAIT = 120_000  # milliseconds, on a machine that has other work


def open_page(tab, fragment: str = "") -> None:
    """Open the page and wait for its first picture."""
    tab.goto("about:blank")
    tab.goto(PAGE.as_uri() + fragment)
    settled(tab, "step 0 of 1000")


def settled(tab, text: str) -> None:
    """Wait until the count of steps says so."""
    tab.locator("#count", has_text=text).wait_for(timeout=WAIT)


def to_the_end(tab) -> None:
    """Wait until a run has ended, with its last picture."""
    tab.locator("#play", has_text="Play").wait_for(timeout=WAIT)
    tab.locator("#status", has_text="step").wait_for(timeout=WAIT)


def step_of(tab) -> int:
    return int(re.match(r"step (\d+)", tab.inner_text("#count"))[1])


def accuracies(tab) -> list[float]:
    return [float(tab.inner_text(f"#score-{i}").removesuffix(" %")) for i in (0, 1)]


def picture(tab, name: str) -> str:
    return tab.evaluate("(name) => document.getElementById(name).toDataURL()", name)


def put(tab, key: str, value: float) -> None:
    """Move a slider, as a hand would."""
    slide = """([id, value]) => {
        const control = document.getElementById(id);
        control.value = value;
        for (const kind of ["input", "change"]) control.dispatchEvent(new Event(kind));
    }"""
    tab.evaluate(slide, [f"set-{key}", value])


def notes(tab) -> str:
    return tab.inner_text("#notes")


@pytest.fixture
def page(tab):
    open_page(tab)
    return tab


# What its controls do.


def test_play_pause_step_reset(page):
    before = {name: picture(page, name) for name in CANVASES}
    page.click("#play")
    assert page.inner_text("#play") == "Pause"
    second_accuracy = page.locator("#count", has_text=re.compile(r"step ([5-9]\d|\d{3}) of"))
    second_accuracy.wait_for(timeout=WAIT)
    page.click("#play")
    to_the_end(page)
    at = step_of(page)
    assert 0 < at < 1000
    assert [name for name in CANVASES if picture(page, name) == before[name]] == []
    page.click("#step")
    settled(page, f"step {at + 1} of 1000")
    page.click("#reset")
    settled(page, "step 0 of 1000")
    assert {name: picture(page, name) for name in CANVASES} == before
    assert page.locator("#plane-0").get_attribute("aria-label").startswith("BN at step 0")


def test_a_run_is_the_same_again_and_says_how_fast(page, capsys):
    rates, ends = [], []
    for _ in range(2):
        page.click("#reset")
        settled(page, "step 0 of 1000")
        page.click("#play")
        to_the_end(page)
        settled(page, "step 1000 of 1000")
        rates.append(int(re.search(r"(\d+) steps a second", page.inner_text("#count"))[1]))
        ends.append([accuracies(page), picture(page, "plane-1")])
    assert ends[0] == ends[1]
    with capsys.disabled():
        print(f"\nplayground: {max(rates)} steps a second for both nets, of {rates}")


def plays_on(tab) -> None:
    """Make sure that it says that it trains, and does."""
    assert tab.inner_text("#play") == "Pause"
    at = step_of(tab) if tab.inner_text("#count") else 0
    moved = "at => Number(document.getElementById('count').textContent.split(' ')[1]) > at"
    tab.wait_for_function(moved, arg=at, timeout=WAIT)
    assert tab.inner_text("#play") == "Pause"


@pytest.fixture
def playing(page):
    """The page while it trains."""
    page.click("#play")
    page.locator("#count", has_text=re.compile(r"step [1-9]")).wait_for(timeout=WAIT)
    return page


def test_two_clicks_on_play(playing):
    for _ in range(3):
        playing.evaluate("play => { play.click(); play.click(); }", playing.query_selector("#play"))
    playing.wait_for_timeout(1000)  # the pauses' pictures come late
    plays_on(playing)
    playing.dblclick("#play")
    plays_on(playing)


def test_step_pauses_while_it_plays(playing):
    playing.click("#step")
    to_the_end(playing)
    at = step_of(playing)
    playing.wait_for_timeout(500)
    assert 0 < at == step_of(playing) < 1000


def test_reset_while_it_plays(playing):
    playing.click("#reset")
    settled(playing, "step 0 of 1000")
    playing.wait_for_timeout(500)
    assert playing.inner_text("#play") == "Play"
    assert step_of(playing) == 0


def test_presets_and_sliders_while_it_plays(playing):
    playing.click("#tour-2")
    plays_on(playing)
    assert playing.input_value("#set-batch") == "50"
    put(playing, "unlabeled", 8)
    plays_on(playing)
    assert playing.url.partition("#")[2] == "batch=50&unlabeled=8"


def test_another_size_while_it_plays(playing):
    for width in (390, 1100):
        playing.set_viewport_size({"width": width, "height": 700})
        plays_on(playing)
        sizes = (
            "c => [c.clientWidth * devicePixelRatio, c.width, document.documentElement.scrollWidth]"
        )
        shown, drawn, page = playing.locator("#plane-1").evaluate(sizes)
        assert abs(shown - drawn) <= 1 and page == width


def test_in_the_background(playing):
    session = playing.context.new_cdp_session(playing)
    for state in ("frozen", "active"):
        session.send("Page.setWebLifecycleState", {"state": state})
        playing.wait_for_timeout(500)
    plays_on(playing)


def test_seeds_can_go_on(page):
    put(page, "labels", 5)
    page.check("#onward")
    page.click("#next")
    page.locator("#band", has_text="1 other seed").wait_for(timeout=2 * WAIT)
    page.uncheck("#onward")
    assert page.input_value("#set-seed") == "2"


@pytest.mark.parametrize(
    ("index", "sets", "lead"),
    [
        (0, "batch=8", (15, 60)),  # UBN is far ahead
        (1, "", (-8, 12)),  # and level
        (2, "batch=50", None),
        (3, "reading=literal", None),
        (4, "shade=spread", None),
    ],
)
def test_the_tour(page, index, sets, lead):
    button = page.locator(f"#tour-{index}")
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    assert page.url.partition("#")[2] == sets
    page.locator("#count", has_text=re.compile(r"step [1-9]\d* of 1000")).wait_for(timeout=WAIT)
    if lead:
        to_the_end(page)
        bn, ubn = accuracies(page)
        assert lead[0] < ubn - bn < lead[1]
    assert ("vary" in page.inner_text("#legend")) == (index == 4)


def test_settings_are_in_the_link(page):
    put(page, "batch", 12)
    put(page, "noise", 0.25)
    put(page, "rate", -2.5)
    page.select_option("#set-reading", "joint")
    page.select_option("#set-shade", "spread")
    link = page.url
    assert link.partition("#")[2] == "batch=12&noise=0.25&rate=0.0032&reading=joint&shade=spread"
    page.locator("#plane-0[aria-label*='spread']").wait_for(timeout=WAIT)
    before = [picture(page, f"plane-{i}") for i in (0, 1)]
    open_page(page, f"#{link.partition('#')[2]}")
    assert page.inner_text("#value-batch") == "12"
    assert page.input_value("#set-reading") == "joint"
    assert [picture(page, f"plane-{i}") for i in (0, 1)] == before
    assert notes(page) == ""


def test_another_look_goes_on_with_the_run(page):
    page.click("#step")
    settled(page, "step 1 of 1000")
    before = {name: picture(page, name) for name in CANVASES}
    put(page, "layer", 3)
    page.locator("#statistics-0[aria-label*='layer 3']").wait_for()
    assert step_of(page) == 1
    changed = [name for name in CANVASES if picture(page, name) != before[name]]
    assert changed == ["statistics-0", "statistics-1", "histogram-0"]


def test_by_keyboard_alone(page):
    names = []
    for _ in range(10):
        page.keyboard.press("Tab")
        names.append(
            page.evaluate("document.activeElement.id || document.activeElement.textContent")
        )
    assert names[-5:] == ["tour-3", "tour-4", "play", "step", "reset"]
    page.locator("#set-batch").focus()
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#value-batch") == "33"


def test_all_that_is_told_has_a_name(page):
    """By the browser's own tree of what screen readers see."""
    session = page.context.new_cdp_session(page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    roles = "button link slider spinbutton combobox checkbox image progressbar".split()
    named = [
        (node["role"]["value"], node["name"]["value"])
        for node in nodes
        if not node["ignored"] and node["role"]["value"] in roles
    ]
    assert {role for role, _ in named} == set(roles)
    assert all(name.strip() for _, name in named)
    assert ("slider", "Labeled batch") in named  # and not its value, which the slider says
    images = [name for role, name in named if role == "image"]
    assert len(set(images)) == 7 and len([name for name in images if "step 0" in name]) == 3


def test_it_does_not_chatter(tab):
    """What is read aloud by itself says a few things in a run, even in one that diverges."""
    open_page(tab, "#rate=10&reading=literal")
    tab.evaluate("""() => {
        globalThis.said = [];
        const live = "[role=status], [role=alert], [aria-live], output";
        for (const place of document.querySelectorAll(live)) {
            if (place.ariaLive === "off" || place.ariaHidden === "true") continue;
            const note = () => place.textContent && said.push(place.textContent);
            new MutationObserver(note).observe(place, { childList: true, subtree: true });
        }
    }""")
    tab.click("#play")
    to_the_end(tab)
    said = tab.evaluate("said")
    assert 1 < len(said) <= 4 and len(set(said)) == len(said), said
    step = f"step {step_of(tab)}"
    for name in ("plane-0", "plane-1", "accuracy"):
        assert step in tab.locator(f"#{name}").get_attribute("aria-label")


# Bad input.


@pytest.mark.parametrize(
    ("fragment", "sentence"),
    [
        ("#batch=1", "One labeled row has no variance: BN needs at least 2, and gets 2."),
        ("#unlabeled=0", "both nets are the same"),
        (
            "#batch=1000&rate=0",
            'The link has "1000" for batch: it must be a whole number from 1 to 100',
        ),
        ("#steps=10&batch=8", 'The link names "steps", which is no setting of this page.'),
        ("#labels=3", "There are 6 labeled points: each labeled batch is all of them."),
        ("#labels=1&rows=labeled", "There are 2 points to draw unlabeled rows from"),
        ("#batch=many&noise=", 'The link has "many" for batch: it must be a whole number'),
        ("#batch=8.5", "it must be a whole number from 1 to 100; 32 is taken."),
        ("#reading=toString", "it must be one of corrected, literal, joint, averages"),
        ("#__proto__=1&%E0%A4%A=", 'The link names "__proto__", which is no setting'),
    ],
)
def test_what_is_wrong_is_said_and_it_goes_on(tab, fragment, sentence):
    open_page(tab, fragment)
    assert sentence in notes(tab)
    for _ in range(3):
        tab.click("#step")
    tab.locator("#status", has_text="step 3").wait_for(timeout=WAIT)
    if fragment == "#unlabeled=0":
        assert picture(tab, "plane-0") == picture(tab, "plane-1")


def test_a_rate_that_diverges(tab):
    open_page(tab, "#rate=10&reading=literal")
    tab.click("#play")
    tab.locator("#notes", has_text="BN diverged").wait_for(timeout=WAIT)
    assert "lower the learning rate" in notes(tab)
    put(tab, "rate", -2)
    assert notes(tab) == ""
    settled(tab, "step 0 of 1000")


def test_a_seed_that_is_none(page):
    page.locator("#set-seed").fill("-4")
    page.keyboard.press("Tab")
    assert 'Seed cannot be "-4"' in notes(page)
    assert page.input_value("#set-seed") == "0"


# For every reader.


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1400])
def test_it_fits(browser, width, scheme):
    tab = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    open_page(tab)
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(re.search(r"\d+", ground)[0]) > 128) == (scheme == "light")
    corner = "c => [...c.getContext('2d').getImageData(5, 5, 1, 1).data.slice(0, 3)]"
    assert (sum(tab.locator("#plane-0").evaluate(corner)) > 384) == (scheme == "light")
    tab.close()


def test_less_motion(browser):
    tab = browser.new_page(reduced_motion="reduce")
    open_page(tab)
    tab.evaluate("""() => {
        globalThis.counts = new Set();
        const note = () => counts.add(document.getElementById("count").textContent);
        new MutationObserver(note).observe(document.getElementById("count"), { childList: true });
    }""")
    tab.click("#play")
    tab.wait_for_timeout(3500)
    assert tab.evaluate("counts.size") <= 2
    tab.close()


def test_without_scripts_there_is_a_picture(browser):
    tab = browser.new_context(java_script_enabled=False).new_page()
    tab.goto(PAGE.as_uri())
    image = tab.locator("noscript img")
    assert image.is_visible() and image.bounding_box()["height"] > 100
    assert not tab.locator("main").is_visible()
    tab.close()
