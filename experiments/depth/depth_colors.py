"""What pictures of depth share: the color scale, and lidar points over an image."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from experiments.common.style import DEPTH_MAP


def depth_scale(cap: float) -> dict:
    """Return the color options of depth in meters up to `cap`; near is bright, far is dark."""
    return dict(cmap=DEPTH_MAP, norm=LogNorm(2.4, cap))


def draw_lidar(axes: Axes, picture: np.ndarray, depth: np.ndarray, size: float, cap: float):
    """Draw lidar points over a darkened image.

    Args:
        axes: Where to draw.
        picture: uint8 [H, W, 3].
        depth: [H, W], meters, 0 = no return.
        size: Of a point, in points squared.
        cap: Depth of the color scale's far end, meters.

    Returns:
        The points, for `add_depth_bar`.
    """
    axes.imshow((0.35 * picture).astype(np.uint8))
    axes.axis("off")
    v, u = depth.nonzero()
    return axes.scatter(u, v, c=depth[v, u], s=size, marker="s", linewidths=0, **depth_scale(cap))


def add_depth_bar(figure: Figure, scale: ScalarMappable, grid: np.ndarray) -> None:
    """Add a horizontal depth scale below all axes of a grid."""
    bar = figure.colorbar(scale, ax=grid, location="bottom", aspect=60, shrink=0.6, pad=0.02)
    bar.set_label("depth [m]")
    bar.set_ticks([3, 5, 10, 20, 40, 80], labels=["3", "5", "10", "20", "40", "80"])
    bar.ax.minorticks_off()
