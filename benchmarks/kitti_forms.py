"""The same frames in every form that is compared: KITTI's files, packed, and a file a frame."""

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from synthetic_kitti import make_synthetic_kitti
from ubnlib.kitti import Calibration, KittiRaw, PackedDepth, scale_projection
from ubnlib.kitti.loader import LabeledUnlabeledLoader, rows_of_step
from ubnlib.kitti.packed import decode_depth
from ubnlib.kitti.raw import find_drives

ENCODERS = {"png": {}, "jpg": {"quality": 92}}  # Pillow's options; 92 as monodepth2 converts KITTI


def synthetic_sample(folder: Path, scale: float) -> Path:
    """Make a few synthetic drives with scans as dense as real ones, in a folder's kitti_raw."""
    drives = dict(drives=2, frames=2, scale=scale, azimuth_steps=2000)
    make_synthetic_kitti(folder / "kitti_raw", **drives, workers=1, progress=False)
    return folder


def repeat_frames(source: Path, root: Path, size: tuple[int, int], frames: int) -> KittiRaw:
    """Link KITTI Raw's drives under as many names as it takes to have so many frames.

    Args:
        source: KITTI Raw folder.
        root: Folder to make, of links.
        size: (height, width) of the frames.
        frames: How many; if there are more, they are chosen evenly.

    Raises:
        FileNotFoundError: If the source or its calibration is missing.
        ValueError: If it holds no drives or no complete frame.
    """
    source = source.absolute()
    copies = -(-frames // len(KittiRaw(source, size=size)))
    drives = itertools.product(range(copies), find_drives(source).values())
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


def originals(raw: KittiRaw) -> list[Path]:
    """Return the image file behind each frame, the same one for all its copies."""
    return [key.image_path(raw.root).resolve() for key in raw.keys]


def scans(raw: KittiRaw) -> list[tuple[Path, np.ndarray]]:
    """Return each frame's scan, and its projection to the frames' size."""
    projections = {}
    for date, camera in {(key.date, key.camera) for key in raw.keys}:
        calibration = Calibration.load(raw.root / date)
        native = calibration.image_size(camera), raw.size
        projections[date, camera] = scale_projection(calibration.projection(camera), *native)
    return [(key.scan_path(raw.root), projections[key.date, key.camera]) for key in raw.keys]


def project_by_sorting(
    points: np.ndarray, projection: np.ndarray, shape: tuple[int, int]
) -> np.ndarray:
    """Project a scan as it is mostly done in numpy: sort by depth, so that the nearest is last.

    Arguments and map are those of `project_velodyne`; points must be finite.
    """
    points = points[points[:, 0] >= 0, :3].astype(np.float64)
    points = points @ projection[:, :3].T + projection[:, 3]
    u, v, depth = points[points[:, 2] > 0].T
    column, row = np.floor(u / depth + 0.5), np.floor(v / depth + 0.5)
    inside = (column >= 0) & (column < shape[1]) & (row >= 0) & (row < shape[0])
    column, row, depth = column[inside].astype(int), row[inside].astype(int), depth[inside]
    order = np.argsort(-depth)
    nearest = np.zeros(shape, np.float32)
    nearest[row[order], column[order]] = depth[order]
    return nearest


def write_files(packed: PackedDepth, names: list[Path], folder: Path) -> None:
    """Write a packed set's frames as two files each: image and depth codes.

    Args:
        packed: The frames.
        names: Of each frame: the same one for all copies of it, which are encoded once.
        folder: Folder to make, named by the images' suffix, a key of `ENCODERS`.
    """
    folder.mkdir()
    encoded: dict[Path, Path] = {}
    for index, name in enumerate(names):
        path = folder / f"{index}.{folder.name}"
        image, codes = packed.stored(index)
        np.save(path.with_suffix(".npy"), codes)
        if name in encoded:
            shutil.copyfile(encoded[name], path)  # in memory, too, it is a file of its own
        else:
            Image.fromarray(image).save(path, **ENCODERS[folder.name])
            encoded[name] = path


class FilePerFrame(Dataset):
    """The usual dataset, over a folder of `write_files`.

    An item is `dict(image=uint8 [H, W, 3], depth=float32 [H, W])`, or the image alone.
    """

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


def packed_steps(packed: PackedDepth, batch: int, steps: int) -> LabeledUnlabeledLoader:
    """Return a loader with a label for every fourth frame, and for a quarter of each batch."""
    labels, images = _quarters(len(packed))
    sizes = dict(labeled_batch=batch // 4, unlabeled_batch=batch - batch // 4)
    return LabeledUnlabeledLoader(packed, labels, images, **sizes, steps=steps, seed=0)


def file_steps(
    folder: Path, packed: PackedDepth, batch: int, steps: int
) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Iterate over the very frames of `packed_steps`, but from single files."""
    loaders = []
    sizes = batch // 4, batch - batch // 4
    for kind, (frames, n) in enumerate(zip(_quarters(len(packed)), sizes, strict=True)):
        rows = [rows_of_step(step, n, len(frames), (0, kind)) for step in range(steps)]
        dataset = FilePerFrame(folder, packed.size, depth=kind == 0)
        loaders.append(DataLoader(dataset, batch_sampler=[frames[r].tolist() for r in rows]))
    return zip(*loaders, strict=True)


def _quarters(frames: int) -> tuple[np.ndarray, np.ndarray]:
    positions = np.arange(frames)
    return positions[::4], positions[positions % 4 > 0]
