"""What was measured in one setting, as a JSON file, and all settings as tables."""

import math
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError
from scipy.stats import quantile_test
from training_steps import METHODS, Setting

from experiments.common.provenance import Provenance

TRAINING_MARK = "<!-- Written by benchmarks/training.py from here to the next such line. -->"
SPIRAL_MARK = "<!-- Written by benchmarks/spiral_ensemble.py from here to the next such line. -->"
KITTI_MARK = "<!-- Written by benchmarks/kitti_pipeline.py from here to the end. -->"
MARKS = ("", TRAINING_MARK, SPIRAL_MARK, KITTI_MARK)  # of README.md's parts, in their order
SPIRAL_FILE, KITTI_FILE = "spiral_ensemble.json", "kitti_pipeline.json"
TRAINING_FILES = {"cpu": "training_cpu.json", "cuda": "training_cuda.json"}
OTHERS = {SPIRAL_FILE, KITTI_FILE, *TRAINING_FILES.values()}  # files of other benchmarks
LIMIT_BN, LIMIT_JOINT, LIMIT_MEMORY = 1.45, 0.75, 1.10  # of ubn_forward, at k = 1
INTRODUCTION = """\
# What a UBN step costs

Written by `python benchmarks/ubn_step.py` from the JSON files beside it, which hold every single
time and where it was measured.

A step is forward, loss and backward for the labeled rows, with k unlabeled rows per labeled row.
*BN* sees the labeled rows only; *two passes* is the paper's procedure as it is written; *joint
pass* is BN on all rows, with gradient; *ubn_forward* is what users of ubnlib call. The methods
take turns step by step. A ratio is the median of the ratios within each turn, with its 95 %
interval by order statistics where the repeats are enough for one; *in theory*, a forward pass is a
third of a step. fp32 is torch's default, with convolutions in TF32 on CUDA.

Memory is the peak during a step less what was held before, so without weights and images: of the
process on the CPU, of torch's allocator on CUDA. glibc gives the second thread of ubn_forward an
arena whose freed memory the first cannot use again; *one arena* is under MALLOC_ARENA_MAX=1.

The limits hold for ubn_forward at k = 1; *unclear* is where the interval holds the limit.
"""


class Measurement(BaseModel):
    """All methods at one k; everything by method."""

    model_config = ConfigDict(extra="forbid")

    k: int
    milliseconds: dict[str, list[float]]  # one for each repeat
    losses: dict[str, float]  # of the first step
    memory_mb: dict[str, dict[str, float]]  # "default" and "one arena", where measured


class Comparison(BaseModel):
    """One JSON file."""

    model_config = ConfigDict(extra="forbid")

    setting: Setting
    measurements: list[Measurement]
    eval_layer_milliseconds: dict[str, list[float]]  # plain layer and UBN layer
    provenance: Provenance


class Ratio(NamedTuple):
    """A median with its 95 % interval, NaN where there are too few values for one."""

    median: float
    low: float = math.nan
    high: float = math.nan

    @classmethod
    def of(cls, times: list[float], reference: list[float]) -> "Ratio":
        """Compare two steps that took turns."""
        ratios = np.divide(times, reference)
        interval = quantile_test(ratios, p=0.5).confidence_interval(0.95)
        return cls(float(np.median(ratios)), float(interval.low), float(interval.high))

    def __str__(self) -> str:
        """Write the interval behind the median."""
        interval = "" if math.isnan(self.low) else f" [{self.low:.2f}, {self.high:.2f}]"
        return f"{self.median:.2f}{interval}"

    def against(self, limit: float) -> str:
        """Say whether the ratio keeps a limit."""
        low, high = np.nan_to_num([self.low, self.high], nan=self.median)
        verdict = "met" if high <= limit else "missed" if low > limit else "unclear"
        return f"{self}, limit {limit:.2f}: **{verdict}**"


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(text)
    partial.replace(path)


