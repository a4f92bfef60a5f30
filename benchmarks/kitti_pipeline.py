"""Measure the way from KITTI's files to batches, each step beside what it is compared with.

Values go into kitti_pipeline.json, and a table of them into the folder's README.md. The temporary
folder needs 1.5 GB.
"""

import argparse
import itertools
import os

os.environ["OMP_NUM_THREADS"] = "1"  # numpy and torch read it when they are imported

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from kitti_forms import (
    ENCODERS,
    FilePerFrame,
    file_steps,
    originals,
    packed_steps,
    project_by_sorting,
    repeat_frames,
    scans,
    synthetic_sample,
    write_files,
)
from kitti_tables import Report, Row, Setting, write_report
from measuring import WARM_UP, alternate
from tqdm import tqdm
from training_steps import Step

from experiments.common.provenance import provenance
from ubnlib.kitti import KittiRaw, PackedDepth, prepare, project_velodyne, read_velodyne
from ubnlib.kitti.packed import frame_digest
from ubnlib.kitti.prepare import Preparation
from ubnlib.kitti.raw import read_image

L3_CACHE = Path("/sys/devices/system/cpu/cpu0/cache/index3/size")  # Linux's
RESULTS = Path(__file__).resolve().parents[1] / "results" / "benchmarks"
TINY = dict(size=(48, 160), frames=16, batch=8, turn=2)


class Case(NamedTuple):
    """A step to measure, and how much it does."""

    step: Step
    amount: float  # frames, images or gigabytes
    unit: str = "ms"  # a frame
    limit: float | None = None
    rival: str | None = None  # the case of the same group that it is compared with


def each(use: Callable[[int], object], setting: Setting, *limit_and_rival) -> Case:
    """Use some frames, at random: other ones each turn, the same for all cases."""
    turns = drawn(setting, setting.turn)

    def step() -> None:
        for index in next(turns):
            use(index)

    return Case(step, setting.turn, "ms", *limit_and_rival)


def drawn(setting: Setting, count: int) -> Iterator[list[int]]:
    """Draw the frames of all turns."""
    shape = WARM_UP + setting.repeats, count
    return iter(np.random.default_rng(0).integers(setting.frames, size=shape).tolist())


