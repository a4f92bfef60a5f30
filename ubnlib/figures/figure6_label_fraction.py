"""Figure 6: accuracy by share of labeled images; and predictions beside the lidar."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ubnlib.figures.depth_colors import add_depth_bar, depth_scale, draw_lidar
from ubnlib.figures.style import METHOD_COLORS


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
    for row in range(len(images)):
        picture = images[row].permute(1, 2, 0).numpy()
        _image(grid[row][0], picture)
        scale = draw_lidar(grid[row][1], picture, lidar[row].numpy(), 900 / width, cap)
        for axes, depth in zip(grid[row][2:], predictions.values(), strict=True):
            _image(axes, depth[row].numpy(), **depth_scale(cap))
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title)
    add_depth_bar(figure, scale, grid)
    return figure


def _image(axes: Axes, pixels: np.ndarray, **options) -> None:
    axes.imshow(pixels, **options)
    axes.axis("off")
