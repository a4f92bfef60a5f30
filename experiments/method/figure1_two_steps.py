"""Figure 1: the two steps of Unsupervised Batch Normalization, drawn."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from experiments.common.style import BLUE, GRAY, GREEN, ORANGE

# What flows where: the figure's data.
STEPS = pd.DataFrame(
    [
        ("step 1: collect", "labeled x and unlabeled y", "forward", "mu(n), sigma(n), averages"),
        ("step 2: use", "labeled x", "forward and backward", "weights, gamma, beta"),
    ],
    columns=["step", "input", "passes", "updates"],
)

Point = tuple[float, float]


def draw() -> Figure:
    """Draw both steps above each other, the statistics handed from the first to the second."""
    figure, axes = plt.subplots(figsize=(8, 3.4))
    axes.set(xlim=(0, 100), ylim=(0, 44))
    axes.axis("off")
    for y, title in ((33, "Step 1\ncollect"), (9, "Step 2\nuse")):
        axes.text(1, y, title, weight="bold", va="center")
    _box(axes, 12, 35, "labeled x", BLUE)
    _box(axes, 12, 28, "unlabeled y", GRAY)
    _box(axes, 12, 9, "labeled x", BLUE)
    for y in (31.5, 9):
        _box(axes, 36, y, "convolution", "white", text="black")
        _box(axes, 57, y, "UBN", GREEN)
    _box(axes, 78, 31.5, "no loss", "white", text="black")
    _box(axes, 78, 9, "loss", ORANGE)
    _arrow(axes, (29, 35), (36, 32.3))
    _arrow(axes, (29, 28), (36, 30.7))
    for x in (53, 74):
        _arrow(axes, (x, 31.5), (x + 4, 31.5))
        _arrow(axes, (x, 10), (x + 4, 10))
        _arrow(axes, (x + 4, 7.6), (x, 7.6), color=ORANGE)
    _arrow(axes, (29, 9), (36, 9))
    _arrow(axes, (65.5, 28.6), (65.5, 12), color=GREEN, width=2.2)
    axes.text(67, 20.5, r"$\mu(n),\ \sigma(n)$ of $n=\{x,y\}$", color=GREEN, va="center")
    axes.text(65.5, 37.5, "moving averages move", color=GREEN, ha="center")
    axes.text(65.5, 3.5, "nothing moves", color=GRAY, ha="center")
    axes.text(99, 2, "forward", ha="right", color="black")
    axes.text(90, 2, "backward", ha="right", color=ORANGE)
    return figure


def _box(axes: Axes, x: float, y: float, label: str, color: str, text: str = "white") -> None:
    place, style = (x, y - 2.5), "round,pad=0.2"
    axes.add_patch(FancyBboxPatch(place, 17, 5, boxstyle=style, facecolor=color, edgecolor=GRAY))
    axes.text(x + 8.5, y, label, ha="center", va="center", color=text)


def _arrow(axes: Axes, start: Point, end: Point, color: str = "black", width: float = 1.2) -> None:
    style = dict(arrowstyle="-|>", mutation_scale=11, color=color, linewidth=width)
    axes.add_patch(FancyArrowPatch(start, end, **style))
