"""Recorded sequences of images and depth maps from any camera, for training as on KITTI.

`ROOT/image/NAME.jpg` (or `.png`) and `ROOT/depth/NAME.png` make a frame: they are paired by name,
never by position. `RgbdFrames` offers what training and evaluation use of `PackedDepth`, so that
`experiments.depth.train` runs on it unchanged.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from math import isfinite
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from experiments.depth.rgbd_files import IMAGE_SUFFIXES, LAYOUT, find_files, frame_keys, read_frame
from ubnlib.kitti.packed import positions
from ubnlib.kitti.raw import FrameKey


class RgbdBatch(NamedTuple):
    """Frames of a step, as `PackedBatch`; depth maps are dense, where codes would save nothing."""

    images: Tensor
    """uint8 [n, 3, H, W]."""
    maps: Tensor
    """float32 [n, H, W], meters, 0 = no measurement; [0, H, W] if depth was not asked for."""
    counts: Tensor
    """int64 [n], each map's number of measured pixels; all 0 if depth was not asked for."""

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
    the keys. Objects may be pickled to worker processes; each then has a copy of the data.

    Args:
        root: The folder that holds `image` and `depth`.
        size: (height, width) to bring frames to, at most the depth maps' own. Images are resized
            as `KittiRaw`'s are; a cell's depth is the nearest surface measured in it.
        depth_scale: Units of the depth PNGs in a meter: 1000 for millimeters, 256 for KITTI's.

    Attributes:
        keys: The frames, sorted; `keys[i]` names frame i.
        names: Their files' names below `image` and `depth`, without suffix.
        size: (height, width).
        fingerprint: 16 hex digits that stand for the keys and every byte of images and depth maps.
        left_out: (path, reason) for each file without its partner or without a measurement.

    Raises:
        FileNotFoundError: If `image` or `depth` is missing.
        ValueError: If an option is none, a file is broken or of the wrong kind, a name gives no
            frame number, an image and its depth map differ in shape, or no frame is complete.

    Example:
        >>> frames = RgbdFrames("kitchen", size=(48, 64))  # doctest: +SKIP
        >>> data = DepthData(frames, *split_by_time(frames.keys))  # doctest: +SKIP
    """

    def __init__(
        self, root: Path | str, size: tuple[int, int] = (48, 64), depth_scale: float = 1000.0
    ):
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"size is {size}, expected (height, width) in pixels.")
        if not (isfinite(depth_scale) and depth_scale > 0):
            raise ValueError(f"depth_scale is {depth_scale}, expected units a meter above 0.")
        self.root, self.size = Path(root), tuple(size)
        images = find_files(self.root / "image", IMAGE_SUFFIXES)
        depths = find_files(self.root / "depth", (".png",))
        alone = [(images[name], "images without a depth map") for name in images.keys() - depths]
        alone += [(depths[name], "depth maps without an image") for name in depths.keys() - images]
        frames = []
        for key, name in frame_keys(sorted(images.keys() & depths)).items():
            image, depth = read_frame(images[name], depths[name], self.size, depth_scale)
            if depth.any():
                frames.append((key, name, image, depth))
            else:
                alone.append((depths[name], "depth maps without a measurement"))
        self.left_out = sorted(alone)
        if not frames:
            raise ValueError(
                f"Folder {self.root} has no frame with an image and depth (left out: "
                f"{self._reasons()}): expected {LAYOUT}."
            )
        keys, names, pixels, maps = zip(*frames, strict=True)
        self.keys, self.names = list(keys), list(names)
        self._images, self._maps = np.stack(pixels), np.stack(maps)
        self._index = {key: index for index, key in enumerate(keys)}
        digest = hashlib.sha256(repr((self.size, [tuple(key) for key in keys])).encode())
        digest.update(self._images)
        digest.update(self._maps.astype("<f4"))
        self.fingerprint = digest.hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.keys)

    def index(self, key: FrameKey) -> int:
        """Return the position of a frame.

        Raises:
            KeyError: If the frame is not in this folder.
        """
        return self._index[key]

    def image(self, index: int) -> Tensor:
        """Return an image: uint8 [3, H, W]."""
        return torch.from_numpy(self._images[index].copy())

    def depth(self, index: int) -> Tensor:
        """Return a depth map: float32 [H, W], meters, 0 = no measurement."""
        return torch.from_numpy(self._maps[index].copy())

    def batch(self, indices: Sequence[int], *, depth: bool = True) -> RgbdBatch:
        """Copy frames into one batch.

        Args:
            indices: Positions of the frames; repetitions are allowed.
            depth: Whether to take the depth maps; unlabeled frames need none.

        Raises:
            IndexError: If there is no such frame.
            ValueError: If `indices` is a mask.
        """
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

    Args:
        keys: Frames in any order.
        train: Share of each sequence to train on.
        gap: Share that belongs to neither side.

    Returns:
        The frames to train on and those to test on, both sorted.

    Raises:
        ValueError: If the shares leave nothing for one side, or a sequence is too short.
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
