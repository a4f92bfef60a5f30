"""Depth metrics over sparse ground truth, of maps and of whole sets of frames.

The metrics and crops are the usual ones of D. Eigen et al. (2014) and R. Garg et al. (2016); the
paper reports the first delta. A depth of 0 means no measurement. `evaluate_depth` follows the usual
protocol: upsample the prediction as disparity to the native size of each frame, invert, and compare
inside the crop. Frames of a data set such as KITTI differ in size, so batches are made of frames
that agree in it.
"""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

MIN_DEPTH = 1e-3  # meters; predictions are clipped to [MIN_DEPTH, cap]
# Top, bottom, left, right as shares of height and width.
CROPS = {
    "garg": (0.40810811, 0.99189189, 0.03594771, 0.96405229),
    "eigen": (0.3324324, 0.91351351, 0.0359477, 0.96405229),
}
METRICS = ("abs_rel", "sq_rel", "rmse", "rmse_log", "delta1", "delta2", "delta3")

Crop = Literal["garg", "eigen"]
Key = TypeVar("Key", bound=Hashable)


@torch.no_grad()
def per_image_metrics(
    prediction: np.ndarray | Tensor,
    target: np.ndarray | Tensor,
    *,
    crop: Crop | None = None,
    cap: float = 80.0,
    median_scaling: bool = False,
) -> dict[str, Tensor]:
    """Compare each predicted depth map with the measured one.

    Metrics are means over an image's pixels with 0 < target <= cap inside the crop, computed on
    the prediction's device, in float64 where it has that: `abs_rel` |p - t| / t, `sq_rel`
    (p - t)^2 / t in meters, `rmse` in meters, `rmse_log` of natural logarithms, and `delta1` to
    `delta3`, shares of pixels with max(p / t, t / p) < 1.25, 1.25^2, 1.25^3.

    Args:
        prediction: [H, W] or [N, H, W], meters; clipped to [0.001, cap]. NaN shows in the errors
            and counts as wrong in the deltas.
        target: Same shape, meters; 0 or NaN = no measurement.
        crop: Region to evaluate, in shares of the image: Garg's, Eigen's, or None for all of it.
        cap: Largest depth evaluated, meters.
        median_scaling: Whether to multiply each prediction, before clipping, by the ratio of the
            evaluated pixels' medians, target to prediction. For methods that do not know the
            scale; a prediction of NaN is not part of the median.

    Returns:
        Each metric, [N] (1 for a single map). An image without a pixel to evaluate is NaN in all
        of them, and only such an image is NaN in the deltas.

    Raises:
        ValueError: If the shapes differ or are no maps, or the crop or the cap is none.

    Example:
        >>> maps = per_image_metrics(np.full((1, 2), 11.0), np.array([[10.0, 0.0]]))
        >>> average_metrics(maps)["abs_rel"]
        0.1
    """
    prediction = as_depth(prediction)
    target = as_depth(target).to(prediction.device)
    if prediction.shape != target.shape or target.ndim not in (2, 3):
        raise ValueError(
            f"prediction has shape {tuple(prediction.shape)} and target {tuple(target.shape)}: "
            f"expected the same [H, W] or [N, H, W]; resize the prediction to the target's size "
            f"first."
        )
    if not MIN_DEPTH < cap < np.inf:
        raise ValueError(f"cap is {cap}, expected a finite depth above {MIN_DEPTH} meters.")
    dtype = torch.float32 if target.device.type == "mps" else torch.float64
    if target.ndim == 2:
        prediction, target = prediction[None], target[None]
    rows, columns = crop_region(crop, *target.shape[1:])
    prediction, target = prediction[:, rows, columns], target[:, rows, columns]
    # Few pixels have a measurement: what follows sees each image's evaluated ones as a row.
    evaluated = (target > 0) & (target <= cap)
    counts = evaluated.sum((1, 2))
    lengths = counts.tolist()
    if not any(lengths):
        return {name: torch.full_like(counts, torch.nan, dtype=dtype) for name in METRICS}
    p, t = (
        pad_sequence(
            maps.masked_select(evaluated).to(dtype).split(lengths),
            batch_first=True,
            padding_value=torch.nan,
        )
        for maps in (prediction, target)
    )
    if median_scaling:
        p *= (_median(t) / _median(p))[:, None]
    return _row_metrics(p.clip_(MIN_DEPTH, cap), t, counts)


