"""The toy: the TensorFlow Playground's spiral, of which a few points have labels, and its net."""

import math
from typing import NamedTuple

import torch
from scipy.spatial import cKDTree
from torch import Tensor, nn

TURNS = 1.75
RADIUS = 5.0


def make_spiral(
    points_per_class: int, noise: float, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Return the Playground's two-armed spiral: points [2n, 2] and labels [2n], class 0 first.

    Point i of n on the arm with phase delta (0 or pi) lies at radius 5 i/n and angle
    1.75 * 2 pi i/n + delta, plus uniform noise: (r sin t, r cos t) + noise * U(-1, 1). The
    generator is not read when noise is 0.
    """
    if points_per_class < 1 or noise < 0:
        raise ValueError(
            f"A spiral needs points_per_class >= 1 and noise >= 0, and got {points_per_class} "
            f"and {noise}."
        )
    share = torch.arange(points_per_class) / points_per_class
    radius = RADIUS * share
    arms = []
    for phase in (0.0, math.pi):
        angle = TURNS * 2 * math.pi * share + phase
        arms.append(torch.stack([radius * angle.sin(), radius * angle.cos()], dim=1))
    points = torch.cat(arms)
    if noise:
        points = points + noise * (2 * torch.rand(points.shape, generator=generator) - 1)
    return points, torch.arange(2).repeat_interleave(points_per_class)


class SpiralData(NamedTuple):
    """Labeled points [2l, ..., 2], their labels [2l], and unlabeled points [2u, ..., 2].

    The first half of each is class 0's. Data of several seeds has them in the second dimension.
    """

    labeled: Tensor
    labels: Tensor
    unlabeled: Tensor


def split_spiral(
    labeled_per_class: int, unlabeled_per_class: int, noise: float, generator: torch.Generator
) -> SpiralData:
    """Draw one spiral and keep the labels of a random part of each class."""
    total = labeled_per_class + unlabeled_per_class
    points, labels = make_spiral(total, noise, generator)
    labeled, unlabeled = [], []
    for arm in (0, 1):
        chosen = torch.zeros(total, dtype=torch.bool)
        chosen[torch.randperm(total, generator=generator)[:labeled_per_class]] = True
        labeled.append(arm * total + chosen.nonzero()[:, 0])
        unlabeled.append(arm * total + (~chosen).nonzero()[:, 0])
    labeled, unlabeled = torch.cat(labeled), torch.cat(unlabeled)
    return SpiralData(points[labeled], labels[labeled], points[unlabeled])


def quarter_turn(points: Tensor) -> Tensor:
    """Turn points [..., 2] clockwise: those of the arms to the line midway between the arms."""
    return torch.stack([points[..., 1], -points[..., 0]], dim=-1)


def tangent(points: Tensor) -> Tensor:
    """Return the direction [N, 2] in which the arm through each point [N, 2] runs, outward.

    The radius grows with the angle at a constant rate, which gives the direction at each point but
    the center, whatever its arm.
    """
    rate = RADIUS / (TURNS * 2 * math.pi)
    radius = points.norm(dim=-1, keepdim=True)
    outward = points / radius
    direction = rate * outward + radius * quarter_turn(outward)  # (sin t, cos t): clockwise
    return direction / direction.norm(dim=-1, keepdim=True)


def distance_to(points: Tensor, others: Tensor) -> Tensor:
    """Return how far points [..., 2] lie from the nearest of some others [M, 2]; NaN for none."""
    if not len(others):
        return torch.full(points.shape[:-1], torch.nan, dtype=points.dtype)
    distances, _ = cKDTree(others.numpy()).query(points.numpy())
    return torch.from_numpy(distances).to(points.dtype)


def distance_to_arms(points: Tensor) -> Tensor:
    """Return how far points [..., 2] lie from the nearest arm of the noiseless spiral, [...]."""
    return distance_to(points, make_spiral(2000, 0.0)[0])


class SpiralNet(nn.Sequential):
    """Five fully connected layers; behind each of the first four are normalization and ReLU.

    Points [N, 2] to class logits [N, 2].
    """

    def __init__(self, width: int = 64, dropout: float = 0.0) -> None:
        layers: list[nn.Module] = []
        inputs = 2
        for _ in range(4):
            layers += [nn.Linear(inputs, width), nn.BatchNorm1d(width), nn.ReLU()]
            layers += [nn.Dropout(dropout)] if dropout else []
            inputs = width
        super().__init__(*layers, nn.Linear(inputs, 2))
