"""Figure 3: features after each normalization, and how far labeled and unlabeled ones differ."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from experiments.common.training import NormConfig
from experiments.toy.ensemble import Ensemble
from experiments.toy.points import SpiralData
from experiments.toy.reference import frozen

# A channel that spreads less is constant. Normalized features spread by about 1.
CONSTANT = 1e-4


class FeatureGap(NamedTuple):
    """How far two sets of features differ: three distances, each averaged over channels.

    The first two are in standard deviations of the second set. Two samples of one distribution do
    not have distance 0: `chance_gap` says what they have. NaN where no channel was compared.
    """

    wasserstein: Tensor  # Wasserstein-1, the area between the two distribution functions
    mean_gap: Tensor  # |difference of the means|
    log_std_ratio: Tensor  # |log of the ratio of the standard deviations|
    channels: Tensor  # how many were compared; those constant in either set are not


def reference_points(norm: NormConfig, data: SpiralData) -> Tensor:
    """Return the points that a method's statistics are about.

    Labeled points for batch normalization; labeled and unlabeled ones for UBN.
    """
    if norm.kind == "bn":
        return data.labeled
    return torch.cat([data.labeled, data.unlabeled])


def random_channel(channels: int, seed: int) -> int:
    """Return the channel that Figure 3 shows of a seed: drawn at random, not chosen by eye."""
    return int(torch.randint(channels, (), generator=torch.Generator().manual_seed(seed)))


def channel_features(
    net: Ensemble,
    reference: Tensor,
    sets: dict[str, Tensor],
    *,
    channel: int,
    member: int = 0,
    layers: int = 3,
) -> dict[str, list[Tensor]]:
    """Return one channel's features of one net, for Figure 3's histograms.

    Args:
        net: Nets side by side.
        reference: [M, E, 2], the points whose statistics normalize all sets alike.
        sets: Points [N, E, 2] by name.
        channel: Which of each layer's channels.
        member: Which of the E nets.
        layers: How many, from the first one on.

    Returns:
        For each set, features [N] of each layer.
    """
    plain = frozen(net, reference)
    return {
        name: [layer[:, member, channel] for layer in plain.normalized_features(points)[:layers]]
        for name, points in sets.items()
    }


def labeled_gap(labeled: Tensor, unlabeled: Tensor) -> FeatureGap:
    """Return how far labeled features [L, E, C] lie from unlabeled ones [U, E, C]: [E] each."""
    is_labeled = torch.arange(len(labeled) + len(unlabeled)) < len(labeled)
    chosen = is_labeled[None, :, None].expand(1, -1, labeled.size(1))
    return _mean_of_draws(feature_gap(torch.cat([labeled, unlabeled]), chosen))


def chance_gap(unlabeled: Tensor, chosen: Tensor) -> FeatureGap:
    """Return how far random unlabeled points lie from the others: [E] each, means over draws.

    Args:
        unlabeled: Features [U, E, C].
        chosen: [S, U, E], S draws of as many points as there are labeled ones (`random_parts`).
    """
    return _mean_of_draws(feature_gap(unlabeled, chosen))


def _mean_of_draws(gap: FeatureGap) -> FeatureGap:
    return FeatureGap(*(each.nanmean(0) for each in gap))


def random_parts(points: int, per_class: int, draws: int, seeds: Sequence[int]) -> Tensor:
    """Draw random parts of points, as labeled points are drawn: so many of each class.

    Args:
        points: How many there are; the first half is class 0's.
        per_class: How many of each class belong to a part.
        draws: How many parts.
        seeds: One a member; a member's parts depend on its own seed only.

    Returns:
        [draws, points, E], True for what belongs to the part.

    Raises:
        ValueError: A part would leave nothing of a class, so that there is no other point.
    """
    if not 0 < per_class < points // 2:
        raise ValueError(
            f"Chance compares {per_class} random points a class with the others, and there are "
            f"{points // 2}: have more unlabeled than labeled points a class."
        )
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    lots = [torch.rand(draws, 2, points // 2, generator=generator) for generator in generators]
    ranks = torch.stack(lots, dim=-1).argsort(2).argsort(2)
    return (ranks < per_class).flatten(1, 2)


def feature_gap(features: Tensor, chosen: Tensor) -> FeatureGap:
    """Return how far some rows of features lie from the others, in the others' deviations.

    Args:
        features: [N, E, C].
        chosen: [S, N, E], S ways to choose the rows that are compared with the others: some rows,
            and not all.

    Returns:
        [S, E] each.

    Example:
        >>> import torch
        >>> features = torch.tensor([0.0, 2.0, 10.0, 12.0])[:, None, None]
        >>> chosen = torch.tensor([True, True, False, False])[None, :, None]
        >>> gap = feature_gap(features, chosen)
        >>> gap.wasserstein.item(), gap.mean_gap.item(), gap.log_std_ratio.item()
        (10.0, 10.0, 0.0)
    """
    values = features.double().permute(1, 2, 0).contiguous()  # [E, C, N]
    some = chosen.transpose(1, 2).double()  # [S, E, N]
    some, others = (part / part.sum(-1, keepdim=True) for part in (some, 1 - some))
    centered = values - values.mean(-1, keepdim=True)
    means = [torch.einsum("ecn,sen->sec", centered, part) for part in (some, others)]
    squares = [torch.einsum("ecn,sen->sec", centered**2, part) for part in (some, others)]
    stds = [
        (square - mean**2).clamp_min(0).sqrt() for square, mean in zip(squares, means, strict=True)
    ]
    unit = stds[1]
    distances = (
        _wasserstein(values, some - others) / unit,
        (means[0] - means[1]).abs() / unit,
        (stds[0] / unit).log().abs(),
    )
    varies = (stds[0] > CONSTANT) & (unit > CONSTANT)
    averages = [distance.where(varies, torch.nan).nanmean(-1) for distance in distances]
    return FeatureGap(*averages, varies.sum(-1, dtype=values.dtype))


def _wasserstein(values: Tensor, weights: Tensor) -> Tensor:
    """Return the area [S, E, C] between two distribution functions over values [E, C, N].

    Args:
        values: What both distributions are over.
        weights: [S, E, N], each value's weight in the first distribution less that in the second.
    """
    ordered, order = values.sort(dim=-1)
    widths = ordered.diff()
    areas = []
    for weight in weights:
        between = weight[:, None].expand_as(order).gather(-1, order).cumsum(-1)[..., :-1]
        areas.append(torch.linalg.vecdot(between.abs_(), widths))
    return torch.stack(areas)
