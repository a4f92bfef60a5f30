"""From KITTI Raw's folders to the packed training set: in parallel, resumable, all or nothing."""

import csv
import errno
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np
from tqdm import tqdm

from experiments.common.cores import usable_cores
from ubnlib.kitti.packed.dataset import PackedDepth
from ubnlib.kitti.packed.files import (
    DEPTH,
    MANIFEST,
    TABLE,
    FrameEntry,
    Manifest,
    fingerprint,
    read_manifest,
    write_table,
)
from ubnlib.kitti.packed.growing import PackingFolder
from ubnlib.kitti.packed.preparation import Preparation
from ubnlib.kitti.raw import KittiRaw

CHUNK = 32
"""Frames between two marks of progress: a run that is killed loses at most so many a worker."""
LEFT_OUT = "left_out.csv"


def prepare(
    dataset: KittiRaw, folder: Path | str, *, workers: int | None = None, progress: bool = True
) -> PackedDepth:
    """Pack a dataset's frames; a complete folder of the same frames is kept as it is.

    Frames whose files turn out to be broken are left out, and listed with the reason in the
    folder's `left_out.csv` beside those without a partner. A run that was stopped in any way goes
    on where it was when it is started again.

    Args:
        dataset: The frames, with a `size` of at most 2^18 pixels.
        folder: The folder to make; its parents are made, too.
        workers: Threads; decoding and projecting release Python's global lock. The number of
            usable cores by default.
        progress: Whether to show a progress bar on standard error.

    Returns:
        The packed set.

    Raises:
        ValueError: If the dataset has no or too large a size, or no frame could be read.
        FileExistsError: If the folder holds something else, or is being prepared elsewhere.
        OSError: If the disk is too small, or may not be written to.

    Example:
        >>> raw = KittiRaw("kitti_raw", size=(256, 832))  # doctest: +SKIP
        >>> frames = prepare(raw, "data/packed")  # doctest: +SKIP
    """
    task = Preparation(dataset, Path(folder))
    if _is_complete(task):
        return PackedDepth(task.folder)
    if task.bytes_needed > task.bytes_free:
        raise OSError(
            errno.ENOSPC,
            f"{task.folder} needs about {task.bytes_needed / 1e9:.2f} GB and "
            f"{task.bytes_free / 1e9:.2f} GB are free: free some, or choose another disk",
        )
    task.partial.mkdir(parents=True, exist_ok=True)
    growing = PackingFolder(task)
    chunks = [range(i, min(i + CHUNK, len(dataset))) for i in range(0, len(dataset), CHUNK)]
    with growing.locked(), _naming_full_disk(task):
        growing.reserve()
        _pack_all(growing, chunks, workers or usable_cores(), progress)
        _join(growing, chunks)
        growing.complete()
    return PackedDepth(task.folder)


@contextmanager
def _naming_full_disk(task: Preparation) -> Iterator[None]:
    """Say what to do when the disk is full: the system's own error names not even the file."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise OSError(
            error.errno,
            f"{task.partial} cannot be written in full ({error.strerror}): free some space, and "
            f"the same command goes on where it was; or choose another disk",
        ) from error


def _is_complete(task: Preparation) -> bool:
    """Return whether the folder holds these very frames; refuse to touch anything else."""
    folder = task.folder
    if folder.is_mount():
        raise FileExistsError(f"{folder} is a whole disk: name a folder inside of it.")
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        manifest = read_manifest(folder)
    except (OSError, ValueError) as error:
        raise FileExistsError(
            f"{folder} exists and is no packed set ({error}); choose another folder, or remove "
            f"this one."
        ) from None
    if manifest.source != task.source:
        raise FileExistsError(
            f"{folder} was prepared from other files or with other options ({manifest.frames} "
            f"frames of {manifest.size}); choose another folder, or remove this one to make it "
            f"anew."
        )
    shutil.rmtree(folder / "chunks", ignore_errors=True)  # of a run that was killed as it tidied
    return True


def _pack_all(growing: PackingFolder, chunks: list[range], workers: int, progress: bool) -> None:
    """Pack the chunks in threads, whichever order they end in."""
    total = len(growing.task.dataset)
    bar = tqdm(total=total, desc="Packing", unit="frame", disable=not progress)
    with bar, ThreadPoolExecutor(workers) as pool:
        futures = {pool.submit(growing.pack, chunk): chunk for chunk in chunks}
        try:
            for future in as_completed(futures):
                future.result()
                bar.update(len(futures[future]))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _join(growing: PackingFolder, chunks: list[range]) -> None:
    """Join the chunks' codes, and write table, manifest and the frames left out."""
    dataset, folder = growing.task.dataset, growing.task.partial
    entries, left_out = [], list(dataset.left_out)
    for chunk in chunks:
        for index, outcome in zip(chunk, growing.read(chunk)[1], strict=True):
            key = dataset.keys[index]
            if isinstance(outcome, str):
                left_out.append((key.image_path(dataset.root), outcome))
            else:
                entries.append(FrameEntry(key, index, *outcome))
    if not entries:
        raise ValueError(f"No frame below {dataset.root} could be read. {left_out[-1][1]}")
    points = sum(entry.points for entry in entries)
    with (folder / DEPTH).open("wb") as file:
        header = {"descr": "<u4", "fortran_order": False, "shape": (points,)}
        np.lib.format.write_array_header_1_0(file, header)
        for chunk in chunks:
            file.write(growing.read(chunk)[0])
    table = write_table(entries)
    (folder / TABLE).write_text(table)
    with (folder / LEFT_OUT).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file", "reason"), *left_out])
    manifest = Manifest(
        size=dataset.size,
        frames=len(entries),
        rows=len(dataset),
        points=points,
        left_out=len(left_out),
        source=growing.task.source,
        fingerprint=fingerprint(table),
        versions={name: version(name) for name in ("ubnlib", "torch", "pillow", "numpy")},
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n")
