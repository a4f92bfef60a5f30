"""Recorded sequences of images and depth maps from any camera, for training as on KITTI.

`ROOT/image/NAME.jpg` (or `.png`) and `ROOT/depth/NAME.png` make a frame: they are paired by name,
never by position. `RgbdFrames` offers what training and evaluation use of `PackedDepth`, so that
`experiments.depth.train` runs on it unchanged; `rgbd_data` splits it as a description file says.
"""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from math import isfinite
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from ubnlib.kitti.packed import positions
from ubnlib.kitti.raw import FrameKey, read_png
from ubnlib.kitti.splits import LAST_FRAME
from ubnlib.losses import downscale_depth

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
LAYOUT = "image/NAME.jpg or .png, and depth/NAME.png of the same names"
SATURATED = 65535  # no measurement either: the distance does not fit into 16 bits

UNLABELED = "9999"  # the drive of images without depth
_DATE = "0000_00_00"  # records write keys in KITTI's form; no drive of KITTI is of this day


class RgbdBatch(NamedTuple):
    """Frames of a step, as `PackedBatch`; depth maps are dense, where codes would save nothing.

    Without depth there are no maps.
    """

    images: Tensor  # uint8 [n, 3, H, W]
    maps: Tensor  # float32 [n, H, W], meters, 0 = no measurement

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "RgbdBatch":
        """Return the batch on a device."""
        return RgbdBatch(*(tensor.to(device, non_blocking=non_blocking) for tensor in self))

    def depth(self) -> Tensor:
        """Return float32 [n, H, W], meters, 0 = no measurement, and all 0 if not asked for."""
        return self.maps if len(self.maps) else self.maps.new_zeros(self.images[:, 0].shape)


class Crop(NamedTuple):
    """The part of a view that is used, in pixels of the depth map; ends are not part of it."""

    rows: tuple[int, int]
    columns: tuple[int, int]


class NotUsable(ValueError):
    """A whole file of a kind that cannot be used, so that its frame is left out."""

    def __init__(self, path: Path, reason: str):
        super().__init__(f"{path}: {reason}.")
        self.path, self.reason = path, reason


