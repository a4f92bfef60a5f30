"""What a comparison measured, as a JSON file, and all of them as tables."""

import math
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError
from scipy.stats import quantile_test
from training_steps import METHODS, Setting

from ubnlib.records import Provenance

LIMIT_BN, LIMIT_JOINT, LIMIT_MEMORY = 1.45, 0.75, 1.10  # of ubn_forward, at k = 1
INTRODUCTION = f"""\
# What a UBN step costs

Written by `python benchmarks/ubn_step.py` from the JSON files beside it, which hold every single
time and where it was measured.

A step is forward, loss and backward for the labeled rows, with k unlabeled rows per labeled row.
*BN* sees the labeled rows only; *two passes* is the paper's procedure as it is written; *joint
pass* is BN on all rows with gradient; *ubn_forward* is what users of ubnlib call. The methods take
turns step by step. Ratios are the median of the ratios within each turn, with its 95 % interval by
order statistics. The theoretical ratios count a forward pass as a third of a step. fp32 is torch's
own default, with convolutions in TF32 on CUDA.

Memory is the peak during a step less what was held before, so without weights and images: of the
process on the CPU, of torch's allocator on CUDA. glibc gives the second thread of ubn_forward an
arena whose freed memory the first cannot use again: *one arena* is under MALLOC_ARENA_MAX=1.

Limits, all at k = 1: ubn_forward below {LIMIT_BN} times BN and at most {LIMIT_JOINT:.2f} times the
joint pass, its memory at most {LIMIT_MEMORY:.2f} times BN's. *Unclear*: the interval holds the limit.
"""


class Measurement(BaseModel):
    """All methods at one k; everything by method."""

    model_config = ConfigDict(extra="forbid")

    k: int
    milliseconds: dict[str, list[float]]  # one for each repeat
    losses: dict[str, float]  # of the first step
    memory_mb: dict[str, dict[str, float]]  # by allocator first; empty if not measured


class Comparison(BaseModel):
    """One JSON file."""

    model_config = ConfigDict(extra="forbid")

    setting: Setting
    measurements: list[Measurement]
    eval_layer_milliseconds: dict[str, list[float]]  # plain layer and UBN layer
    provenance: Provenance


class Ratio(NamedTuple):
    """A median with its 95 % interval, which is NaN where there are too few repeats for one."""

    median: float
    low: float = math.nan
    high: float = math.nan

    def __str__(self) -> str:
        """Write the interval behind the median."""
        interval = "" if math.isnan(self.low) else f" [{self.low:.2f}, {self.high:.2f}]"
        return f"{self.median:.2f}{interval}"

    def verdict(self, limit: float) -> str:
        """Say whether the ratio keeps a limit."""
        low, high = np.nan_to_num([self.low, self.high], nan=self.median)
        return "met" if high <= limit else "missed" if low > limit else "unclear"


def ratio(times: list[float], reference: list[float]) -> Ratio:
    """Compare two steps that took turns."""
    ratios = np.divide(times, reference)
    interval = quantile_test(ratios, p=0.5).confidence_interval(0.95)
    return Ratio(float(np.median(ratios)), float(interval.low), float(interval.high))


def memory_ratio(measurement: Measurement, allocator: str, method: str) -> Ratio | None:
    """Compare a method's memory with BN's, if it was measured."""
    memory = measurement.memory_mb.get(allocator)
    return Ratio(memory[method] / memory["BN"]) if memory and memory["BN"] else None


def write_comparison(comparison: Comparison, folder: Path) -> Path:
    """Write a comparison under its setting's name, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{comparison.setting.name}.json"
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(comparison.model_dump_json(indent=1) + "\n")
    partial.replace(path)
    return path


def write_table(folder: Path) -> Path:
    """Write README.md from all comparisons in a folder.

    Raises:
        ValueError: A JSON file is no comparison, or there is none.
    """
    comparisons = []
    for path in sorted(folder.glob("*.json")):
        try:
            comparisons.append(Comparison.model_validate_json(path.read_text()))
        except (ValidationError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not a result of this benchmark: remove it.") from error
    if not comparisons:
        raise ValueError(f"{folder} holds no results: run the benchmark without --table first.")
    sections = [f"## {title(c)}\n\n{details(c)}" for c in comparisons]
    path = folder / "README.md"
    path.write_text("\n".join([INTRODUCTION, limits(comparisons), *sections]))
    return path


def title(comparison: Comparison) -> str:
    """Name model, data, numbers and hardware."""
    s, p = comparison.setting, comparison.provenance
    hardware = p.gpu if s.device == "cuda" else f"{p.cpu}, threads: {s.threads}"
    size = " x ".join(map(str, s.size))
    model = f"{s.model} of width {s.width:g}, {s.rows} labeled rows of {size}"
    return f"{model}, {s.precision}, {s.layout}, {s.mode}; {hardware}; torch {p.versions['torch']}"


def limits(comparisons: list[Comparison]) -> str:
    """Tabulate what the limits are about: ubn_forward at k = 1, one row for each comparison."""
    rows = []
    for comparison in comparisons:
        layers = list(comparison.eval_layer_milliseconds.values())
        for m in comparison.measurements:
            if m.k == 1:
                ours, bn = m.milliseconds["ubn_forward"], m.milliseconds["BN"]
                judged = [
                    (ratio(ours, bn), LIMIT_BN),
                    (ratio(ours, m.milliseconds["joint pass"]), LIMIT_JOINT),
                    (memory_ratio(m, "default", "ubn_forward"), LIMIT_MEMORY),
                    (memory_ratio(m, "one arena", "ubn_forward"), LIMIT_MEMORY),
                ]
                cells = [f"{r}, {r.verdict(limit)}" if r else "" for r, limit in judged]
                rows.append([title(comparison), *cells, str(ratio(layers[1], layers[0]))])
    header = [
        "ubn_forward at k = 1",
        f"time / BN, limit {LIMIT_BN}",
        f"time / joint pass, limit {LIMIT_JOINT:.2f}",
        f"memory / BN, limit {LIMIT_MEMORY:.2f}",
        "with one arena",
        "layer in eval mode / BN's",
    ]
    return _markdown(header, rows)


def details(comparison: Comparison) -> str:
    """Tabulate one comparison, one row for each k and method."""
    compiled = comparison.setting.mode == "compiled"
    rows = []
    for m in comparison.measurements:
        two = 1 + (1 + m.k) / 3
        theory = dict(
            zip(METHODS, (1, two, 1 + m.k, two if compiled else 1 + m.k / 3), strict=True)
        )
        for method, times in m.milliseconds.items():
            falls_back = compiled and method == "ubn_forward"
            memory = [memory_ratio(m, allocator, method) for allocator in ("default", "one arena")]
            rows.append(
                [
                    str(m.k),
                    "ubn_forward (compiled: as two passes)" if falls_back else method,
                    f"{np.median(times):.1f}",
                    str(ratio(times, m.milliseconds["BN"])),
                    f"{theory[method]:.2f}",
                    str(ratio(times, m.milliseconds["joint pass"])),
                    *(str(r) if r else "" for r in memory),
                ]
            )
    header = ["k", "method", "ms", "time / BN", "in theory", "time / joint pass"]
    return _markdown([*header, "memory / BN", "with one arena"], rows)


def _markdown(header: list[str], rows: list[list[str]]) -> str:
    """Write a table whose columns also line up as plain text."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, ["-" * width for width in widths], *rows]
    return "".join(
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |\n"
        for line in lines
    )
