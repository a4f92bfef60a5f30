"""The packed training set: frames read at the speed of memory, without opening or decoding files.

`prepare` writes a folder of four files, and `PackedDepth` maps it:

    images.npy     uint8 [rows, H, W, 3]
    depth.npy      uint32 [points], the codes of `encode_depth`, frame after frame
    frames.csv     one line a frame: its key, row of images.npy, number of codes, and digest
    manifest.json  what the folder holds and how it was made

A scan reaches one pixel in ten, so a list of points takes a tenth of a float32 map's space. A code
is `pixel << 14 | round(z * 204.8)`: 18 bits of the pixel's place in the map, row by row, and 14
bits of depth in steps of 4.9 mm up to 80 m, where the evaluation of KITTI ends.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ubnlib.kitti.raw import FrameDataset, FrameKey

DEPTH_BITS = 14
STEPS_PER_METER = 204.8
MAX_DEPTH = 80.0
MAX_PIXELS = 2 ** (32 - DEPTH_BITS)
_MAX_STEP = 2**DEPTH_BITS - 1

MANIFEST, TABLE, IMAGES, DEPTH = "manifest.json", "frames.csv", "images.npy", "depth.npy"
FORMAT, RESIZE = "ubnlib-packed-depth-1", "bilinear, antialiased"
_HEADER = "drive,camera,frame,row,points,digest"
_LINE = re.compile(
    r"(\d{4}_\d\d_\d\d)_drive_(\d{4}),([0-3]),(\d{1,10}),(\d{1,10}),(\d{1,10}),([0-9a-f]{16})",
    re.ASCII,
)
_AGAIN = "remove the folder and prepare it again"

FrameEntry = tuple[FrameKey, int, int, str]  # key, row of `IMAGES`, number of codes, and digest


def check_size(size: tuple[int, int]) -> None:
    """Refuse maps with more pixels than a code can tell apart."""
    if len(size) != 2 or min(size) < 1 or size[0] * size[1] > MAX_PIXELS:
        expected = f"expected (height, width) with at most {MAX_PIXELS} pixels in all"
        raise ValueError(f"size is {tuple(size)}: {expected}, such as (256, 832).")


def encode_depth(depth: np.ndarray) -> np.ndarray:
    """Encode a map, [H, W] in meters, as ascending uint32 codes [n], one a pixel in (0, 80] m.

    A depth that would round to 0 takes the first step, and one that would round to 80 m the last.
    """
    check_size(depth.shape)
    flat = depth.ravel()
    pixel = np.flatnonzero((flat > 0) & (flat <= MAX_DEPTH))
    step = np.rint(flat[pixel] * np.float64(STEPS_PER_METER)).clip(1, _MAX_STEP)
    return pixel.astype(np.uint32) << DEPTH_BITS | step.astype(np.uint32)


def decode_depth(codes: Tensor, counts: Tensor, size: tuple[int, int]) -> Tensor:
    """Decode the int32 codes [m] of maps with int64 counts [n]: float32 [n, H, W] in meters."""
    height, width = size
    # The shift of a signed number drags its sign along: only 18 bits are the pixel's.
    pixel = (codes >> DEPTH_BITS) & (MAX_PIXELS - 1)
    depth = (codes & _MAX_STEP).float() / STEPS_PER_METER
    maps = torch.zeros(len(counts) * height * width, device=codes.device)
    first = torch.arange(len(counts), device=codes.device) * (height * width)
    place = first.repeat_interleave(counts, output_size=len(codes)) + pixel
    if codes.device.type == "cpu":  # numpy's assignment takes a third of the time of torch's
        maps.numpy()[place.numpy()] = depth.numpy()
    else:
        maps[place] = depth
    return maps.view(-1, height, width)


@dataclass(frozen=True)
class Manifest:
    """What a packed folder holds, and how it was made."""

    size: tuple[int, int]
    frames: int
    rows: int
    points: int
    left_out: int
    source: str  # digest of the names and sizes of the files that were read
    fingerprint: str  # digest of the frame table, and so of all data
    versions: dict[str, str]
    format: str
    resize: str

    def __post_init__(self):
        object.__setattr__(self, "size", tuple(self.size))
        numbers = (*self.size, self.frames, self.rows, self.points, self.left_out)
        texts = self.source, self.fingerprint, self.resize, *dict(self.versions).values()
        whole = all(type(number) is int and number >= 0 for number in numbers)
        if not whole or not all(isinstance(text, str) for text in texts):
            raise ValueError("a size or count is no whole number, or a digest or version no text")
        if self.format != FORMAT or not self.frames or not self.rows:
            raise ValueError(f"format is {self.format!r} with {self.frames} frames: not {FORMAT!r}")
        check_size(self.size)


def frame_digest(image: np.ndarray, codes: np.ndarray) -> str:
    """Return 16 hex digits for an image and its depth codes."""
    digest = hashlib.blake2b(image, digest_size=8)
    digest.update(codes)
    return digest.hexdigest()


def fingerprint(table: str) -> str:
    """Return 16 hex digits for a frame table, which holds a digest of each frame's data."""
    return hashlib.sha256(table.encode()).hexdigest()[:16]


