"""Figure 5's last sentence: how far the decision boundary lies from the labeled points.

The paper says that the augmentation by changes of the batch statistics pushes the boundary away
from the labeled points where it is too close to them. So the boundary is measured, of nets whose
statistics change in training and of nets whose statistics do not.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from experiments.common.records import Record, Result, recorded
from experiments.common.style import INK, look
from experiments.common.training import evaluating
from experiments.toy.ensemble import Ensemble
from experiments.toy.figure2_boundaries import accuracy, class_probability
from experiments.toy.plane import EXTENT, plane
from experiments.toy.spiral import distance_to, make_spiral, quarter_turn
from experiments.toy.train import SpiralTraining, dense_spiral, train_spiral


class BoundaryConfig(SpiralTraining):
    """One run: what is trained, and how far from its labeled points the boundary lies."""

    version: ClassVar[int] = 1
    experiment: Literal["spiral_boundary"] = "spiral_boundary"


@recorded
def run_boundary(config: BoundaryConfig) -> Result:
    """Train nets and measure the distance from each labeled point to the boundary.

    Metrics of each seed: `test_accuracy`; `distance`, the mean over the points; `near_distance`,
    that of the quarter nearest to the boundary; `near_room`, by how much farther that quarter is
    from the line midway between the arms. The curve `distance` has all points, nearest first.
    """
    net, data, _ = train_spiral(config)
    distance, order = signed_distances(net, data.labeled, data.labels).sort(0)
    midway = distance_to(data.labeled, quarter_turn(make_spiral(2000, 0.0)[0]))
    near = slice(len(distance) // 4)
    metrics = {
        "test_accuracy": accuracy(net, *dense_spiral(config)),
        "distance": distance.mean(0),
        "near_distance": distance[near].mean(0),
        "near_room": (midway.gather(0, order) - distance)[near].mean(0),
    }
    curve = [[round(value, 4) for value in each] for each in distance.T.tolist()]
    return Result({name: values.tolist() for name, values in metrics.items()}, {"distance": curve})


def signed_distances(net: Ensemble, points: Tensor, labels: Tensor) -> Tensor:
    """Return how far points [N, E, 2] lie from each net's boundary, [N, E], in eval mode.

    In the unit of the spiral; below 0 for a point on the side of the other class than its own, [N].
    """
    each = zip(points.unbind(1), decision_boundaries(net), strict=True)
    distance = torch.stack([distance_to(own, boundary) for own, boundary in each], -1)
    right = (class_probability(net, points) > 0.5) == (labels == 1)[:, None]
    return torch.where(right, distance, -distance)


def decision_boundaries(net: Ensemble, side: int = 161) -> list[Tensor]:
    """Return points [B, 2] on each net's decision boundary, at most a step of the plane apart."""
    points = plane(side)[:, None].expand(-1, net.members, -1)
    with evaluating(net):
        logits = torch.cat([net(some) for some in points.split(4096)])
    axis = torch.linspace(-EXTENT, EXTENT, side)
    log_odds = (logits[..., 1] - logits[..., 0]).unbind(1)
    return [boundary_points(score.reshape(side, side), axis) for score in log_odds]


def boundary_points(score: Tensor, axis: Tensor) -> Tensor:
    """Return the points [B, 2] at which a score over a grid changes its sign.

    It is score[row, column] at y = axis[row] and x = axis[column], and linear in between.
    """
    found = []
    for values in (score, score.T):
        left, right = values[:, :-1], values[:, 1:]
        row, column = ((left > 0) != (right > 0)).nonzero(as_tuple=True)
        share = left[row, column] / (left[row, column] - right[row, column])
        along = torch.lerp(axis[column], axis[column + 1], share)
        found.append(torch.stack([along, axis[row]], -1))
    return torch.cat([found[0], found[1].flip(-1)])


def distance_table(records: Mapping[str, Record]) -> pd.DataFrame:
    """Return the mean distance over seeds, by method and rank of a point, nearest first."""
    tables = []
    for method, record in records.items():
        mean = torch.tensor(record.curves["distance"]).mean(0)
        share = (torch.arange(len(mean)) + 0.5) / len(mean)
        tables.append(pd.DataFrame({"method": method, "share": share, "distance": mean}))
    return pd.concat(tables, ignore_index=True)


def draw(table: pd.DataFrame) -> Figure:
    """Draw each method's distances from labeled points to the boundary, nearest first."""
    figure, axes = plt.subplots(figsize=(5.5, 3.4))
    for method, rows in table.groupby("method", sort=False):
        axes.plot(rows["share"], rows["distance"], label=method, markevery=4, **look(method).line)
    axes.axvspan(0, 0.25, color=INK, alpha=0.06, linewidth=0, label="nearest quarter")
    axes.set(xlim=(0, 1), xlabel="share of the labeled points, nearest to the boundary first")
    axes.set_ylabel("distance to the boundary\n(spiral of radius 5; below 0: past it)")
    axes.legend()
    nearest = "; ".join(
        f"{method} {rows.loc[rows['share'] < 0.25, 'distance'].mean():.3f}"
        for method, rows in table.groupby("method", sort=False)
    )
    figure.set_label(
        "Distance from the labeled points of the spiral to the decision boundary, nearest points "
        f"first, mean over seeds; that of the nearest quarter, shaded: {nearest}."
    )
    return figure
