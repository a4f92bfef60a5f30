"""Depth from sparse ground truth: metrics, and the multi-scale training loss.

The metrics and crops are the usual ones of D. Eigen et al. (2014) and R. Garg et al. (2016); the
paper reports the first delta. How the paper brings sparse depth maps to the coarser predictions
and which norm its loss has is unstated: both are arguments here. A depth of 0 means no measurement.
"""

from typing import Literal

import numpy as np
import torch
from torch.nn import functional as F

MIN_DEPTH = 1e-3  # meters; predictions are clipped to [MIN_DEPTH, cap]
# Top, bottom, left, right as shares of height and width.
CROPS = {
    "garg": (0.40810811, 0.99189189, 0.03594771, 0.96405229),
    "eigen": (0.3324324, 0.91351351, 0.0359477, 0.96405229),
}

Downscale = Literal["nearest_surface", "nearest", "mean"]
LossNorm = Literal["l1", "l2", "log_l1"]


def depth_metrics(
    prediction: np.ndarray | torch.Tensor,
    target: np.ndarray | torch.Tensor,
    *,
    crop: Literal["garg", "eigen"] | None = None,
    cap: float = 80.0,
) -> dict[str, float]:
    """Compare predicted depth maps with measured ones.

    Metrics are computed per image, in float64 over the pixels with 0 < target <= cap, and averaged
    over the images; an image without such a pixel is left out. There is no median scaling.

    Args:
        prediction: [H, W] or [N, H, W], meters; clipped to [0.001, cap]. NaN shows in the errors
            and counts as wrong in the deltas.
        target: Same shape, meters; 0 or NaN = no measurement.
        crop: Region to evaluate, in shares of the image: Garg's, Eigen's, or None for all of it.
        cap: Largest depth evaluated, meters.

    Returns:
        `abs_rel` mean |p - t| / t, `sq_rel` mean (p - t)^2 / t in meters, `rmse` in meters,
        `rmse_log` of natural logarithms, and `delta1` to `delta3`, shares of pixels with
        max(p / t, t / p) < 1.25, 1.25^2, 1.25^3.

    Raises:
        ValueError: If the shapes differ or are no maps, the crop is unknown, or there is no pixel
            to evaluate.

    Example:
        >>> depth_metrics(np.full((1, 2), 11.0), np.array([[10.0, 0.0]]))["abs_rel"]
        0.1
    """
    prediction, target = _as_float64(prediction), _as_float64(target)
    if prediction.shape != target.shape or target.ndim not in (2, 3):
        raise ValueError(
            f"prediction has shape {prediction.shape} and target {target.shape}: expected the same "
            f"[H, W] or [N, H, W]; resize the prediction to the target's size first."
        )
    if crop is not None and crop not in CROPS:
        raise ValueError(f"crop is {crop!r}, expected None, 'garg' or 'eigen'.")
    if target.ndim == 2:
        prediction, target = prediction[None], target[None]
    evaluated = (target > 0) & (target <= cap) & _inside(crop, *target.shape[1:])
    per_image = [
        _pixel_metrics(p[valid].clip(MIN_DEPTH, cap), t[valid])
        for p, t, valid in zip(prediction, target, evaluated, strict=True)
        if valid.any()
    ]
    if not per_image:
        raise ValueError(
            f"target of shape {target.shape} has no pixel with 0 < depth <= {cap} to evaluate "
            f"(crop: {crop})."
        )
    return {name: float(np.mean([m[name] for m in per_image])) for name in per_image[0]}


