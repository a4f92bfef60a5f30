"""The looks: one for each method everywhere, told apart in gray and without red and green."""

import ast
import functools
import io
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import is_color_like, to_rgb
from PIL import Image

from experiments.ablation import runs as ablation
from experiments.common import style
from experiments.depth import runs as depth
from experiments.depth import study
from experiments.depth.figure6_label_fraction import CONSTANT
from experiments.toy import runs as toy

ROOT = Path(__file__).parents[2]
NEUTRAL = {"k", "w", "black", "white", "none"}  # colors that belong to no method
COLOR_WORDS = re.compile(r".*colors?|c|fc|ec|mfc|mec")
HEX = re.compile(r"#[0-9A-Fa-f]{6}|C\d")


# --- one table of looks, which every figure uses --------------------------------------------------


def colors_by_hand(source: str) -> list[str]:
    """Return the colors that a module or cell names by itself, whatever they are for."""
    found = []
    for node in ast.walk(ast.parse(source)):
        named = []
        if isinstance(node, ast.keyword):
            named = [(node.arg or "", node.value)]
        elif isinstance(node, ast.Dict):
            named = [(k.value, v) for k, v in zip(node.keys, node.values, strict=True)
                     if isinstance(k, ast.Constant) and isinstance(k.value, str)]  # fmt: skip
        elif isinstance(node, ast.Constant) and HEX.fullmatch(str(node.value)):
            found.append(node.value)
        for name, value in named:
            for part in ast.walk(value) if COLOR_WORDS.fullmatch(name) else ():
                text = getattr(part, "value", None)
                if isinstance(text, str) and text not in NEUTRAL and is_color_like(text):
                    found.append(text)
    return found


@functools.cache
def figure_sources() -> dict[str, str]:
    """Return all code that draws: modules, and the cells of notebooks."""
    sources = {}
    for folder in ("experiments", "data_scripts", "workflow"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            if "matplotlib" in text and path != Path(style.__file__):
                sources[str(path.relative_to(ROOT))] = text
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        for number, cell in enumerate(cells):
            lines = [re.sub(r"^(\s*)[!%].*", r"\1pass", line) for line in cell["source"]]
            text = "".join(lines)
            if cell["cell_type"] == "code":
                sources[f"{path.name}, cell {number}"] = text
    return sources


def test_each_committed_figure_says_what_it_shows():
    figures = sorted((ROOT / "results" / "standard" / "figures").glob("*.png"))
    assert len(figures) > 20
    for path in figures:
        with Image.open(path) as picture:
            assert len(picture.info.get("Description", "")) > 40, path.name


def test_no_figure_names_a_color_by_hand():
    sources = figure_sources()
    assert len(sources) > 50 and "experiments/toy/playback.py" in sources
    assert {name: c for name, text in sources.items() if (c := colors_by_hand(text))} == {}


@pytest.mark.parametrize(
    "line",
    [
        'axes.plot(x, color="#016CAF")',
        'axes.plot(x, color="tab:blue")',
        'LOOKS = {"UBN": "#016CAF"}',
        'axes.plot(x, **{"color": "C0"})',
        'axes.scatter(x, y, c="red" if ubn else "k")',
        'axes.plot(x, dict(mfc=f"{1}", mec="gray"))',
    ],
)
def test_a_color_by_hand_is_found(line):
    assert colors_by_hand(line)


def test_every_method_that_a_figure_names_has_a_look():
    known = {CONSTANT, *study.ARMS, *toy.METHODS, toy.LITERAL}
    known |= {name for domain in ablation.LABELS for name in ablation.peers(domain)}
    texts = [text for name, text in figure_sources().items() if "runs.py" not in name]
    constants = {
        node.value
        for text in texts
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    drawn = constants & known | set(depth.NOTEBOOK)
    assert {"BN", "UBN", "UBN, literal", "UBN, joint gradient", "mean teacher"} <= drawn
    named_only = {"BN, dropout", "BN, equal work"}  # in a title, and where runs are chosen
    assert drawn - named_only <= set(style.METHODS)
    with pytest.raises(ValueError, match=r"'UBN, new' has no look: .*style\.py"):
        style.look("UBN, new")


# --- read by everybody ----------------------------------------------------------------------------

# Of linear RGB: what somebody without the medium cones sees (Machado and others, 2009, table 1).
DEUTERANOPIA = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
)
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175],
     [0.0193339, 0.119192, 0.9503041]]
)  # fmt: skip


