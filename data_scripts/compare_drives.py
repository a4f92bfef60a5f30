"""Compare synthetic drives with real ones: tables of statistics, and figures.

What frames look like in numbers is depth and lidar coverage by image row, light and texture. Depth
is kept as histograms of its logarithm, so that drives of any length compare with equal weight, and
a difference of 0.1 reads as about ten percent of depth.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import wasserstein_distance

from experiments.common import style
from experiments.common.arguments import whole_number
from experiments.depth.figures import draw_contact_sheet
from synthetic_kitti import read_domains
from ubnlib.kitti import KittiRaw

NEAREST, FARTHEST, BINS = 2.0, 90.0, 128
EDGES = np.linspace(np.log(NEAREST), np.log(FARTHEST), BINS + 1)  # of log meters
CENTERS = (EDGES[1:] + EDGES[:-1]) / 2
IMAGE_STATISTICS = ("brightness", "contrast", "saturation", "gradient", "white", "black")
KINDS = ("real", "synthetic", "before")  # the looks of sets, in their order


# --- statistics of frames and drives --------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class DriveStatistics:
    """Statistics of one drive's frames, all of the same size."""

    images: np.ndarray  # [frames, 6], the `IMAGE_STATISTICS` of each frame
    coverage: np.ndarray  # [H], share of the pixels of each row that have a lidar return
    histograms: np.ndarray  # [bands, BINS], returns by band of rows (from the top) and log depth


Drives = Mapping[str, DriveStatistics]


def image_statistics(image: np.ndarray) -> np.ndarray:
    """Describe an image, uint8 [3, H, W], by the six `IMAGE_STATISTICS`.

    Brightness is the mean of the gray values in [0, 1] (Rec. 601), contrast their standard
    deviation, gradient the mean absolute difference of neighbors over both directions. Saturation
    is the mean of (max - min) / max over the channels (the S of HSV, black counts as 0). White and
    black are the shares of pixels whose gray value is at least 250/255 or at most 10/255.
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
    """Count lidar returns of depth [H, W] in meters (0 = none) as [bands, BINS].

    Bands of rows are counted from the top; depth beyond `EDGES` counts in the first or last bin.
    """
    row, column = np.nonzero(depth)
    band = row * bands // len(depth)
    bins = np.searchsorted(EDGES, np.log(depth[row, column]), side="right") - 1
    cell = band * BINS + np.clip(bins, 0, BINS - 1)
    return np.bincount(cell, minlength=bands * BINS).reshape(bands, BINS)


def quantiles(histogram: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """Return depths in meters below which the given shares of a histogram [BINS] lie."""
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
    return wasserstein_distance(CENTERS, CENTERS, one, other)


def measure_drives(
    dataset: KittiRaw, *, bands: int = 8, max_frames: int | None = None
) -> dict[str, DriveStatistics]:
    """Measure every drive of a dataset that has a `size`, by name; evenly spread frames of each."""
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
        measured[name] = DriveStatistics(
            np.array(images), np.mean(coverage, axis=0), np.sum(histograms, axis=0)
        )
    return measured


def pool(drives: Drives) -> tuple[np.ndarray, np.ndarray]:
    """Average drives with equal weight: coverage [H], and histograms [bands, BINS] of sum 1."""
    coverage = np.mean([drive.coverage for drive in drives.values()], axis=0)
    histograms = [drive.histograms / drive.histograms.sum() for drive in drives.values()]
    return coverage, np.mean(histograms, axis=0)


def spread(drives: Drives) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean [6] of the image statistics, their spread between and within drives [6].

    Between is the standard deviation of the drives' means, within the root mean square of their
    own standard deviations; every drive has the same weight. Between is NaN for one drive.
    """
    means = np.array([drive.images.mean(axis=0) for drive in drives.values()])
    within = np.array([drive.images.var(axis=0) for drive in drives.values()])
    between = means.std(axis=0, ddof=1) if len(means) > 1 else np.full(means.shape[1], np.nan)
    return means.mean(axis=0), between, np.sqrt(within.mean(axis=0))


# --- tables and figure of sets of drives, by the set's title --------------------------------------


def image_table(sets: Mapping[str, Drives]) -> pd.DataFrame:
    """Return mean, spread between and spread within drives of every image statistic."""
    rows = {}
    for title, drives in sets.items():
        kinds = ("mean", "between drives", "within a drive")
        rows |= {(title, kind): row for kind, row in zip(kinds, spread(drives), strict=True)}
    return pd.DataFrame(
        list(rows.values()), pd.MultiIndex.from_tuples(rows), columns=list(IMAGE_STATISTICS)
    )


