"""Figure 5: the change of the inputs that equals a change of the batch statistics.

Predict the labeled points with the statistics of one batch, change the batch, and move the points
until the predictions are the earlier ones: to where they moved, the change of statistics has
augmented them. The paper says that they follow the manifold, and push the decision boundary away
where it is too close: figure5_boundary.py.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Annotated, ClassVar, Literal, NamedTuple, Self

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.func import functional_call, jvp, stack_module_state, vmap
from torch.nn.modules.batchnorm import _BatchNorm

from experiments.common.records import Result, recorded
from experiments.common.style import CLASS_MAP, INK
from experiments.toy.ensemble import Ensemble
from experiments.toy.figure2_boundaries import accuracy
from experiments.toy.least_squares import match
from experiments.toy.plane import EXTENT, mark_legend, show_boundary, show_map, show_points
from experiments.toy.spiral import SpiralData, distance_to_arms, tangent
from experiments.toy.train import SpiralTraining, dense_spiral, frozen, random_batch, train_spiral

FLOOR = 1e-3  # a shorter displacement has no direction; the arms are 1.4 apart
DIRECTIONS = 8  # evenly spaced ones stand for all directions

Reading = Literal["prediction", "layer1", "layer2", "layer3", "layer4"]


class AugmentationConfig(SpiralTraining):
    """One run: what is trained, and what its implicit augmentation matches."""

    version: ClassVar[int] = 2
    experiment: Literal["spiral_augmentation"] = "spiral_augmentation"
    readings: Annotated[tuple[Reading, ...], Field(min_length=1)] = (
        "prediction",
        "layer1",
        "layer2",
        "layer3",
        "layer4",
    )
    changes: int = Field(default=5, ge=1)  # of the statistics, for each seed
    tolerance: float = Field(default=1e-3, gt=0)  # in the unit of the reading

    @model_validator(mode="after")
    def _statistics_change(self) -> Self:
        if len(set(self.readings)) < len(self.readings):
            raise ValueError(f"readings names one twice: {', '.join(self.readings)}; leave it out.")
        kind = "unlabeled" if self.norm.kind == "ubn" else "labeled"
        size, of = getattr(self, f"{kind}_batch"), 2 * getattr(self, f"{kind}_per_class")
        if size >= of:
            raise ValueError(
                f"A batch of {size} out of {of} {kind} points is always all of them, so that the "
                f"statistics never change: expected {kind}_batch below {of}."
            )
        return self


@recorded
def run_augmentation(config: AugmentationConfig) -> Result:
    """Train nets and measure what Figure 5 shows.

    Metrics of each seed: `test_accuracy`; and for each reading, as READING_NAME, those of `measure`
    and `tangent_share_any`, which is what any change of the reading would have (see
    `share_of_any_change`).
    """
    net, data, _ = train_spiral(config)
    before, after = changes_of_statistics(config, data, config.changes)
    metrics = {"test_accuracy": accuracy(net, *dense_spiral(config))}
    for reading in config.readings:
        found = implicit_augmentation(
            net, data.labeled, before, after, reading, tolerance=config.tolerance
        )
        measured = measure(data.labeled, found)
        measured["tangent_share_any"] = share_of_any_change(net, data.labeled, before[0], reading)
        metrics |= {f"{reading}_{name}": values for name, values in measured.items()}
    return Result({name: values.tolist() for name, values in metrics.items()}, {})


def changes_of_statistics(
    config: SpiralTraining, data: SpiralData, changes: int
) -> tuple[Tensor, Tensor]:
    """Draw the reference batches [C, M, E, 2] before and after each change of statistics.

    They are random unlabeled batches for UBN, as in Figure 4; for batch normalization they are
    labeled batches, which give the statistics in its training. Each seed draws its own.
    """
    unlabeled = config.norm.kind == "ubn"
    points = data.unlabeled if unlabeled else data.labeled
    size = config.unlabeled_batch if unlabeled else config.labeled_batch
    generators = config.generators(20_000)
    batches = torch.stack([random_batch(points, size, generators) for _ in range(2 * changes)])
    return batches[::2], batches[1::2]


class Augmentation(NamedTuple):
    """Points [N, E, 2] as moved by C changes of statistics.

    `converged` are those that found equal predictions, or the place where the features differ
    least. `explained` is 1 - |r|^2 / |r0|^2: the share of the change of the prediction or the
    features, r0, that moving the point undoes.
    """

    moved: Tensor  # [C, N, E, 2]
    converged: Tensor  # [C, N, E]
    explained: Tensor  # [C, N, E]


def implicit_augmentation(
    net: Ensemble,
    points: Tensor,
    before: Tensor,
    after: Tensor,
    reading: Reading = "prediction",
    *,
    tolerance: float = 1e-3,
) -> Augmentation:
    """Move points [N, E, 2] until changed statistics give them what the earlier statistics gave.

    The statistics are those of the reference batches [C, M, E, 2] of C changes, `before` and
    `after`. The reading, equal up to the tolerance, is the `"prediction"`, as the log-odds, which
    tell a point's margin also where its probability is 0 or 1 to many digits; or the features of
    `"layer1"` to `"layer4"`, behind that normalization and before the ReLU: as many values as the
    layer has units, of which moving a point in the plane can restore only a part.
    """
    net, points = copy.deepcopy(net).double(), points.double()
    old, new = (
        _values([frozen(net, batch) for batch in batches.double()], reading)
        for batches in (before, after)
    )
    start = points.expand(len(before), *points.shape)
    target = old(start)
    found = match(new, target, start, tolerance=tolerance)
    change = (new(start) - target).square().sum(-1)
    left = found.residual.square().sum(-1)
    converged = found.matched if reading == "prediction" else found.settled
    return Augmentation(found.moved, converged, 1 - left / change)


def share_of_any_change(
    net: Ensemble, points: Tensor, reference: Tensor, reading: Reading
) -> Tensor:
    """Return which share of the squared displacements would lie along the arm for any change, [E].

    What a tangent share is to be compared with besides the 1/2 of isotropic noise: the share that
    undoes a small random change of the reading itself, alike in all its values, in the mean over
    points [N, E, 2] (one at the center has no share), with the statistics of a reference batch
    [M, E, 2]. It tells how the nets stretch the plane along and across the arms, and nothing of the
    statistics. Features that hardly change along an arm give nearly 1, since there it takes a long
    way to change them. Log-odds give nearly 0, since the shortest way to others is straight across.
    """
    part = _up_to(frozen(copy.deepcopy(net).double(), reference.double()), reading)
    points = points.double()
    along = tangent(points)
    across = torch.stack([-along[..., 1], along[..., 0]], -1)
    slope_along, slope_across = (
        jvp(part, (points,), (direction,))[1].square().sum(-1) for direction in (along, across)
    )
    # One value: the step J'r / |J|^2. More: the covariance (J'J)^-1, whose diagonal is swapped.
    share = slope_along if reading == "prediction" else slope_across
    return (share / (slope_along + slope_across)).nanmean(0)


def _values(nets: Sequence[Ensemble], reading: Reading) -> Callable[[Tensor], Tensor]:
    """Return the function of points [C, N, E, 2] that reads C frozen nets: [C, N, E, K]."""
    parts = [_up_to(net, reading) for net in nets]
    state = stack_module_state(parts)

    def values(points: Tensor) -> Tensor:
        return vmap(lambda one, rows: functional_call(parts[0], one, (rows,)))(state, points)

    return values


def _up_to(net: Ensemble, reading: Reading) -> Ensemble:
    """Return a frozen net up to what is read, its normalizations folded into the linear layers.

    Folded, because the derivatives then take a third of the time.
    """
    net = copy.deepcopy(net)
    layers: list[nn.Module] = []
    norms = 0
    for layer in net.layers:
        if not isinstance(layer, _BatchNorm):
            layers.append(layer)
            continue
        scale = layer.weight / (layer.running_var + layer.eps).sqrt()
        shift = layer.bias - layer.running_mean * scale
        scale, shift = (values.unflatten(0, (net.members, -1)) for values in (scale, shift))
        linear = layers[-1]
        linear.weight.copy_(linear.weight * scale[..., None])
        linear.bias.copy_(linear.bias * scale + shift)
        norms += 1
        if reading == f"layer{norms}":
            break
    else:
        if reading != "prediction":
            raise ValueError(
                f"There is no {reading} to match: the nets have {norms} normalization layers."
            )
        last = layers[-1]
        last.weight = nn.Parameter(last.weight[:, 1:] - last.weight[:, :1], requires_grad=False)
        last.bias = nn.Parameter(last.bias[:, 1:] - last.bias[:, :1], requires_grad=False)
    net.layers = nn.Sequential(*layers)
    return net


def measure(points: Tensor, found: Augmentation) -> dict[str, Tensor]:
    """Measure displacements of points [N, E, 2], and isotropic noise of the same lengths.

    Only converged points count, and directions only of those that moved. One number a net, [E],
    NaN where there is none:

    - `converged`, the share of points; `length`, the median displacement; `explained`, the median
      share of the change that moving undoes.
    - `tangent_share` and `affine_share`: see there; means.
    - `arms_ratio`: mean distance from the arms, over that of the noise. Below 1, the moves keep to
      the manifold better than noise does.
    """
    start = points.double().expand_as(found.moved)
    noise = isotropic(start, found.moved)
    length = (found.moved - start).norm(dim=-1)
    moving = found.converged & (length > FLOOR)
    return {
        "converged": found.converged.double().flatten(0, -2).mean(0),
        "length": _where(length, found.converged).nanmedian(0).values,
        "explained": _where(found.explained, found.converged).nanmedian(0).values,
        "tangent_share": _where(tangent_share(start, found.moved), moving).nanmean(0),
        "affine_share": affine_share(start, found.moved, found.converged).nanmean(0),
        "arms_ratio": _where(distance_to_arms(found.moved), moving).nanmean(0)
        / _where(distance_to_arms(noise), moving).nanmean(0),
    }


def _where(values: Tensor, chosen: Tensor) -> Tensor:
    """Return values [..., E], NaN where not chosen, as [rows, E]."""
    return torch.where(chosen, values.double(), torch.nan).flatten(0, -2)


def isotropic(points: Tensor, moved: Tensor) -> Tensor:
    """Return where steps of the same lengths lead in 8 evenly spaced directions: [8, ..., 2].

    The mean over them is that over all directions, up to the eighth harmonic: no noise is drawn.
    """
    angle = torch.arange(DIRECTIONS, dtype=points.dtype) * (2 * torch.pi / DIRECTIONS)
    directions = torch.stack([angle.sin(), angle.cos()], -1)
    length = (moved - points).norm(dim=-1, keepdim=True)
    return points + length * directions.reshape(DIRECTIONS, *[1] * (length.dim() - 1), 2)


def tangent_share(points: Tensor, moved: Tensor) -> Tensor:
    """Return the share [...] of each squared displacement that lies along the arm.

    1 is along the arm, 0 is straight across it, and isotropic noise has 1/2 on average. NaN comes
    back for a point [..., 2] that did not move, or began at the center.
    """
    displacement = moved - points
    along = (displacement * tangent(points)).sum(-1)
    return along.square() / displacement.square().sum(-1)


def affine_share(points: Tensor, moved: Tensor, used: Tensor) -> Tensor:
    """Return the share of the squared displacements that one affine map of the plane explains.

    With 1, all points [..., N, E, 2] move as the plane's shift, scaling, rotation and shear would
    move them, wherever the manifold is. Independent displacements of N points have 3 / N by chance.
    NaN comes back where fewer than four are used, [..., N, E].
    """
    weight = used.transpose(-1, -2)[..., None].to(points.dtype)
    rows = torch.cat([points, torch.ones_like(points[..., :1])], -1).transpose(-2, -3) * weight
    displacement = (moved - points).transpose(-2, -3) * weight
    fitted = rows @ torch.linalg.pinv(rows) @ displacement
    total = displacement.square().sum((-1, -2))
    share = fitted.square().sum((-1, -2)) / total  # of an orthogonal projection
    return torch.where(weight.sum((-1, -2)) > 3, share, torch.nan)


class Panel(NamedTuple):
    """One net's augmentation, as drawn."""

    title: str
    data: SpiralData  # its labeled points [N, 2] are those that moved
    probability: Tensor  # of class 1 over `plane.plane()`
    moved: Tensor  # where each change of statistics moved the points, [C, N, 2]
    converged: Tensor  # whether a point found what it searched, [C, N]


def draw(panels: Sequence[Panel], columns: int = 3) -> Figure:
    """Draw each converged displacement as a line from the labeled point to a small dot.

    Displacements that did not converge are left out; the title tells how many.
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
    mark_legend(figure, unlabeled=False, **{"where a change moves a point": _MOVE})
    figure.set_label(
        "Where changes of statistics move the labeled points of the spiral, drawn as a line from "
        "each point to a small dot, over the predicted class and its boundary: "
        f"{'; '.join(axes.get_title() for axes in grid.flat if axes.get_title())}."
    )
    return figure


_MOVE = dict(color=INK, linewidth=0.7, marker=".", markersize=4)


def _show_moves(axes: Axes, panel: Panel) -> None:
    """Draw the labeled points, and under them where they went."""
    start = panel.data.labeled.to(panel.moved.dtype).expand_as(panel.moved)
    lines = torch.stack([start, panel.moved], -2)[panel.converged].numpy()
    axes.add_collection(LineCollection(lines, colors=INK, linewidths=0.7, alpha=0.7))
    axes.scatter(*lines[:, 1].T, s=4, color=INK, linewidths=0)
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
