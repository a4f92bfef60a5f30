"""Measure the way from KITTI's files to batches: the packed set beside a file per frame, in turns.

    python benchmarks/kitti_pipeline.py --kitti-sample FOLDER --out pipeline.json

All files are in the system's page cache: nothing here is the speed of a disk. The file datasets
hold resized frames, with depth in .npy files of the packed set's codes, so that only the images'
storage makes the difference. The loaders work in this process, and give a quarter of each batch
with unpacked depth. The temporary folder needs 1.5 GB.
"""

import argparse
import itertools
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from training_step import Step, in_turns, milliseconds, ratio, show, write_json

from experiments.common.arguments import whole_number
from synthetic_kitti import make_synthetic_kitti
from ubnlib.kitti import (
    Calibration,
    KittiRaw,
    LabeledUnlabeledLoader,
    PackedDepth,
    prepare,
    project_velodyne,
    read_velodyne,
    scale_projection,
)
from ubnlib.kitti.loader import rows_of_step
from ubnlib.kitti.packed import decode_depth
from ubnlib.kitti.prepare import Preparation
from ubnlib.kitti.raw import find_drives

ENCODERS = {"png": {}, "jpg": {"quality": 92}}  # Pillow's options; 92 as monodepth2 converts KITTI
SIZE, FRAMES, BATCH = (256, 832), 400, 128  # 400 frames are more than fit into a processor's cache
QUICK = ((48, 160), 16, 8)


