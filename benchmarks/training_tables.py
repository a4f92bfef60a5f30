"""What was measured of the depth training, as a JSON file for each device and as tables."""

import math
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError
from tables import LIMIT_BN, TRAINING_FILES, TRAINING_MARK, Ratio, aligned, write_part, write_whole

from experiments.common.provenance import Provenance
from experiments.common.records import Config
from experiments.depth.flops import PEAKS

HELD = "held batch"  # the case without reading
LIMIT_WAITING = 5.0  # percent of the time
TEXT = """\
# What training DispNet costs

Written by `python benchmarks/training.py`; training_cpu.json and training_cuda.json hold every
single time and where it was measured.

A step is that of `depth.engine`: a batch to the device, forward, loss, backward, the check for
finite numbers, and Adam; UBN has one unlabeled row per labeled row. *held batch* trains on one
batch that is on the device; *no workers* and *2 workers* read packed frames, which are **warm**, in
the system's page cache. All take turns. A ratio is the median of the ratios within each turn, with
its 95 % interval by order statistics where the repeats are enough for one, and so are the other
intervals. Images are all that a step sees, unlabeled ones too. In theory, where a forward pass is a
third of a step, UBN takes 1.33 times BN's time side by side and 1.67 times in two passes.

*waiting* is the share of the time in which the loop is blocked by its loader. In a turn of workers
the batches that they read ahead during the others' turns are thrown away, and the step after these
is not counted. TFLOP/s are the operations of convolutions by torch's count, over the time;
tests/experiments/test_cost.py compares it with a real step's. Memory is the peak of a process that
trains and does nothing else, its libraries included: resident memory on the CPU, torch's allocator
on CUDA.

The limits hold at one unlabeled row per labeled row; *unclear* is where the interval holds the
limit.
"""


class Setting(Config):
    """What all methods of one comparison share."""

    device: Literal["cpu", "cuda"]
    width: float
    levels: int
    size: tuple[int, int]  # height and width of the images
    rows: int  # labeled ones, and as many unlabeled ones
    turn: int  # steps that are timed together
    frames: int = 256  # in the packed set
    precision: Literal["fp32", "bf16"] = "fp32"
    channels_last: bool = False
    threads: int = 1


class Measurement(BaseModel):
    """One method with one source of its data."""

    model_config = ConfigDict(extra="forbid")

    method: str
    data: str
    images: int  # of a step
    flops: float  # of a step
    milliseconds: list[float]  # of a step, one for each turn
    waiting: list[float]  # milliseconds of these in which the loader blocks


class Comparison(BaseModel):
    """All that was measured in one setting; methods begin with BN."""

    model_config = ConfigDict(extra="forbid")

    setting: Setting
    measurements: list[Measurement]
    memory_mb: dict[str, float]  # by method; empty where it cannot be measured

    def markdown(self, provenance: Provenance) -> str:
        """Write what and where, a table, and whether the limits were kept."""
        s, peak = self.setting, self._peak(provenance)
        by = {(m.data, m.method): m for m in self.measurements}
        rows, limits, waits = [], [], {}
        for m in self.measurements:
            to_bn = Ratio.of(m.milliseconds, by[m.data, "BN"].milliseconds)
            to_held = Ratio.of(m.milliseconds, by[HELD, m.method].milliseconds)
            rate = [m.flops / milliseconds / 1e9 for milliseconds in m.milliseconds]
            cells = [f"{np.median(m.milliseconds):.1f}", _rate(m), to_bn, to_held]
            if m.data == HELD:
                cells.append("")
                if m.method != "BN":
                    limits.append(f"- time / BN, {m.method}: {to_bn.against(LIMIT_BN)}")
            else:
                share = Ratio.of([100 * wait for wait in m.waiting], m.milliseconds)
                cells.append(f"{share} %")
                waits.setdefault(m.data, []).append(share)
            cells.append(f"{np.median(rate):.3g}")
            if peak:
                cells.append(f"{np.median(rate) / peak:.1%}")
            rows.append([m.data, m.method, *cells])
        for data, shares in waits.items():
            worst = max(shares, key=lambda share: share.median)
            limits.append(f"- waiting [%], {data}, the worst: {worst.against(LIMIT_WAITING)}")
        header = ["data", "method", "ms a step", "images/s", "time / BN", f"time / {HELD}"]
        where = provenance.gpu if s.device == "cuda" else f"{provenance.cpu}, {s.threads} thread(s)"
        layout = "channels_last" if s.channels_last else "contiguous"
        lines = [
            f"## {s.size[0]} x {s.size[1]}, width {s.width:g}, on {s.device}, {s.precision}",
            "",
            f"{s.levels} levels, {s.rows} labeled rows, {layout}, turns of {s.turn} step(s); "
            f"{where}; torch {provenance.versions['torch']}.",
            "",
            *aligned([*header, "waiting", "TFLOP/s", *["of peak"] * bool(peak)], rows),
            "",
            *limits,
        ]
        if self.memory_mb:
            memory = (f"{method} {mb:,.0f}" for method, mb in self.memory_mb.items())
            lines.append(f"- peak memory in MB: {'; '.join(memory)}")
        return "\n".join(lines) + "\n"

    def _peak(self, provenance: Provenance) -> float | None:
        """Return the card's peak in TFLOP/s, where it is known and the one that counts."""
        if self.setting.device != "cuda" or self.setting.precision != "bf16":
            return None
        return PEAKS.get(provenance.gpu)


class Report(BaseModel):
    """One JSON file."""

    model_config = ConfigDict(extra="forbid")

    comparisons: list[Comparison]
    provenance: Provenance

    def markdown(self) -> str:
        """Write the tables of all settings."""
        return "\n".join(one.markdown(self.provenance) for one in self.comparisons)


def _rate(m: Measurement) -> str:
    """Write the images a second."""
    rate = Ratio.of([1000.0 * m.images] * len(m.milliseconds), m.milliseconds)
    interval = "" if math.isnan(rate.low) else f" [{rate.low:.3g}, {rate.high:.3g}]"
    return f"{rate.median:.3g}{interval}"


def write_report(report: Report, device: str, folder: Path) -> Path:
    """Write a device's JSON file, and README.md's part from the files of all devices.

    Raises:
        ValueError: The file of another device is no result of this benchmark.
    """
    write_whole(folder / TRAINING_FILES[device], report.model_dump_json(indent=1) + "\n")
    parts = [TEXT]
    for path in (folder / name for name in TRAINING_FILES.values()):
        try:
            if path.exists():
                parts.append(Report.model_validate_json(path.read_text()).markdown())
        except (ValidationError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is no result of this benchmark: remove it.") from error
    return write_part(folder, TRAINING_MARK, "\n".join(parts))
