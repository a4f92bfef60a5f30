"""Figure 1: the two steps of Unsupervised Batch Normalization, drawn."""

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from experiments.common.style import INK, MUTED, look

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
    labeled, unlabeled, ubn = (look(name).color for name in ("labeled", "unlabeled", "UBN"))
    _box(axes, 12, 35, "labeled x", labeled)
    _box(axes, 12, 28, "unlabeled y", unlabeled, text="black")
    _box(axes, 12, 9, "labeled x", labeled)
    for y in (31.5, 9):
        _box(axes, 36, y, "convolution", "white", text="black")
        _box(axes, 57, y, "UBN", ubn)
    _box(axes, 78, 31.5, "no loss", "white", text="black")
    _box(axes, 78, 9, "loss", INK)
    _arrow(axes, (29, 35), (36, 32.3))
    _arrow(axes, (29, 28), (36, 30.7))
    for x in (53, 74):
        _arrow(axes, (x, 31.5), (x + 4, 31.5))
        _arrow(axes, (x, 10), (x + 4, 10))
        _arrow(axes, (x + 4, 7.6), (x, 7.6), dash=(0, (2, 1.5)))
    _arrow(axes, (29, 9), (36, 9))
    _arrow(axes, (65.5, 28.6), (65.5, 12), color=ubn, width=2.2)
    axes.text(67, 20.5, r"$\mu(n),\ \sigma(n)$ of $n=\{x,y\}$", color=ubn, va="center")
    axes.text(65.5, 37.5, "moving averages move", color=ubn, ha="center")
    axes.text(65.5, 3.2, r"weights, $\gamma$ and $\beta$ move", ha="center", va="top")
    for x, word, dash in ((12, "forward", "-"), (36, "backward", (0, (2, 1.5)))):
        _arrow(axes, (x, 1), (x + 5, 1), dash=dash)
        axes.text(x + 6, 1, word, va="center")
    figure.set_label(
        "Two rows of boxes. Step 1, collect: labeled x and unlabeled y go forward through "
        "convolution and UBN to no loss; moving averages move. An arrow hands UBN's mean and "
        "standard deviation of x and y together down to step 2. Step 2, use: labeled x alone goes "
        "forward to the loss, and gradients go backward; weights, gamma and beta move."
    )
    return figure


def _box(axes: Axes, x: float, y: float, label: str, color: str, text: str = "white") -> None:
    place, style = (x, y - 2.5), "round,pad=0.2"
    axes.add_patch(FancyBboxPatch(place, 17, 5, boxstyle=style, facecolor=color, edgecolor=MUTED))
    axes.text(x + 8.5, y, label, ha="center", va="center", color=text)


def _arrow(
    axes: Axes, start: Point, end: Point, color: str = INK, width: float = 1.2, dash: Any = "-"
) -> None:
    style = dict(arrowstyle="-|>", mutation_scale=11, color=color, linewidth=width, linestyle=dash)
    axes.add_patch(FancyArrowPatch(start, end, **style))
