"""What the spiral's figures share: the plane, a map over it, and the points on it."""

import torch
from matplotlib.axes import Axes
from torch import Tensor

from experiments.common.style import CLASS_COLORS
from experiments.toy.spiral import SpiralData

EXTENT = 6.0


def plane(points: int = 161) -> Tensor:
    """Return a regular grid [points^2, 2] over [-6, 6]^2, row by row from the bottom."""
    axis = torch.linspace(-EXTENT, EXTENT, points)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=1)


def show_map(axes: Axes, values: Tensor, **options):
    """Show values [points^2] over the plane of `plane`."""
    side = round(len(values) ** 0.5)
    extent = (-EXTENT, EXTENT, -EXTENT, EXTENT)
    axes.set(xticks=[], yticks=[], aspect="equal")
    axes.spines[:].set_visible(True)
    image = values.reshape(side, side).numpy()
    return axes.imshow(image, extent=extent, origin="lower", interpolation="bilinear", **options)


def show_boundary(axes: Axes, probability: Tensor, **options) -> None:
    """Draw the line where class probability [points^2] is one half."""
    side = round(len(probability) ** 0.5)
    axis = torch.linspace(-EXTENT, EXTENT, side)
    axes.contour(axis, axis, probability.reshape(side, side), [0.5], **options)


def show_points(axes: Axes, data: SpiralData, *, unlabeled: bool = True) -> None:
    """Draw labeled points filled, by class, and unlabeled ones hollow."""
    if unlabeled:
        axes.scatter(
            *data.unlabeled.T, s=9, facecolors="none", edgecolors="#555555", linewidths=0.5
        )
    for label, color in enumerate(CLASS_COLORS):
        axes.scatter(
            *data.labeled[data.labels == label].T, s=24, color=color, edgecolors="k", linewidths=0.6
        )
