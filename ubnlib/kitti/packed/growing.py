"""The folder in which a packed set grows, chunk by chunk, until it is complete.

Images go straight to their rows of the big file. The depth codes of a chunk of frames, their
counts and digests are kept beside it until all are joined. What a killed run has left is believed
only if its digests fit, so that even a power cut leaves nothing wrong behind.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from ubnlib.kitti.packed.files import IMAGES, frame_digest, map_array
from ubnlib.kitti.packed.preparation import Preparation

Outcome = tuple[int, str] | str
"""Of a frame: its number of codes and its digest, or why it is left out."""

_OUTCOMES = TypeAdapter(list[Outcome])


class PackingFolder:
    """A packed set in the making.

    Args:
        task: What is being packed. Its partial folder must exist.
    """

    def __init__(self, task: Preparation):
        self.task, self.chunks = task, task.partial / "chunks"
        self.images = task.partial / IMAGES

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out; the system unlocks what a killed process had locked.

        Raises:
            FileExistsError: If another process is at work here.
        """
        handle = os.open(self.task.partial, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise FileExistsError(
                f"{self.task.folder} is being prepared by another process: wait for it, or stop it."
            ) from None
        finally:
            os.close(handle)

    def reserve(self) -> None:
        """Make the images' file in its full size, unless an earlier run for the same frames has.

        The disk space is taken now, so that a full disk shows at once and not after an hour.
        """
        begun = self.chunks / "source"
        shape = (len(self.task.dataset), *self.task.dataset.size, 3)
        if begun.exists() and begun.read_bytes() == self.task.source.encode():
            with suppress(FileNotFoundError, ValueError):
                map_array(self.images, np.dtype(np.uint8), shape)
                return
        shutil.rmtree(self.chunks, ignore_errors=True)
        self.chunks.mkdir()
        np.lib.format.open_memmap(self.images, "w+", np.uint8, shape)
        if hasattr(os, "posix_fallocate"):
            with self.images.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, self.images.stat().st_size)
        begun.write_text(self.task.source)

    def pack(self, chunk: range) -> None:
        """Pack the frames of a chunk, unless an earlier run has."""
        if self._is_packed(chunk):
            return
        outcomes: list[Outcome] = []
        all_codes = [np.empty(0, "<u4")]
        with self.images.open("r+b") as file:
            for index in chunk:
                try:
                    image, codes = self.task.pack(index)
                except (ValueError, FileNotFoundError) as error:
                    outcomes.append(str(error))
                    continue
                file.seek(self._offset(index))
                file.write(image)
                all_codes.append(codes)
                outcomes.append((len(codes), frame_digest(image, codes)))
        codes_path, outcomes_path = self._paths(chunk)
        codes_path.write_bytes(np.concatenate(all_codes))
        partial = outcomes_path.with_suffix(".partial")
        partial.write_bytes(_OUTCOMES.dump_json(outcomes))
        partial.replace(outcomes_path)

    def read(self, chunk: range) -> tuple[np.ndarray, list[Outcome]]:
        """Return the codes of a chunk, uint32, frame after frame, and each frame's outcome."""
        codes_path, outcomes_path = self._paths(chunk)
        return np.fromfile(codes_path, "<u4"), _OUTCOMES.validate_json(outcomes_path.read_bytes())

    def complete(self) -> None:
        """Give the folder its name once all of it is on the disk, then tidy up."""
        for path in self.task.partial.glob("*.*"):
            with path.open("rb") as file:
                os.fsync(file.fileno())
        self.task.partial.rename(self.task.folder)
        shutil.rmtree(self.task.folder / "chunks")

    def _is_packed(self, chunk: range) -> bool:
        try:
            codes, outcomes = self.read(chunk)
            with self.images.open("rb") as file:
                for index, outcome in zip(chunk, outcomes, strict=True):
                    if isinstance(outcome, str):
                        continue
                    count, digest = outcome
                    file.seek(self._offset(index))
                    image = file.read(self.task.image_bytes)
                    if frame_digest(image, codes[:count]) != digest:
                        return False
                    codes = codes[count:]
        except (OSError, ValueError):
            return False
        return not len(codes)

    def _offset(self, index: int) -> int:
        """Return where a frame's image begins in the file, behind the header and other rows."""
        rows_after = len(self.task.dataset) - index
        return self.images.stat().st_size - rows_after * self.task.image_bytes

    def _paths(self, chunk: range) -> tuple[Path, Path]:
        """Return where a chunk's codes and, written last, its outcomes are kept."""
        stem = self.chunks / f"{chunk.start:08d}"
        return stem.with_suffix(".u4"), stem.with_suffix(".json")
