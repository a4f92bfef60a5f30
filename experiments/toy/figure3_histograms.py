"""Figure 3: what labeled and unlabeled points look like after each normalization."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from experiments.common.style import BLUE, GRAY, GREEN

COLORS = {"regular grid": GRAY, "labeled": BLUE, "unlabeled": GREEN}

Sets = dict[str, Sequence[ArrayLike]]  # by name: for each layer, one channel's values [N]


def draw(blocks: dict[str, Sets], bins: int = 24) -> tuple[Figure, pd.DataFrame]:
    """Draw one channel's histograms: layers in rows, sets of points in columns, nets in blocks.

    The black line is the mean. Histograms of a row have the same bins, over all values in it.

    Args:
        blocks: By the name of a net, the values of each set of points in each layer; the first
            layer is the top row.
        bins: How many.

    Returns:
        The figure, and its data: net, layer, points, mean, bin edges, density.
    """
    columns = sum(map(len, blocks.values()))
    layers = len(next(iter(next(iter(blocks.values())).values())))
    figure = plt.figure(figsize=(1.7 * columns, 1.6 * layers))
    parts = figure.subfigures(1, len(blocks), squeeze=False, wspace=0.04)[0]
    tables = []
    for part, (net, sets) in zip(parts, blocks.items(), strict=True):
        part.suptitle(net, fontsize=11)
        grid = part.subplots(layers, len(sets), sharex="row", sharey="row", squeeze=False)
        for layer, row in enumerate(grid):
            values = {name: np.asarray(each[layer]) for name, each in sets.items()}
            edges = np.histogram_bin_edges(np.concatenate(list(values.values())), bins=bins)
            for axes, (name, numbers) in zip(row, values.items(), strict=True):
                density, _ = np.histogram(numbers, edges, density=True)
                axes.stairs(density, edges, fill=True, color=COLORS.get(name, GRAY), alpha=0.85)
                axes.axvline(numbers.mean(), color="k", linewidth=1)
                axes.set_yticks([])
                place = {"net": net, "layer": layer + 1, "points": name, "mean": numbers.mean()}
                bars = {"left": edges[:-1], "right": edges[1:], "density": density}
                tables.append(pd.DataFrame({**place, **bars}))
            row[0].set_ylabel(f"after layer {layer + 1}")
        for axes, name in zip(grid[0], sets, strict=True):
            axes.set_title(name)
    return figure, pd.concat(tables, ignore_index=True)