def lab(color, seen=None) -> np.ndarray:
    """Return CIE L*a*b* of a color, as it is or as `seen` makes its linear RGB."""
    rgb = np.array(to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    if seen is not None:
        linear = np.clip(seen @ linear, 0, 1)
    t = TO_XYZ @ linear / TO_XYZ.sum(1)
    x, y, z = np.where(t > (6 / 29) ** 3, np.cbrt(t), t * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


GROUPS = {  # what stands beside each other in a figure
    "methods": list(dict.fromkeys(style.METHODS.values())),
    "points": [style.SERIES[name] for name in ("labeled", "unlabeled", "test")],
    "steps": [style.SERIES[name] for name in ("happened", "promised")],
    "scores": [style.SERIES[name] for name in ("spread", "doubt")],
    "drives": [style.SERIES[name] for name in ("real", "synthetic", "before")],
    "classes": list(style.CLASSES),
}


def test_lab_of_known_colors():
    np.testing.assert_allclose(lab("#FFFFFF"), [100, 0, 0], atol=0.02)
    np.testing.assert_allclose(lab("#0000FF"), [32.30, 79.19, -107.86], atol=0.05)
    assert np.linalg.norm(lab("#C00000") - lab("#006000")) > 80  # and without medium cones:
    assert np.linalg.norm(lab("#A05A00", DEUTERANOPIA) - lab("#6C6C00", DEUTERANOPIA)) < 10


@pytest.mark.parametrize("group", GROUPS)
def test_looks_are_told_apart_in_gray_and_by_the_color_blind(group):
    for one, other in itertools.combinations(GROUPS[group], 2):
        assert abs(lab(one.color)[0] - lab(other.color)[0]) > 7, (one, other)
        seen = [lab(look.color, DEUTERANOPIA) for look in (one, other)]
        assert np.linalg.norm(seen[0] - seen[1]) > 15, (one, other)
        assert one.marker != other.marker
        assert group == "classes" or one.dash != other.dash


@pytest.mark.parametrize("colors", [style.CLASS_MAP, style.GAIN_MAP, plt.get_cmap(style.DEPTH_MAP)])
def test_maps_go_from_dark_to_light_or_back(colors):
    lightness = np.array([lab(colors(x))[0] for x in np.linspace(0, 1, 33)])
    steps = np.diff(lightness)
    assert (steps > 0).all() or (steps < 0).all()
    assert abs(lightness[-1] - lightness[0]) > 30


# --- what is kept of a figure ---------------------------------------------------------------------


@pytest.fixture
def figure():
    with plt.rc_context():
        plt.switch_backend("agg")
        style.apply_style()
        figure, axes = plt.subplots(figsize=(3, 2))
        axes.plot([0, 1])
        yield figure
        plt.close(figure)


def test_the_caption_goes_wherever_the_picture_goes(figure, tmp_path):
    figure.set_label("A line that\nrises by \N{PLUS-MINUS SIGN}1, \N{GREEK SMALL LETTER DELTA}.")
    table = pd.DataFrame({"y": [0, 1]})
    picture = style.save(figure, "rise", table, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rise.csv", "rise.pdf", "rise.png"]
    assert (tmp_path / "rise.pdf").read_bytes().startswith(b"%PDF")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "rise.csv"), table)
    assert figure.number not in plt.get_fignums()
    caption = "A line that rises by \N{PLUS-MINUS SIGN}1, \N{GREEK SMALL LETTER DELTA}."
    with Image.open(tmp_path / "rise.png") as kept:
        assert kept.text["Description"] == caption
        assert kept.size == (2 * 3 * style.DPI, 2 * 2 * style.DPI)  # twice what a page shows
    data, metadata = picture._repr_mimebundle_(include=None, exclude=None)
    with Image.open(io.BytesIO(data["image/png"])) as shown:  # the same picture, in few colors
        assert shown.size == (2 * 3 * style.DPI, 2 * 2 * style.DPI) and shown.mode == "P"
    assert data["text/plain"] == caption
    assert metadata == {"image/png": {"alt": caption, "width": 3 * style.DPI}}


def test_a_figure_without_a_caption_is_refused(figure, tmp_path):
    with pytest.raises(ValueError, match="Figure rise has no caption"):
        style.save(figure, "rise", pd.DataFrame({"y": [0, 1]}), tmp_path)
    assert list(tmp_path.iterdir()) == []
