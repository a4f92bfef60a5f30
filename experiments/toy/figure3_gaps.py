"""The numbers behind Figure 3, by layer, through training."""

from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.common.style import METHOD_COLORS

Interval = Callable[[np.ndarray], tuple[float | None, float | None]]


def draw(
    table: pd.DataFrame, rows: dict[str, tuple[str, dict[str, str]]], interval: Interval
) -> Figure:
    """Draw means over seeds against training steps: layers in columns, measures in rows.

    Bands are intervals of the mean over seeds. Steps are on a scale that is logarithmic but for 0.

    Args:
        table: Columns `method`, `seed`, `step`, `measure`, `part`, `layer`, `value`.
        rows: By the label of the vertical axis: a measure, and the line styles of its parts, such
            as `{"distance": ("wasserstein", {"labeled": "-", "chance": ":"})}`.
        interval: Gives the interval of values, one a seed; (None, None) draws no band.
    """
    layers = sorted(table["layer"].unique())
    size = (2.2 * len(layers) + 1, 2.1 * len(rows) + 0.5)
    figure, grid = plt.subplots(
        len(rows), len(layers), figsize=size, squeeze=False, sharex=True, sharey="row"
    )
    for panels, (label, (measure, parts)) in zip(grid, rows.items(), strict=True):
        panels[0].set_ylabel(label)
        for axes, layer in zip(panels, layers, strict=True):
            chosen = table[(table["measure"] == measure) & (table["layer"] == layer)]
            for part, linestyle in parts.items():
                for method, values in chosen[chosen["part"] == part].groupby("method"):
                    style = {"color": METHOD_COLORS.get(method), "linestyle": linestyle}
                    _line(axes, values, interval, label=f"{method}, {part}", **style)
    for axes, layer in zip(grid[0], layers, strict=True):
        axes.set_title(f"layer {layer}")
    for axes in grid[-1]:
        axes.set_xscale("symlog", linthresh=1)
        axes.set_xlabel("training step")
    for panels in grid:
        panels[0].set_ylim(bottom=0)
        panels[-1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5))
    return figure


def _line(axes: Axes, values: pd.DataFrame, interval: Interval, **style) -> None:
    """Draw the mean over seeds at each step, and the band of its interval."""
    by_step = values.groupby("step")["value"]
    mean = by_step.mean()
    axes.plot(mean.index, mean, **style)
    ends = [interval(each.dropna().to_numpy()) for _, each in by_step]
    low, high = np.array(ends, dtype=float).T  # None becomes nan, which is not drawn
    axes.fill_between(mean.index, low, high, color=style["color"], alpha=0.15, linewidth=0)
