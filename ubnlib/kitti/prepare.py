"""From KITTI Raw's folders to the packed training set: in parallel, resumable, all or nothing.

The set grows in `FOLDER.partial`, chunk by chunk. Images go straight to their rows of the big file;
a chunk's depth codes, their counts and digests lie beside it until all are joined. What a killed
run has left is believed only if its digests fit, so that even a power cut leaves nothing wrong.
"""

import csv
import errno
import hashlib
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np

from ubnlib.kitti import packed
from ubnlib.kitti.packed import PackedDepth
from ubnlib.kitti.raw import FrameKey, KittiRaw

CHUNK = 32  # frames between two marks of progress: a killed run loses at most so many a worker
LEFT_OUT = "left_out.csv"
CODES_PER_PIXEL = 0.09  # pixels with a lidar return, for estimates: 0.07 to 0.09 at 256x832

Outcome = tuple[int, str] | str  # a frame's number of codes and digest, or why it is left out


def prepare(
    dataset: KittiRaw, folder: Path | str, *, workers: int | None = None, progress: bool = True
) -> PackedDepth:
    """Pack a dataset's frames; a complete folder of the same frames is kept as it is.

    Broken frames are left out, and listed with the reason in the folder's `left_out.csv` beside
    those without a partner. A later call tries them again, and new ones: where some can be read,
    the folder is made anew from what it holds and from these. A run that was stopped in any way
    goes on where it was.
    The dataset needs a `size` of at most 2^18 pixels. `workers` threads, by default one for each
    usable core, work on it; `progress` says on standard error how far they are.

    Raises:
        ValueError: If the dataset has no or too large a size, or no frame could be read.
        FileExistsError: If the folder holds something else, or is being prepared elsewhere.
        OSError: If the disk is too small, or may not be written to.
    """
    from filelock import FileLock, Timeout  # torch brings it along

    task = Preparation(dataset, folder)
    if task.is_complete():
        return PackedDepth(task.folder)
    needed, free = task.bytes_needed, task.bytes_free
    if needed > free:
        sizes = f"needs about {needed / 1e9:.2f} GB and {free / 1e9:.2f} GB are free"
        raise OSError(errno.ENOSPC, f"{task.folder} {sizes}: free some, or choose another disk")
    task.partial.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(task.partial / "lock", timeout=0):  # a killed process leaves it unlocked
            if task.is_complete():  # another process has just been through
                shutil.rmtree(task.partial, ignore_errors=True)
            else:
                task.reserve()
                _pack_all(task, workers or usable_cores(), progress)
                task.join()
                task.complete()
    except Timeout:
        busy = f"{task.folder} is being prepared by another process"
        raise FileExistsError(f"{busy}: wait for it, or stop it.") from None
    except OSError as error:  # of a full disk, the system's own error names not even the file
        if error.errno not in (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)):
            raise
        full = f"{task.partial} cannot be written in full ({error.strerror}): free some space"
        advice = "and the same command goes on where it was; or choose another disk"
        raise OSError(error.errno, f"{full}, {advice}") from error
    return PackedDepth(task.folder)


