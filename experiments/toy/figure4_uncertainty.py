"""Figure 4: where predictions vary when the unlabeled batch behind the statistics does."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

from experiments.common.style import BLUE, ORANGE
from experiments.toy import SpiralData
from experiments.toy.plane import show_boundary, show_map, show_points

SCORES = {
    "spread": ("standard deviation of the predictions", BLUE, "o"),
    "doubt": ("1 - mean prediction's probability", ORANGE, "s"),
}


def draw(probabilities: Tensor, data: SpiralData) -> Figure:
    """Draw the standard deviation over the plane, with the mean prediction's boundary and the data.

    Args:
        probabilities: Class 1's over `spiral_plane.plane()`, [S, points^2].
        data: The net's data: labeled points are filled, unlabeled ones hollow.
    """
    figure, axes = plt.subplots(figsize=(4.7, 4.0))
    image = show_map(axes, probabilities.std(0), cmap="viridis", vmin=0)
    show_boundary(axes, probabilities.mean(0), colors="w", linewidths=1)
    axes.scatter(*data.unlabeled.T, s=5, facecolors="none", edgecolors="w", linewidths=0.3)
    show_points(axes, data, unlabeled=False)
    figure.colorbar(image, ax=axes, label="standard deviation of P(class 1)")
    return figure


def draw_comparison(table: pd.DataFrame, metrics: dict[str, str]) -> Figure:
    """Draw each method's areas under the ROC curve with their intervals over seeds.

    Args:
        table: Columns `method`, `metric`, `mean`, `low` and `high`; a metric is `SCORE_WHAT_auroc`
            with a score of `SCORES`. Rows without a number are left out.
        metrics: A panel's title for each WHAT.
    """
    methods = list(table["method"].unique())
    size = (2.5 * len(metrics) + 1.2, 0.34 * len(methods) + 1.3)
    figure, row = plt.subplots(1, len(metrics), figsize=size, sharey=True, squeeze=False)
    for axes, (what, title) in zip(row[0], metrics.items(), strict=True):
        axes.axvline(0.5, color="#BBBBBB", linewidth=1)  # knows nothing
        for shift, (score, (label, color, marker)) in zip(
            (-0.12, 0.12), SCORES.items(), strict=True
        ):
            rows = table[table["metric"] == f"{score}_{what}_auroc"].dropna(subset="mean")
            heights = [methods.index(method) + shift for method in rows["method"]]
            axes.hlines(heights, rows["low"], rows["high"], color=color)
            axes.scatter(rows["mean"], heights, color=color, marker=marker, s=18, label=label)
        axes.set(title=title, xlim=(0, 1), xlabel="AUROC", yticks=range(len(methods)))
        axes.set_yticklabels(methods)
    row[0][0].invert_yaxis()
    figure.legend(*row[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure
