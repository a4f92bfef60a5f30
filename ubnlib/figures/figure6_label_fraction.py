"""Figure 6: accuracy by share of labeled images; and predictions beside the lidar."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from torch import Tensor

from ubnlib.figures.style import DEPTH_MAP, METHOD_COLORS


def draw(table: pd.DataFrame, metric: str = "delta1") -> Figure:
    """Draw each method's metric against the share of labeled images, one dot a seed.

    Args:
        table: Columns `method`, `fraction`, `seed` and the metric.
        metric: The column to draw.
    """
    figure, axes = plt.subplots(figsize=(5, 3.2))
    for method, rows in table.groupby("method", sort=False):
        color = METHOD_COLORS.get(method)
        mean = rows.groupby("fraction")[metric].mean()
        axes.plot(mean.index, mean, color=color, label=method, marker="o", markersize=4)
        axes.scatter(rows["fraction"], rows[metric], color=color, s=10, alpha=0.5)
    fractions = sorted(table["fraction"].unique())
    axes.set_xscale("log", base=2)
    axes.set_xticks(fractions, [f"1/{round(1 / f)}" for f in fractions])
    axes.minorticks_off()
    label = r"share of pixels with $\delta < 1.25$" if metric == "delta1" else metric
    axes.set(xlabel="labeled images", ylabel=label)
    axes.legend()
    return figure


def draw_predictions(
    images: Tensor, lidar: Tensor, predictions: dict[str, Tensor], *, cap: float = 80.0
) -> Figure:
    """Draw, for each frame, the image, the lidar over it, and each method's depth.

    Args:
        images: uint8 [N, 3, H, W].
        lidar: [N, H, W], meters, 0 = no return.
        predictions: Depth maps [N, H, W], in meters, by title.
        cap: Depth of the color scale's far end, meters.
    """
    titles = ["image", "lidar", *predictions]
    height, width = images.shape[-2:]
    size = (3.1 * len(titles), 3.1 * height / width * len(images) + 0.9)
    figure, grid = plt.subplots(len(images), len(titles), figsize=size, squeeze=False)
    colors = dict(cmap=DEPTH_MAP, norm=LogNorm(2.4, cap))
    for row in range(len(images)):
        picture = images[row].permute(1, 2, 0).numpy()
        _image(grid[row][0], picture)
        scale = _lidar_over(grid[row][1], picture, lidar[row].numpy(), colors)
        for axes, depth in zip(grid[row][2:], predictions.values(), strict=True):
            _image(axes, depth[row].numpy(), **colors)
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title)
    bar = figure.colorbar(scale, ax=grid, location="bottom", aspect=60, shrink=0.6, pad=0.02)
    bar.set_label("depth [m]")
    bar.set_ticks([3, 5, 10, 20, 40, 80], labels=["3", "5", "10", "20", "40", "80"])
    bar.ax.minorticks_off()
    return figure


def _image(axes: Axes, pixels: np.ndarray, **options) -> None:
    axes.imshow(pixels, **options)
    axes.axis("off")


def _lidar_over(axes: Axes, picture: np.ndarray, depth: np.ndarray, colors: dict):
    _image(axes, (0.35 * picture).astype(np.uint8))
    v, u = depth.nonzero()
    size = 900 / depth.shape[1]
    return axes.scatter(u, v, c=depth[v, u], s=size, marker="s", linewidths=0, **colors)