def downscale_depth(
    depth: torch.Tensor, size: tuple[int, int], mode: Downscale = "nearest_surface"
) -> torch.Tensor:
    """Bring sparse depth maps to a lower resolution; cells without a measurement stay 0.

    Args:
        depth: [N, H, W], meters, 0 = no measurement.
        size: (height, width) of the result, not larger than the input's.
        mode: `"nearest_surface"`, the smallest depth measured in each cell, as lidar shows the
            nearest surface (a max pool of inverse depth); `"nearest"`, the one pixel at each
            cell's center, measured or not; `"mean"`, the mean of the measured depths.

    Returns:
        [N, height, width], meters.

    Raises:
        ValueError: If the mode is unknown or the size is larger than the input's.
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
        return F.interpolate(depth[:, None], size, mode="nearest-exact")[:, 0]
    if mode == "mean":
        total = F.adaptive_avg_pool2d(depth.where(measured, 0.0), size)
        share = F.adaptive_avg_pool2d(measured.to(depth.dtype), size)
        return (total / share).where(share > 0, 0.0)
    raise ValueError(f"mode is {mode!r}, expected 'nearest_surface', 'nearest' or 'mean'.")


def multiscale_depth_loss(
    predictions: tuple[torch.Tensor, ...],
    target: torch.Tensor,
    *,
    mode: Downscale = "nearest_surface",
    norm: LossNorm = "l1",
) -> torch.Tensor:
    """Average a masked loss over the resolutions of a prediction.

    At each resolution the target is downscaled and the error averaged over the batch's measured
    cells; no gradient flows from the others, whatever is predicted there. A resolution at which
    `"nearest"` leaves no cell at all is not part of the average.

    Args:
        predictions: Depth maps [N, 1, h, w] in meters, as `DispNet` returns them.
        target: [N, H, W], meters, 0 = no measurement.
        mode: How the target is downscaled; see `downscale_depth`.
        norm: `"l1"` |p - t|, `"l2"` (p - t)^2, or `"log_l1"` |log p - log t|.

    Returns:
        A scalar.

    Raises:
        ValueError: If a shape does not fit, the norm is unknown, or the whole batch has no
            measurement.
    """
    errors = []
    for prediction in predictions:
        if prediction.ndim != 4 or prediction.shape[:2] != (len(target), 1):
            raise ValueError(
                f"A prediction has shape {tuple(prediction.shape)}, expected "
                f"[{len(target)}, 1, h, w] for a target of shape {tuple(target.shape)}."
            )
        goal = downscale_depth(target, tuple(prediction.shape[-2:]), mode)
        measured = goal > 0
        if measured.any():
            errors.append(_error(prediction[:, 0][measured], goal[measured], norm).mean())
    if not errors:
        raise ValueError(
            f"The labeled batch of shape {tuple(target.shape)} has no measured depth at any "
            f"resolution: expected depth maps with values above 0; leave unlabeled frames out."
        )
    return torch.stack(errors).mean()


def _as_float64(depth: np.ndarray | torch.Tensor) -> np.ndarray:
    """Return depth maps as a float64 array on the CPU."""
    if isinstance(depth, torch.Tensor):
        return depth.detach().cpu().double().numpy()
    return np.asarray(depth, dtype=np.float64)


def _inside(crop: str | None, height: int, width: int) -> np.ndarray:
    """Mark the pixels inside a crop: [height, width] bool."""
    if crop is None:
        return np.ones((height, width), dtype=bool)
    top, bottom, left, right = CROPS[crop]
    inside = np.zeros((height, width), dtype=bool)
    inside[int(top * height) : int(bottom * height), int(left * width) : int(right * width)] = True
    return inside


def _pixel_metrics(p: np.ndarray, t: np.ndarray) -> dict[str, float]:
    """Compute the metrics of one image from its evaluated pixels, predicted and measured."""
    ratio = np.maximum(p / t, t / p)
    return dict(
        abs_rel=np.mean(np.abs(p - t) / t),
        sq_rel=np.mean((p - t) ** 2 / t),
        rmse=np.sqrt(np.mean((p - t) ** 2)),
        rmse_log=np.sqrt(np.mean((np.log(p) - np.log(t)) ** 2)),
        delta1=np.mean(ratio < 1.25),
        delta2=np.mean(ratio < 1.25**2),
        delta3=np.mean(ratio < 1.25**3),
    )


def _error(p: torch.Tensor, t: torch.Tensor, norm: LossNorm) -> torch.Tensor:
    """Return the error of each pixel in a norm."""
    if norm == "l1":
        return (p - t).abs()
    if norm == "l2":
        return (p - t).square()
    if norm == "log_l1":
        return (p.log() - t.log()).abs()
    raise ValueError(f"norm is {norm!r}, expected 'l1', 'l2' or 'log_l1'.")
