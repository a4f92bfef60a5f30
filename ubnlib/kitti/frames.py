"""Choosing frames of a drive-structured dataset, and holding them in memory for training."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from tqdm import tqdm

from ubnlib.kitti.layout import FrameKey
from ubnlib.kitti.raw import KittiRaw


def split_by_drive(
    drives: Iterable[str], test_share: float = 0.25
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split drives into train and test, so that no drive's look is on both sides.

    Args:
        drives: Drive names in any order; repetitions count once.
        test_share: Share of the drives to test on, rounded to whole drives, at least one and not
            all of them.

    Returns:
        (train, test), each sorted: the last drives by name are the test drives.

    Raises:
        ValueError: If there are fewer than two drives, or the share is not between 0 and 1.

    Example:
        >>> split_by_drive(["b", "d", "a", "c"])
        (('a', 'b', 'c'), ('d',))
    """
    names = sorted(set(drives))
    if len(names) < 2:
        raise ValueError(f"Cannot split {len(names)} drive(s) {names}: expected at least two.")
    if not 0 < test_share < 1:
        raise ValueError(f"test_share is {test_share}, expected a number between 0 and 1.")
    n_test = min(max(round(test_share * len(names)), 1), len(names) - 1)
    return tuple(names[:-n_test]), tuple(names[-n_test:])


def keep_every(keys: Sequence[FrameKey], k: int, phase: int = 0) -> np.ndarray:
    """Choose the depth maps that a sensor with a k times lower frame rate would have recorded.

    This is how the paper removes labels: in each sequence, one camera of one drive, every k-th
    frame that is there keeps its depth map, and all keep their image. Choices for k = 1, 2, 4, ...
    are nested, so fewer labels are always a subset of more.

    Args:
        keys: Frames in any order.
        k: Keep one frame in k, counted over the frames present; frame numbers may have gaps.
        phase: Position of the first kept frame, modulo k.

    Returns:
        [len(keys)] bool: True where the frame keeps its depth map.

    Raises:
        ValueError: If k is not positive.
    """
    if k < 1:
        raise ValueError(f"k is {k}, expected a whole number from 1 upward.")
    sequences: defaultdict[tuple[str, int], list[int]] = defaultdict(list)
    for index in sorted(range(len(keys)), key=keys.__getitem__):
        sequences[keys[index].drive_name, keys[index].camera].append(index)
    kept = np.zeros(len(keys), dtype=bool)
    for sequence in sequences.values():
        kept[sequence[phase % k :: k]] = True
    return kept


@dataclass(frozen=True, eq=False)
class Frames:
    """Frames held in memory: images uint8 [N, 3, H, W], depth float32 [N, H, W], and their keys."""

    images: torch.Tensor
    depth: torch.Tensor
    keys: tuple[FrameKey, ...]

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def fingerprint(self) -> str:
        """First 16 hex digits of a SHA-256 over keys, shapes and bytes: what data a run saw."""
        digest = hashlib.sha256(repr([tuple(key) for key in self.keys]).encode())
        for array in (self.images, self.depth):
            digest.update(repr(tuple(array.shape)).encode())
            digest.update(array.contiguous().numpy())
        return digest.hexdigest()[:16]


def load_frames(dataset: KittiRaw, *, workers: int = 2, progress: bool = True) -> Frames:
    """Read a whole, small dataset into memory.

    Args:
        dataset: What to read; 1,000 frames at 256x832 take 1.5 GB.
        workers: Reading threads; decoding and resizing release Python's global lock.
        progress: Whether to show a progress bar on standard error.

    Returns:
        All frames, in the dataset's order.

    Raises:
        ValueError: If the frames differ in size, or a file is malformed.
        FileNotFoundError: If a scan has gone since the folder was listed.
    """
    height, width = dataset.image(0).shape[1:]
    images = torch.empty(len(dataset), 3, height, width, dtype=torch.uint8)
    depth = torch.empty(len(dataset), height, width)

    def read(index: int) -> None:
        item = dataset[index]
        if item["image"].shape != images.shape[1:]:
            raise ValueError(
                f"Frame {tuple(item['key'])} is {tuple(item['image'].shape[1:])} in size, the "
                f"first one {height, width}: give the dataset a `size` to bring them together."
            )
        images[index], depth[index] = item["image"], item["depth"]

    with ThreadPoolExecutor(workers) as pool:
        done = pool.map(read, range(len(dataset)))
        for _ in tqdm(done, "Reading frames", len(dataset), unit="frame", disable=not progress):
            pass
    return Frames(images, depth, tuple(dataset.keys))