class RgbdFrames:
    """All frames of a folder that have both an image and a depth map, read once into memory.

    The last number in a file's name is its frame and gives its place in time. Subfolders, the same
    ones below `image` and `depth`, are sequences of their own: the drives 0000, 0001 and so on of
    the keys. Images are resized as `KittiRaw`'s are, to (height, width), at most the depth maps'
    own after the crop; a cell's depth is the nearest surface measured in it, up to `max_depth`
    meters. `depth_scale` is how many units of the depth PNGs are a meter: 1000 for millimeters,
    256 for KITTI's. The images of the folder `unlabeled` have no depth: they come last, as a
    drive of their own, numbered in the order of their names, and have empty depth maps.
    """

    def __init__(
        self,
        root: Path | str,
        size: tuple[int, int] = (48, 64),
        depth_scale: float = 1000.0,
        *,
        crop: Crop | None = None,
        max_depth: float = float("inf"),
        unlabeled: Path | str | None = None,
    ):
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"size is {size}, expected (height, width) in pixels.")
        if not (isfinite(depth_scale) and depth_scale > 0):
            raise ValueError(f"depth_scale is {depth_scale}, expected units a meter above 0.")
        self.root, self.size = Path(root), tuple(size)
        images, skipped = find_files(self.root / "image", IMAGE_SUFFIXES)
        depths, also_skipped = find_files(self.root / "depth", (".png",))
        alone = [*skipped, *also_skipped]
        alone += [(images[name], "images without a depth map") for name in images.keys() - depths]
        alone += [(depths[name], "depth maps without an image") for name in depths.keys() - images]
        frames, shape = [], None
        for key, name in frame_keys(sorted(images.keys() & depths)).items():
            try:
                image, depth, shape = read_frame(
                    images[name], depths[name], self.size, depth_scale, crop, max_depth
                )
            except NotUsable as error:
                alone.append((error.path, error.reason))
                continue
            if depth.any():
                frames.append((key, name, image, depth))
            else:
                alone.append((depths[name], "depth maps without a measurement"))
        self.left_out = sorted(alone)  # (path, reason)
        if not frames:
            raise ValueError(
                f"Folder {self.root} has no frame with an image and depth (left out: "
                f"{self._reasons()}): expected {LAYOUT}."
            )
        self.paired = [key for key, *_ in frames]
        if unlabeled is not None:
            others, skipped = find_files(self.root / unlabeled, IMAGE_SUFFIXES)
            self.left_out += skipped
            for number, (name, path) in enumerate(sorted(others.items())):
                try:
                    image = read_image(path, self.size, shape, crop)
                except NotUsable as error:
                    self.left_out.append((error.path, error.reason))
                    continue
                key = FrameKey(_DATE, UNLABELED, 0, number)
                frames.append((key, name, image, np.zeros(self.size, np.float32)))
        keys, names, pixels, maps = zip(*frames, strict=True)
        self.keys, self.names = list(keys), list(names)  # the files' names, without suffix
        self.unpaired = self.keys[len(self.paired) :]  # images without depth
        self._images, self._maps = np.stack(pixels), np.stack(maps)
        self._index = {key: index for index, key in enumerate(keys)}
        digest = hashlib.sha256(repr((self.size, [tuple(key) for key in keys])).encode())
        digest.update(self._images)
        digest.update(self._maps.astype("<f4"))
        self.fingerprint = digest.hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.keys)

    def index(self, key: FrameKey) -> int:
        """Return the position of a frame."""
        return self._index[key]

    def image(self, index: int) -> Tensor:
        """Return an image: uint8 [3, H, W]."""
        return torch.from_numpy(self._images[index].copy())

    def depth(self, index: int) -> Tensor:
        """Return a depth map: float32 [H, W], meters, 0 = no measurement."""
        return torch.from_numpy(self._maps[index].copy())

    def batch(self, indices: Sequence[int], *, depth: bool = True) -> RgbdBatch:
        """Copy frames, repeated ones too, into one batch; unlabeled frames need no depth."""
        chosen = positions(indices, len(self))
        maps = torch.from_numpy(self._maps[chosen if depth else chosen[:0]])
        return RgbdBatch(torch.from_numpy(self._images[chosen]), maps)

    def report(self) -> str:
        """Say in one line what was found and what was left out, and why."""
        sequences = len({key.drive_name for key in self.paired})
        maps = self._maps[: len(self.paired)]
        others = f", images without depth: {len(self.unpaired)}" if self.unpaired else ""
        return (
            f"frames: {len(self.paired)}, sequences: {sequences}{others}, left out: "
            f"{self._reasons()}; depth in {(maps > 0).mean():.1%} of the pixels, up to "
            f"{maps.max():.2f} m"
        )

    def _reasons(self) -> str:
        """Count what was left out."""
        if not self.left_out:
            return "0"
        reasons = sorted(Counter(reason for _, reason in self.left_out).items())
        counts = ", ".join(f"{reason}: {count}" for reason, count in reasons)
        return f"{len(self.left_out)} ({counts}; the first: {self.left_out[0][0]})"


def split_by_time(
    keys: Sequence[FrameKey], train: float = 0.7, gap: float = 0.05
) -> tuple[list[FrameKey], list[FrameKey]]:
    """Split each sequence into a first block to train on, a gap, and a last block to test on.

    Neighboring frames are almost the same picture: drawn at random, test frames would be known
    from training. Blocks are shares of the frames that are there, rounded; a gap has at least one.
    Returns the frames to train on and those to test on, both sorted.
    """
    if not (train > 0 and gap >= 0 and train + gap < 1):
        raise ValueError(
            f"train is {train} and gap {gap}: expected shares above 0 and from 0, below 1 together."
        )
    blocks: tuple[list[FrameKey], list[FrameKey]] = [], []
    for (drive, _), group in groupby(sorted(keys), lambda key: (key.drive_name, key.camera)):
        sequence = list(group)
        end = round(train * len(sequence))
        start = end + (max(1, round(gap * len(sequence))) if gap else 0)
        if end < 1 or start >= len(sequence):
            raise ValueError(
                f"Sequence {drive} has {len(sequence)} frames, too few for shares of {train} to "
                f"train on and {gap} between: expected some on both sides; record more."
            )
        blocks[0].extend(sequence[:end])
        blocks[1].extend(sequence[start:])
    return blocks


