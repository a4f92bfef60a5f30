"""Synthetic drives beside real ones: lidar coverage and depth by image row, light and texture."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.common.style import BLUE, GRAY, ORANGE
from frame_statistics import (
    IMAGE_STATISTICS,
    DriveStatistics,
    pool,
    quantiles,
    spread,
    wasserstein,
)

Drives = Mapping[str, DriveStatistics]
COLORS = (ORANGE, BLUE, GRAY)


def image_table(sets: Mapping[str, Drives]) -> pd.DataFrame:
    """Return mean, spread between and spread within drives of every image statistic.

    Args:
        sets: Measured drives by the set's title, see `frame_statistics.measure_drives`.

    Returns:
        One row a set and kind of number; columns are the `IMAGE_STATISTICS`.
    """
    rows = {}
    for title, drives in sets.items():
        kinds = ("mean", "between drives", "within a drive")
        rows |= {(title, kind): row for kind, row in zip(kinds, spread(drives), strict=True)}
    return pd.DataFrame(
        list(rows.values()), pd.MultiIndex.from_tuples(rows), columns=list(IMAGE_STATISTICS)
    )


def depth_table(sets: Mapping[str, Drives]) -> pd.DataFrame:
    """Return depth quantiles and coverage of every set, and their distances to the first set.

    Returns:
        One row a set: `coverage`, the share of pixels with a return; `d10`, `d50` and `d90` in
        meters; and the distances to the first set: `coverage gap`, the mean absolute difference by
        row; `W all` and `W bands`, Wasserstein distances of log depth over the whole image, and
        within bands of rows averaged by the first set's returns; `nearest`, the smallest `W bands`
        of one drive to a drive of the first set, averaged over that set's drives.
    """
    reference = next(iter(sets.values()))
    coverage, depth = pool(reference)
    rows = {}
    for title, drives in sets.items():
        our_coverage, our_depth = pool(drives)
        nearest = [
            min(_banded(one.histograms, other.histograms) for other in drives.values())
            for one in reference.values()
        ]
        rows[title] = {
            "coverage": our_coverage.mean(),
            **dict(
                zip(
                    ("d10", "d50", "d90"), quantiles(our_depth.sum(0), (0.1, 0.5, 0.9)), strict=True
                )
            ),
            "coverage gap": np.abs(our_coverage - coverage).mean(),
            "W all": wasserstein(our_depth.sum(axis=0), depth.sum(axis=0)),
            "W bands": _banded(depth, our_depth),
            "nearest": np.mean(nearest),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def _banded(reference: np.ndarray, other: np.ndarray) -> float:
    """Average the distances within bands, weighted by the reference's returns.

    A band in which only the reference has returns counts as a factor of e.
    """
    gaps = [wasserstein(one, two) for one, two in zip(reference, other, strict=True)]
    gaps = np.where(np.isnan(gaps), 1.0, gaps)
    return float(np.average(gaps, weights=reference.sum(axis=1)))


def draw(sets: Mapping[str, Drives]) -> Figure:
    """Draw coverage and depth by image row, and each drive's light and texture as a dot.

    Args:
        sets: Measured drives by the set's title, up to three sets of the same image size and
            bands; the first is drawn in front.
    """
    figure, grid = plt.subplots(1, 4, figsize=(13, 3.4))
    for (title, drives), color in reversed(list(zip(sets.items(), COLORS, strict=False))):
        coverage, depth = pool(drives)
        rows = (np.arange(len(coverage)) + 0.5) / len(coverage)
        grid[0].plot(coverage, rows, color=color, label=title)
        _depth_by_row(grid[1], depth, color)
        means = np.array([drive.images.mean(axis=0) for drive in drives.values()])
        for axes, (across, up) in zip(grid[2:], ((0, 1), (2, 3)), strict=True):
            axes.scatter(means[:, across], means[:, up], s=18, color=color, label=title)
            axes.set(xlabel=IMAGE_STATISTICS[across], ylabel=IMAGE_STATISTICS[up])
    grid[0].set(xlabel="share of pixels with a return", ylabel="image row, from top to bottom")
    grid[1].set(xlabel="depth [m]: median, 10 to 90 %", xscale="log")
    grid[1].set_xticks([3, 5, 10, 20, 40, 80], labels=["3", "5", "10", "20", "40", "80"])
    grid[1].minorticks_off()
    for axes in grid[:2]:
        axes.set_ylim(1, 0)
    handles, labels = grid[2].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside upper center", ncols=3)
    return figure


def _depth_by_row(axes: Axes, depth: np.ndarray, color: str) -> None:
    bands = np.flatnonzero(depth.sum(axis=1) > 1e-4)
    low, middle, high = np.array([quantiles(depth[band], (0.1, 0.5, 0.9)) for band in bands]).T
    rows = (bands + 0.5) / len(depth)
    axes.fill_betweenx(rows, low, high, color=color, alpha=0.15, linewidth=0)
    axes.plot(middle, rows, color=color, marker="o", markersize=3)
