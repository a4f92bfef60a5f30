"""What is to be packed and where to: sizes, time and disk space, before anything is written."""

import hashlib
import shutil
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ubnlib.kitti.packed.codes import check_size, encode_depth
from ubnlib.kitti.packed.files import IMAGES
from ubnlib.kitti.raw import KittiRaw

CODES_PER_PIXEL = 0.09
"""Share of pixels with a lidar return, for estimates: 0.07 to 0.09 at 256x832."""


@dataclass(frozen=True)
class Preparation:
    """Frames to be packed into a folder.

    Args:
        dataset: The frames, with a `size` of at most 2^18 pixels.
        folder: The packed folder to make.

    Raises:
        ValueError: If the dataset has no size or too large a one.
    """

    dataset: KittiRaw
    folder: Path | str

    def __post_init__(self):
        object.__setattr__(self, "folder", Path(self.folder))
        if self.dataset.size is None:
            raise ValueError(
                "The dataset has no size, and KITTI's dates differ in theirs: expected "
                "KittiRaw(..., size=(height, width))."
            )
        check_size(self.dataset.size)

    @property
    def partial(self) -> Path:
        """The folder's name until it is complete."""
        return self.folder.with_name(f"{self.folder.name}.partial")

    @property
    def image_bytes(self) -> int:
        """Size of one packed image in bytes."""
        return 3 * self.dataset.size[0] * self.dataset.size[1]

    @property
    def bytes_needed(self) -> int:
        """Disk space to make the folder, an estimate: while it is made, codes lie there twice."""
        codes = 4 * CODES_PER_PIXEL * self.image_bytes / 3
        return round(len(self.dataset) * (self.image_bytes + 2 * codes))

    @property
    def bytes_free(self) -> int:
        """Disk space that is free, with what an earlier run has reserved for this folder."""
        there = next(path for path in self.folder.absolute().parents if path.exists())
        images = self.partial / IMAGES
        reserved = 512 * images.stat().st_blocks if images.exists() else 0
        return shutil.disk_usage(there).free + reserved

    @cached_property
    def source(self) -> str:
        """Digest of the frames' names, of their files' sizes, and of the size asked for."""
        digest = hashlib.sha256(repr(self.dataset.size).encode())
        for key in self.dataset.keys:
            paths = key.image_path(self.dataset.root), key.scan_path(self.dataset.root)
            sizes = [path.stat().st_size for path in paths]
            digest.update(repr((tuple(key), sizes)).encode())
        return digest.hexdigest()[:16]

    def pack(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Read one frame: the image, uint8 [H, W, 3], and its depth codes, uint32 [n].

        Raises:
            ValueError: If a file is broken.
            FileNotFoundError: If a file is missing.
        """
        image = self.dataset.image(index).permute(1, 2, 0).contiguous().numpy()
        return image, encode_depth(self.dataset.depth(index).numpy())

    def describe(self, workers: int) -> str:
        """Say what will be made, the disk space it needs, and about how long it takes.

        One frame is packed for the estimate; it assumes that every worker has a core of its own.
        """
        self.pack(0)  # the first call compiles and loads
        start = time.perf_counter()
        self.pack(len(self.dataset) // 2)
        seconds = (time.perf_counter() - start) * len(self.dataset) / workers
        height, width = self.dataset.size
        return (
            f"{self.dataset.report()}\n"
            f"to {self.folder} at {height}x{width}: {self.bytes_needed / 1e9:.2f} GB needed, "
            f"{self.bytes_free / 1e9:.2f} GB free, about {tqdm.format_interval(seconds)} "
            f"with {workers} workers"
        )
