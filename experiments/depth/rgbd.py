"""Recorded sequences of images and depth maps from any camera, for training as on KITTI.

`ROOT/image/NAME.jpg` (or `.png`) and `ROOT/depth/NAME.png` make a frame: they are paired by name,
never by position. `RgbdFrames` offers what training and evaluation use of `PackedDepth`, so that
`experiments.depth.train` runs on it unchanged.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
import yaml
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt
from torch import Tensor
from torch.nn import functional as F

from experiments.depth.data import DepthData
from ubnlib.kitti.packed import positions
from ubnlib.kitti.raw import FrameKey, read_png
from ubnlib.kitti.splits import LAST_FRAME
from ubnlib.losses import downscale_depth

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
LAYOUT = "image/NAME.jpg or .png, and depth/NAME.png of the same names"
SATURATED = 65535  # no measurement either: the distance does not fit into 16 bits

UNLABELED = "9999"  # the drive of images without depth
_DATE = "0000_00_00"  # records write keys in KITTI's form; no drive of KITTI is of this day


class Crop(BaseModel):
    """The part of the depth maps that is used: from a first pixel to before another."""

    model_config = ConfigDict(extra="forbid")

    rows: tuple[NonNegativeInt, NonNegativeInt]
    columns: tuple[NonNegativeInt, NonNegativeInt]


class Split(BaseModel):
    """Which frames are for training: by lists, by the frame's number, or by time."""

    model_config = ConfigDict(extra="forbid")

    train: str | None = None  # files of the folder that list names or numbers, line by line
    test: str | None = None
    train_to: int | None = None  # the last frame's number
    test_from: int | None = None
    share: float = 0.7  # of each sequence, the first part ...
    gap: float = 0.05  # ... and the part after it that is on neither side


class Description(BaseModel):
    """What is particular about a folder of RGB-D frames."""

    model_config = ConfigDict(extra="forbid")

    source: str = ""
    depth_scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1000.0  # units a meter
    crop: Crop | None = None
    unlabeled: str | None = None  # folder of images without depth, for training
    split: Split = Split()


def describe(name: str) -> Description:
    """Return the description of one of the study's folders."""
    known = yaml.safe_load((Path(__file__).parent / "domains.yaml").read_text())
    return Description(**known[name])


def rgbd_data(root: Path | str, size: tuple[int, int], description: Description) -> DepthData:
    """Return a folder's frames, split as its description says; unlabeled ones are for training."""
    frames = RgbdFrames(root, size, description)
    measured = [key for key in frames.keys if key.drive != UNLABELED]
    others = [key for key in frames.keys if key.drive == UNLABELED]
    split = description.split
    if split.train is not None and split.test is not None:
        names = {name: key for key, name in zip(frames.keys, frames.names, strict=True)}
        train, test = (listed(frames.root / path, names) for path in (split.train, split.test))
    elif split.train_to is not None and split.test_from is not None:
        train = [key for key in measured if key.frame <= split.train_to]
        test = [key for key in measured if key.frame >= split.test_from]
    else:
        train, test = split_by_time(measured, split.share, split.gap)
    return DepthData(frames, train, test, others)


def listed(path: Path, names: Mapping[str, FrameKey]) -> list[FrameKey]:
    """Return the frames that a file lists by their name, or by its number."""
    numbers = {key.frame: key for key in names.values()}
    keys, missing = [], []
    for line in path.read_text(encoding="utf-8").split():
        key = names.get(line) or (numbers.get(int(line)) if line.isdecimal() else None)
        (missing if key is None else keys).append(key or line)
    if missing:
        raise ValueError(
            f"{path} lists {len(missing)} frames that the folder lacks, the first {missing[0]}: "
            "copy them, or take them off the list."
        )
    return keys


class RgbdBatch(NamedTuple):
    """Frames of a step, as `PackedBatch`; depth maps are dense, where codes would save nothing.

    Without depth there are no maps, and all counts are 0.
    """

    images: Tensor  # uint8 [n, 3, H, W]
    maps: Tensor  # float32 [n, H, W], meters, 0 = no measurement
    counts: Tensor  # int64 [n], each map's number of measured pixels

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "RgbdBatch":
        """Return the batch on a device."""
        return RgbdBatch(*(tensor.to(device, non_blocking=non_blocking) for tensor in self))

    def depth(self) -> Tensor:
        """Return float32 [n, H, W], meters, 0 = no measurement, and all 0 if not asked for."""
        return self.maps if len(self.maps) else self.maps.new_zeros(self.images[:, 0].shape)


