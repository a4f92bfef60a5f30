"""What was measured from KITTI's files to batches, as a JSON file and as a table."""

import math
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict
from tables import KITTI_FILE, KITTI_MARK, Ratio, aligned, write_part, write_whole

from experiments.common.provenance import Provenance
from experiments.common.records import Config

HEADER = ["step", "median [95 % interval]", "unit", "times as fast as", "limit"]
TEXT = """\
# From KITTI's files to batches

Written by `python benchmarks/kitti_pipeline.py`, on one thread; kitti_pipeline.json holds every
single value and where it was measured.

{frames} frames of {kind} at {height} x {width}, copies of {different_frames} different ones. The
median scan has {points_per_scan:,} points, the packed set {packed_gigabytes:.2f} GB; {cpu},
L3 cache {l3_cache}. All files were **warm**, in the system's page cache: nothing here is the speed
of a disk.

Steps of one kind take turns, each turn with other frames. Milliseconds are for one frame, and GB/s
count an image's bytes once. *times as fast* is the median of the ratios within each turn, against
the step named. Intervals are by order statistics, where the repeats are enough for one; *unclear*
is where the interval holds the limit.

*argsort* is plain numpy, with the same map. *end to end* makes a packed folder of {prepared}
frames. The file datasets hold resized frames, with depth in .npy files of the packed set's codes,
so that only the images' storage makes the difference. *as stored* is a view, of which no byte is
read. A batch has {batch} frames; *out=* is a buffer used again. The loaders work in this process,
and give a quarter of each batch with unpacked depth.
"""


class Setting(Config):
    """How much is measured."""

    real: bool
    size: tuple[int, int] = (256, 832)
    frames: int = 400  # of 639 kB: more than fits into a processor's cache
    batch: int = 128
    turn: int = 8  # single frames each turn
    repeats: int

    @property
    def prepared(self) -> int:
        """Frames in each folder prepared: many, since making a folder takes its time, too."""
        return min(4 * self.turn, self.frames)


class Row(BaseModel):
    """One line of the table."""

    model_config = ConfigDict(extra="forbid")

    name: str
    unit: str
    values: list[float]  # one for each repeat
    limit: float | None  # an upper one for times, a lower one for rates
    rival: str | None  # the row that it is compared with

    def cells(self, rows: dict[str, "Row"]) -> list[str]:
        """Return the line's cells, given all lines by name."""
        middle, low, high = Ratio.of(self.values, np.ones(len(self.values)))
        interval = "" if math.isnan(low) else f" [{_short(low)}, {_short(high)}]"
        slower = self.unit == "ms"  # where the number is larger
        faster = limit = ""
        if self.rival:
            pair = [self.values, rows[self.rival].values]
            faster = f"{Ratio.of(*pair[:: -1 if slower else 1])}: {self.rival}"
        if self.limit is not None:
            ends = (low, high) if interval else (middle, middle)
            kept = [end <= self.limit if slower else end >= self.limit for end in ends]
            verdict = "met" if all(kept) else "unclear" if any(kept) else "missed"
            limit = f"at {'most' if slower else 'least'} {self.limit:g}: **{verdict}**"
        return [self.name, _short(middle) + interval, self.unit, faster, limit]


class Report(BaseModel):
    """The JSON file."""

    model_config = ConfigDict(extra="forbid")

    setting: Setting
    different_frames: int
    points_per_scan: int  # the median
    packed_gigabytes: float
    l3_cache: str
    rows: list[Row]
    provenance: Provenance

    def markdown(self) -> str:
        """Write what was measured, and the table."""
        rows = {row.name: row for row in self.rows}
        height, width = self.setting.size
        text = TEXT.format(
            **self.model_dump() | self.setting.model_dump(),
            kind="KITTI Raw" if self.setting.real else "synthetic drives",
            height=height,
            width=width,
            prepared=self.setting.prepared,
            cpu=self.provenance.cpu,
        )
        table = aligned(HEADER, [row.cells(rows) for row in self.rows])
        return "\n".join([text, *table, ""])


def write_report(report: Report, folder: Path) -> Path:
    """Write kitti_pipeline.json and the last part of README.md, each whole or not at all."""
    write_whole(folder / KITTI_FILE, report.model_dump_json(indent=1) + "\n")
    return write_part(folder, KITTI_MARK, report.markdown())


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