def read_manifest(folder: Path) -> Manifest:
    """Read a packed folder's manifest; what is missing or malformed is named."""
    path = folder / MANIFEST
    if not path.is_file():
        made = "expected a folder written by data_scripts/prepare_kitti.py; prepare it first"
        raise FileNotFoundError(f"{path} is missing: {made}.")
    try:
        return Manifest(**json.loads(path.read_bytes()))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is no manifest of a packed set ({reason}): {_AGAIN}.") from error


def write_table(entries: Sequence[FrameEntry]) -> str:
    """Return the frame table's text."""
    lines = (f"{k.drive_name},{k.camera},{k.frame},{row},{n},{sum_}" for k, row, n, sum_ in entries)
    return "\n".join([_HEADER, *lines, ""])


def read_table(folder: Path, manifest: Manifest) -> list[FrameEntry]:
    """Read a packed folder's frame table; what is missing, malformed or another's is named."""
    path = folder / TABLE
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {_AGAIN}.")
    text = path.read_text(encoding="ascii", errors="replace")
    if fingerprint(text) != manifest.fingerprint:
        raise ValueError(f"{path} is not the table that {MANIFEST} was written for: {_AGAIN}.")
    header, *lines = text.splitlines() or [""]
    matches = [_LINE.fullmatch(line) for line in lines]
    if header != _HEADER or len(lines) != manifest.frames or not all(matches):
        table = f"table of {manifest.frames} frames with the columns {_HEADER}"
        raise ValueError(f"{path} is no {table}: {_AGAIN}.")
    entries = []
    for match in matches:
        date, drive, camera, frame, row, points, digest = match.groups()
        key = FrameKey(date, drive, int(camera), int(frame))
        entries.append((key, int(row), int(points), digest))
    keys, rows, counts, _ = zip(*entries, strict=True)
    if [*keys] != sorted(set(keys)) or len(set(rows)) != len(keys) or max(rows) >= manifest.rows:
        wrong = f"twice, out of order, or beyond the manifest's {manifest.rows} rows"
        raise ValueError(f"{path} names a frame or a row {wrong}: {_AGAIN}.")
    if sum(counts) != manifest.points:
        found = f"{path} counts {sum(counts)} points and {MANIFEST} {manifest.points}"
        raise ValueError(f"{found}: {_AGAIN}.")
    return entries


