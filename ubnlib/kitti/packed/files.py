"""The files of a packed training set: manifest, frame table, and their checks.

`prepare` writes a folder of four files, and `dataset` reads it:

    images.npy     uint8 [rows, H, W, 3]
    depth.npy      uint32 [points], the codes of `codes`, frame after frame
    frames.csv     one line a frame: its key, row of images.npy, number of codes, and digest
    manifest.json  what the folder holds and how it was made
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, ValidationError

from ubnlib.kitti.layout import FrameKey
from ubnlib.kitti.packed.codes import check_size

MANIFEST, TABLE, IMAGES, DEPTH = "manifest.json", "frames.csv", "images.npy", "depth.npy"
_HEADER = "drive,camera,frame,row,points,digest"
_LINE = re.compile(
    r"(\d{4}_\d\d_\d\d)_drive_(\d{4}),([0-3]),(\d{1,10}),(\d{1,10}),(\d{1,10}),([0-9a-f]{16})",
    re.ASCII,
)


class Manifest(BaseModel):
    """What a packed folder holds, and how it was made."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["ubnlib-packed-depth-1"] = "ubnlib-packed-depth-1"
    size: tuple[PositiveInt, PositiveInt]
    frames: PositiveInt
    rows: PositiveInt
    points: NonNegativeInt
    left_out: NonNegativeInt
    resize: str = "bilinear, antialiased"
    source: str  # digest of the names and sizes of the files that were read
    fingerprint: str  # digest of the frame table, and so of all data
    versions: dict[str, str]


class FrameEntry(NamedTuple):
    """One line of the frame table."""

    key: FrameKey
    row: int
    points: int
    digest: str


def frame_digest(image: np.ndarray, codes: np.ndarray) -> str:
    """Return 16 hex digits for an image and its depth codes."""
    digest = hashlib.blake2b(image, digest_size=8)
    digest.update(codes)
    return digest.hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """Read a packed folder's manifest.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is malformed.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: expected a folder written by data_scripts/prepare_kitti.py; "
            f"prepare it first."
        )
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
        check_size(manifest.size)
    except (ValidationError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path} is no manifest of a packed set ({reason}): remove the folder and prepare it "
            f"again."
        ) from error
    return manifest


def write_table(entries: Sequence[FrameEntry]) -> str:
    """Return the frame table's text."""
    lines = (
        f"{key.drive_name},{key.camera},{key.frame},{row},{points},{digest}"
        for key, row, points, digest in entries
    )
    return "".join(f"{line}\n" for line in (_HEADER, *lines))


def read_table(folder: Path, manifest: Manifest) -> list[FrameEntry]:
    """Read a packed folder's frame table.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is malformed, or not the manifest's.
    """
    path = folder / TABLE
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: remove the folder and prepare it again.")
    text = path.read_text(encoding="ascii", errors="replace")
    if fingerprint(text) != manifest.fingerprint:
        raise ValueError(
            f"{path} is not the table that {MANIFEST} was written for: remove the folder and "
            f"prepare it again."
        )
    header, *lines = text.splitlines() or [""]
    matches = [_LINE.fullmatch(line) for line in lines]
    if header != _HEADER or len(lines) != manifest.frames or not all(matches):
        raise ValueError(
            f"{path} is no table of {manifest.frames} frames with the columns {_HEADER}: remove "
            f"the folder and prepare it again."
        )
    entries = []
    for match in matches:
        date, drive, camera, frame, row, points, digest = match.groups()
        key = FrameKey(date, drive, int(camera), int(frame))
        entries.append(FrameEntry(key, int(row), int(points), digest))
    keys, rows = [entry.key for entry in entries], {entry.row for entry in entries}
    points = sum(entry.points for entry in entries)
    if keys != sorted(set(keys)) or len(rows) != len(keys) or max(rows) >= manifest.rows:
        raise ValueError(
            f"{path} names a frame or a row twice, out of order, or beyond the manifest's "
            f"{manifest.rows} rows: remove the folder and prepare it again."
        )
    if points != manifest.points:
        raise ValueError(
            f"{path} counts {points} points and {MANIFEST} {manifest.points}: remove the folder "
            f"and prepare it again."
        )
    return entries


def map_array(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """Map one of the two data files read-only, as a plain array, without reading it.

    Raises:
        FileNotFoundError: If it is missing.
        ValueError: If it is no .npy file of this type and shape, or shorter than it says.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: remove the folder and prepare it again.")
    expected = (
        f"expected {dtype} {shape} as {MANIFEST} says; remove the folder and prepare it again"
    )
    try:
        mapped = np.lib.format.open_memmap(path, mode="r")  # neither pickles nor archives
    except Exception as error:  # a broken header can make numpy's parser raise almost anything
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} cannot be mapped ({reason}): {expected}.") from error
    if (mapped.dtype, mapped.shape) != (dtype, shape) or not mapped.flags.c_contiguous:
        raise ValueError(f"{path} holds something else: {expected}.")
    return np.asarray(mapped)  # the subclass that numpy returns is slow to index


def fingerprint(table: str) -> str:
    """Return 16 hex digits for a frame table, which holds a digest of each frame's data."""
    return hashlib.sha256(table.encode()).hexdigest()[:16]
