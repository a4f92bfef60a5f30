"""The multi-scale training loss on sparse depth maps, where a depth of 0 means no measurement.

How the paper downscales these and which norm its loss has is unstated: both are arguments here.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Downscale = Literal["nearest_surface", "nearest", "mean"]
LossNorm = Literal["l1", "l2", "log_l1"]
NORMS: dict[LossNorm, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": lambda p, t: (p - t).abs(),
    "l2": lambda p, t: (p - t).square(),
    "log_l1": lambda p, t: (p.log() - t.log()).abs(),
}


def downscale_depth(
    depth: Tensor, size: tuple[int, int], mode: Downscale = "nearest_surface"
) -> Tensor:
    """Bring sparse depth maps [N, H, W] in meters down to a size, [N, height, width].

    Cells without a measurement stay 0. A larger size, or another mode, raises a ValueError. Modes:
    `"nearest_surface"`, the smallest depth measured in each cell, as lidar shows the nearest
    surface (a max pool of inverse depth); `"nearest"`, the one pixel at each cell's center,
    measured or not; `"mean"`, the mean of the measured depths.
    """
    if any(wanted > given for wanted, given in zip(size, depth.shape[-2:], strict=True)):
        raise ValueError(
            f"size is {size}, expected at most the {tuple(depth.shape[-2:])} of depth."
        )
    measured = depth > 0
    if mode == "nearest_surface":
        nearest = -F.adaptive_max_pool2d(-depth.where(measured, torch.inf), size)
        return nearest.where(nearest < torch.inf, 0.0)
    if mode == "nearest":
        known = depth.where(measured, 0.0)[:, None]
        return F.interpolate(known, size, mode="nearest-exact")[:, 0]
    if mode == "mean":
        total = F.adaptive_avg_pool2d(depth.where(measured, 0.0), size)
        share = F.adaptive_avg_pool2d(measured.to(depth.dtype), size)
        return (total / share).where(share > 0, 0.0)
    raise ValueError(f"mode is {mode!r}, expected 'nearest_surface', 'nearest' or 'mean'.")


def multiscale_depth_loss(
    predictions: tuple[Tensor, ...],
    target: Tensor,
    *,
    mode: Downscale = "nearest_surface",
    norm: LossNorm = "l1",
    total: Callable[[Tensor], Tensor] | None = None,
    shares: int = 1,
) -> Tensor:
    """Average a masked loss over the resolutions of a prediction.

    The predictions are depth maps [N, 1, h, w] in meters, as `DispNet` returns them, and the target
    is [N, H, W]. At each resolution the target is downscaled by `downscale_depth` in a mode, and
    the error averaged over the batch's measured cells: `"l1"` |p - t|, `"l2"` (p - t)^2, or
    `"log_l1"` |log p - log t|. No gradient flows from the other cells, whatever is predicted there.
    A resolution at which `"nearest"` leaves no cell at all is not part of the average.

    The result is a scalar. Where several processes share the batch, `total` sums a count over them
    and `shares` is their number: the mean of their results is the loss of the whole batch. Shapes
    that do not fit, an unknown mode or norm, or no measured depth at all raise a ValueError.
    """
    if norm not in NORMS:
        raise ValueError(f"norm is {norm!r}, expected 'l1', 'l2' or 'log_l1'.")
    errors = []
    for prediction in predictions:
        if prediction.ndim != 4 or prediction.shape[:2] != (len(target), 1):
            raise ValueError(
                f"A prediction has shape {tuple(prediction.shape)}, expected "
                f"[{len(target)}, 1, h, w] for a target of shape {tuple(target.shape)}."
            )
        goal = downscale_depth(target, tuple(prediction.shape[-2:]), mode)
        measured = goal > 0
        count = measured.sum() if total is None else total(measured.sum()) / shares
        if count > 0:
            error = NORMS[norm](prediction[:, 0][measured], goal[measured])
            errors.append(error.sum() / count)
    if not errors:
        raise ValueError(
            f"The labeled batch of shape {tuple(target.shape)} has no measured depth at any "
            f"resolution: expected depth maps with values above 0; leave unlabeled frames out."
        )
    return torch.stack(errors).mean()
