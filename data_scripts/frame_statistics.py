"""What frames look like in numbers: depth and lidar coverage by image row, light and texture.

Pure functions over arrays, and one pass over a `KittiRaw` dataset that keeps a drive's frames
together. Depth is kept as histograms of its logarithm, so that drives of any length compare with
equal weight, and a difference of 0.1 reads as about ten percent of depth.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ubnlib.kitti.raw import KittiRaw

NEAREST, FARTHEST, BINS = 2.0, 90.0, 128
EDGES = np.linspace(np.log(NEAREST), np.log(FARTHEST), BINS + 1)
"""Bin edges of the histograms, in log meters; what lies outside counts in the first or last bin."""
IMAGE_STATISTICS = ("brightness", "contrast", "saturation", "gradient", "white", "black")


@dataclass(frozen=True, eq=False)
class DriveStatistics:
    """Statistics of one drive's frames, all of the same size.

    Attributes:
        images: [frames, 6], the `IMAGE_STATISTICS` of each frame.
        coverage: [H], share of the pixels of each row that have a lidar return.
        histograms: [bands, BINS], number of returns by band of rows (from the top) and log depth.
    """

    images: np.ndarray
    coverage: np.ndarray
    histograms: np.ndarray


def image_statistics(image: np.ndarray) -> np.ndarray:
    """Describe an image by six numbers, in the order of `IMAGE_STATISTICS`.

    Brightness is the mean of the gray values in [0, 1] (Rec. 601), contrast their standard
    deviation, gradient the mean absolute difference of neighbors over both directions. Saturation
    is the mean of (max - min) / max over the channels (the S of HSV, black counts as 0). White and
    black are the shares of pixels whose gray value is at least 250/255 or at most 10/255.

    Args:
        image: uint8 [3, H, W], red first; at least 2 x 2 pixels.

    Returns:
        [6] float64.

    Example:
        >>> image_statistics(np.full((3, 4, 4), 255, np.uint8)).round(6)
        array([1., 0., 0., 0., 1., 0.])
    """
    colors = image.astype(np.float32) / 255
    gray = 0.299 * colors[0] + 0.587 * colors[1] + 0.114 * colors[2]
    high, low = colors.max(axis=0), colors.min(axis=0)
    saturation = (high - low) / np.maximum(high, 1 / 255)
    gradient = np.abs(np.diff(gray, axis=0)).mean() + np.abs(np.diff(gray, axis=1)).mean()
    white, black = (gray > 249.5 / 255).mean(), (gray < 10.5 / 255).mean()
    statistics = (gray.mean(), gray.std(), saturation.mean(), gradient / 2, white, black)
    return np.array(statistics, np.float64)


def depth_histograms(depth: np.ndarray, bands: int) -> np.ndarray:
    """Count lidar returns by band of rows and log depth.

    Args:
        depth: [H, W] meters, 0 = no return.
        bands: Number of bands of rows, from the top; rows are shared out as evenly as possible.

    Returns:
        [bands, BINS] int64 counts; the bins are those of `EDGES`.
    """
    row, column = np.nonzero(depth)
    band = row * bands // len(depth)
    bins = np.searchsorted(EDGES, np.log(depth[row, column]), side="right") - 1
    cell = band * BINS + np.clip(bins, 0, BINS - 1)
    return np.bincount(cell, minlength=bands * BINS).reshape(bands, BINS)


def quantiles(histogram: np.ndarray, shares) -> np.ndarray:
    """Return depths in meters below which the given shares of a histogram [BINS] lie.

    Raises:
        ValueError: If the histogram is empty.
    """
    below = np.concatenate([[0.0], np.cumsum(histogram)])
    if below[-1] <= 0:
        raise ValueError("The depth histogram is empty: expected at least one lidar return.")
    return np.exp(np.interp(np.asarray(shares) * below[-1], below, EDGES))


def wasserstein(one: np.ndarray, other: np.ndarray) -> float:
    """Return the Wasserstein-1 distance of two histograms [BINS] of log depth, in log units.

    It is the area between the distribution functions; 0.1 means that depths differ by about ten
    percent on average once the returns are paired in order. NaN where a histogram is empty.
    """
    if not one.any() or not other.any():
        return float("nan")
    gap = np.cumsum(one) / one.sum() - np.cumsum(other) / other.sum()
    return float(np.abs(gap).sum() * (EDGES[1] - EDGES[0]))


def measure_drives(
    dataset: KittiRaw, *, bands: int = 8, max_frames: int | None = None
) -> dict[str, DriveStatistics]:
    """Measure every drive of a dataset.

    Args:
        dataset: The frames; give it a `size`, for only statistics at one size compare.
        bands: Number of bands of rows for the depth histograms.
        max_frames: Measure at most this many frames of a drive, evenly spread; None for all.

    Returns:
        The statistics by the drive's name, sorted.

    Raises:
        ValueError: If the frames of a drive differ in size, or a file is malformed.
        FileNotFoundError: If a scan has gone since the folder was listed.
    """
    measured = {}
    for name in dataset.drives:
        mine = [index for index, key in enumerate(dataset.keys) if key.drive_name == name]
        if max_frames is not None and len(mine) > max_frames:
            mine = [mine[i] for i in np.linspace(0, len(mine) - 1, max_frames).round().astype(int)]
        images, coverage, histograms = [], [], []
        for index in mine:
            depth = dataset.depth(index).numpy()
            images.append(image_statistics(dataset.image(index).numpy()))
            coverage.append((depth > 0).mean(axis=1))
            histograms.append(depth_histograms(depth, bands))
            if coverage[-1].shape != coverage[0].shape:
                raise ValueError(
                    f"Drive {name} mixes image heights {len(coverage[0])} and {len(depth)}: give "
                    "the dataset a `size`."
                )
        measured[name] = DriveStatistics(
            np.array(images), np.mean(coverage, axis=0), np.sum(histograms, axis=0)
        )
    return measured


def pool(drives: Mapping[str, DriveStatistics]) -> tuple[np.ndarray, np.ndarray]:
    """Average drives with equal weight, however many frames each has.

    Returns:
        Coverage [H], and histograms [bands, BINS] whose sum over all bands and bins is 1.
    """
    coverage = np.mean([drive.coverage for drive in drives.values()], axis=0)
    histograms = [drive.histograms / drive.histograms.sum() for drive in drives.values()]
    return coverage, np.mean(histograms, axis=0)


def spread(drives: Mapping[str, DriveStatistics]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean [6] of the image statistics, their spread between and within drives [6].

    Between is the standard deviation of the drives' means, within the root mean square of their
    own standard deviations; every drive has the same weight. Between is NaN for one drive.
    """
    means = np.array([drive.images.mean(axis=0) for drive in drives.values()])
    within = np.array([drive.images.var(axis=0) for drive in drives.values()])
    between = means.std(axis=0, ddof=1) if len(means) > 1 else np.full(means.shape[1], np.nan)
    return means.mean(axis=0), between, np.sqrt(within.mean(axis=0))
