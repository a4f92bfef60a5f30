"""The ablation's pictures: differences of accuracy with intervals, a panel a domain."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.common.style import BLUE, GRAY, ORANGE

COLORS = {"ahead": BLUE, "a little ahead": BLUE, "behind": ORANGE, "a little behind": ORANGE}


def draw_differences(table: pd.DataFrame, names: Sequence[str], baseline: str) -> Figure:
    """Draw how far methods are ahead of a baseline: a row a method, a panel a domain.

    Filled marks are clear differences after correction, hollow ones are open. `table` is
    `analysis.compare`'s, of one number of labels a domain; `names` are the methods, from the top.
    """
    domains = list(dict.fromkeys(table["domain"]))
    size = 2.3 * len(domains) + 1.4, 0.26 * len(names) + 1.0
    figure, grid = plt.subplots(1, len(domains), figsize=size, sharey=True, squeeze=False)
    for axes, domain in zip(grid[0], domains, strict=True):
        rows = table[table["domain"] == domain].set_index("name").reindex(names)
        _panel(axes, rows)
        axes.set_title(_title(table, domain))
    grid[0, 0].set_yticks(range(len(names)), names)
    grid[0, 0].invert_yaxis()
    figure.supxlabel(f"accuracy minus that of {baseline}, points", fontsize=9)
    return figure


def _panel(axes: Axes, rows: pd.DataFrame) -> None:
    axes.axvline(0, color=GRAY, linewidth=0.8)
    for place, row in enumerate(rows.itertuples()):
        if np.isnan(row.difference):
            axes.text(0, place, "not run", color=GRAY, fontsize=7, ha="center", va="center")
            continue
        color = COLORS.get(row.says, GRAY)
        axes.hlines(place, 100 * row.low, 100 * row.high, color=color)
        face = color if row.says in COLORS else "white"
        axes.plot(100 * row.difference, place, "o", color=color, mfc=face, markersize=5)


def _title(table: pd.DataFrame, domain: str) -> str:
    (labels,) = table.loc[table["domain"] == domain, "labels"].unique()
    unit = {"spiral": "{} a class", "digits": "{} a class"}.get(domain, "1 in {}")
    return f"{domain}, {unit.format(labels)}"


def draw_by_labels(table: pd.DataFrame, colors: Mapping[str, str]) -> Figure:
    """Draw the accuracy of methods over the number of labels, with the gain over BN beside it.

    `table` is `analysis.compare`'s, of one domain and the peers.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.0))
    for shift, (name, color) in enumerate(colors.items()):
        rows = table[table["name"] == name].sort_values("labels")
        left.plot(rows["labels"], 100 * rows["accuracy"], color=color, marker="o", label=name)
        place = rows["labels"] * 1.04**shift  # beside each other, not over each other
        errors = [rows["difference"] - rows["low"], rows["high"] - rows["difference"]]
        errors = np.nan_to_num(100 * np.array(errors, dtype=float))
        right.errorbar(
            place, 100 * rows["difference"], errors, color=color, marker="o", markersize=4,
            capsize=2,
        )  # fmt: skip
    labels = sorted(table["labels"].unique())
    for axes, title in ((left, "accuracy, %"), (right, "minus BN's, points")):
        axes.set_xscale("log")
        axes.set_xticks(labels, labels)
        axes.minorticks_off()
        axes.set_xlabel("labels a class")
        axes.set_ylabel(title)
    right.axhline(0, color=GRAY, linewidth=0.8)
    left.legend(fontsize=7)
    return figure