# --- files ----------------------------------------------------------------------------------------


def find_files(
    folder: Path, suffixes: tuple[str, ...]
) -> tuple[dict[str, Path], list[tuple[Path, str]]]:
    """Return a folder's files and those of its subfolders: path by name without suffix.

    Links to folders are followed after the folders themselves, so that each folder is read once;
    those that lead to nothing new are returned too, with the reason.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"Folder {folder} is missing: expected {LAYOUT}.")
    found: dict[str, Path] = {}
    skipped: list[tuple[Path, str]] = []
    read: set[Path] = set()
    starts = [folder]
    while starts:
        links = []
        for start in starts:
            for inside, folders, names in os.walk(start):
                here = Path(inside)
                if here.resolve() in read:
                    skipped.append((here, "links to folders that are there already"))
                    folders.clear()
                    continue
                read.add(here.resolve())
                links += [here / name for name in sorted(folders) if (here / name).is_symlink()]
                for path in sorted(here / name for name in names):
                    if path.name.startswith("."):
                        continue
                    if path.is_symlink() and not path.exists():
                        skipped.append((path, "links to nothing"))
                    elif path.suffix.lower() in suffixes:
                        name = path.relative_to(folder).with_suffix("").as_posix()
                        other = found.setdefault(name, path)
                        if other != path:
                            raise ValueError(
                                f"Files {other} and {path.name} have the same name: expected one "
                                f"of them; remove the other."
                            )
        starts = links
    return found, skipped


def frame_keys(names: list[str]) -> dict[FrameKey, str]:
    """Give each frame its key: subfolders are drives, and the last number in a name is the frame.

    Names come with their subfolder and without suffix, and go back by key, in the keys' order.
    Drives count from 0000 in the order of the subfolders' names.

    Example:
        >>> for key, name in frame_keys(["kitchen/frame-07", "kitchen/frame-08"]).items():
        ...     print(key.drive, key.frame, name)
        0000 7 kitchen/frame-07
        0000 8 kitchen/frame-08
    """
    folders = sorted({name.rpartition("/")[0] for name in names})
    drives = {folder: f"{number:04d}" for number, folder in enumerate(folders)}
    keys: dict[FrameKey, str] = {}
    firsts: dict[str, tuple[str, str]] = {}
    for name in names:
        folder, _, stem = name.rpartition("/")
        match = re.fullmatch(r"(.*?)([0-9]+)([^0-9]*)", stem)
        if not match or int(match[2]) > LAST_FRAME:
            raise ValueError(
                f"Frame {name} has no number from 0 to {LAST_FRAME} in its name: expected names "
                f"that give each frame's place in time, such as 000123; rename the files."
            )
        first, rest = firsts.setdefault(folder, (name, (match[1], match[3])))
        if (match[1], match[3]) != rest:
            raise ValueError(
                f"Frames {first} and {name} differ in more than their last number: expected one "
                f"sequence; rename the files, or give each sequence a subfolder."
            )
        key = FrameKey(_DATE, drives[folder], 0, int(match[2]))
        other = keys.setdefault(key, name)
        if other != name:
            raise ValueError(
                f"Frames {other} and {name} have the same number: expected each once; rename one."
            )
    return dict(sorted(keys.items()))


def read_frame(
    image_path: Path,
    depth_path: Path,
    size: tuple[int, int],
    depth_scale: float,
    crop: Crop | None = None,
    max_depth: float = float("inf"),
) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """Read an image and its depth map and bring both to one size, at most the depth map's own.

    Returns:
        The image, uint8 [3, height, width], resized bilinearly with antialiasing, the nearest
        surface measured in each cell, float32 [height, width], meters, 0 = no measurement, and the
        depth map's shape before crop and resizing. A pixel that lies in two cells counts in both.
    """
    depth = _read_depth(depth_path)
    shape = depth.shape
    image = read_image(image_path, size, shape, crop)
    depth = depth[_slices(crop, shape, shape, depth_path)]
    height, width = depth.shape
    if size[0] > height or size[1] > width:
        raise ValueError(
            f"Depth map {depth_path} is {height}x{width} (height x width): expected at least the "
            f"size {size[0]}x{size[1]}; choose a smaller size."
        )
    depth[(depth == SATURATED) | (depth > max_depth * depth_scale)] = 0
    nearest = downscale_depth(torch.from_numpy(depth.astype(np.float32))[None], size)[0]
    return image, nearest.numpy() / np.float32(depth_scale), shape


def read_image(
    path: Path, size: tuple[int, int], shape: tuple[int, int], crop: Crop | None = None
) -> np.ndarray:
    """Read an image that shows the view of depth maps of a shape: uint8 [3, height, width]."""
    image, (height, width) = _open_image(path), shape
    if abs(image.width * height - width * image.height) > max(height, image.height):
        raise ValueError(
            f"Image {path} is {image.width}x{image.height} pixels and its depth map "
            f"{width}x{height}: expected one aspect ratio; crop both to the same view."
        )
    pixels = np.array(image.convert("RGB"))
    pixels = pixels[_slices(crop, shape, pixels.shape[:2], path)]
    channels = torch.from_numpy(pixels).permute(2, 0, 1)
    resized = F.interpolate(channels[None], size, mode="bilinear", antialias=True)[0]
    return resized.contiguous().numpy()


def _slices(
    crop: Crop | None, shape: tuple[int, int], own: tuple[int, int], path: Path
) -> tuple[slice, slice]:
    """Return a crop, which is for views of a shape, in pixels of a view's own shape."""
    if crop is None:
        return slice(None), slice(None)
    if any(not 0 <= start < end <= n for (start, end), n in zip(crop, shape, strict=True)):
        raise ValueError(
            f"The crop has rows {list(crop.rows)} and columns {list(crop.columns)}, and the view "
            f"of {path} {shape[0]} rows and {shape[1]} columns: expected a part of it."
        )
    return tuple(
        slice(*(round(end * mine / theirs) for end in ends))
        for ends, mine, theirs in zip(crop, own, shape, strict=True)
    )


def _open_image(path: Path) -> Image.Image:
    """Return an image as viewers show it: turned as its EXIF orientation says."""
    expected = "a whole 8-bit JPEG or PNG, as its suffix says"
    if path.suffix.lower() == ".png":
        image = read_png(path, "Image", expected)
    else:
        try:
            with Image.open(path, formats=["JPEG"]) as image:
                image.load()
                image = ImageOps.exif_transpose(image)
        except FileNotFoundError:
            raise FileNotFoundError(f"Image {path} is missing: copy it again.") from None
        except Exception as error:  # broken files, EXIF too, make Pillow raise almost anything
            raise ValueError(
                f"Image {path} cannot be read ({error}): expected {expected}; copy it again."
            ) from error
    if image.mode.startswith(("I", "F")):  # a conversion would clip it to white
        raise NotUsable(path, f"images of mode {image.mode}, not of 8 bits")
    return image


def _read_depth(path: Path) -> np.ndarray:
    image = read_png(path, "Depth map", "a whole 16-bit grayscale PNG")
    if image.mode != "I;16":
        raise NotUsable(path, f"depth maps of mode {image.mode}, not of 16 bits")
    return np.array(image)
