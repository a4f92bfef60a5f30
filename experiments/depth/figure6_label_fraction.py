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
from experiments.common.style import look
from experiments.depth.figures import add_depth_bar, depth_scale, draw_lidar

CONSTANT = "constant map"  # the method that looks at no image


SHOWN = "mean, 95 % band; hollow: a seed"
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


def _draw(table: pd.DataFrame, axes: Axes) -> str:
    """Draw each method's accuracy against the share of labeled images; return what is there.

    Lines are means over seeds, bands their 95 % intervals where there are three seeds.
    """
    for method, rows in table.groupby("method", sort=False):
        color, marker, _ = look(method)
        by_fraction = rows.groupby("fraction")["delta1"]
        mean, (low, high) = by_fraction.mean(), _bounds(by_fraction)
        axes.plot(mean.index, mean, label=method, **look(method).line)
        axes.fill_between(mean.index, low, high, color=color, alpha=0.15, linewidth=0)
        if method != CONSTANT:
            small = dict(s=8, alpha=0.6, linewidths=0.6, facecolors="none", edgecolors=color)
            axes.scatter(rows["fraction"], rows["delta1"], marker=marker, **small)
    _label_fractions(axes, table)
    axes.set(ylabel=r"share of pixels with $\delta < 1.25$")
    means = table.groupby(["method", "fraction"], sort=False)["delta1"].mean()
    told = [
        f"{method} {of[method].iloc[0]:.3f} to {of[method].iloc[-1]:.3f}"
        for of in [means.sort_index()]
        for method in table["method"].unique()
    ]
    return (
        "delta1 against the share of labeled images, mean and 95 % band over seeds, from the "
        f"fewest labels to the most: {', '.join(told)}."
    )


def draw_domains(tables: dict[str, pd.DataFrame]) -> Figure:
    """Draw domains side by side, by their names: accuracy by share of labels, one dot a seed.

    The tables have the columns `method`, `fraction`, `seed` and `delta1`.
    """
    figure, grid = plt.subplots(1, len(tables), figsize=(4.4 * len(tables), 3.3), squeeze=False)
    captions = []
    for axes, (name, table) in zip(grid[0], tables.items(), strict=True):
        axes.set_title(name)
        if len(table):
            captions.append(f"{name}: {_draw(table, axes)}")
            lines = axes.get_legend_handles_labels()  # one below stands for all
        else:
            axes.text(0.5, 0.5, "no records", ha="center", transform=axes.transAxes)
            captions.append(f"{name}: no records.")
    if any(map(len, tables.values())):
        below = dict(loc="outside lower center", ncols=4, title=SHOWN, title_fontsize=8)
        figure.legend(*lines, **below)
    figure.set_label(" ".join(captions))
    return figure


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
        pairs.append((values.mean(),) * 2 if low is None else (low, high))
    return np.array(pairs).T


def _label_fractions(axes: Axes, table: pd.DataFrame) -> None:
    fractions = sorted(table["fraction"].unique())
    axes.set_xscale("log", base=2)
    axes.set_xticks(fractions, [f"1/{round(1 / f)}" if f < 1 else "1" for f in fractions])
    axes.minorticks_off()
    axes.set_xlabel("labeled images")


def draw_predictions(
    images: Tensor, lidar: Tensor, predictions: dict[str, Tensor], *, cap: float = 80.0
) -> Figure:
    """Draw, for each frame, the image, what was measured, and each method's depth, by title.

    Images are uint8 [N, 3, H, W], depth maps [N, H, W] in meters; `cap` ends the color scale.
    """
    titles = ["image", "measured", *predictions]
    height, width = images.shape[-2:]
    size = (3.1 * len(titles), 3.1 * height / width * len(images) + 0.9)
    figure, grid = plt.subplots(len(images), len(titles), figsize=size, squeeze=False)
    for row in range(len(images)):
        picture = images[row].permute(1, 2, 0).numpy()
        _image(grid[row][0], picture)
        scale = draw_lidar(grid[row][1], picture, lidar[row].numpy(), 900 / width, cap)
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