class RgbdFrames:
    """All frames of a folder that have both an image and a depth map, read once into memory.

    The last number in a file's name is its frame and gives its place in time. Subfolders, the same
    ones below `image` and `depth`, are sequences of their own: the drives 0000, 0001 and so on of
    the keys. Images are resized as `KittiRaw`'s are, to (height, width), at most the depth maps'
    own; a cell's depth is the nearest surface measured in it. The description of a folder says
    what is particular about it, such as its unit of depth.
    """

    def __init__(
        self,
        root: Path | str,
        size: tuple[int, int] = (48, 64),
        description: Description | None = None,
    ):
        description = description or Description()
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"size is {size}, expected (height, width) in pixels.")
        self.root, self.size = Path(root), tuple(size)
        images = find_files(self.root / "image", IMAGE_SUFFIXES)
        depths = find_files(self.root / "depth", (".png",))
        alone = [(images[name], "images without a depth map") for name in images.keys() - depths]
        alone += [(depths[name], "depth maps without an image") for name in depths.keys() - images]
        frames = []
        for key, name in frame_keys(sorted(images.keys() & depths)).items():
            image, depth = read_frame(images[name], depths[name], self.size, description)
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
        if description.unlabeled is not None:
            frames += self._unlabeled(description)
        keys, names, pixels, maps = zip(*frames, strict=True)
        self.keys, self.names = list(keys), list(names)  # the files' names, without suffix
        self._images, self._maps = np.stack(pixels), np.stack(maps)
        self._index = {key: index for index, key in enumerate(keys)}
        digest = hashlib.sha256(repr((self.size, [tuple(key) for key in keys])).encode())
        digest.update(self._images)
        digest.update(self._maps.astype("<f4"))
        self.fingerprint = digest.hexdigest()[:16]

    def _unlabeled(
        self, description: Description
    ) -> list[tuple[FrameKey, str, np.ndarray, np.ndarray]]:
        """Read the images that have no depth map, as frames of a drive of their own."""
        found = find_files(self.root / description.unlabeled, IMAGE_SUFFIXES)
        nothing = np.zeros(self.size, np.float32)
        frames = []
        for number, (name, path) in enumerate(sorted(found.items())):
            key = FrameKey(_DATE, UNLABELED, 0, number)
            frames.append((key, name, resized(_read_image(path), self.size), nothing))
        return frames

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
        counts = (maps > 0).sum((1, 2)) if depth else torch.zeros(len(chosen), dtype=torch.int64)
        return RgbdBatch(torch.from_numpy(self._images[chosen]), maps, counts)

    def report(self) -> str:
        """Say in one line what was found and what was left out, and why."""
        sequences = len({key.drive_name for key in self.keys})
        return (
            f"frames: {len(self)}, sequences: {sequences}, left out: {self._reasons()}; depth in "
            f"{(self._maps > 0).mean():.1%} of the pixels, up to {self._maps.max():.2f} m"
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


def find_files(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Return a folder's files and those of its subfolders: path by name without suffix."""
    if not folder.is_dir():
        raise FileNotFoundError(f"Folder {folder} is missing: expected {LAYOUT}.")
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in suffixes and not path.name.startswith("."):
            other = found.setdefault(path.relative_to(folder).with_suffix("").as_posix(), path)
            if other != path:
                raise ValueError(
                    f"Files {other} and {path.name} have the same name: expected one of them; "
                    f"remove the other."
                )
    return found


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
    image_path: Path, depth_path: Path, size: tuple[int, int], description: Description
) -> tuple[np.ndarray, np.ndarray]:
    """Read an image and its depth map and bring both to one size, at most the depth map's own.

    Returns:
        The image, uint8 [3, height, width], resized bilinearly with antialiasing, and the nearest
        surface measured in each cell, float32 [height, width], meters, 0 = no measurement. A pixel
        that lies in two cells counts in both.
    """
    image, depth = _read_image(image_path), _read_depth(depth_path)
    height, width = depth.shape
    if abs(image.width * height - width * image.height) > max(height, image.height):
        raise ValueError(
            f"Image {image_path} is {image.width}x{image.height} pixels and its depth map "
            f"{width}x{height}: expected one aspect ratio; crop both to the same view."
        )
    if crop := description.crop:
        rows, columns = (slice(*crop.rows), slice(*crop.columns))
        if crop.rows[1] > height or crop.columns[1] > width:
            raise ValueError(
                f"The crop to rows {crop.rows} and columns {crop.columns} leaves the depth map "
                f"{depth_path}, which is {height}x{width}: expected a part of it."
            )
        depth = depth[rows, columns]
        # The image may be larger than the depth map, of one aspect ratio.
        scale = image.width / width
        edges = (crop.columns[0], crop.rows[0], crop.columns[1], crop.rows[1])
        image = image.crop(tuple(round(edge * scale) for edge in edges))
        height, width = depth.shape
    if size[0] > height or size[1] > width:
        raise ValueError(
            f"Depth map {depth_path} is {height}x{width} (height x width): expected at least the "
            f"size {size[0]}x{size[1]}; choose a smaller size."
        )
    depth = depth.copy()
    depth[depth == SATURATED] = 0
    nearest = downscale_depth(torch.from_numpy(depth.astype(np.float32))[None], size)[0]
    return resized(image, size), nearest.numpy() / np.float32(description.depth_scale)


def resized(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """Return an image as uint8 [3, height, width]."""
    pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    return (
        F.interpolate(pixels[None], size, mode="bilinear", antialias=True)[0].contiguous().numpy()
    )


def _read_image(path: Path) -> Image.Image:
    expected = "a whole 8-bit JPEG or PNG, as its suffix says"
    if path.suffix.lower() == ".png":
        image = read_png(path, "Image", expected)
    else:
        try:
            with Image.open(path, formats=["JPEG"]) as image:
                image.load()
        except FileNotFoundError:
            raise FileNotFoundError(f"Image {path} is missing: copy it again.") from None
        # What Pillow raises for broken files.
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ValueError(
                f"Image {path} cannot be read ({error}): expected {expected}; copy it again."
            ) from error
    if image.mode.startswith(("I", "F")):  # a conversion would clip it to white
        raise ValueError(f"Image {path} is of Pillow's mode {image.mode}: expected {expected}.")
    return image


def _read_depth(path: Path) -> np.ndarray:
    expected = "a whole 16-bit grayscale PNG"
    image = read_png(path, "Depth map", expected)
    if image.mode != "I;16":
        raise ValueError(f"Depth map {path} is of Pillow's mode {image.mode}: expected {expected}.")
    return np.array(image)
