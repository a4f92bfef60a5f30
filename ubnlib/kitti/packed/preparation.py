"""What is to be packed and where to: sizes, time and disk space, before anything is written."""

import hashlib
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ubnlib.kitti.packed.codes import check_size, encode_depth
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
        # A link to another disk is followed: the folder must grow beside where it will lie.
        object.__setattr__(self, "folder", Path(self.folder).resolve())
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
        """Disk space that is free, with what an earlier run has taken for this folder."""
        there = next(path for path in self.folder.parents if path.exists())
        taken = 0
        for path in self.partial.rglob("*"):
            with suppress(FileNotFoundError):  # another process may be at work there
                taken += 512 * path.stat().st_blocks
        return shutil.disk_usage(there).free + taken

    @cached_property
    def source(self) -> str:
        """Digest of the options, the calibrations, and the frames' names and files' sizes."""
        digest = hashlib.sha256(repr((*self.dataset.size, self.dataset.convention)).encode())
        for date in sorted({key.date for key in self.dataset.keys}):
            for path in sorted((self.dataset.root / date).glob("calib_*.txt")):
                digest.update(path.read_bytes())
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
        seconds = self._seconds_a_frame() * len(self.dataset) / workers
        height, width = self.dataset.size
        return (
            f"{self.dataset.report()}\n"
            f"to {self.folder} at {height}x{width}: {self.bytes_needed / 1e9:.2f} GB needed, "
            f"{self.bytes_free / 1e9:.2f} GB free, about {tqdm.format_interval(seconds)} "
            f"with {workers} workers"
        )

    def _seconds_a_frame(self) -> float:
        """Time one frame; broken ones, which will be left out, are passed over."""
        warm, count = False, len(self.dataset)
        for index in (0, count // 2, *range(min(count, 8))):
            start = time.perf_counter()
            with suppress(ValueError, FileNotFoundError):
                self.pack(index)
                if warm:
                    return time.perf_counter() - start
                warm = True  # the first call compiles and loads
        return 0.0
