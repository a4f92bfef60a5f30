"""Figure 2: decision boundaries on the spiral: islands, or regions along the arms."""

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import pad

from experiments.common.style import CLASS_MAP
from experiments.common.training import evaluating
from experiments.toy.ensemble import Ensemble
from experiments.toy.plane import mark_legend, show_boundary, show_map, show_points
from experiments.toy.spiral import RADIUS, SpiralData, make_spiral


def class_probability(net: Ensemble, points: Tensor) -> Tensor:
    """Return each net's probability [N, E] of class 1 at points [N, 2] or [N, E, 2], evaluating."""
    if points.dim() == 2:
        points = points.unsqueeze(1).expand(-1, net.members, -1)
    with evaluating(net):
        return torch.cat([net(some).softmax(-1)[..., 1] for some in points.split(4096)])


def accuracy(net: Ensemble, points: Tensor, labels: Tensor) -> Tensor:
    """Return each net's share [E] of points [N, E, 2] whose class [N] it predicts, in eval mode."""
    return ((class_probability(net, points) > 0.5).long() == labels[:, None]).float().mean(0)


def regions(net: Ensemble, spacing: float = 0.1) -> Tensor:
    """Return how many connected regions each net has of both classes, [E]; two spirals are 2.

    Counted on a grid inside the disk that holds the spiral, of which neighboring turns are 1.4
    apart. Points touch their four neighbors.
    """
    axis = torch.arange(-RADIUS, RADIUS + spacing / 2, spacing)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    inside = (x**2 + y**2 <= RADIUS**2).numpy()
    classes = class_probability(net, torch.stack([x.flatten(), y.flatten()], 1)) > 0.5
    maps = classes.T.reshape(net.members, *x.shape).numpy()
    masks = np.stack([maps & inside, ~maps & inside], 1)
    return torch.tensor([sum(ndimage.label(mask)[1] for mask in both) for both in masks])


def stretches(net: Ensemble, data: SpiralData, per_class: int = 2000) -> dict[str, Tensor]:
    """Look at the stretches of arm between labeled points that are neighbors along it.

    For each net [E]: `bridged`, the share of stretches that are classified rightly from end to end,
    and `midpoint_accuracy`, the share of them whose middle is.
    """
    arms, labels = make_spiral(per_class, 0.0)
    right = (class_probability(net, arms) > 0.5).long() == labels[:, None]  # [2 * per_class, E]
    bridged, middles = [], []
    for arm in (0, 1):
        some = slice(arm * per_class, (arm + 1) * per_class)
        labeled = data.labeled[data.labels == arm].transpose(0, 1)  # [E, l, 2]
        at = torch.cdist(labeled, arms[some].expand(net.members, -1, -1)).argmin(-1).sort(-1)[0].T
        before = pad((~right[some]).cumsum(0), (0, 0, 1, 0))  # errors so far
        bridged.append(before.gather(0, at[1:] + 1) == before.gather(0, at[:-1]))
        middles.append(right[some].gather(0, (at[1:] + at[:-1]) // 2))
    return {
        "bridged": torch.cat(bridged).float().mean(0),
        "midpoint_accuracy": torch.cat(middles).float().mean(0),
    }


def draw(columns: dict[str, tuple[SpiralData, dict[str, Tensor]]]) -> Figure:
    """Draw class probability, boundary and points over the plane: methods down, seeds across.

    Columns hold for each title the data of a seed, and for each method's title the probability of
    class 1, [P], over `plane.plane()`.
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
    mark_legend(figure)
    told = "; ".join(f"{title}: {', '.join(maps)}" for title, (_, maps) in columns.items())
    figure.set_label(
        "The spiral's two arms with their points, and the class that nets predict over the plane "
        "(purple or cream) with the boundary between. A column a seed, a row a method, with "
        f"accuracies: {told}."
    )
    return figure
