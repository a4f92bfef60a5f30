"""What the spiral's figures share: the plane, a map over it, and the points on it."""

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from experiments.common.style import CLASSES, INK, MUTED
from experiments.toy.spiral import SpiralData

EXTENT = 6.0
HOLLOW = dict(facecolors="none", edgecolors=INK, linewidths=0.5)  # unlabeled points


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


def show_points(axes: Axes, data: SpiralData, *, unlabeled: bool = True, edge: str = "k") -> None:
    """Draw labeled points filled, by class, and unlabeled ones hollow; `mark_legend` explains."""
    if unlabeled:
        axes.scatter(*data.unlabeled.T, s=9, **HOLLOW)
    for label, (color, marker, _) in enumerate(CLASSES):
        some = data.labeled[data.labels == label]
        axes.scatter(*some.T, s=26, color=color, marker=marker, edgecolors=edge, linewidths=0.6)


def mark_legend(
    figure: Figure, *, unlabeled: bool = True, ink: str = "k", columns: int = 9, **lines: dict
) -> None:
    """Explain the points of `show_points` below a figure, and further lines by their names.

    `ink` is the color of the boundary and the unlabeled points; columns are at most as many.
    """
    on = dict(frameon=True, facecolor=MUTED, labelcolor="w") if ink == "w" else {}
    marks = dict(linestyle="", markeredgecolor=ink, markersize=5)
    handles = [
        Line2D([], [], color=color, marker=marker, label=f"labeled, class {label}", **marks)
        for label, (color, marker, _) in enumerate(CLASSES)
    ]
    if unlabeled:
        hollow = dict(marker="o", markerfacecolor="none", markersize=3)
        handles.append(Line2D([], [], label="unlabeled", **marks | hollow))
    lines = {"class boundary": dict(color=ink, linewidth=1.2)} | lines
    handles += [Line2D([], [], label=name, **options) for name, options in lines.items()]
    ncols = min(columns, len(handles))
    figure.legend(handles=handles, loc="outside lower center", ncols=ncols, **on)
