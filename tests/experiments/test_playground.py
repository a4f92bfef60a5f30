"""The playground: made of its sources, with the library's numbers and the records' statements."""

import colorsys
import importlib.util
import re
from itertools import combinations

import numpy as np
import pytest
import torch
from matplotlib import rcParams
from matplotlib.colors import to_rgb
from torch import nn
from torch.nn.functional import cross_entropy

from experiments.common.style import CLASS_MAP, CLASSES, METHODS, SERIES
from experiments.toy.regime_map import READINGS
from experiments.toy.spiral import SpiralNet, split_spiral
from small_project import ROOT
from ubnlib import ubn_forward

PAGE = ROOT / "docs" / "playground.html"
SETTINGS = (ROOT / "site" / "playground" / "settings.js").read_text()
STYLE = (ROOT / "site" / "playground" / "style.css").read_text()
# The page's names of the readings, and the layers' switches.
NAMES = {
    "corrected": "corrected",
    "literal": "none (literal)",
    "joint": "all",
    "averages": "averages",
}
KINDS = ("loss", "gradient", "statistics", "running")
STEPS, RATE, WIDTH = 20, 0.01, 18

# Both compute in float64. The bias in front of a normalization has no gradient but for rounding,
# of which Adam's steps make 1e-11: batch statistics move along, and averages behind them.
AT_FIRST, IN_THE_END = 1e-13, 1e-8  # parts of the largest value


def test_the_page_is_what_its_sources_give():
    spec = importlib.util.spec_from_file_location("bundle", ROOT / "site" / "bundle.py")
    bundle = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bundle)
    assert PAGE.read_text() == bundle.page(), "python site/bundle.py writes it anew"
    assert not re.search(r"^(import|export) ", PAGE.read_text(), re.MULTILINE)


# Its looks are those of the project's figures.

LIGHT, DARK = (
    dict(re.findall(r"--([\w-]+): (#\w{6})", block))
    for block in re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)
)
METHOD_OF = {
    "bn": "BN",
    "corrected": "UBN",
    "averages": "UBN",
    "literal": "UBN, literal",
    "joint": "UBN, joint",
    "again": "BN, labeled again",
}
LOOKS = {
    name: (color, marker, [float(part) for part in dash.split(",") if part])
    for name, color, marker, dash in re.findall(
        r'(\w+): \{ color: "(\w+)", marker: "(.)", dash: \[(.*?)\] \}', SETTINGS
    )
}


@pytest.mark.parametrize("name", METHOD_OF)
def test_methods_look_as_in_the_figures(name):
    assert set(LOOKS) == set(METHOD_OF)
    color, marker, dash = LOOKS[name]
    look = METHODS[METHOD_OF[name]]
    named = {
        "-": [],
        "--": rcParams["lines.dashed_pattern"],
        "-.": rcParams["lines.dashdot_pattern"],
    }
    expected = named[look.dash] if isinstance(look.dash, str) else look.dash[1]
    assert (LIGHT[color].upper(), marker, dash) == (look.color, look.marker, list(expected))


def test_points_and_planes_look_as_in_the_figures():
    expected = {
        "labeled": SERIES["labeled"].color,
        "unlabeled": SERIES["unlabeled"].color,
        **{f"class-{label}": look.color for label, look in enumerate(CLASSES)},
    }
    assert {name: LIGHT[name].upper() for name in expected} == expected
    ends = [to_rgb(LIGHT[name]) for name in ("zero", "half", "one")]
    assert np.allclose(ends, CLASS_MAP([0.0, 0.5, 1.0])[:, :3], atol=0.01)


