"""Depth metrics over sparse ground truth, where a depth of 0 means no measurement.

The metrics and crops are the usual ones of D. Eigen et al. (2014) and R. Garg et al. (2016); the
paper reports the first delta.
"""

from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

MIN_DEPTH = 1e-3  # meters; predictions are clipped to [MIN_DEPTH, cap]
# Top, bottom, left, right as shares of height and width.
CROPS = {
    None: (0, 1, 0, 1),
    "garg": (0.40810811, 0.99189189, 0.03594771, 0.96405229),
    "eigen": (0.3324324, 0.91351351, 0.0359477, 0.96405229),
}
METRICS = ("abs_rel", "sq_rel", "rmse", "rmse_log", "delta1", "delta2", "delta3")

Crop = Literal["garg", "eigen"]


@torch.no_grad()
def per_image_metrics(
    prediction: np.ndarray | Tensor,
    target: np.ndarray | Tensor,
    *,
    crop: Crop | None = None,
    cap: float = 80.0,
    cut_targets: bool = True,
    median_scaling: bool = False,
) -> dict[str, Tensor]:
    """Compare each predicted depth map with the measured one.

    Metrics are means over an image's measured pixels inside the crop, computed on the prediction's
    device, in float64 where it has that: `abs_rel` |p - t| / t, `sq_rel` (p - t)^2 / t in meters,
    `rmse` in meters, `rmse_log` of natural logarithms, and `delta1` to `delta3`, shares of pixels
    with max(p / t, t / p) < 1.25, 1.25^2, 1.25^3.

    Args:
        prediction: [H, W] or [N, H, W], meters; clipped to [0.001, cap]. NaN shows in the errors
            and counts as wrong in the deltas.
        target: Same shape, meters; 0 or NaN = no measurement.
        crop: Region to evaluate: Garg's, Eigen's, or None for all of the image.
        cap: Largest depth of a prediction, meters.
        cut_targets: Whether pixels with a target beyond the cap are not evaluated.
        median_scaling: Whether to multiply each prediction first by the ratio of the evaluated
            pixels' medians, target to prediction, NaN left out: for methods without a scale.

    Returns:
        Each metric, [N] (1 for a single map). An image without a pixel to evaluate is NaN in all
        of them, and only such an image is NaN in the deltas.

    Raises:
        ValueError: The shapes differ or are no maps, the crop is unknown, or the cap is no finite
            depth above 0.001 m.
    """
    prediction = as_depth(prediction)
    target = as_depth(target).to(prediction.device)
    if prediction.shape != target.shape or target.ndim not in (2, 3):
        raise ValueError(
            f"prediction has shape {tuple(prediction.shape)} and target {tuple(target.shape)}: "
            "expected the same [H, W] or [N, H, W]; resize the prediction first."
        )
    if not MIN_DEPTH < cap < np.inf:
        raise ValueError(f"cap is {cap}, expected a finite depth above {MIN_DEPTH} meters.")
    dtype = torch.float32 if target.device.type == "mps" else torch.float64
    if target.ndim == 2:
        prediction, target = prediction[None], target[None]
    rows, columns = crop_region(crop, *target.shape[1:])
    prediction, target = prediction[:, rows, columns], target[:, rows, columns]
    # Few pixels have a measurement: what follows sees each image's evaluated ones as a row.
    evaluated = (target > 0) & (target <= cap if cut_targets else target < torch.inf)
    counts = evaluated.sum((1, 2))
    lengths = counts.tolist()
    if not any(lengths):
        return {name: torch.full_like(counts, torch.nan, dtype=dtype) for name in METRICS}
    values = (maps.masked_select(evaluated).to(dtype) for maps in (prediction, target))
    p, t = (pad_sequence(v.split(lengths), True, torch.nan) for v in values)
    if median_scaling:
        p *= (_median(t) / _median(p))[:, None]
    p.clip_(MIN_DEPTH, cap)
    padding = t.isnan()

    def mean(error: Tensor) -> Tensor:
        return error.masked_fill_(padding, 0).sum(1, dtype=dtype) / counts

    metrics = dict(
        abs_rel=mean((p - t).abs_().div_(t)),
        sq_rel=mean((p - t).square_().div_(t)),
        rmse=mean((p - t).square_()).sqrt(),
        rmse_log=mean((p.log() - t.log()).square_()).sqrt(),
    )
    ratio = torch.maximum(p / t, t / p)
    return metrics | {f"delta{power}": mean(ratio < 1.25**power) for power in (1, 2, 3)}


def average_metrics(per_image: dict[str, Tensor]) -> dict[str, float]:
    """Average metrics, [N] each, over the images with a pixel to evaluate; NaN if there is none."""
    values = torch.stack([per_image[name] for name in METRICS]).cpu().double()
    # NaN in an error can be a prediction's, which must show; NaN in a delta is an image left out.
    kept = ~per_image["delta1"].isnan().cpu()
    return dict(zip(METRICS, values[:, kept].mean(1).tolist(), strict=True))


def crop_region(crop: Crop | None, height: int, width: int) -> tuple[slice, slice]:
    """Return the rows and columns of an image that a crop evaluates."""
    if crop not in CROPS:
        raise ValueError(f"crop is {crop!r}, expected None, 'garg' or 'eigen'.")
    top, bottom, left, right = CROPS[crop]
    rows = slice(int(top * height), int(bottom * height))
    return rows, slice(int(left * width), int(right * width))


def as_depth(depth: np.ndarray | Tensor) -> Tensor:
    """Return depth maps as a floating-point tensor; arrays are copied to the CPU's memory."""
    if not isinstance(depth, Tensor):
        depth = np.asarray(depth)
        wide = np.result_type(depth, np.float32)
        return torch.from_numpy(np.array(depth, dtype=wide.newbyteorder("=")))
    return depth.detach() if depth.is_floating_point() else depth.float()


def _median(rows: Tensor) -> Tensor:
    """Return each row's median, NaN passed over; of an even number, the mean of the middle two."""
    return (rows.nanmedian(1).values - (-rows).nanmedian(1).values) / 2
