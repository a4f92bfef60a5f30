"""Depth training: accuracies of labeled, unlabeled and test frames, and layers' statistics."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

PARTS = ("labeled", "unlabeled", "test")


def accuracy_table(curves: Mapping[str, Mapping[str, Sequence[float]]]) -> pd.DataFrame:
    """Return the accuracies of runs as one table: `method`, `frames`, `step`, `delta1`.

    Args:
        curves: By method, the curves of one run's record.
    """
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
            axes.plot(rows["step"], rows["delta1"], marker="o", markersize=3, label=part)
        axes.set(title=method, xlabel="step", ylim=(0, 1))
    row[0][0].set_ylabel(r"$\delta < 1.25$")
    row[0][0].legend()
    return figure


def statistics_table(curves: Mapping[str, Mapping[str, Sequence[float]]]) -> pd.DataFrame:
    """Return the layers' gaps through runs: `method`, `gap`, `layer`, `step`, `value`.

    Gaps are those of `experiments.depth.evaluate.statistics_of_parts`.
    """
    rows = [
        [method, *name.split("/"), step, value]
        for method, curve in curves.items()
        for name, values in curve.items()
        if "/" in name
        for step, value in zip(curve["step"], values, strict=True)
    ]
    return pd.DataFrame(rows, columns=["method", "gap", "layer", "step", "value"])


def draw_statistics(table: pd.DataFrame, gaps: Mapping[str, str]) -> Figure:
    """Draw layers' gaps at the end (solid) and at the first point measured (dotted).

    A panel for each kind of gap and a color for each method.

    Args:
        table: As `statistics_table` returns it.
        gaps: Kinds of gap to show, with their titles.
    """
    size = (4.2 * len(gaps), 2.8)
    figure, row = plt.subplots(1, len(gaps), figsize=size, sharey=True, squeeze=False)
    for axes, (gap, title) in zip(row[0], gaps.items(), strict=True):
        some = table[table["gap"] == gap]
        for color, (method, rows) in enumerate(some.groupby("method", sort=False)):
            style = dict(color=f"C{color}", linewidth=1)
            first, last = (rows[rows["step"] == at] for at in (min(rows.step), max(rows.step)))
            axes.plot(np.arange(len(first)), first["value"], linestyle=":", **style)
            axes.plot(np.arange(len(last)), last["value"], marker="o", markersize=3,
                      label=method, **style)  # fmt: skip
            axes.set_xticks(np.arange(len(last)), last["layer"], rotation=90, fontsize=7)
        axes.set(title=title, yscale="log")
    row[0][0].set_ylabel("distance of statistics")
    row[0][0].legend()
    return figure
