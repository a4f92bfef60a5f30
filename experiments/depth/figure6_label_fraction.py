"""Figure 6: accuracy by share of labeled images; and predictions beside the measured depth."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from experiments.common.records import check_rates, side_by_side
from experiments.common.stats import interval
from experiments.common.style import FAINT, INK, look
from experiments.depth.figures import add_depth_bar, depth_scale, draw_lidar

CONSTANT = "constant map"  # the method that looks at no image


SHOWN = "mean, 95 % band; hollow: a seed"
POINT, PAPER = 0.01, 0.06  # of accuracy; the paper's "more than 6 %" is read as points
SCARCE = 0.02  # what all labels bring where the claims call labels scarce


def of_study(records: pd.DataFrame, domain: str) -> pd.DataFrame:
    """Return a domain's runs of the study, of all arms, with `method` and `fraction`.

    Runs of the constant map are among them, and none of other labels or batches than the study's
    own (where_it_helps.py); records are those of `read_records`.

    Raises:
        ValueError: Runs of a method differ in their learning rate at the same labels.
    """
    needed = ["domain", "experiment", "arm", "labels.kind", "labels.k", "labeled_batch", "seed"]
    needed += ["learning_rate", "delta1"]
    runs = records.reindex(columns=[*needed, *records.columns.difference(needed)])
    nets = runs["experiment"] == "depth"
    usual = (runs["labeled_batch"] == 16) | (runs["arm"] == "BN, equal work")
    shown = ~nets | (usual & (runs["labels.kind"] != "places"))
    shown &= nets | (runs["experiment"] == "constant_map")
    runs = runs[shown & (runs["domain"] == domain)]
    check_rates(runs, ["arm", "labels.k"])
    method = runs["arm"].where(nets, CONSTANT)
    runs = runs.assign(method=method, fraction=1 / runs["labels.k"].astype(float))
    return runs.sort_values(["experiment", "method", "seed"], ignore_index=True)


def draw_domains(tables: dict[str, pd.DataFrame]) -> Figure:
    """Draw domains side by side, by their names: accuracies above, UBN's gain over BN below.

    The tables have the columns `method`, `fraction`, `seed` and `delta1`.
    """
    shape = dict(figsize=(3.1 * len(tables), 4.8), height_ratios=(1.7, 1), squeeze=False)
    figure, grid = plt.subplots(2, len(tables), sharex="col", **shape)
    captions = []
    for (above, below), (name, table) in zip(grid.T, tables.items(), strict=True):
        above.set_title(name)
        below.sharey(grid[1, 0])
        if len(table):
            captions.append(f"{name}: {_draw_accuracies(above, table)}{_draw_gains(below, table)}")
            lines = above.get_legend_handles_labels()  # one below stands for all
        else:
            above.text(0.5, 0.5, "no records", ha="center", transform=above.transAxes)
            captions.append(f"{name}: no records.")
    grid[0, 0].set_ylabel(r"share of pixels with $\delta < 1.25$")
    grid[1, 0].set(ylabel="UBN \N{MINUS SIGN} BN", ylim=(-0.03, 0.07))
    grid[1, 0].text(0, PAPER, " the paper: 6 points", va="bottom", fontsize=8,
                    transform=grid[1, 0].get_yaxis_transform())  # fmt: skip
    if any(map(len, tables.values())):
        place = dict(loc="outside lower center", ncols=4, title_fontsize=8)
        figure.legend(*lines, title=f"{SHOWN}; below, gray: \N{PLUS-MINUS SIGN}1 point", **place)
    figure.set_label(
        "Accuracy (delta1) against the share of labeled images, and below UBN's minus BN's, paired "
        f"by seed, each with 95 % intervals over seeds. {' '.join(captions)}"
    )
    return figure


def _draw_accuracies(axes: Axes, table: pd.DataFrame) -> str:
    """Draw each method's mean, its 95 % band where there are three seeds, and its seeds."""
    for method, rows in table.groupby("method", sort=False):
        color, marker, _ = look(method)
        by_fraction = rows.groupby("fraction")["delta1"]
        mean, (low, high) = by_fraction.mean(), _bounds(by_fraction)
        axes.plot(mean.index, mean, label=method, **look(method).line)
        axes.fill_between(mean.index, low, high, color=color, alpha=0.15, linewidth=0)
        if method != CONSTANT:
            small = dict(s=8, alpha=0.6, linewidths=0.6, facecolors="none", edgecolors=color)
            axes.scatter(rows["fraction"], rows["delta1"], marker=marker, **small)
    means = table.groupby(["method", "fraction"])["delta1"].mean()
    ends = {method: means[method].iloc[[0, -1]].tolist() for method in table["method"].unique()}
    told = (f"{method} {first:.3f} to {last:.3f}" for method, (first, last) in ends.items())
    return f"from the fewest labels to the most {', '.join(told)}"


