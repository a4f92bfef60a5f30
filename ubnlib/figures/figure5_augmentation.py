"""Figure 5: the change of inputs that equals a change of statistics (implicit augmentation)."""

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ubnlib.figures.spiral_plane import show_boundary, show_map, show_points
from ubnlib.figures.style import CLASS_COLORS, CLASS_MAP
from ubnlib.spiral import SpiralData
from ubnlib.spiral_analysis import Augmentation


def draw(data: SpiralData, probability: Tensor, augmentations: list[Augmentation]) -> Figure:
    """Draw each converged displacement of the labeled points as a line to a small dot.

    Args:
        data: Labeled points to start from.
        probability: Class probability over `spiral_plane.plane()`.
        augmentations: One for each change of statistics.
    """
    figure, axes = plt.subplots(figsize=(4.6, 4.6))
    show_map(axes, probability, cmap=CLASS_MAP, vmin=0, vmax=1, alpha=0.6)
    show_boundary(axes, probability, colors="k", linewidths=1)
    colors = [CLASS_COLORS[label] for label in data.labels]
    for moved, converged in augmentations:
        for start, end, color, good in zip(data.labeled, moved, colors, converged, strict=True):
            if good:
                axes.plot(*torch.stack([start, end]).T, color=color, linewidth=0.6, alpha=0.6)
                axes.scatter(*end, s=3, color=color)
    show_points(axes, data, unlabeled=False)
    axes.set(xlim=(-6, 6), ylim=(-6, 6))
    return figure
