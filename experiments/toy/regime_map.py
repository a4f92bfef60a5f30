"""The regime map beside Figure 2: by how much UBN is ahead of BN, over two settings at a time."""

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

MARKS = {"wins": "+", "loses": "\N{MINUS SIGN}", "ties": "=", "open": ""}
LIMIT = 0.15  # difference of accuracy at which the color is full


def draw(maps: dict[str, tuple[pd.DataFrame, str, str]], columns: int = 3) -> Figure:
    """Draw maps, each cell with the mean difference and a mark: + wins, = ties, - loses, none open.

    Args:
        maps: For each title a table as `experiments.toy.regimes.compare` returns it, and the names
            of the columns that run down and across.
        columns: Maps beside each other.
    """
    rows = -(-len(maps) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(3.9 * columns, 3.0 * rows), squeeze=False)
    for axes in grid.flat[len(maps) :]:
        axes.set_visible(False)
    for axes, (title, (table, down, across)) in zip(grid.flat, maps.items(), strict=False):
        image = _map(axes, table, down, across)
        axes.set_title(title)
    figure.colorbar(image, ax=grid, label="accuracy, UBN \N{MINUS SIGN} BN", shrink=0.9)
    return figure


def _map(axes: Axes, table: pd.DataFrame, down: str, across: str) -> Any:
    heights, widths = table[down].drop_duplicates(), table[across].drop_duplicates()
    cells = {(cell[down], cell[across]): cell for cell in table.to_dict("records")}
    differences = [[cells[y, x]["difference"] for x in widths] for y in heights]
    image = axes.imshow(differences, cmap="RdBu", vmin=-LIMIT, vmax=LIMIT, aspect="auto")
    for row, y in enumerate(heights):
        for column, x in enumerate(widths):
            cell = cells[y, x]
            text = f"{cell['difference']:+.3f} {MARKS[cell['outcome']]}".replace(
                "-", "\N{MINUS SIGN}"
            )
            strong = abs(cell["difference"]) > 0.7 * LIMIT
            axes.text(column, row, text, ha="center", va="center", fontsize=8,
                      color="w" if strong else "k")  # fmt: skip
    axes.set_xticks(range(len(widths)), map(_label, widths))
    axes.set_yticks(range(len(heights)), map(_label, heights))
    axes.set(xlabel=across.replace("_", " "), ylabel=down.replace("_", " "))
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return image


def _label(value: Any) -> str:
    return " + ".join(map(str, value)) if isinstance(value, tuple | list) else f"{value}"