def average_metrics(per_image: dict[str, Tensor]) -> dict[str, float]:
    """Average metrics over the images that had a pixel to evaluate.

    Args:
        per_image: [N] each, as `per_image_metrics` returns them, or several of these joined.

    Returns:
        The means by name; NaN if no image had a pixel.
    """
    values = torch.stack([per_image[name] for name in METRICS]).cpu().double()
    # NaN in an error can be a prediction's, which must show; NaN in a delta is an image left out.
    kept = ~per_image["delta1"].isnan().cpu()
    return dict(zip(METRICS, values[:, kept].mean(1).tolist(), strict=True))


def crop_region(crop: Crop | None, height: int, width: int) -> tuple[slice, slice]:
    """Return the rows and columns of an image that a crop evaluates.

    Raises:
        ValueError: If the crop is unknown.

    Example:
        >>> crop_region("garg", 375, 1242)
        (slice(153, 371, None), slice(44, 1197, None))
    """
    if crop is None:
        return slice(0, height), slice(0, width)
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


def _row_metrics(p: Tensor, t: Tensor, counts: Tensor) -> dict[str, Tensor]:
    """Compute the metrics of rows [N, K] of pixels, of which the first `counts` are evaluated."""
    padding = t.isnan()

    def mean(error: Tensor) -> Tensor:
        return error.masked_fill_(padding, 0).sum(1, dtype=t.dtype) / counts

    metrics = dict(
        abs_rel=mean((p - t).abs_().div_(t)),
        sq_rel=mean((p - t).square_().div_(t)),
        rmse=mean((p - t).square_()).sqrt(),
        rmse_log=mean((p.log() - t.log()).square_()).sqrt(),
    )
    ratio = torch.maximum(p / t, t / p)
    return metrics | {f"delta{power}": mean(ratio < 1.25**power) for power in (1, 2, 3)}


@dataclass(frozen=True, eq=False)
class Evaluation(Generic[Key]):
    """The metrics of each frame, in the order in which the predictions came.

    Attributes:
        keys: Names of the frames.
        per_frame: Arrays [len(keys)] float64 by metric; NaN in all of them where the frame's
            target had no pixel to evaluate.
    """

    keys: tuple[Key, ...]
    per_frame: dict[str, np.ndarray]

    @cached_property
    def means(self) -> dict[str, float]:
        """Means over the frames that had a pixel to evaluate."""
        return average_metrics({k: torch.from_numpy(v) for k, v in self.per_frame.items()})

    @cached_property
    def left_out(self) -> tuple[Key, ...]:
        """Frames without a pixel to evaluate; they are not part of the means."""
        empty = np.isnan(self.per_frame["delta1"])
        return tuple(key for key, left in zip(self.keys, empty, strict=True) if left)


