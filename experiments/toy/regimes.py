"""The regime map: in which settings UBN wins, ties or loses against BN on the spiral."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from experiments.common.records import Record
from experiments.common.stats import interval
from experiments.common.training import BNConfig, NormConfig, UBNConfig
from experiments.toy.train import SpiralConfig

MARGIN = 0.02  # differences of accuracy below it are ties

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
    """Return a cell for each reading and each combination of the factors' values.

    Args:
        base: What all cells share.
        readings: Keys of `READINGS`.
        **factors: Fields of the configuration with their values. A `batch` factor has pairs
            (labeled, unlabeled) of batch sizes.

    Example:
        >>> cells = pairs(SpiralConfig(), noise=[0.0, 0.5], batch=[(16, 64), (50, 400)])
        >>> [(cell.ubn.noise, cell.ubn.unlabeled_batch) for cell in cells]
        [(0.0, 64), (0.0, 400), (0.5, 64), (0.5, 400)]
    """
    return [
        Pair(
            {"reading": reading} | setting,
            _configured(base, READINGS[reading], setting),
            _configured(base, BNConfig(), setting),
        )
        for reading in readings
        for setting in _combinations(factors)
    ]


def _combinations(factors: dict[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*factors.values()):
        yield dict(zip(factors, values, strict=True))


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
    `difference` with its 95 % bootstrap interval `low` and `high`, `ahead` (share of seeds in
    which UBN is ahead), `seeds` and `outcome`; see `outcome`.

    Args:
        cells: As `pairs` gives them.
        obtain: Returns the record of a configuration.
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


def outcome(low: float | None, high: float | None) -> Outcome:
    """Return what an interval of UBN - BN says.

    UBN `wins` or `loses` where the interval excludes zero, `ties` where it lies within `MARGIN`
    of zero, and otherwise more seeds are needed: `open`.
    """
    if low is None or high is None:
        return "open"
    if low > 0:
        return "wins"
    if high < 0:
        return "loses"
    return "ties" if -MARGIN <= low and high <= MARGIN else "open"
