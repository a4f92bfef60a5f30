"""Why the literal reading fails in deep nets: what its steps promise, and what is left of them."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.common.style import BLUE, GRAY, ORANGE, SKY

LINES = {  # what is drawn of each step's loss
    "promised": dict(color=GRAY, linestyle="--", label="what the gradient promises"),
    "happened": dict(color=ORANGE, marker="o", label="what happens"),
}
SHARES = {  # beginnings of the layers' columns, and what they are shares of
    "gradient": "common to a channel, of the\ngradient at the layer's input",
    "weight": "common to a channel, of the\ngradient of its weight",
    "cancelled": "cancelled, of the change of\nthe layer's output",
}


def draw(losses: pd.DataFrame, layers: pd.DataFrame, titles: dict[str, str]) -> Figure:
    """Draw, for each reading, its steps' effect on the loss and what of it each layer loses.

    Args:
        losses: Columns `reading`, `step`, `promised`, `happened`.
        layers: Columns `reading`, `step`, `layer`, `cancelled`; layers in their order in the net.
        titles: Readings to draw, from left to right, and what to write above them.
    """
    size = (2.1 * len(titles) + 1.6, 5.2)
    figure, grid = plt.subplots(2, len(titles), figsize=size, squeeze=False, sharex="col",
                                height_ratios=(1, 1.6))  # fmt: skip
    chosen = losses[losses["reading"].isin(titles)]
    for (reading, title), (above, below) in zip(titles.items(), grid.T, strict=True):
        _changes(above, chosen[chosen["reading"] == reading])
        above.set_title(title)
        above.sharey(grid[0, 0])
        table = layers[layers["reading"] == reading]
        image = _shares_by_step(below, table, first=below is grid[1, 0])
        below.set_xlabel("training step")
    grid[0, 0].set_ylabel("change of the loss\nby one step")
    for axes in grid[0, 1:]:
        axes.tick_params(labelleft=False)
    figure.colorbar(image, ax=grid[1], label="share of the believed change\nthat is cancelled")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _changes(axes: Axes, table: pd.DataFrame) -> None:
    """Draw how single steps change the loss; down is better."""
    for name, style in LINES.items():
        axes.plot(table["step"], table[name], markersize=4, **style)
    axes.axhline(0, color="k", linewidth=0.6)
    axes.set_yscale("symlog", linthresh=0.1)


def _shares_by_step(axes: Axes, table: pd.DataFrame, *, first: bool) -> plt.cm.ScalarMappable:
    """Draw the cancelled share of each layer, from the input down to the output, at each step."""
    shares = table.pivot_table(index="layer", columns="step", values="cancelled", sort=False)
    steps = shares.columns.to_numpy(dtype=float)
    width = steps[1] - steps[0] if len(steps) > 1 else 1.0
    edges = np.append(steps, steps[-1] + width) - width / 2
    image = axes.pcolormesh(edges, range(len(shares) + 1), shares, vmin=0, vmax=1, cmap="magma_r")
    axes.invert_yaxis()
    axes.set_yticks(np.arange(len(shares)) + 0.5, shares.index if first else [""] * len(shares))
    axes.tick_params(axis="y", length=0)
    axes.spines[:].set_visible(False)
    return image


def draw_directions(layers: pd.DataFrame, readings: Sequence[str]) -> Figure:
    """Draw how a small part of the gradient comes to be most of what a step does, by layer.

    Args:
        layers: Columns `reading`, `step`, `layer`, those of `gradient_shift` and `_scale`,
            `weight_shift` and `_scale`, and `cancelled`.
        readings: What to draw, one below the other; medians over steps.
    """
    size = (3.0 * len(SHARES), 2.0 * len(readings) + 0.7)
    figure, grid = plt.subplots(len(readings), len(SHARES), figsize=size, squeeze=False,
                                sharex=True, sharey=True)  # fmt: skip
    for reading, panels in zip(readings, grid, strict=True):
        table = layers[layers["reading"] == reading].drop(columns="reading")
        medians = table.groupby("layer", sort=False).median()
        places = np.arange(len(medians))
        for axes, kind in zip(panels, SHARES, strict=True):
            if kind == "cancelled":
                axes.bar(places, medians["cancelled"], color=ORANGE)
                continue
            scale, shift = medians[f"{kind}_scale"], medians[f"{kind}_shift"]
            axes.bar(places - 0.2, shift, 0.4, color=BLUE, label="common shift of a channel")
            axes.bar(places + 0.2, scale, 0.4, color=SKY, label="common scale of a channel")
        panels[0].set_ylabel(f"{reading}\nshare")
    for axes, text in zip(grid[0], SHARES.values(), strict=True):
        axes.set_title(text)
    for axes in grid[-1]:
        axes.set_xticks(places, medians.index, rotation=90, fontsize=7)
    grid[0, 0].set_ylim(-0.1, 1.05)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def draw_growth(
    layers: pd.DataFrame, titles: dict[str, str], column: str = "weight_norm", *, to_first=True
) -> Figure:
    """Draw a number of each layer through training, such as the norm of its weight.

    Args:
        layers: Columns `reading`, `step`, `layer` and the one to draw; layers in the order in
            which they are colored.
        titles: Readings to draw, from left to right, and what to write above them.
        column: What to draw.
        to_first: Whether to divide it by its value at the first step.
    """
    size = (2.1 * len(titles) + 1.6, 2.6)
    figure, grid = plt.subplots(1, len(titles), figsize=size, squeeze=False, sharey=True)
    names = layers["layer"].drop_duplicates()
    colors = plt.get_cmap("viridis")(np.linspace(0, 0.95, len(names)))
    for (reading, title), axes in zip(titles.items(), grid[0], strict=True):
        table = layers[layers["reading"] == reading]
        for (_, values), color in zip(table.groupby("layer", sort=False), colors, strict=True):
            first = values[column].iloc[0] if to_first else 1.0
            axes.plot(values["step"], values[column] / first, color=color, linewidth=1)
        axes.set_title(title)
        axes.set_xlabel("training step")
    unit = ", 1 at the first step" if to_first else ""
    grid[0, 0].set_ylabel(f"{column.replace('_', ' ')}{unit}")
    if not to_first:
        grid[0, 0].set_yscale("log")
    layer_bar = figure.colorbar(
        plt.cm.ScalarMappable(plt.Normalize(0, 0.95), "viridis"), ax=grid[0]
    )
    layer_bar.set_ticks([0, 0.95], labels=[names.iloc[0], names.iloc[-1]])
    return figure
