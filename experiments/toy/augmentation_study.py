"""The numbers behind Figure 5: where implicit augmentation moves the labeled points."""

from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from experiments.common.records import Result, recorded
from experiments.common.training import evaluating
from experiments.toy.augmentation import (
    Augmentation,
    Reading,
    changes_of_statistics,
    implicit_augmentation,
    share_of_any_change,
)
from experiments.toy.displacement import (
    affine_share,
    boundary_points,
    isotropic,
    tangent_share,
)
from experiments.toy.ensemble import Ensemble
from experiments.toy.points import distance_to, distance_to_arms
from experiments.toy.regions import accuracy
from experiments.toy.train import SpiralTraining, dense_spiral, train_spiral

FLOOR = 1e-3  # a shorter displacement has no direction; the arms are 1.4 apart


class AugmentationConfig(SpiralTraining):
    """One run: what is trained, and what its implicit augmentation matches."""

    version: ClassVar[int] = 1
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
def run_augmentation(config: AugmentationConfig, *, progress: str | None = None) -> Result:
    """Train nets and measure what Figure 5 shows.

    Metrics of each seed: `test_accuracy`; and for each reading, as READING_NAME, those of `measure`
    and `tangent_share_any`, which is what any change of the reading would have (see
    `share_of_any_change`).
    """
    net, data, _ = train_spiral(config, progress=progress)
    before, after = changes_of_statistics(config, data, config.changes)
    boundaries = decision_boundaries(net)
    metrics = {
        "test_accuracy": accuracy(net, *dense_spiral(config)),
    }
    for reading in config.readings:
        found = implicit_augmentation(
            net, data.labeled, before, after, reading, tolerance=config.tolerance
        )
        measured = measure(net, boundaries, data.labeled, found)
        measured["tangent_share_any"] = share_of_any_change(net, data.labeled, before[0], reading)
        metrics |= {f"{reading}_{name}": values for name, values in measured.items()}
    return Result({name: values.tolist() for name, values in metrics.items()}, {})


def measure(
    net: Ensemble, boundaries: list[Tensor], points: Tensor, found: Augmentation
) -> dict[str, Tensor]:
    """Measure displacements of points [N, E, 2], and isotropic noise of the same lengths.

    Only converged points count, and directions only of those that moved.

    Args:
        net: The nets, in whose evaluation mode the boundary is: it is that of no single batch.
        boundaries: Theirs, of `decision_boundaries`.
        points: Where the points were.
        found: Where they moved.

    Returns:
        One number a net, [E], NaN where there is none:

        - `converged`, the share of points; `length`, the median displacement; `explained`, the
          median share of the change that moving undoes.
        - `tangent_share` and `affine_share`: see `experiments.toy.displacement`; means.
        - `arms_ratio`: mean distance from the arms, over that of the noise. Below 1, the moves
          keep to the manifold better than noise does.
        - `crossed`: the share of moves that lead across the decision boundary.
        - for the quarter of the points nearest to the boundary (`near_`) and the others (`far_`):
          `gain`, by how much the distance to the boundary grows in the mean (across it, distances
          are negative), and `away`, the share of moves by which it grows.
        - `crossed_noise`, `near_gain_noise` and so on: the same of the noise. Its gain is below 0:
          a point between two stretches of the boundary comes nearer to one of them either way. So
          `near_push` and `far_push`, gain less the noise's, are what tells a push away, above 0.
    """
    points = points.double()
    start = points.expand_as(found.moved)
    noise = isotropic(start, found.moved)
    length = (found.moved - start).norm(dim=-1)
    moving = found.converged & (length > FLOOR)
    here = margins(net, boundaries, points)
    gain, gain_noise = (
        margins(net, boundaries, ends, of=points) - here for ends in (found.moved, noise)
    )
    near = (here <= here.quantile(0.25, dim=0)).expand_as(moving)
    measured = {
        "converged": found.converged.double().flatten(0, -2).mean(0),
        "length": _where(length, found.converged).nanmedian(0).values,
        "explained": _where(found.explained, found.converged).nanmedian(0).values,
        "tangent_share": _where(tangent_share(start, found.moved), moving).nanmean(0),
        "affine_share": affine_share(start, found.moved, found.converged).nanmean(0),
        "arms_ratio": _where(distance_to_arms(found.moved), moving).nanmean(0)
        / _where(distance_to_arms(noise), moving).nanmean(0),
    }
    for end, gains in (("", gain), ("_noise", gain_noise)):
        measured[f"crossed{end}"] = _where(gains < -here, moving).nanmean(0)
        for place, chosen in (("near", moving & near), ("far", moving & ~near)):
            measured[f"{place}_gain{end}"] = _where(gains, chosen).nanmean(0)
            measured[f"{place}_away{end}"] = _where(gains > 0, chosen).nanmean(0)
    for place in ("near", "far"):
        measured[f"{place}_push"] = measured[f"{place}_gain"] - measured[f"{place}_gain_noise"]
    return measured


def decision_boundaries(net: Ensemble, side: int = 161) -> list[Tensor]:
    """Return points [B, 2] on each net's decision boundary in the square [-6, 6]^2.

    Args:
        net: The nets; their evaluation mode is looked at.
        side: Points of the grid along a side; the boundary's are at most one of its steps apart.
    """
    axis = torch.linspace(-6.0, 6.0, side)
    grid = torch.cartesian_prod(axis, axis).flip(-1)  # x runs fastest
    log_odds = _log_odds(net, grid[:, None].expand(-1, net.members, -1))
    return [boundary_points(score.reshape(side, side), axis) for score in log_odds.unbind(1)]


def margins(
    net: Ensemble, boundaries: list[Tensor], points: Tensor, of: Tensor | None = None
) -> Tensor:
    """Return how far points [..., N, E, 2] lie from each net's decision boundary, [..., N, E].

    Args:
        net: The nets.
        boundaries: Theirs, of `decision_boundaries`.
        points: Each net's own.
        of: The points [N, E, 2] that they were: on the other side than these, distances are
            negative.
    """
    each = zip(points.unbind(-2), boundaries, strict=True)
    distance = torch.stack([distance_to(own, boundary) for own, boundary in each], -1)
    if of is None:
        return distance
    crossed = (_log_odds(net, points) > 0) != (_log_odds(net, of) > 0)
    return torch.where(crossed, -distance, distance)


def _log_odds(net: Ensemble, points: Tensor) -> Tensor:
    """Return the log-odds [..., N, E] of class 1 at points [..., N, E, 2], in eval mode."""
    rows = points.float().flatten(0, -3)
    with evaluating(net):
        logits = torch.cat([net(some) for some in rows.split(4096)])
    return (logits[..., 1] - logits[..., 0]).unflatten(0, points.shape[:-2])


def _where(values: Tensor, chosen: Tensor) -> Tensor:
    """Return values [..., E], NaN where not chosen, as [rows, E]."""
    return torch.where(chosen, values.double(), torch.nan).flatten(0, -2)