def evaluate_depth(
    predictions: Iterable[tuple[Key, np.ndarray | Tensor]],
    target: Callable[[Key], np.ndarray | Tensor],
    *,
    crop: Crop | None = None,
    cap: float = 80.0,
    median_scaling: bool = False,
    batch_size: int = 16,
    device: torch.device | str | None = None,
) -> Evaluation[Key]:
    """Evaluate predicted depth maps at the size of their targets.

    Predictions are taken one by one, in any order and of any mixture of sizes. At most
    `batch_size` frames for each size are held at a time.

    Args:
        predictions: (key, depth [h, w] in meters) of each frame.
        target: Returns a frame's measured depth [H, W] in meters, 0 = no measurement, such as
            `ImprovedGroundTruth(root).depth`.
        crop: As `cap` and `median_scaling`: see `per_image_metrics`.
        cap: Largest depth evaluated, meters.
        median_scaling: Whether to scale each prediction to its target's median.
        batch_size: Frames of one size that are computed together.
        device: Where to compute; None for where each prediction is.

    Returns:
        The metrics of each frame, their means, and the frames left out.

    Raises:
        ValueError: If a prediction or a target is no map, a frame comes twice, there is no frame
            or none with a pixel to evaluate, or an option is none.
        FileNotFoundError: If `target` has no file for a frame.

    Example:
        >>> maps = {"near": torch.full((2, 2), 8.0), "far": torch.full((2, 2), 40.0)}
        >>> measured = {"near": torch.full((4, 6), 10.0), "far": torch.full((5, 6), 40.0)}
        >>> result = evaluate_depth(maps.items(), measured.get)
        >>> round(result.means["abs_rel"], 6), result.per_frame["delta1"].tolist()
        (0.1, [0.0, 1.0])
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected 1 or more frames.")
    rows: dict[Key, np.ndarray | None] = {}  # a frame has its place before it has its metrics
    waiting: dict[tuple[torch.Size, torch.Size], list[tuple[Key, Tensor, Tensor]]] = {}

    def compute(frames: list[tuple[Key, Tensor, Tensor]]) -> None:
        keys, predicted, measured = zip(*frames, strict=True)
        measured = torch.stack(measured)
        predicted = resize_depth(torch.stack(predicted), tuple(measured.shape[1:]))
        metrics = per_image_metrics(
            predicted, measured, crop=crop, cap=cap, median_scaling=median_scaling
        )
        table = torch.stack([metrics[name] for name in METRICS], dim=1).cpu().double().numpy()
        rows.update(zip(keys, table, strict=True))

    for key, prediction in predictions:
        if key in rows:
            raise ValueError(f"Frame {key} came twice: expected one prediction for each frame.")
        rows[key] = None
        predicted, measured = as_depth(prediction).to(device), as_depth(target(key))
        sizes = predicted.shape, measured.shape
        if any(len(size) != 2 for size in sizes):
            raise ValueError(
                f"Frame {key} has a prediction of shape {tuple(sizes[0])} and a target of shape "
                f"{tuple(sizes[1])}: expected [h, w] and [H, W]."
            )
        alike = waiting.setdefault(sizes, [])
        alike.append((key, predicted, measured))
        if len(alike) == batch_size:
            compute(waiting.pop(sizes))
    for frames in waiting.values():
        compute(frames)
    per_frame = np.array(list(rows.values())).reshape(len(rows), len(METRICS)).T
    evaluation = Evaluation(tuple(rows), dict(zip(METRICS, per_frame, strict=True)))
    if len(evaluation.left_out) == len(rows):
        raise ValueError(
            f"None of the {len(rows)} frames has a pixel with 0 < depth <= {cap} to evaluate "
            f"(crop: {crop}): expected predictions, and targets with measurements."
        )
    return evaluation


def resize_depth(depth: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring predicted depth maps to another size, bilinearly in disparity (1 / depth).

    The borders of both sizes lie on each other (`align_corners=False`), as they do when images
    are resized. Maps of this size already come back unchanged.

    Args:
        depth: [N, h, w], meters, dense: above 0 everywhere.
        size: (height, width) of the result.

    Returns:
        [N, height, width], meters, in float32 or float64.

    Raises:
        ValueError: If depth is not [N, h, w].
    """
    if depth.ndim != 3:
        raise ValueError(f"depth has shape {tuple(depth.shape)}, expected [N, h, w].")
    if depth.dtype != torch.float64:
        depth = depth.float()
    if tuple(depth.shape[1:]) == tuple(size):
        return depth
    disparity = F.interpolate(depth[:, None].reciprocal(), size, mode="bilinear")
    return disparity[:, 0].reciprocal()
