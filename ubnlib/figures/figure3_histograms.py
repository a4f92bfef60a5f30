"""Figure 3: what labeled and unlabeled points look like after each normalization."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

from ubnlib.figures.style import BLUE, GRAY, GREEN
from ubnlib.spiral import SpiralNet
from ubnlib.spiral_analysis import normalized_features

COLORS = {"regular grid": GRAY, "labeled": BLUE, "unlabeled": GREEN}


def draw(net: SpiralNet, sets: dict[str, Tensor], channel: int) -> tuple[Figure, pd.DataFrame]:
    """Draw one channel's histograms: layers in rows, sets of points in columns.

    Returns:
        The figure, and its data: layer, points, bin edges, density.
    """
    features = {name: normalized_features(net, points) for name, points in sets.items()}
    layers = len(next(iter(features.values())))
    figure, grid = plt.subplots(
        layers, len(sets), figsize=(2.6 * len(sets), 1.6 * layers), sharex="row", sharey="row"
    )
    table = []
    for layer in range(layers):
        values = {name: outputs[layer][:, channel].numpy() for name, outputs in features.items()}
        edges = np.histogram_bin_edges(np.concatenate(list(values.values())), bins=24)
        for axes, (name, numbers) in zip(grid[layer], values.items(), strict=True):
            density, _ = np.histogram(numbers, edges, density=True)
            axes.stairs(density, edges, fill=True, color=COLORS.get(name, GRAY), alpha=0.85)
            axes.axvline(numbers.mean(), color="k", linewidth=1)
            if layer == 0:
                axes.set_title(name)
            bins = {"layer": layer + 1, "points": name, "left": edges[:-1], "right": edges[1:]}
            table.append(pd.DataFrame({**bins, "density": density}))
        grid[layer][0].set_ylabel(f"after layer {layer + 1}")
    return figure, pd.concat(table, ignore_index=True)
