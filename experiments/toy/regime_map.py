"""The regime map beside Figure 2: in which settings UBN wins, ties or loses against BN."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.common.records import Record
from experiments.common.stats import interval
from experiments.common.style import GAIN_MAP
from experiments.common.training import BNConfig, NormConfig, UBNConfig
from experiments.toy.train import SpiralConfig

MARGIN = 0.02  # differences of accuracy below it are ties
MARKS = {"wins": "\N{BLACK UP-POINTING TRIANGLE}", "loses": "\N{BLACK DOWN-POINTING TRIANGLE}",
         "ties": "=", "open": ""}  # fmt: skip
LIMIT = 0.15  # difference of accuracy at which the color is full

READINGS: dict[str, UBNConfig] = {
    "corrected": UBNConfig(),
    "none (literal)": UBNConfig(stats_grad="none"),
    "labeled": UBNConfig(stats_grad="labeled"),
    "all": UBNConfig(stats_grad="all"),
    "averages": UBNConfig(source="running"),
    "slow averages": UBNConfig(source="running", momentum=0.01),
}

Outcome = Literal["wins", "ties", "loses", "open"]


class Pair(NamedTuple):
    """The runs of one cell of a map: UBN in some reading, and BN in the same setting."""

    setting: dict[str, Any]  # what distinguishes the cell, with the reading
    ubn: SpiralConfig
    bn: SpiralConfig


def pairs(
    base: SpiralConfig, readings: Sequence[str] = ("corrected",), **factors: Sequence[Any]
) -> list[Pair]:
    """Return a cell for each reading of `READINGS` and each combination of the factors' values.

    Factors are fields of the configuration with their values. A `batch` factor has pairs (labeled,
    unlabeled) of batch sizes.

    Example:
        >>> cells = pairs(SpiralConfig(), noise=[0.0, 0.5], batch=[(16, 64), (50, 400)])
        >>> [(cell.ubn.noise, cell.ubn.unlabeled_batch) for cell in cells]
        [(0.0, 64), (0.0, 400), (0.5, 64), (0.5, 400)]
    """
    settings = [
        dict(zip(factors, values, strict=True)) for values in itertools.product(*factors.values())
    ]
    return [
        Pair(
            {"reading": reading} | setting,
            _configured(base, READINGS[reading], setting),
            _configured(base, BNConfig(), setting),
        )
        for reading in readings
        for setting in settings
    ]


def _configured(base: SpiralConfig, norm: NormConfig, setting: dict[str, Any]) -> SpiralConfig:
    """Return a cell's configuration, checked; BN's does not depend on what it never sees."""
    values = {name: value for name, value in setting.items() if name != "batch"}
    if "batch" in setting:
        values |= dict(zip(("labeled_batch", "unlabeled_batch"), setting["batch"], strict=True))
    if norm.kind == "bn":
        values.pop("unlabeled_batch", None)
    return SpiralConfig(**base.model_dump() | {"norm": norm} | values)


def compare(cells: Sequence[Pair], obtain: Callable[[SpiralConfig], Record]) -> pd.DataFrame:
    """Return a table with one row a cell: accuracies, their paired difference, and who wins.

    Columns are the cells' settings, `bn` and `ubn` (mean accuracies on the dense spiral),
    `difference` with its 95 % interval `low` and `high`, `ahead` (share of seeds in which UBN is
    ahead), `seeds` and `outcome`; see `outcome`.
    """
    rows = []
    for setting, *configs in cells:
        ubn, bn = (np.array(obtain(config).metrics["test_accuracy"]) for config in configs)
        difference = ubn - bn
        low, high = interval(difference)
        numbers = {
            "bn": bn.mean(),
            "ubn": ubn.mean(),
            "difference": difference.mean(),
            "low": low,
            "high": high,
            "ahead": (difference > 0).mean(),
            "seeds": len(difference),
            "outcome": outcome(low, high),
        }
        rows.append(setting | numbers)
    return pd.DataFrame(rows)


def outcome(low: float, high: float) -> Outcome:
    """Return what an interval of UBN - BN says.

    UBN `wins` or `loses` where the interval excludes zero, `ties` where it lies within `MARGIN`
    of zero, and otherwise more seeds are needed: `open`.
    """
    if low > 0:
        return "wins"
    if high < 0:
        return "loses"
    return "ties" if -MARGIN <= low and high <= MARGIN else "open"


def draw(maps: dict[str, tuple[pd.DataFrame, str, str]], columns: int = 3) -> Figure:
    """Draw maps, each cell with the mean difference and a mark of `MARKS`, bold where one is ahead.

    `maps` has for each title a table as `compare` returns it, and the names of the columns that run
    down and across.
    """
    rows = -(-len(maps) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(3.9 * columns, 3.0 * rows), squeeze=False)
    for axes in grid.flat[len(maps) :]:
        axes.set_visible(False)
    for axes, (title, (table, down, across)) in zip(grid.flat, maps.items(), strict=False):
        image = _map(axes, table, down, across)
        axes.set_title(title)
    gain = "accuracy, UBN \N{MINUS SIGN} BN"
    figure.colorbar(image, ax=grid, label=gain, shrink=0.9, extend="both")
    marks = (
        f"{MARKS['wins']} UBN is ahead   {MARKS['loses']} BN is ahead   "
        f"= they are within {MARGIN} of each other   no mark: open"
    )
    figure.supxlabel(marks, fontsize=9)
    figure.set_label(
        "Tables of settings, each cell with UBN's mean accuracy on the spiral minus BN's, blue "
        f"where UBN is ahead and cream where BN is. By 95 % intervals: {marks}. Settings: "
        f"{'; '.join(maps)}."
    )
    return figure


def _map(axes: Axes, table: pd.DataFrame, down: str, across: str) -> Any:
    heights, widths = table[down].drop_duplicates(), table[across].drop_duplicates()
    cells = {(cell[down], cell[across]): cell for cell in table.to_dict("records")}
    differences = [[cells[y, x]["difference"] for x in widths] for y in heights]
    image = axes.imshow(differences, cmap=GAIN_MAP, vmin=-LIMIT, vmax=LIMIT, aspect="auto")
    for row, y in enumerate(heights):
        for column, x in enumerate(widths):
            cell = cells[y, x]
            text = f"{cell['difference']:+.3f} {MARKS[cell['outcome']]}".replace(
                "-", "\N{MINUS SIGN}"
            )
            weight = "bold" if cell["outcome"] in ("wins", "loses") else "normal"
            axes.text(column, row, text, ha="center", va="center", fontsize=8, weight=weight)
    axes.set_xticks(range(len(widths)), map(_label, widths))
    axes.set_yticks(range(len(heights)), map(_label, heights))
    axes.set(xlabel=across.replace("_", " "), ylabel=down.replace("_", " "))
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return image


def _label(value: Any) -> str:
    return " + ".join(map(str, value)) if isinstance(value, tuple | list) else f"{value}"
