"""Move points until a function of them takes given values: many small least-squares problems."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap

Pointwise = Callable[[Tensor], Tensor]  # [..., 2] to [..., K], each point by itself

FIRST_DAMPING, LEAST_DAMPING, MOST_DAMPING = 1e-2, 1e-9, 1e12  # shares of the squared slope


class Match(NamedTuple):
    """Where a search ended, for each of its points [..., 2].

    A search is settled at a match, or where a step no longer than the shortest one gains little or
    nothing; otherwise it ran out of steps.
    """

    moved: Tensor  # the points [..., 2]; none is worse than where it began
    residual: Tensor  # what is left between the function there and its target, [..., K]
    matched: Tensor  # whether the largest residual is within the tolerance, [...]
    settled: Tensor  # whether the search came to its end, [...]


def match(
    function: Pointwise,
    target: Tensor,
    start: Tensor,
    *,
    tolerance: float = 1e-3,
    longest: float = 0.25,
    shortest: float = 1e-4,
    steps: int = 40,
) -> Match:
    """Move each point from its start until function(point) equals its target.

    The method is Levenberg and Marquardt's, with a damping of its own for each point: a step that
    lowers the sum of squared residuals is taken and lessens the damping, another is refused and
    raises it. With one value a point, a step has the direction of that value's gradient, as in
    backpropagation, and is to first order the shortest one that gives the target; with
    more values than two coordinates there is a least-squares answer only.

    The function takes points [..., 2] to values [..., K], the target's shape, in float64: the
    search ends early where rounding hides that a step is one for the better. Values are equal
    within the `tolerance`. No step is longer than `longest`, so that a far target is approached
    along the gradient, not in one leap past nearer answers; one of at most `shortest` that does not
    halve the residuals ends the search, at a kink of a ReLU perhaps short of the best place;
    `steps`, taken and refused, are a point's most.
    """
    point = start.clone()
    residual, jacobian = _linearized(function, target, point)
    matched = residual.abs().amax(-1) <= tolerance
    settled = matched
    damping = torch.full_like(matched, FIRST_DAMPING, dtype=point.dtype)
    for _ in range(steps):
        if settled.all():
            break
        step = _damped_step(jacobian, residual, damping)
        length = step.norm(dim=-1)
        step = step * (longest / length).clamp(max=1)[..., None]
        trial = point + step
        trial_residual, trial_jacobian = _linearized(function, target, trial)
        # A value that is not finite is not lower.
        loss, trial_loss = (values.square().sum(-1) for values in (residual, trial_residual))
        taken = ~settled & (trial_loss < loss)
        ended = (length <= shortest) & ~(trial_loss < loss / 4)
        point = torch.where(taken[..., None], trial, point)
        residual = torch.where(taken[..., None], trial_residual, residual)
        jacobian = torch.where(taken[..., None, None], trial_jacobian, jacobian)
        damping = torch.where(taken, damping / 4, damping * 8).clamp(LEAST_DAMPING, MOST_DAMPING)
        matched = residual.abs().amax(-1) <= tolerance
        settled = settled | matched | ended
    return Match(point, residual, matched, settled)


def _linearized(function: Pointwise, target: Tensor, point: Tensor) -> tuple[Tensor, Tensor]:
    """Return the residual [..., K] and its Jacobian [..., K, 2].

    One value a point has its gradient by backpropagation; more have two forward derivatives.
    """
    if target.shape[-1] == 1:
        value, pull_back = vjp(function, point)
        (gradient,) = pull_back(torch.ones_like(value))
        return value - target, gradient[..., None, :]

    def along(direction: Tensor) -> tuple[Tensor, Tensor]:
        return jvp(function, (point,), (direction.expand_as(point),))

    axes = torch.eye(2, dtype=point.dtype, device=point.device)
    value, jacobian = vmap(along, out_dims=(None, -1))(axes)
    return value - target, jacobian


def _damped_step(jacobian: Tensor, residual: Tensor, damping: Tensor) -> Tensor:
    """Return the step [..., 2] of the damped normal equations, 0 where the slope is 0.

    They are (J'J + damping trace(J'J) I) step = -J'r, solved by Cramer's rule.
    """
    x, y = jacobian.unbind(-1)
    xx, xy, yy = (x * x).sum(-1), (x * y).sum(-1), (y * y).sum(-1)
    downhill_x, downhill_y = -(x * residual).sum(-1), -(y * residual).sum(-1)
    ridge = damping * (xx + yy)
    xx, yy = xx + ridge, yy + ridge
    step = torch.stack([yy * downhill_x - xy * downhill_y, xx * downhill_y - xy * downhill_x], -1)
    return (step / (xx * yy - xy * xy)[..., None]).nan_to_num(0.0, 0.0, 0.0)
