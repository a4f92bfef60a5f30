"""Pictures of depth: drives with their lidar, and what happens through training."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from experiments.common.style import DEPTH_MAP, look
from ubnlib.kitti import KittiRaw

PARTS = ("labeled", "unlabeled", "test")


def depth_scale(cap: float) -> dict:
    """Return the color options of depth in meters up to `cap`; near is bright, far is dark."""
    return dict(cmap=DEPTH_MAP, norm=LogNorm(cap / 33, cap))


def draw_lidar(axes: Axes, picture: np.ndarray, depth: np.ndarray, size: float, cap: float):
    """Draw lidar points [H, W], in meters, over a darkened image, uint8 [H, W, 3].

    `size` is that of a point, in points squared. Returns the points, for `add_depth_bar`.
    """
    axes.imshow((0.35 * picture).astype(np.uint8))
    axes.axis("off")
    v, u = depth.nonzero()
    return axes.scatter(u, v, c=depth[v, u], s=size, marker="s", linewidths=0, **depth_scale(cap))


def add_depth_bar(figure: Figure, scale: ScalarMappable, grid: np.ndarray) -> None:
    """Add a horizontal depth scale below all axes of a grid."""
    bar = figure.colorbar(scale, ax=grid, location="bottom", aspect=60, shrink=0.6, pad=0.02)
    bar.set_label("depth [m]")
    ticks = [t for t in (0.5, 1, 3, 5, 10, 20, 40, 80) if scale.norm.vmin <= t <= scale.norm.vmax]
    bar.set_ticks(ticks, labels=[f"{t:g}" for t in ticks])
    bar.ax.minorticks_off()


def draw_contact_sheet(
    dataset: KittiRaw,
    titles: Mapping[str, str] | None = None,
    *,
    drives: Sequence[str] | None = None,
    columns: int = 2,
) -> Figure:
    """Draw the middle frame of each drive and the lidar over it, a few drives a row.

    Drives, real or synthetic, go by their names, all by default, and titles too; a drive without
    the left camera is shown by the one that it has.
    """
    titles, drives = titles or {}, dataset.drives if drives is None else drives
    if unknown := sorted(set(drives) - set(dataset.drives)):
        raise ValueError(
            f"Drive {', '.join(unknown)} is not in the dataset: expected names among "
            f"{', '.join(dataset.drives)}."
        )
    frames = [_middle_frame(dataset, name) for name in drives]
    columns = min(columns, len(frames))
    height, width = dataset.image(frames[0]).shape[1:]
    rows, cell = -(-len(frames) // columns), 6.5 / columns
    size = (2 * columns * cell, rows * (cell * height / width + 0.26) + 0.7)
    figure, grid = plt.subplots(rows, 2 * columns, figsize=size, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for place, (name, index) in enumerate(zip(drives, frames, strict=True)):
        row, column = divmod(place, columns)
        left, right = grid[row][2 * column : 2 * column + 2]
        picture = dataset.image(index).permute(1, 2, 0).numpy()
        left.imshow(picture)
        depth = dataset.depth(index).numpy()
        scale = draw_lidar(right, picture, depth, 330 / columns / width, 80.0)
        left.set_title(titles.get(name, name), loc="left", fontsize=8)
    add_depth_bar(figure, scale, grid)
    shown = "; ".join(titles.get(name, name) for name in drives)
    figure.set_label(
        "The middle frame of each drive, and beside it the lidar's depth over the darkened image, "
        f"near bright and far dark: {shown}."
    )
    return figure


def _middle_frame(dataset: KittiRaw, drive: str) -> int:
    mine = [index for index, key in enumerate(dataset.keys) if key.drive_name == drive]
    seen = [index for index in mine if dataset.keys[index].camera == 2] or mine
    return seen[len(seen) // 2]


# --- training: curves of records, by method -------------------------------------------------------

Curves = Mapping[str, Mapping[str, Sequence[float]]]


def accuracy_table(curves: Curves) -> pd.DataFrame:
    """Return the accuracies of runs as one table: `method`, `frames`, `step`, `delta1`."""
    rows = [
        [method, part, step, value]
        for method, curve in curves.items()
        for part in PARTS
        for step, value in zip(curve["step"], curve.get(part, ()), strict=False)
    ]
    return pd.DataFrame(rows, columns=["method", "frames", "step", "delta1"])


def draw_accuracy(table: pd.DataFrame) -> Figure:
    """Draw what `accuracy_table` returns, a panel for each method."""
    methods = table["method"].unique()
    size = (3 * len(methods), 2.6)
    figure, row = plt.subplots(1, len(methods), figsize=size, sharey=True, squeeze=False)
    for axes, method in zip(row[0], methods, strict=True):
        for part in PARTS:
            rows = table[(table["method"] == method) & (table["frames"] == part)]
            axes.plot(rows["step"], rows["delta1"], label=part, **look(part).line)
        axes.set(title=method, xlabel="step", ylim=(0, 1))
    row[0][0].set_ylabel(r"$\delta < 1.25$")
    row[0][0].legend()
    last = table.groupby(["method", "frames"], sort=False)["delta1"].last()
    told = ", ".join(f"{' '.join(names)} {value:.2f}" for names, value in last.items())
    figure.set_label(
        "Share of pixels with delta < 1.25 against the training step on labeled, unlabeled and "
        f"test frames, a panel for each method; at the end: {told}."
    )
    return figure


def statistics_table(curves: Curves) -> pd.DataFrame:
    """Return the gaps of `evaluate.statistics_of_parts` through runs, one row a layer and step."""
    rows = [
        [method, *name.split("/"), step, value]
        for method, curve in curves.items()
        for name, values in curve.items()
        if "/" in name
        for step, value in zip(curve["step"], values, strict=True)
    ]
    return pd.DataFrame(rows, columns=["method", "gap", "layer", "step", "value"])


def draw_statistics(table: pd.DataFrame, gaps: Mapping[str, str]) -> Figure:
    """Draw layers' gaps at the end, and thin and hollow at the first point measured.

    A panel for each kind of gap, by its title.
    """
    size = (4.2 * len(gaps), 3.2)
    figure, row = plt.subplots(1, len(gaps), figsize=size, sharey=True, squeeze=False)
    for axes, (gap, title) in zip(row[0], gaps.items(), strict=True):
        some = table[table["gap"] == gap]
        for method, rows in some.groupby("method", sort=False):
            steps = (min(rows.step), max(rows.step))
            first, last = (rows[rows["step"] == at] for at in steps)
            for shown, at, how in zip((first, last), steps, ("aside", "line"), strict=True):
                values = shown["value"].to_numpy()
                axes.plot(values, label=f"{method}, step {at:g}", **getattr(look(method), how))
            axes.set_xticks(np.arange(len(last)), last["layer"], rotation=90, fontsize=7)
        axes.set(title=title, yscale="log")
    row[0][0].set_ylabel("distance of statistics")
    handles = row[0][0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=len(handles[0]))
    figure.set_label(
        f"Distances of statistics, layer by layer: {'; '.join(gaps.values())} (panels), of "
        f"{', '.join(table['method'].unique())}, early (thin, hollow marks) and at the end."
    )
    return figure
