"""The toy problem of section 3.3: the TensorFlow Playground's spiral and a 5-layer network."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn


def make_spiral(
    points_per_class: int, noise: float, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Return the Playground's two-armed spiral.

    Point i of n on the arm with phase delta (0 or pi) lies at radius 5 i/n and angle
    1.75 * 2 pi i/n + delta, plus uniform noise:

        (r sin t, r cos t) + noise * U(-1, 1)

    Args:
        points_per_class: n, at least 1.
        noise: Half the width of the noise in both directions, in the spiral's units.
        generator: Source of the noise; not read when noise is 0.

    Returns:
        Points [2n, 2] and labels [2n] (int64): the n points of class 0 along its arm, then those
        of class 1.

    Raises:
        ValueError: There is no point to draw, or the noise is negative.
    """
    if points_per_class < 1 or noise < 0:
        raise ValueError(
            f"A spiral needs points_per_class >= 1 and noise >= 0, and got {points_per_class} "
            f"and {noise}."
        )
    share = torch.arange(points_per_class) / points_per_class
    radius = 5 * share
    arms = []
    for phase in (0.0, math.pi):
        angle = 1.75 * 2 * math.pi * share + phase
        arms.append(torch.stack([radius * angle.sin(), radius * angle.cos()], dim=1))
    points = torch.cat(arms)
    if noise:
        points = points + noise * (2 * torch.rand(points.shape, generator=generator) - 1)
    return points, torch.arange(2).repeat_interleave(points_per_class)


class SpiralData(NamedTuple):
    """Labeled points [2l, 2], their labels [2l], and unlabeled points [2u, 2]."""

    labeled: Tensor
    labels: Tensor
    unlabeled: Tensor


def split_spiral(
    labeled_per_class: int, unlabeled_per_class: int, noise: float, generator: torch.Generator
) -> SpiralData:
    """Draw one spiral and keep the labels of a random part of each class.

    Args:
        labeled_per_class: Labeled points of each class; the paper has 25.
        unlabeled_per_class: Unlabeled points of each class; the paper has 200.
        noise: As in `make_spiral`.
        generator: Source of the noise and of the choice of labeled points.
    """
    total = labeled_per_class + unlabeled_per_class
    points, labels = make_spiral(total, noise, generator)
    order = [arm * total + torch.randperm(total, generator=generator) for arm in (0, 1)]
    labeled = torch.cat([indices[:labeled_per_class] for indices in order])
    unlabeled = torch.cat([indices[labeled_per_class:] for indices in order])
    return SpiralData(points[labeled], labels[labeled], points[unlabeled])


class SpiralNet(nn.Sequential):
    """Five fully connected layers; each of the first four is followed by normalization and ReLU.

    Args:
        width: Units of the hidden layers.
        norm: Makes a normalization layer for a number of units.

    Shape:
        Points [N, 2] to class logits [N, 2].
    """

    def __init__(
        self,
        width: int = 64,
        norm: Callable[[int], nn.Module] = nn.BatchNorm1d,
    ) -> None:
        layers: list[nn.Module] = []
        inputs = 2
        for _ in range(4):
            layers += [nn.Linear(inputs, width), norm(width), nn.ReLU()]
            inputs = width
        super().__init__(*layers, nn.Linear(inputs, 2))

    @property
    def norms(self) -> list[nn.Module]:
        """The four normalization layers, first to last."""
        return [self[1 + 3 * i] for i in range(4)]
