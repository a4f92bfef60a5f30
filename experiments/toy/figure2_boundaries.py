"""Figure 2: decision boundaries on the spiral, batch normalization beside UBN."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from experiments.common.style import CLASS_MAP
from experiments.toy import SpiralData
from experiments.toy.plane import show_boundary, show_map, show_points


def draw(columns: dict[str, tuple[SpiralData, dict[str, Tensor]]]) -> Figure:
    """Draw class probability, boundary and points over the plane: methods down, seeds across.

    Args:
        columns: For each title the data of a seed, and for each method's title the probability of
            class 1, [P], over `spiral_plane.plane()`.
    """
    rows = max(len(maps) for _, maps in columns.values())
    size = (2.7 * len(columns), 2.9 * rows)
    figure, grid = plt.subplots(rows, len(columns), figsize=size, squeeze=False)
    for column, (title, (data, maps)) in zip(grid.T, columns.items(), strict=True):
        for axes, (method, probability) in zip(column, maps.items(), strict=True):
            show_map(axes, probability, cmap=CLASS_MAP, vmin=0, vmax=1)
            show_boundary(axes, probability, colors="k", linewidths=1.2)
            show_points(axes, data)
            axes.set_title(method)
        column[0].set_title(f"{title}\n{column[0].get_title()}")
    return figure