def depth_table(sets: Mapping[str, Drives]) -> pd.DataFrame:
    """Return depth quantiles and coverage of every set, and their distances to the first set.

    `coverage` is the share of pixels with a return; `d10`, `d50` and `d90` are in meters;
    `coverage gap` is the mean absolute difference by row; `W all` and `W bands` are Wasserstein
    distances of log depth over the whole image, and within bands of rows averaged by the first
    set's returns; `nearest` is the smallest `W bands` of one drive to a drive of the first set,
    averaged over that set's drives.
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
        low, middle, high = quantiles(our_depth.sum(0), (0.1, 0.5, 0.9))
        rows[title] = {
            "coverage": our_coverage.mean(),
            **{"d10": low, "d50": middle, "d90": high},
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
    """Draw coverage and depth by image row, each drive's light and texture as a dot; three sets."""
    figure, grid = plt.subplots(1, 4, figsize=(13, 3.4))
    for (title, drives), kind in reversed(list(zip(sets.items(), KINDS, strict=False))):
        color, marker, dash = style.look(kind)
        coverage, depth = pool(drives)
        rows = (np.arange(len(coverage)) + 0.5) / len(coverage)
        grid[0].plot(coverage, rows, color=color, linestyle=dash, label=title)
        _depth_by_row(grid[1], depth, kind)
        means = np.array([drive.images.mean(axis=0) for drive in drives.values()])
        for axes, (across, up) in zip(grid[2:], ((0, 1), (2, 3)), strict=True):
            axes.scatter(
                means[:, across], means[:, up], s=18, color=color, marker=marker, label=title
            )
            axes.set(xlabel=IMAGE_STATISTICS[across], ylabel=IMAGE_STATISTICS[up])
    grid[0].set(xlabel="share of pixels with a return", ylabel="image row, from top to bottom")
    grid[1].set(xlabel="depth [m]: median, 10 to 90 %", xscale="log")
    grid[1].set_xticks([3, 5, 10, 20, 40, 80], labels=["3", "5", "10", "20", "40", "80"])
    grid[1].minorticks_off()
    for axes in grid[:2]:
        axes.set_ylim(1, 0)
    handles, labels = grid[2].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside upper center", ncols=3)
    figure.set_label(
        f"Drives, {', '.join(sets)}: share of pixels with a lidar return and depth (median, 10 to "
        "90 %) by image row; brightness against contrast, and saturation against gradient, a mark "
        "a drive."
    )
    return figure


def _depth_by_row(axes: Axes, depth: np.ndarray, kind: str) -> None:
    bands = np.flatnonzero(depth.sum(axis=1) > 1e-4)
    low, middle, high = np.array([quantiles(depth[band], (0.1, 0.5, 0.9)) for band in bands]).T
    rows = (bands + 0.5) / len(depth)
    axes.fill_betweenx(rows, low, high, color=style.look(kind).color, alpha=0.15, linewidth=0)
    axes.plot(middle, rows, **style.look(kind).line)


# --- the command line -----------------------------------------------------------------------------


def compare(arguments: argparse.Namespace) -> None:
    """Measure, print, draw."""
    folders = {"real": arguments.real, "synthetic": arguments.synthetic}
    if arguments.before:
        folders["before"] = arguments.before
    sets = {}
    for title, folder in folders.items():
        dataset = KittiRaw(folder, cameras=(arguments.camera,), size=tuple(arguments.size))
        print(f"{title}: {folder}, {dataset.report()}")
        sets[title] = measure_drives(
            dataset, bands=arguments.bands, max_frames=arguments.max_frames
        )
    images, depth = image_table(sets), depth_table(sets)
    print(f"\nImages\n{images.round(3).to_string()}")
    print(f"\nDepth; distances are to the real drives\n{depth.round(3).to_string()}")
    if len(sets["real"]) > 1:
        first, second = list(sets["real"])[:2]
        pair = {name: {name: sets["real"][name]} for name in (first, second)}
        table = depth_table(pair).iloc[[1]].round(3).to_string()
        print(f"\nFor scale, {second} against {first}\n{table}")
    if arguments.out:
        out = Path(arguments.out)
        style.apply_style()
        style.save(draw(sets), "drive_statistics", depth.reset_index(), out)
        domains = read_domains(arguments.synthetic)
        titles = {name: ", ".join(domain).replace("_", " ") for name, domain in domains.items()}
        dataset = KittiRaw(arguments.synthetic)
        sheet = draw_contact_sheet(dataset, titles, drives=dataset.drives[: arguments.sheet])
        table = pd.DataFrame(domains.values(), index=domains.keys()).reset_index(names="drive")
        style.save(sheet, "contact_sheet", table, out)


def main() -> int:
    """Parse the arguments, measure the drives, print the table, keep the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("synthetic", help="folder of synthetic drives")
    add("real", help="folder of real ones; both in KITTI Raw's layout")
    add("--before", help="a third folder, such as one by an older version")
    add("--size", type=int, nargs=2, default=(64, 208), metavar=("HEIGHT", "WIDTH"))
    add("--bands", type=whole_number, default=8, help="bands of rows for depth")
    add("--max-frames", type=whole_number, default=24, help="frames of each drive")
    add("--camera", type=int, default=2, help="2 is the left one, 3 the right one")
    add("--out", help="folder for the figures")
    add("--sheet", type=whole_number, default=10, help="drives on the contact sheet")
    try:
        compare(parser.parse_args())
    except (ValueError, OSError) as error:
        print(f"compare_drives: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
