"""What displacements of points do: along the arm, off the arms, and across the decision boundary.

Each measure has a value that says nothing was found. It is that of isotropic noise: steps of the
same lengths in all directions alike.
"""

import torch
from torch import Tensor

from experiments.toy.points import tangent

DIRECTIONS = 8  # evenly spaced ones stand for all directions


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

    1 is along the arm, 0 is straight across it, and isotropic noise has 1/2 on average.

    Args:
        points: [..., 2].
        moved: [..., 2]; NaN comes back for a point that did not move, or began at the center.
    """
    displacement = moved - points
    along = (displacement * tangent(points)).sum(-1)
    return along.square() / displacement.square().sum(-1)


def affine_share(points: Tensor, moved: Tensor, used: Tensor) -> Tensor:
    """Return the share of the squared displacements that one affine map of the plane explains.

    With 1, all points move as the plane's shift, scaling, rotation and shear would move them,
    wherever the manifold is. Independent displacements of N points have 3 / N by chance.

    Args:
        points: [..., N, E, 2].
        moved: [..., N, E, 2].
        used: Which points count, [..., N, E]; NaN comes back where there are fewer than four.
    """
    weight = used.transpose(-1, -2)[..., None].to(points.dtype)
    rows = torch.cat([points, torch.ones_like(points[..., :1])], -1).transpose(-2, -3) * weight
    displacement = (moved - points).transpose(-2, -3) * weight
    fitted = rows @ torch.linalg.pinv(rows) @ displacement
    total = displacement.square().sum((-1, -2))
    share = fitted.square().sum((-1, -2)) / total  # of an orthogonal projection
    return torch.where(weight.sum((-1, -2)) > 3, share, torch.nan)


def boundary_points(score: Tensor, axis: Tensor) -> Tensor:
    """Return the points [B, 2] at which a score over a grid changes its sign.

    Args:
        score: [rows, columns], at y = axis[row] and x = axis[column]; linear in between.
        axis: Coordinates of the rows and columns, ascending.
    """
    found = []
    for values in (score, score.T):
        left, right = values[:, :-1], values[:, 1:]
        row, column = ((left > 0) != (right > 0)).nonzero(as_tuple=True)
        share = left[row, column] / (left[row, column] - right[row, column])
        along = torch.lerp(axis[column], axis[column + 1], share)
        found.append(torch.stack([along, axis[row]], -1))
    return torch.cat([found[0], found[1].flip(-1)])
