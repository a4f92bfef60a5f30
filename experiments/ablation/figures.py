"""The ablation's pictures: differences of accuracy with intervals, a panel a domain."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.common.style import INK, MUTED, look

CLEAR = ("ahead", "a little ahead", "behind", "a little behind")  # what `analysis` says


def draw_differences(
    table: pd.DataFrame, names: Sequence[str], baseline: str, title: str
) -> Figure:
    """Draw how far methods are ahead of a baseline: a row a method, a panel a domain.

    Filled marks are clear differences after correction, hollow ones are open. `table` is
    `analysis.compare`'s, of one number of labels a domain; `names` are the methods, from the top.
    """
    domains = list(dict.fromkeys(table["domain"]))
    size = 2.3 * len(domains) + 1.4, 0.26 * len(names) + 1.5
    figure, grid = plt.subplots(1, len(domains), figsize=size, sharey=True, squeeze=False)
    for axes, domain in zip(grid[0], domains, strict=True):
        rows = table[table["domain"] == domain].set_index("name").reindex(names)
        _panel(axes, rows)
        axes.set_title(_title(table, domain))
    grid[0, 0].set_yticks(range(len(names)), names)
    grid[0, 0].set_ylim(len(names) - 0.5, -0.5)
    grid[0, len(domains) // 2].set_xlabel(f"accuracy minus that of {baseline}, points")
    marks = [
        Line2D([], [], label="clear after correction for all comparisons", **_mark(True)),
        Line2D([], [], label="not clear after it; bars: 95 %, uncorrected", **_mark(False)),
    ]
    figure.suptitle(title, fontsize=11)
    figure.legend(handles=marks, loc="outside lower center", ncols=2)
    figure.set_label(
        f"{title}: how far {len(names)} methods (rows) are ahead of {baseline} in accuracy, in "
        f"points with 95 % intervals, in {', '.join(domains)} (columns). Filled marks are clear "
        "differences after correction for all comparisons, hollow ones are not. Clear: "
        f"{_clear(table, names) or 'none'}."
    )
    return figure


def _clear(table: pd.DataFrame, names: Sequence[str]) -> str:
    rows = table[table["name"].isin(names) & table["says"].isin(CLEAR)]
    return "; ".join(f"{r.name_} {100 * r.difference:+.1f} ({r.domain})" for r in
                     rows.rename(columns={"name": "name_"}).itertuples())  # fmt: skip


def _mark(clear: bool) -> dict[str, Any]:
    color = INK if clear else MUTED
    face = color if clear else "white"
    return dict(color=color, marker="o", markersize=5, markerfacecolor=face)


def _panel(axes: Axes, rows: pd.DataFrame) -> None:
    axes.axvline(0, color=MUTED, linewidth=0.8)
    for place, row in enumerate(rows.itertuples()):
        if np.isnan(row.difference):
            axes.text(0, place, "not run", color=MUTED, fontsize=7, ha="center", va="center",
                      bbox=dict(color="w", pad=1))  # fmt: skip
            continue
        mark = _mark(row.says in CLEAR)
        axes.hlines(place, 100 * row.low, 100 * row.high, color=mark["color"])
        axes.plot(100 * row.difference, place, **mark)


def _title(table: pd.DataFrame, domain: str) -> str:
    (labels,) = table.loc[table["domain"] == domain, "labels"].unique()
    unit = {"spiral": "{} a class", "digits": "{} a class"}.get(domain, "1 in {}")
    return f"{domain}, {unit.format(labels)}"


def draw_by_labels(table: pd.DataFrame, names: Sequence[str]) -> Figure:
    """Draw the accuracy of methods over the number of labels, with the gain over BN beside it.

    `table` is `analysis.compare`'s, of one domain and the peers.
    """
    (domain,) = table["domain"].unique()
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.0))
    for shift, name in enumerate(names):
        rows = table[table["name"] == name].sort_values("labels")
        left.plot(rows["labels"], 100 * rows["accuracy"], label=name, **look(name).line)
        # Beside each other, around the number of labels.
        place = rows["labels"] * 1.025 ** (shift - (len(names) - 1) / 2)
        errors = [rows["difference"] - rows["low"], rows["high"] - rows["difference"]]
        errors = np.nan_to_num(100 * np.array(errors, dtype=float))
        line = look(name).line | {"linestyle": ""}
        right.errorbar(place, 100 * rows["difference"], errors, capsize=2, **line)
    labels = sorted(table["labels"].unique())
    for axes, title in ((left, "accuracy, %"), (right, "minus BN's, points")):
        axes.set_xscale("log")
        axes.set_xticks(labels, labels)
        axes.minorticks_off()
        axes.set_xlabel("labels a class")
        axes.set_ylabel(title)
        axes.set_title(domain)
    right.axhline(0, color=MUTED, linewidth=0.8)
    figure.legend(*left.get_legend_handles_labels(), loc="outside right center")
    figure.set_label(
        f"On {domain}: accuracy of {', '.join(names)} against the number of labels a class (left), "
        "and their lead over BN with 95 % intervals (right)."
    )
    return figure
