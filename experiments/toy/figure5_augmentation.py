"""Figure 5: the change of inputs that equals a change of statistics (implicit augmentation)."""

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from torch import Tensor

from experiments.common.style import CLASS_COLORS, CLASS_MAP
from experiments.toy import SpiralData
from experiments.toy.plane import EXTENT, show_boundary, show_map, show_points


class Panel(NamedTuple):
    """One net's augmentation.

    Attributes:
        title: What it shows.
        data: The net's data; its labeled points [N, 2] are those that moved.
        probability: Class probability over `spiral_plane.plane()`.
        moved: Where each change of statistics moved the points, [C, N, 2].
        converged: Whether a point found what it searched, [C, N].
    """

    title: str
    data: SpiralData
    probability: Tensor
    moved: Tensor
    converged: Tensor


def draw(panels: Sequence[Panel], columns: int = 3) -> Figure:
    """Draw each converged displacement as a line from the labeled point to a small dot.

    Displacements that did not converge are left out; the title tells how many.

    Args:
        panels: At least one.
        columns: Panels in a row.
    """
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(2.9 * columns, 3.2 * rows), squeeze=False, sharex=True, sharey=True
    )
    for axes in grid.flat[len(panels) :]:
        axes.axis("off")
    for axes, panel in zip(grid.flat, panels, strict=False):
        show_map(axes, panel.probability, cmap=CLASS_MAP, vmin=0, vmax=1, alpha=0.6)
        show_boundary(axes, panel.probability, colors="k", linewidths=0.8)
        _show_moves(axes, panel)
        axes.set(xlim=(-EXTENT, EXTENT), ylim=(-EXTENT, EXTENT))
        left_out = int((~panel.converged).sum())
        note = f"\n{left_out} of {panel.converged.numel()} not converged" if left_out else ""
        axes.set_title(panel.title + note)
    return figure


def _show_moves(axes: Axes, panel: Panel) -> None:
    """Draw the labeled points, and under them where they went."""
    start = panel.data.labeled.to(panel.moved.dtype).expand_as(panel.moved)
    colors = np.array(CLASS_COLORS)[panel.data.labels.expand(panel.converged.shape).numpy()]
    chosen = panel.converged
    lines = torch.stack([start, panel.moved], -2)[chosen].numpy()
    colors = colors[chosen.numpy()]
    axes.add_collection(LineCollection(lines, colors=colors, linewidths=0.7, alpha=0.7))
    axes.scatter(*lines[:, 1].T, s=4, color=colors, linewidths=0)
    show_points(axes, panel.data, unlabeled=False)


def table(panels: Sequence[Panel]) -> pd.DataFrame:
    """Return what is drawn: panel, change, label, where a point was and went, converged."""
    tables = []
    for panel in panels:
        changes, points = panel.converged.shape
        start = panel.data.labeled.repeat(changes, 1)
        columns = {
            "panel": panel.title,
            "change": np.repeat(np.arange(changes), points),
            "label": panel.data.labels.repeat(changes),
            **dict(zip(("x", "y"), start.T, strict=True)),
            **dict(zip(("moved_x", "moved_y"), panel.moved.flatten(0, 1).T, strict=True)),
            "converged": panel.converged.flatten(),
        }
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)