def map_array(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """Map one of the two data files read-only, as a plain array, without reading it."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {_AGAIN}.")
    expected = f"expected {dtype} {shape} as {MANIFEST} says; {_AGAIN}"
    try:
        mapped = np.lib.format.open_memmap(path, mode="r")  # neither pickles nor archives
    except Exception as error:  # a broken header can make numpy's parser raise almost anything
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} cannot be mapped ({reason}): {expected}.") from error
    if (mapped.dtype, mapped.shape) != (dtype, shape) or not mapped.flags.c_contiguous:
        raise ValueError(f"{path} holds something else: {expected}.")
    return np.asarray(mapped)  # the subclass that numpy returns is slow to index


class PackedBatch(NamedTuple):
    """Frames of a packed set as they lie there; depth is unpacked on the device by `depth`."""

    images: Tensor  # uint8 [n, 3, H, W], its memory in channels-last order
    codes: Tensor  # int32 [m], frame after frame; none if depth was not asked for
    counts: Tensor  # int64 [n], each frame's number of codes

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "PackedBatch":
        """Return the batch on a device."""
        return self._make(tensor.to(device, non_blocking=non_blocking) for tensor in self)

    def depth(self) -> Tensor:
        """Unpack the depth maps where the batch is: float32 [n, H, W], meters, 0 = no return."""
        return decode_depth(self.codes, self.counts, tuple(self.images.shape[-2:]))


class PackedDepth(FrameDataset):
    """Map-style dataset over a folder that `prepare` wrote, with `KittiRaw`'s keys.

    An item is `dict(image, depth, key)` as `KittiRaw`'s. `batch(rows)` is the fast way for
    training: one copy of the images, and depth left packed. A pickle holds the path and no data, so
    spawned and forked workers may have it.

    Attributes:
        keys: The frames, sorted; `keys[i]` names item i, and `drives`, sorted, their drives.
        size: (height, width) of images and depth maps.
        fingerprint: 16 hex digits that stand for every byte of the data.
        digests: `frame_digest` of each frame as it was written.

    A missing file is a FileNotFoundError; one malformed, or not as the manifest says, a ValueError.
    """

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        self.size, self.fingerprint = self.manifest.size, self.manifest.fingerprint
        keys, rows, counts, digests = zip(*read_table(self.folder, self.manifest), strict=True)
        super().__init__(keys)
        self.digests = list(digests)
        self._rows, self._counts = np.array(rows), np.array(counts)
        self._ends = self._counts.cumsum()
        shape = (self.manifest.rows, *self.size, 3)
        self._images = map_array(self.folder / IMAGES, np.dtype(np.uint8), shape)
        self._codes = map_array(self.folder / DEPTH, np.dtype("<u4"), (self.manifest.points,))

    def __reduce__(self) -> tuple:
        return type(self), (self.folder,)

    def stored(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a frame on disk, read-only: image, uint8 [H, W, 3], and codes, uint32 [n]."""
        end = self._ends[index]
        return self._images[self._rows[index]], self._codes[end - self._counts[index] : end]

    def image(self, index: int) -> Tensor:
        """Return an image: uint8 [3, H, W], its memory in channels-last order."""
        return torch.from_numpy(self.stored(index)[0].copy()).permute(2, 0, 1)

    def depth(self, index: int) -> Tensor:
        """Return a depth map: float32 [H, W], meters, 0 = no return; damage is a ValueError."""
        codes = self._joined([self.stored(index)[1]])
        return decode_depth(codes, torch.tensor([len(codes)]), self.size)[0]

    def batch(self, indices: Sequence[int], *, depth: bool = True) -> PackedBatch:
        """Read the frames at some positions, repeated or not, into one batch.

        Unlabeled frames need no `depth` codes.

        Raises:
            IndexError: If there is no such frame.
            ValueError: If `indices` is a mask, or a code lies outside of its map.
        """
        chosen = positions(indices, len(self))
        images = np.empty((len(chosen), *self.size, 3), np.uint8)
        # The rows are valid once the indices are, and checking again would cost a second buffer.
        self._images.take(self._rows[chosen], axis=0, out=images, mode="clip")
        counts = self._counts[chosen] if depth else np.zeros(len(chosen), np.int64)
        starts = self._ends[chosen] - counts
        pieces = [self._codes[a : a + n] for a, n in zip(starts, counts, strict=True)]
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
        return PackedBatch(pixels, self._joined(pieces), torch.from_numpy(counts))

    def _joined(self, pieces: list[np.ndarray]) -> Tensor:
        """Copy codes into one tensor; refuse what would land in another map or stop a GPU."""
        codes = np.concatenate([self._codes[:0], *pieces])
        if len(codes) and codes.max() >> DEPTH_BITS >= self.size[0] * self.size[1]:
            raise ValueError(f"{self.folder / DEPTH} holds a point outside of its map: {_AGAIN}.")
        return torch.from_numpy(codes.view(np.int32))

    def report(self) -> str:
        """Say in one line what is there."""
        share = self.manifest.points / len(self) / self.size[0] / self.size[1]
        gigabytes = (self._images.nbytes + self._codes.nbytes) / 1e9
        counts = f"drives: {len(self.drives)}, left out: {self.manifest.left_out}"
        lidar = f"lidar in {share:.1%} of the pixels"
        return f"frames: {len(self)}, {counts}, {lidar}, {gigabytes:.2f} GB"


def positions(indices: Sequence[int], count: int) -> np.ndarray:
    """Return positions of frames as [n] intp; refuse masks, and numbers that name no frame."""
    chosen = np.asarray(indices)
    if not chosen.size:
        return np.empty(0, np.intp)
    if chosen.ndim != 1 or chosen.dtype.kind not in "iu":
        expected = "expected a row of positions; np.flatnonzero gives those of a mask"
        raise ValueError(f"Frames were given as {chosen.dtype} {chosen.shape}: {expected}.")
    if chosen.min() < -count or chosen.max() >= count:
        asked = f"Frames {chosen.min()} to {chosen.max()} were asked for"
        raise IndexError(f"{asked}: expected positions below {count}, the number of frames.")
    return chosen.astype(np.intp)
