"""The best depth map that looks at no image: what a net must beat before methods are compared.

Of each pixel it knows the depths that labeled frames have in a window around it, and predicts the
one that most of them lie within a factor of 1.25 of. It is meant to be strong: of ten windows the
one is taken that does best on the *test* frames, so that a net which is level with it shows nothing
by this accuracy that it has learned from images.
"""

from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from experiments.common.records import Config, Result, recorded
from experiments.depth.data import DepthData, LabelsConfig
from experiments.depth.evaluate import evaluate_depth

WINDOWS = (  # rows, columns; the last four are as wide as the frame
    (1, 1), (1, 9), (3, 3), (3, 25), (7, 7), (5, 49), (1, 999), (5, 999), (13, 999), (17, 999)
)  # fmt: skip
STEP = np.log(1.25) / 8  # of the bins of log depth
NEAREST = 0.1  # meters; what is nearer counts as this


class ConstantMapConfig(Config):
    """A map of some frames' labels."""

    version: ClassVar[int] = 2  # 1: six windows of these ten
    experiment: Literal["constant_map"] = "constant_map"
    data: str
    domain: str = ""
    labels: LabelsConfig
    seed: int = 0


def depth_counts(maps: Tensor) -> Tensor:
    """Count depths by bin and pixel: maps [N, H, W] in meters, 0 = none, to [bins, H, W]."""
    measured = maps > 0
    bins = ((maps.clamp_min(NEAREST) / NEAREST).log() / STEP).floor().long()
    counts = torch.zeros(int(bins.max()) + 1, *maps.shape[1:])
    return counts.scatter_add_(0, bins, measured.to(counts.dtype))


def best_map(counts: Tensor, window: tuple[int, int]) -> Tensor:
    """Return the depth [H, W] that most of the counted depths around each pixel are close to.

    Counts are [bins, H, W]. A depth is close to those from 8 bins below to 8 above, a factor of
    1.25; windows reach over (rows, columns) and are cut at the borders.
    """
    height, width = counts.shape[1:]
    rows, columns = min(window[0], 2 * height - 1), min(window[1], 2 * width - 1)
    around = F.avg_pool2d(
        counts[None], (rows, columns), 1, (rows // 2, columns // 2), divisor_override=1
    )[0]
    # Ties, as where nothing was measured, go to the middle of the frames' depths.
    around = around + 1e-6 * counts.sum((1, 2), keepdim=True) / counts.sum().clamp_min(1)
    close = F.avg_pool1d(around.flatten(1).T[:, None], 17, 1, 8)
    best = close[:, 0].argmax(1).view(height, width)
    return NEAREST * ((best + 0.5) * STEP).exp()


def constant_maps(data: DepthData, labels: LabelsConfig) -> Iterator[tuple[str, Tensor]]:
    """Yield a map [H, W] in meters for each window, by its name, from the labeled frames."""
    labeled, _ = data.labeled(labels)
    maps = torch.stack([data.frames.batch([i]).depth()[0] for i in labeled])
    counts = depth_counts(torch.cat([maps, maps.flip(-1)]))  # nets see mirrored images too
    for window in WINDOWS:
        yield f"{window[0]}x{window[1]}", best_map(counts, window)


@recorded
def run_constant_map(config: ConstantMapConfig, data: DepthData) -> Result:
    """Measure each window's map on all test frames; the metrics are those of the best."""
    found, keys = {}, [data.frames.keys[i] for i in data.test]
    for name, depth in constant_maps(data, config.labels):
        found[name] = evaluate_depth(
            ((key, depth) for key in keys), lambda key: data.frames.depth(data.frames.index(key))
        ).means
    best = max(found, key=lambda name: found[name]["delta1"])
    labeled, _ = data.labeled(config.labels)
    metrics = found[best] | {"labeled_frames": float(len(labeled))}
    metrics |= {f"window {name}": means["delta1"] for name, means in found.items()}
    return Result.of_one_seed(metrics, {})