def _draw_gains(axes: Axes, table: pd.DataFrame) -> str:
    """Draw UBN's paired differences to BN, between a point and what the paper claims."""
    found = gains(table).query("method == 'UBN'")
    axes.axhspan(-POINT, POINT, color=FAINT, alpha=0.5, linewidth=0)
    axes.axhline(PAPER, color=INK, linewidth=0.8, linestyle=":")
    color, marker, _ = look("UBN")
    error = [found["gain"] - found["low"], found["high"] - found["gain"]]
    axes.errorbar(found["fraction"], found["gain"], error, fmt=marker, color=color, capsize=3)
    fractions = sorted(table["fraction"].unique())
    axes.set_xscale("log", base=2)
    axes.set_xticks(fractions, [f"1/{round(1 / f)}" if f < 1 else "all" for f in fractions])
    axes.minorticks_off()
    axes.set_xlabel("share of images that are labeled")
    told = ", ".join(
        f"{row.gain:+.3f} at 1/{round(1 / row.fraction)}" for row in found.itertuples()
    )
    return f"; UBN minus BN {told or 'not there'}."


def gains(table: pd.DataFrame) -> pd.DataFrame:
    """Return how far each method is ahead of BN, paired by seed: a row for each share.

    `gain` is the difference of delta1, `low` and `high` its 95 % interval, `relative` the gain as a
    share of BN's mean, and `closed` its share of the way from BN to BN with all labels, by the
    seeds that have both; NaN without them, and where that way is less than two points: labels are
    not scarce there.

    Raises:
        ValueError: There are several runs of one seed.
    """
    wide = side_by_side(table, ["fraction", "seed"], "method", "delta1")
    of_all = wide["BN"].loc[1.0:].droplevel("fraction")
    rows = []
    for method in (m for m in table["method"].unique() if m != "BN"):
        for fraction, pairs in wide[[method, "BN"]].dropna().groupby("fraction"):
            difference = (pairs[method] - pairs["BN"]).to_numpy()
            mean, (low, high) = difference.mean(), interval(difference)
            way = (of_all - pairs["BN"].droplevel("fraction")).mean()
            closed = mean / way if fraction < 1 and way >= SCARCE else np.nan
            numbers = [mean, low, high, mean / pairs["BN"].mean(), closed]
            rows.append([method, fraction, len(difference), *numbers])
    columns = ["method", "fraction", "seeds", "gain", "low", "high", "relative", "closed"]
    return pd.DataFrame(rows, columns=columns)


def _bounds(groups: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the intervals of groups; no width where there are too few values for one."""
    pairs = []
    for _, values in groups:
        low, high = interval(values.to_numpy())
        pairs.append((values.mean(),) * 2 if np.isnan(low) else (low, high))
    return np.array(pairs).T


def draw_predictions(
    images: Tensor, lidar: Tensor, predictions: dict[str, Tensor], *, cap: float = 80.0
) -> Figure:
    """Draw, for each frame, the image, what was measured, and each method's depth, by title.

    Images are uint8 [N, 3, H, W], depth maps [N, H, W] in meters; `cap` ends the color scale.
    """
    titles = ["image", "measured", *predictions]
    height, width = images.shape[-2:]
    size = (1.9 * len(titles), 1.9 * height / width * len(images) + 0.8)
    figure, grid = plt.subplots(len(images), len(titles), figsize=size, squeeze=False)
    for row in range(len(images)):
        picture = images[row].permute(1, 2, 0).numpy()
        _image(grid[row][0], picture)
        scale = draw_lidar(grid[row][1], picture, lidar[row].numpy(), 340 / width, cap)
        for axes, depth in zip(grid[row][2:], predictions.values(), strict=True):
            _image(axes, depth[row].numpy(), **depth_scale(cap))
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title)
    add_depth_bar(figure, scale, grid)
    figure.set_label(
        f"Test frames (rows): the image, the lidar's depth over it, and the depth that "
        f"{', '.join(predictions)} predict; near is bright, far is dark, in meters."
    )
    return figure


def _image(axes: Axes, pixels: np.ndarray, **options) -> None:
    axes.imshow(pixels, **options)
    axes.axis("off")