def contrast(one: str, other: str) -> float:
    """The ratio of two colors' luminances, as the web's guidelines for accessibility have it."""
    rgb = np.array([to_rgb(one), to_rgb(other)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    low, high = sorted(linear @ (0.2126, 0.7152, 0.0722) + 0.05)
    return high / low


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
def test_text_can_be_read(scheme):
    texts = [(ink, ground) for ink in ("ink", "soft", "link") for ground in ("paper", "card")]
    for ink, ground in (*texts, ("ink", "mark"), ("card", "link")):
        assert contrast(scheme[ink], scheme[ground]) >= 4.5, (ink, ground)
    for plane in ("zero", "half", "one"):
        assert contrast(scheme["ink"], scheme[plane]) >= 3, plane


def test_in_the_dark_colors_keep_their_hue_and_can_be_seen():
    assert set(LIGHT) == set(DARK)
    for name in ("bn", "ubn", "literal", "joint", "again", "labeled", "unlabeled"):
        assert contrast(DARK[name], DARK["card"]) >= 3, name
    for name in ("ubn", "literal", "joint", "again", "labeled", "unlabeled", "class-0", "class-1"):
        before, now = (colorsys.rgb_to_hls(*to_rgb(some[name]))[0] for some in (LIGHT, DARK))
        assert abs(before - now) < 0.04, name
    assert colorsys.rgb_to_hls(*to_rgb(DARK["bn"]))[2] == 0


# The tour's statements.


def said(title: str) -> str:
    """What the tour says in the step of that title."""
    return re.search(rf'title: "{title}".*?says: "(.*?)"', SETTINGS, re.DOTALL)[1]


def verdict(claim: str, cell: str = "") -> str:
    """What README's table has as ours, or as that of a cell of the claim's grid."""
    table = (ROOT / "README.md").read_text()
    ours = re.search(rf"^\| `{claim}` \|.*?\| ([^|]*), 30 seeds", table, re.MULTILINE)[1]
    return re.search(rf"{re.escape(cell)}: (.*?\])", ours)[1] if cell else ours


def test_the_tour_says_what_the_records_say():
    for title, claim, cell in (
        ("Small labeled batches", "fig2-accuracy", "batch 8"),
        ("A larger batch", "fig2-accuracy", "batch 32"),
        ("All labeled points", "fig2-accuracy", "batch 50 (all)"),
        ("The literal text", "literal-two-steps", "batch 32"),
    ):
        assert f"{verdict(claim, cell)} (30 seeds)" in said(title)
    errors, outside = (
        f"{float(verdict(*where).split()[0]):.2f}"
        for where in (("fig4-uncertainty",), ("fig4-manifold", "outside the spiral"))
    )
    assert f"AUROC {errors})" in said("Where it doubts")
    assert f"({outside}; 30 seeds)" in said("Where it doubts")


# The same steps in the page and in the library.


def problem(reading: str, labeled: int = 9, unlabeled: int = 30) -> dict:
    """Weights, data and batches for the page's worker."""
    generator = torch.Generator().manual_seed(3)
    data = split_spiral(10, 40, 0.1, generator)
    torch.manual_seed(4)
    weights = nn.utils.parameters_to_vector(SpiralNet(WIDTH).double().parameters())

    def rows(size: int, of: int) -> list[int]:
        return torch.randperm(of, generator=generator)[:size].tolist()

    return {
        "kind": "replay",
        "width": WIDTH,
        "reading": reading,
        "rate": RATE,
        "weights": weights.tolist(),
        "data": {name: part.tolist() for name, part in data._asdict().items()},
        "batches": [(rows(labeled, 20), rows(unlabeled, 80)) for _ in range(STEPS)],
    }


def by_the_library(given: dict) -> list[dict]:
    """The same steps by torch's BN or ubnlib's layers, in float64."""
    net = SpiralNet(given["width"]).double()
    weights = torch.tensor(given["weights"], dtype=torch.float64)
    nn.utils.vector_to_parameters(weights, net.parameters())
    if given["reading"] != "bn":
        net = READINGS[NAMES[given["reading"]]].apply(net)
    norms = [layer for layer in net if isinstance(layer, nn.BatchNorm1d)]
    seen = []
    for layer in norms:
        layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    optimizer = torch.optim.Adam(net.parameters(), lr=given["rate"])
    data = {name: torch.tensor(part) for name, part in given["data"].items()}
    steps = []
    for rows, others in given["batches"]:
        seen.clear()
        alone = given["reading"] == "bn" or not others
        unlabeled = None if alone else data["unlabeled"][others].double()
        output = ubn_forward(net, data["labeled"][rows].double(), unlabeled)
        loss = cross_entropy(output, data["labels"][rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        gradient = nn.utils.parameters_to_vector([p.grad for p in net.parameters()])
        batch = [(x.mean(0), x.var(0, correction=0)) for x in seen[:4]]  # step 1: all rows
        running = [(layer.running_mean, layer.running_var) for layer in norms]
        steps.append(
            {
                "loss": loss.item(),
                "gradient": gradient.tolist(),
                "statistics": as_lists(batch),
                "running": as_lists(running),
            }
        )
    return steps


def as_lists(moments: list[tuple[torch.Tensor, torch.Tensor]]) -> list[dict]:
    """As the worker gives them."""
    return [{"mean": mean.tolist(), "variance": var.tolist()} for mean, var in moments]


def numbers(step: dict, kind: str) -> np.ndarray:
    """All numbers of one kind in a step."""
    value = step[kind]
    if kind in ("statistics", "running"):
        value = [[layer["mean"], layer["variance"]] for layer in value]
    return np.array(value)


def farthest(ours: list[dict], theirs: list[dict], kind: str) -> float:
    """The largest difference in any step, as a part of the largest value."""
    pairs = [(numbers(a, kind), numbers(b, kind)) for a, b in zip(ours, theirs, strict=True)]
    return max(np.abs(a - b).max() / np.abs(b).max() for a, b in pairs)


@pytest.fixture(scope="module")
def replay(browser):
    """What the worker of the page makes of a problem, in Chromium."""
    tab = browser.new_page()
    tab.goto(PAGE.as_uri())
    ask = """(message) => new Promise((done, fail) => {
        const text = document.getElementById("worker").textContent;
        const worker = new Worker(URL.createObjectURL(new Blob([text])));
        worker.onmessage = ({ data }) => data.kind === "replayed" ? done(data.steps) : fail(data);
        worker.onerror = fail;
        worker.postMessage(message);
    })"""
    yield lambda given: tab.evaluate(ask, given)
    tab.close()


@pytest.mark.parametrize("reading", ["bn", *NAMES])
def test_the_page_computes_what_the_library_computes(replay, reading):
    given = problem(reading)
    ours, theirs = replay(given), by_the_library(given)
    assert len(ours) == len(theirs) == STEPS
    for kind in KINDS:
        assert farthest(ours[:1], theirs[:1], kind) < AT_FIRST, kind
        assert farthest(ours, theirs, kind) < IN_THE_END, kind


def test_without_unlabeled_rows_a_reading_is_batch_normalization(replay):
    given = problem("literal", unlabeled=0)
    ours = replay(given)
    for theirs in (by_the_library(given), by_the_library(given | {"reading": "bn"})):
        assert farthest(ours, theirs, "gradient") < IN_THE_END


def test_readings_are_told_apart(replay):
    """So that none of the comparisons above holds for the wrong one."""
    steps = [replay(problem(reading)) for reading in ("bn", *NAMES)]
    for one, other in combinations(steps, 2):
        assert farthest(one, other, "gradient") > 1e-3