def repeat_frames(source: Path, root: Path, size: tuple[int, int], frames: int) -> KittiRaw:
    """Link KITTI Raw's drives under as many names as it takes to have so many frames."""
    source = source.absolute()
    copies = -(-frames // len(KittiRaw(source, size=size)))
    drives = itertools.product(range(copies), find_drives(source)[0].values())
    for number, (_, folder) in enumerate(drives, 1):
        date = root / folder.parent.name
        if not date.exists():
            date.mkdir(parents=True)
            for calibration in folder.parent.glob("calib_*.txt"):
                (date / calibration.name).symlink_to(calibration)
        (date / f"{date.name}_drive_{number:04d}_sync").symlink_to(folder)
    keys = KittiRaw(root, size=size).keys
    chosen = np.linspace(0, len(keys) - 1, frames).astype(int)
    return KittiRaw(root, size=size, keys=[keys[i] for i in chosen])


def write_files(packed: PackedDepth, raw: KittiRaw, folder: Path) -> None:
    """Write each frame as two files, image and depth codes; the folder's name is the encoding."""
    folder.mkdir()
    encoded: dict[Path, Path] = {}
    for index, key in enumerate(raw.keys):
        path, original = folder / f"{index}.{folder.name}", raw.files(key)[0].resolve()
        image, codes = packed.stored(index)
        np.save(path.with_suffix(".npy"), codes)
        if original in encoded:
            shutil.copyfile(encoded[original], path)  # in memory, too, it is a file of its own
        else:
            Image.fromarray(image).save(path, **ENCODERS[folder.name])
            encoded[original] = path


class FilePerFrame(Dataset):
    """The usual dataset, over a folder of `write_files`: image uint8 [H, W, 3], depth [H, W]."""

    def __init__(self, folder: Path, size: tuple[int, int], depth: bool = True):
        self.folder, self.size, self.with_depth = folder, size, depth

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        path = self.folder / f"{index}.{self.folder.name}"
        with Image.open(path) as image:
            item = dict(image=torch.from_numpy(np.array(image)))
        if self.with_depth:
            codes = torch.from_numpy(np.load(path.with_suffix(".npy")).view(np.int32))
            item["depth"] = decode_depth(codes, torch.tensor([len(codes)]), self.size)[0]
        return item


def packed_loader(packed: PackedDepth, batch: int, steps: int) -> LabeledUnlabeledLoader:
    """Return a loader with a label for every fourth frame, and for a quarter of each batch."""
    labeled, unlabeled = quarters(len(packed))
    sizes = dict(labeled_batch=batch // 4, unlabeled_batch=batch - batch // 4)
    return LabeledUnlabeledLoader(packed, labeled, unlabeled, **sizes, steps=steps, seed=0)


def file_loader(folder: Path, size: tuple[int, int], frames: int, batch: int, steps: int) -> zip:
    """Iterate over the very frames of `packed_loader`, but from single files."""
    loaders = []
    counts = batch // 4, batch - batch // 4
    for kind, (rows, n) in enumerate(zip(quarters(frames), counts, strict=True)):
        order = [rows[rows_of_step(step, n, len(rows), (0, kind))] for step in range(steps)]
        dataset = FilePerFrame(folder, size, depth=kind == 0)
        loaders.append(DataLoader(dataset, batch_sampler=[one.tolist() for one in order]))
    return zip(*loaders, strict=True)


def quarters(frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of every fourth frame, and the others."""
    positions = np.arange(frames)
    return positions[::4], positions[positions % 4 > 0]


def frame_steps(raw: KittiRaw, packed: PackedDepth, folder: Path) -> dict[str, Step]:
    """Return what there is to do with one frame, another one at each call."""
    projections = {}
    for date, camera in {(key.date, key.camera) for key in raw.keys}:
        calibration = Calibration.load(raw.root / date)
        native = calibration.image_size(camera), raw.size
        projections[date, camera] = scale_projection(calibration.projection(camera), *native)

    def project(index: int) -> np.ndarray:
        key = raw.keys[index]
        points = read_velodyne(raw.files(key)[1])
        return project_velodyne(points, projections[key.date, key.camera], raw.size)

    def each(use: Callable[[int], object]) -> Step:
        drawn = drawn_frames(len(raw.keys))
        return lambda: use(next(drawn))

    png, jpg = (FilePerFrame(folder / name, packed.size) for name in ENCODERS)
    return {
        "read and project a scan": each(project),
        "decode and resize an image": each(raw.image),
        "prepare a frame": each(Preparation(raw, folder / "none").read_frame),
        "frame of a PNG file": each(png.__getitem__),
        "frame of a JPEG file": each(jpg.__getitem__),
        "frame of the packed set": each(packed.__getitem__),
        "the same, as stored": each(packed.stored),
    }


def drawn_frames(frames: int) -> Iterator[int]:
    """Draw frames without end, the same ones each time this is called."""
    generator = np.random.default_rng(0)
    while True:
        yield int(generator.integers(frames))


def batch_steps(packed: PackedDepth, folder: Path, batch: int, steps: int) -> dict[str, Step]:
    """Return what there is to do with a batch."""
    source, buffer = (np.full((batch, *packed.size, 3), value, np.uint8) for value in (1, 2))
    some, drawn = packed.batch(range(batch)), drawn_frames(len(packed))
    png, jpg = (
        file_loader(folder / name, packed.size, len(packed), batch, steps) for name in ENCODERS
    )
    ours = iter(packed_loader(packed, batch, steps))

    def rows() -> list[int]:
        return list(itertools.islice(drawn, batch))

    return {
        "copy as many bytes": lambda: np.copyto(buffer, source),
        "batch of the packed set": lambda: packed.batch(rows()),
        "unpack its depth": some.depth,
        "loader of PNG files": lambda: next(png),
        "loader of JPEG files": lambda: next(jpg),
        "loader of the packed set": lambda: next(ours).labeled.depth(),
    }


def main() -> int:
    """Make the frames in every form, and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--kitti-sample", type=Path, metavar="FOLDER", help="above kitti_raw (synthetic drives)")
    add("--repeats", type=whole_number, default=21, help="timed turns (21)")
    add("--quick", action="store_true", help="tiny sizes, which say nothing about speed")
    add("--out", type=Path, metavar="FILE", help="JSON file for every single time")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    size, frames, batch = QUICK if arguments.quick else (SIZE, FRAMES, BATCH)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = (arguments.kitti_sample or folder / "synthetic") / "kitti_raw"
        if not arguments.kitti_sample:  # scans as dense as real ones
            small = dict(drives=2, frames=2, scale=0.1 if arguments.quick else 1.0)
            make_synthetic_kitti(source, **small, azimuth_steps=2000, workers=1, progress=False)
        raw = repeat_frames(source, folder / "raw", size, frames)
        packed = prepare(raw, folder / "packed", workers=1, progress=False)
        for encoding in ENCODERS:
            write_files(packed, raw, folder / encoding)
        calls = 3 * arguments.repeats  # torch's Timer warms up twice in each turn
        groups = {
            "one frame": frame_steps(raw, packed, folder),
            f"{batch} frames": batch_steps(packed, folder, batch, calls),
        }
        times = {}
        for column, steps in groups.items():
            keyed = {(row, column): step for row, step in steps.items()}
            times |= in_turns(f"{size[0]} x {size[1]}", keyed, arguments.repeats, threads=1)
    show(times)
    by_row = {row: measurements for (row, _), measurements in times.items()}
    for ours, theirs in {
        "frame of the packed set": "frame of a JPEG file",
        "loader of the packed set": "loader of JPEG files",
    }.items():
        print(f"{ours}: {ratio(by_row[theirs], by_row[ours])} times as fast as {theirs}")
    if arguments.out:
        taken = {row: milliseconds(measurements) for row, measurements in by_row.items()}
        write_json(arguments, size=size, frames=frames, batch=batch, milliseconds=taken)
    return 0


if __name__ == "__main__":
    sys.exit(main())