def projection(raw: KittiRaw, setting: Setting) -> dict[str, Case]:
    """Project a scan, reading included."""
    files = scans(raw)

    def by(project: Callable) -> Callable[[int], np.ndarray]:
        def use(index: int) -> np.ndarray:
            path, matrix = files[index]
            return project(read_velodyne(path), matrix, raw.size)

        return use

    ours, sorting = by(project_velodyne), by(project_by_sorting)
    for index in range(0, len(files), len(files) // setting.turn):
        if not np.allclose(ours(index), sorting(index), rtol=1e-6, atol=0):
            raise ValueError(f"{files[index][0]}: the two projections differ; mend one first.")
    rival = "projection, numpy argsort"
    return {
        rival: each(sorting, setting),
        "projection, ours": each(ours, setting, 1.2, rival),
    }


def preparation(raw: KittiRaw, folder: Path, setting: Setting) -> dict[str, Case]:
    """Read an image; prepare a frame."""
    paths = originals(raw)
    some = KittiRaw(raw.root, size=raw.size, keys=raw.keys[: setting.prepared])
    folders = (folder / str(number) for number in itertools.count())

    def prepare_some() -> None:
        prepare(some, next(folders), workers=1, progress=False)

    return {
        "image, decode": each(lambda index: read_image(paths[index]), setting),
        "image, decode and resize": each(raw.image, setting),
        "prepare, read and encode": each(Preparation(raw, folder / "none").read_frame, setting, 25),
        "prepare, end to end": Case(prepare_some, setting.prepared, "ms", 25),
    }


def random_frames(packed: PackedDepth, files: list[Path], setting: Setting) -> dict[str, Case]:
    """Read single frames, image and depth."""
    png, jpg = (FilePerFrame(folder, packed.size) for folder in files)
    rival = "random frame, JPEG file"
    return {
        "random frame, PNG file": each(png.__getitem__, setting),
        rival: each(jpg.__getitem__, setting),
        "random frame, ours": each(packed.__getitem__, setting, 0.15, rival),
        "random frame, ours, as stored": each(packed.stored, setting),
    }


def batches(packed: PackedDepth, files: list[Path], setting: Setting) -> dict[str, Case]:
    """Read batches, and the steps of a training run."""
    batch, steps = setting.batch, WARM_UP + setting.repeats
    source, buffer = (np.full((batch, *packed.size, 3), value, np.uint8) for value in (1, 2))
    some, gigabytes = packed.batch(range(batch)), source.nbytes / 1e9
    fresh, reused = (drawn(setting, batch) for _ in range(2))
    png, jpg = (file_steps(folder, packed, batch, steps) for folder in files)
    ours = iter(packed_steps(packed, batch, steps))
    copy, rate, rival = ("GB/s", 4, "memory copy"), "images/s", "loader, JPEG files"
    return {
        "memory copy": Case(lambda: np.copyto(buffer, source), gigabytes, "GB/s"),
        "batch": Case(lambda: packed.batch(next(fresh)), gigabytes, *copy),
        "batch, out=": Case(lambda: packed.batch(next(reused), out=buffer), gigabytes, *copy),
        "batch, depth unpacked": Case(some.depth, batch),
        "loader, PNG files": Case(lambda: next(png), batch, rate),
        rival: Case(lambda: next(jpg), batch, rate),
        "loader, ours": Case(lambda: next(ours).labeled.depth(), batch, rate, None, rival),
    }


def measure(group: dict[str, Case], repeats: int, tick: Callable) -> list[Row]:
    """Measure the cases of a group in turns."""
    times = alternate({name: case.step for name, case in group.items()}, repeats, "cpu", tick)
    rows = []
    for name, (_, amount, unit, limit, rival) in group.items():
        taken = np.array(times[name])
        values = taken / amount if unit == "ms" else 1000 * amount / taken
        rows.append(Row(name=name, unit=unit, values=values.tolist(), limit=limit, rival=rival))
    return rows


def run(setting: Setting, source: Path, folder: Path) -> Report:
    """Make the frames of a KITTI Raw folder in every form, and measure all groups."""
    origin = provenance()
    raw = repeat_frames(source, folder / "raw", setting.size, setting.frames)
    packed = prepare(raw, folder / "packed", workers=1, progress=False)
    for index in range(len(packed)):
        frame_digest(*packed.stored(index))  # its bytes are in memory from here on
    files = [folder / suffix for suffix in ENCODERS]
    for target in files:
        write_files(packed, originals(raw), target)
    groups = [
        projection(raw, setting),
        preparation(raw, folder / "prepared", setting),
        random_frames(packed, files, setting),
        batches(packed, files, setting),
    ]
    rounds = (WARM_UP + setting.repeats) * sum(map(len, groups))
    with tqdm(total=rounds, unit="step", disable=None) as bar:  # silent where nobody looks
        rows = [row for group in groups for row in measure(group, setting.repeats, bar.update)]
    return Report(
        setting=setting,
        different_frames=len(set(originals(raw))),
        points_per_scan=int(np.median([path.stat().st_size // 16 for path, _ in scans(raw)])),
        packed_gigabytes=sum(path.stat().st_size for path in packed.folder.glob("*.npy")) / 1e9,
        l3_cache=L3_CACHE.read_text().strip() if L3_CACHE.exists() else "unknown",
        rows=rows,
        provenance=origin,
    )


def main() -> int:
    """Parse the arguments, measure, print the table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--kitti-sample", type=Path, metavar="FOLDER", help="above kitti_raw (synthetic drives)")
    add("--repeats", type=int, default=21, help="timed turns (21)")
    add("--quick", action="store_true", help="tiny sizes, which say nothing about speed")
    add("--out", type=Path, help="folder of the results (results/benchmarks; none if --quick)")
    arguments = parser.parse_args()
    out = arguments.out or (None if arguments.quick else RESULTS)
    try:
        if arguments.repeats < 1:
            raise ValueError(f"--repeats {arguments.repeats}: it must be at least 1.")
        sizes = TINY if arguments.quick else {}
        setting = Setting(real=bool(arguments.kitti_sample), repeats=arguments.repeats, **sizes)
        torch.set_num_threads(1)
        with tempfile.TemporaryDirectory() as folder:
            scale = 0.1 if arguments.quick else 1.0
            sample = arguments.kitti_sample or synthetic_sample(Path(folder) / "synthetic", scale)
            report = run(setting, sample / "kitti_raw", Path(folder))
        print(report.markdown())
        if out is not None:
            print(write_report(report, out))
    except (ValueError, OSError) as error:
        print(f"kitti_pipeline: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("kitti_pipeline: interrupted; nothing was written.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
