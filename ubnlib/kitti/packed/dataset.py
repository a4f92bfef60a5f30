"""The packed training set: reading frames without opening or decoding anything.

The data lies in two memory-mapped files (see `files`); a frame's bytes are copied once, into
the batch that leaves for the device, and depth maps are unpacked there.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from ubnlib.kitti.layout import FrameKey
from ubnlib.kitti.packed.codes import DEPTH_BITS, decode_depth
from ubnlib.kitti.packed.files import (
    DEPTH,
    IMAGES,
    frame_digest,
    map_array,
    read_manifest,
    read_table,
)
from ubnlib.kitti.packed.positions import positions


class PackedBatch(NamedTuple):
    """Frames of a packed set as they lie there; depth is unpacked on the device by `depth`."""

    images: Tensor
    """uint8 [n, 3, H, W], its memory in channels-last order."""
    codes: Tensor
    """int32 [m], all frames' depth codes one after the other; none if depth was not asked for."""
    counts: Tensor
    """int64 [n], each frame's number of codes."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "PackedBatch":
        """Return the batch on a device."""
        return PackedBatch(*(tensor.to(device, non_blocking=non_blocking) for tensor in self))

    def depth(self) -> Tensor:
        """Unpack the depth maps where the batch is: float32 [n, H, W], meters, 0 = no return."""
        return decode_depth(self.codes, self.counts, tuple(self.images.shape[-2:]))


class PackedDepth(Dataset):
    """Map-style dataset over a folder that `prepare` wrote, with `KittiRaw`'s keys.

    An item is `dict(image, depth, key)` as `KittiRaw`'s. `batch(rows)` is the fast way for
    training: one copy of the images, and depth left packed. With a `DataLoader`, which calls
    `__getitems__`, pass `collate_fn=PackedDepth.collate` to have its batches made like that.

    Objects hold paths, and map the files when first used: they may be pickled to spawned workers
    and shared by forked ones.

    Args:
        folder: The folder.

    Attributes:
        keys: The frames, sorted; `keys[i]` names item i.
        size: (height, width) of images and depth maps.
        fingerprint: 16 hex digits that stand for every byte of the data.

    Raises:
        FileNotFoundError: If the folder or one of its files is missing.
        ValueError: If a file is malformed or does not fit the manifest.

    Example:
        >>> frames = PackedDepth("data/packed")  # doctest: +SKIP
        >>> frames.batch([3, 8]).to("cuda").depth().shape  # doctest: +SKIP
        torch.Size([2, 256, 832])
    """

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        self.size, self.fingerprint = self.manifest.size, self.manifest.fingerprint
        entries = read_table(self.folder, self.manifest)
        self.keys = [entry.key for entry in entries]
        self._rows = np.array([entry.row for entry in entries])
        self._counts = np.array([entry.points for entry in entries])
        self._ends = self._counts.cumsum()
        self._digests = [entry.digest for entry in entries]
        self._index = {key: index for index, key in enumerate(self.keys)}
        self._open()

    def _open(self) -> None:
        manifest = self.manifest
        images = (manifest.rows, *manifest.size, 3)
        self._images = map_array(self.folder / IMAGES, np.dtype(np.uint8), images)
        self._codes = map_array(self.folder / DEPTH, np.dtype("<u4"), (manifest.points,))

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_images": None, "_codes": None}

    def __setstate__(self, state: dict) -> None:
        self.__dict__ |= state
        self._open()

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> dict[str, Tensor | FrameKey]:
        return dict(image=self.image(index), depth=self.depth(index), key=self.keys[index])

    def __getitems__(self, indices: Sequence[int]) -> PackedBatch:
        return self.batch(indices)

    @staticmethod
    def collate(batch: PackedBatch) -> PackedBatch:
        """Return what `__getitems__` made; for `DataLoader(collate_fn=...)`."""
        return batch

    def index(self, key: FrameKey) -> int:
        """Return the position of a frame.

        Raises:
            KeyError: If the frame is not in this folder.
        """
        return self._index[key]

    def stored(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a frame as it lies on disk, without a copy; both arrays are read-only.

        Returns:
            The image, uint8 [H, W, 3], and the depth map's codes, uint32 [n].
        """
        end = self._ends[index]
        return self._images[self._rows[index]], self._codes[end - self._counts[index] : end]

    def image(self, index: int) -> Tensor:
        """Return an image: uint8 [3, H, W], its memory in channels-last order."""
        return torch.from_numpy(self.stored(index)[0].copy()).permute(2, 0, 1)

    def depth(self, index: int) -> Tensor:
        """Return a depth map: float32 [H, W], meters, 0 = no return.

        Raises:
            ValueError: If the codes are damaged so that a point lies outside of the map.
        """
        codes = self._joined([self.stored(index)[1]])
        return decode_depth(codes, torch.tensor([len(codes)]), self.size)[0]

    def batch(
        self, indices: Sequence[int], *, depth: bool = True, out: np.ndarray | None = None
    ) -> PackedBatch:
        """Read frames into one batch.

        Args:
            indices: Positions of the frames; repetitions are allowed.
            depth: Whether to read depth codes; unlabeled frames need none.
            out: Buffer for the images, uint8 [len(indices), H, W, 3]: reusing one saves the system
                the work of handing out new memory, a third to a half of the time. The batch
                shares it.

        Raises:
            IndexError: If there is no such frame.
            ValueError: If `out` has another shape or type, `indices` is a mask, or codes are
                damaged so that a point lies outside of its map.
        """
        chosen = positions(indices, len(self))
        shape = (len(chosen), *self.size, 3)
        if out is None:
            out = np.empty(shape, np.uint8)
        elif out.shape != shape or out.dtype != np.uint8:
            raise ValueError(f"out is {out.dtype} {out.shape}, expected uint8 {shape}.")
        # The rows are valid once the indices are, and checking again would cost a second buffer.
        self._images.take(self._rows[chosen], axis=0, out=out, mode="clip")
        counts = self._counts[chosen] if depth else np.zeros(len(chosen), np.int64)
        starts = self._ends[chosen] - counts
        pieces = [self._codes[a : a + n] for a, n in zip(starts, counts, strict=True)]
        images = torch.from_numpy(out).permute(0, 3, 1, 2)
        return PackedBatch(images, self._joined(pieces), torch.from_numpy(counts))

    def _joined(self, pieces: list[np.ndarray]) -> Tensor:
        """Copy codes into one tensor; refuse what would land in another map or stop a GPU."""
        codes = np.concatenate([self._codes[:0], *pieces])
        if len(codes) and codes.max() >> DEPTH_BITS >= self.size[0] * self.size[1]:
            raise ValueError(
                f"{self.folder / DEPTH} holds a point outside of its map: remove the folder and "
                f"prepare it again."
            )
        return torch.from_numpy(codes.view(np.int32))

    def report(self) -> str:
        """Say in one line what is there."""
        manifest, drives = self.manifest, len({key.drive_name for key in self.keys})
        gigabytes = (self._images.nbytes + self._codes.nbytes) / 1e9
        return (
            f"frames: {len(self)}, drives: {drives}, left out: {manifest.left_out}, "
            f"lidar in {manifest.points / len(self) / self.size[0] / self.size[1]:.1%} of the "
            f"pixels, {gigabytes:.2f} GB"
        )

    def verify(self, *, workers: int = 2, progress: bool = True) -> None:
        """Read everything and compare it with the frame table's digests.

        Raises:
            ValueError: If a frame's bytes are not those that were written; names the frame.
        """
        with ThreadPoolExecutor(workers) as pool:
            digests = pool.map(lambda index: frame_digest(*self.stored(index)), range(len(self)))
            bar = tqdm(digests, "Verifying", len(self), unit="frame", disable=not progress)
            for key, found, digest in zip(self.keys, bar, self._digests, strict=True):
                if found != digest:
                    raise ValueError(
                        f"Frame {tuple(key)} in {self.folder} is not what was written there: "
                        f"remove the folder and prepare it again."
                    )