def write_part(folder: Path, mark: str, text: str) -> Path:
    """Write the part of README.md that begins with a mark; the other parts stay as they are."""
    path = folder / "README.md"
    rest = path.read_text() if path.exists() else ""
    parts = {}
    for other in reversed(MARKS[1:]):
        rest, _, parts[other] = rest.partition(other)
    parts = {"": rest} | parts | {mark: text}
    written = (f"{mark}\n\n{parts[mark].strip()}".strip() for mark in MARKS if parts[mark].strip())
    write_whole(path, "\n\n".join(written) + "\n")
    return path


def write_comparison(comparison: Comparison, folder: Path) -> Path:
    """Write a comparison under its setting's name."""
    path = folder / f"{comparison.setting.name}.json"
    write_whole(path, comparison.model_dump_json(indent=1) + "\n")
    return path


def write_readme(folder: Path) -> Path:
    """Write README.md from all comparisons in a folder; the parts of others stay as they are.

    Raises:
        ValueError: A JSON file is no comparison, or there is none.
    """
    tables = []
    for path in sorted(path for path in folder.glob("*.json") if path.name not in OTHERS):
        try:
            tables.append(table(Comparison.model_validate_json(path.read_text())))
        except (ValidationError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is no result of this benchmark: remove it.") from error
    if not tables:
        raise ValueError(f"{folder} holds no results: run the benchmark without --table.")
    return write_part(folder, "", "\n".join([INTRODUCTION, *tables]))


def table(comparison: Comparison) -> str:
    """Write a comparison as Markdown: what and where, each k and method, and the limits."""
    s, p = comparison.setting, comparison.provenance
    rows, limits = [], []
    for m in comparison.measurements:
        two = 1 + (1 + m.k) / 3
        ours = two if s.mode == "compiled" else 1 + m.k / 3
        theory = dict(zip(METHODS, (1, two, 1 + m.k, ours), strict=True))
        for method, times in m.milliseconds.items():
            to_bn = Ratio.of(times, m.milliseconds["BN"])
            to_joint = Ratio.of(times, m.milliseconds["joint pass"])
            memory = [
                Ratio(megabytes[method] / megabytes["BN"]) if megabytes["BN"] > 0 else ""
                for megabytes in (m.memory_mb.get(name) for name in ("default", "one arena"))
                if megabytes
            ]
            name = method
            if method == "ubn_forward" and s.mode == "compiled":
                name += " (compiled: as two passes)"
            time = [f"{np.median(times):.1f}", to_bn, f"{theory[method]:.2f}", to_joint]
            rows.append([m.k, name, *time, *memory, *[""] * (2 - len(memory))])
        if m.k == 1:  # the last method is ubn_forward
            limits = [
                f"- time / BN: {to_bn.against(LIMIT_BN)}",
                f"- time / joint pass: {to_joint.against(LIMIT_JOINT)}",
                *(
                    f"- memory / BN{how}: {ratio.against(LIMIT_MEMORY)}"
                    for ratio, how in zip(memory, ("", " with one arena"), strict=False)
                    if ratio
                ),
            ]
    plain, ubn = comparison.eval_layer_milliseconds.values()
    hardware = p.gpu if s.device == "cuda" else f"{p.cpu}, {s.threads} thread(s)"
    header = ["k", "method", "ms", "time / BN", "in theory", "time / joint pass"]
    lines = [
        f"## {s.model} on {s.device}, {s.precision}, {s.layout}, {s.mode}",
        "",
        f"Width {s.width:g}, {s.rows} labeled rows of {s.size[0]} x {s.size[1]}; {hardware}; torch "
        f"{p.versions['torch']}.",
        "",
        *aligned([*header, "memory / BN", "with one arena"], rows),
        "",
        *limits,
        f"- one layer in eval mode, UBN / BN: {Ratio.of(ubn, plain)}",
    ]
    return "\n".join(lines) + "\n"


def aligned(header: list[str], rows: list[list]) -> list[str]:
    """Write a table whose columns also line up as plain text."""
    cells = [header, *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * width for width in widths])
    return [
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |"
        for row in cells
    ]