def usable_cores() -> int:
    """Return how many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Preparation:
    """Frames to be packed into a folder, and the folder as it grows."""

    def __init__(self, dataset: KittiRaw, folder: Path | str):
        if dataset.size is None:
            missing = "The dataset has no size, and KITTI's dates differ in theirs"
            raise ValueError(f"{missing}: expected KittiRaw(..., size=(height, width)).")
        packed.check_size(dataset.size)
        # A link to another disk is followed: the folder must grow beside where it will lie.
        self.dataset, self.folder = dataset, Path(folder).resolve()
        self.partial = self.folder.with_name(f"{self.folder.name}.partial")
        self.replaced = self.folder.with_name(f"{self.folder.name}.replaced")
        self.images, self.parts = self.partial / packed.IMAGES, self.partial / "chunks"
        frames = range(len(dataset))
        self.chunks = [frames[start : start + CHUNK] for start in frames[::CHUNK]]
        self.shape = (len(dataset), *dataset.size, 3)
        self.earlier: PackedDepth | None = None  # some of the frames, already packed

    @property
    def bytes_needed(self) -> int:
        """Disk space to make the folder, an estimate: while it is made, codes lie there twice."""
        return round(math.prod(self.shape[:3]) * (3 + 2 * 4 * CODES_PER_PIXEL))

    @property
    def bytes_free(self) -> int:
        """Disk space that is free, with what an earlier run has taken for this folder."""
        there = next(path for path in self.folder.parents if path.exists())
        free = shutil.disk_usage(there).free
        for path in self.partial.rglob("*"):
            with suppress(FileNotFoundError):  # another process may be at work there
                found = path.stat()
                free += 512 * found.st_blocks if hasattr(found, "st_blocks") else found.st_size
        return free

    @cached_property
    def source(self) -> str:
        """Digest of the options, the calibrations, and all frames' names and files' sizes."""
        return self.source_of(self.dataset.keys)

    def source_of(self, keys: Sequence[FrameKey]) -> str:
        """Return this digest for some of the frames."""
        # The word is from a time of two pixel conventions: sets packed then stay valid.
        digest = hashlib.sha256(repr((*self.dataset.size, "zero_based")).encode())
        for date in sorted({key.date for key in keys}):
            for path in sorted((self.dataset.root / date).glob("calib_*.txt")):
                digest.update(path.read_bytes())
        for key in keys:
            # A link to nowhere has no size, and its frame will be left out.
            files = self.dataset.files(key)
            sizes = [path.stat().st_size if path.exists() else None for path in files]
            digest.update(repr((tuple(key), sizes)).encode())
        return digest.hexdigest()[:16]

    def is_complete(self) -> bool:
        """Return whether the folder holds all of these frames that can be read, and no others.

        It refuses to touch anything else than a part of them.
        """
        folder, advice = self.folder, "choose another folder, or remove this one"
        if folder.is_mount():
            raise FileExistsError(f"{folder} is a whole disk: name a folder inside of it.")
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            return False
        try:
            there = PackedDepth(folder)
        except (OSError, ValueError) as error:
            found = f"{folder} exists and is no packed set ({error})"
            raise FileExistsError(f"{found}; {advice}.") from None
        self.earlier, held = None, set(there.keys)
        common = [key for key in self.dataset.keys if key in held]
        if self.source_of(common) != there.manifest.source != self.source:
            found = f"{folder} was prepared from other files or with other options"
            what = f"{there.manifest.frames} frames of {there.manifest.size}"
            raise FileExistsError(f"{found} ({what}); {advice} to make it anew.")
        shutil.rmtree(folder / "chunks", ignore_errors=True)  # of a run killed as it tidied
        shutil.rmtree(self.replaced, ignore_errors=True)
        if any(self._can_be_read(i) for i, key in enumerate(self.dataset.keys) if key not in held):
            self.earlier = there
        return self.earlier is None

    def _can_be_read(self, index: int) -> bool:
        with suppress(ValueError, FileNotFoundError):
            return bool(self.read_frame(index))
        return False

    def reserve(self) -> None:
        """Make the images' file in its full size, unless an earlier run for the same frames has."""
        begun = self.parts / "source"
        if begun.exists() and begun.read_bytes() == self.source.encode():
            with suppress(FileNotFoundError, ValueError):
                packed.map_array(self.images, np.dtype(np.uint8), self.shape)
                return
        shutil.rmtree(self.parts, ignore_errors=True)
        self.parts.mkdir()
        np.lib.format.open_memmap(self.images, "w+", np.uint8, self.shape)
        if hasattr(os, "posix_fallocate"):  # a full disk shows at once and not after an hour
            with self.images.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, self.images.stat().st_size)
        begun.write_text(self.source)

    def read_frame(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return one frame of the dataset: image, uint8 [H, W, 3], and depth codes, uint32 [n]."""
        if self.earlier is not None:
            with suppress(KeyError):
                place = self.earlier.index(self.dataset.keys[index])
                stored = self.earlier.stored(place)
                if packed.frame_digest(*stored) == self.earlier.digests[place]:
                    return stored
        image = self.dataset.image(index).permute(1, 2, 0).contiguous().numpy()
        return image, packed.encode_depth(self.dataset.depth(index).numpy())

    def pack(self, chunk: range) -> None:
        """Pack the frames of a chunk, unless an earlier run has."""
        if self._is_packed(chunk):
            return
        outcomes: list[Outcome] = []
        all_codes = [np.empty(0, "<u4")]
        size, image_bytes = self.images.stat().st_size, math.prod(self.shape[1:])
        with self.images.open("r+b") as file:
            for index in chunk:
                try:
                    image, codes = self.read_frame(index)
                except (ValueError, FileNotFoundError) as error:
                    outcomes.append(str(error))
                    continue
                file.seek(size - (len(self.dataset) - index) * image_bytes)  # behind the header
                file.write(image)
                all_codes.append(codes)
                outcomes.append((len(codes), packed.frame_digest(image, codes)))
        part = self._part(chunk)
        part.with_suffix(".u4").write_bytes(np.concatenate(all_codes))
        partial = part.with_suffix(".partial")
        partial.write_bytes(json.dumps(outcomes).encode())
        partial.replace(part.with_suffix(".json"))

    def _is_packed(self, chunk: range) -> bool:
        """Return whether all that an earlier run has left of a chunk fits its digests."""
        try:
            codes, outcomes = self._read(chunk)
            images = packed.map_array(self.images, np.dtype(np.uint8), self.shape)
            for index, outcome in zip(chunk, outcomes, strict=True):
                if isinstance(outcome, str):  # to be tried again
                    return False
                count, digest = outcome
                if packed.frame_digest(images[index], codes[:count]) != digest:
                    return False
                codes = codes[count:]
        except (OSError, ValueError, TypeError, RecursionError):
            return False
        return not len(codes)

    def _read(self, chunk: range) -> tuple[np.ndarray, list[Outcome]]:
        """Return the codes of a chunk, uint32, frame after frame, and each frame's outcome."""
        part = self._part(chunk)
        codes = np.fromfile(part.with_suffix(".u4"), "<u4")
        return codes, json.loads(part.with_suffix(".json").read_bytes())

    def _part(self, chunk: range) -> Path:
        """Return where a chunk's codes and, written last, outcomes are kept, less the ending."""
        return self.parts / f"{chunk.start:08d}"

    def join(self) -> None:
        """Join the chunks' codes, and write table, manifest and the frames left out."""
        dataset, folder = self.dataset, self.partial
        entries, left_out = [], list(dataset.left_out)
        for chunk in self.chunks:
            for index, outcome in zip(chunk, self._read(chunk)[1], strict=True):
                key = dataset.keys[index]
                if isinstance(outcome, str):
                    left_out.append((dataset.files(key)[0], outcome))
                else:
                    entries.append((key, index, *outcome))
        if not entries:
            raise ValueError(f"No frame below {dataset.root} could be read. {left_out[-1][1]}")
        points = sum(count for _, _, count, _ in entries)
        with (folder / packed.DEPTH).open("wb") as file:
            header = {"descr": "<u4", "fortran_order": False, "shape": (points,)}
            np.lib.format.write_array_header_1_0(file, header)
            for chunk in self.chunks:
                file.write(self._read(chunk)[0])
        table = packed.write_table(entries)
        (folder / packed.TABLE).write_text(table, encoding="ascii", newline="\n")
        with (folder / LEFT_OUT).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("file", "reason"), *left_out])
        counts = len(entries), len(dataset), points, len(left_out)
        versions = {name: version(name) for name in ("ubnlib", "torch", "pillow", "numpy")}
        whole = len(entries) == len(dataset)
        source = self.source if whole else self.source_of([key for key, *_ in entries])
        made = source, packed.fingerprint(table), versions, packed.FORMAT, packed.RESIZE
        manifest = packed.Manifest(dataset.size, *counts, *made)
        (folder / packed.MANIFEST).write_text(json.dumps(asdict(manifest), indent=1) + "\n")

    def complete(self) -> None:
        """Give the folder its name once all of it is on the disk, then tidy up."""
        for path in self.partial.glob("*.*"):
            with path.open("r+b") as file:
                os.fsync(file.fileno())
        (self.partial / "lock").unlink(missing_ok=True)
        if self.earlier is not None:
            self.folder.rename(self.replaced)
        self.partial.rename(self.folder)
        shutil.rmtree(self.folder / "chunks")
        shutil.rmtree(self.replaced, ignore_errors=True)


def _pack_all(task: Preparation, workers: int, progress: bool) -> None:
    """Pack the chunks in threads; an error or an interruption cancels those not begun."""
    total, start = len(task.dataset), time.monotonic()
    with ThreadPoolExecutor(workers) as pool:
        for chunk, _ in zip(task.chunks, pool.map(task.pack, task.chunks), strict=True):
            if progress:
                done = chunk.stop
                left = (time.monotonic() - start) / done * (total - done)
                line = f"\rPacking: {done} of {total} frames, about {left:.0f} s left  "
                print(line, end="\n" if done == total else "", file=sys.stderr, flush=True)
