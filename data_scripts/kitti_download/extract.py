"""Unpack KITTI's archives: what is needed of them, where it belongs, whole or not at all.

An archive is refused as a whole if `open_archive` finds fault with one member, or if one checksum
is wrong. The files go to a hidden folder first, and get their place by renaming.
"""

import os
import re
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kitti_download.archive import ArchiveError, is_damage, open_archive
from kitti_download.catalog import Drive

CALIBRATION_FILES = ("calib_cam_to_cam.txt", "calib_velo_to_cam.txt")
"""The files of a date without which no depth can be projected."""

_WANTED_OF_DRIVE = re.compile(
    r"image_0[23]/(data/[0-9]{10}\.png|timestamps\.txt)|"
    r"velodyne_points/(data/[0-9]{10}\.bin|timestamps(_start|_end)?\.txt)"
)
_WANTED_OF_DATE = re.compile(r"calib_[a-z_]+\.txt")
_LARGEST_PER_FRAME = 20_000_000  # bytes unpacked; a real frame has about 5 MB
_LARGEST_CALIBRATION = 1 << 24


@dataclass(frozen=True)
class Unpacked:
    """Files that wait in a hidden folder to be put in place."""

    folder: Path
    moves: tuple[tuple[Path, Path], ...]  # (from, to)
    counts: dict[str, int]  # files by folder
    notes: tuple[str, ...] = ()  # what differs from the catalog

    def put_in_place(self) -> None:
        """Move everything where it belongs, each by one renaming."""
        for source, target in self.moves:
            source.replace(target)
        shutil.rmtree(self.folder, ignore_errors=True)


def unpack_drive(
    archive: Path, root: Path, drive: Drive, check: Callable[[], None] = lambda: None
) -> Unpacked:
    """Unpack color images, scans and their timestamps of a drive.

    Args:
        archive: The file, under whatever name.
        root: The KITTI Raw folder; `DATE/DATE_drive_NNNN_sync` below it must not exist.
        drive: What the archive must hold; other numbers of files are noted, not refused.
        check: Called before each file; what it raises ends the work.

    Returns:
        The files, not yet in place.

    Raises:
        ArchiveError: If the archive is refused; nothing is left of it.
        OSError: If the disk cannot be written.
    """
    target = root / drive.date / f"{drive.name}_sync"
    folder = target.with_name(f".{target.name}.partial")
    inside = f"{drive.date}/{target.name}/"
    largest = (drive.frames + 10) * _LARGEST_PER_FRAME
    _unpack(archive, folder, inside, _WANTED_OF_DRIVE, largest, check)
    counts = count_drive(folder)
    if not any(counts.values()):
        shutil.rmtree(folder)
        raise ArchiveError(f"{archive} holds no image and no scan of {drive.name}.")
    return Unpacked(folder, ((folder, target),), counts, compare_counts(drive, counts))


def unpack_calibration(
    archive: Path, root: Path, date: str, check: Callable[[], None] = lambda: None
) -> Unpacked:
    """Unpack a recording date's calibration files; as `unpack_drive`."""
    folder = root / date / f".{date}_calib.partial"
    _unpack(archive, folder, f"{date}/", _WANTED_OF_DATE, _LARGEST_CALIBRATION, check)
    names = sorted(path.name for path in folder.iterdir())
    if missing := sorted(set(CALIBRATION_FILES) - set(names)):
        shutil.rmtree(folder)
        raise ArchiveError(f"{archive} lacks {', '.join(missing)}: it is no calibration archive.")
    moves = tuple((folder / name, root / date / name) for name in names)
    return Unpacked(folder, moves, {"calibration": len(names)})


def compare_counts(drive: Drive, counts: dict[str, int]) -> tuple[str, ...]:
    """Return a sentence for every number of files that differs from the catalog's."""
    expected = {"image_02": drive.frames, "image_03": drive.frames, "velodyne_points": drive.scans}
    return tuple(
        f"{drive.name} holds {counts[sensor]} files in {sensor}; {number} were expected."
        for sensor, number in expected.items()
        if counts[sensor] != number
    )


def count_drive(folder: Path) -> dict[str, int]:
    """Count a drive's color images and scans by sensor folder."""
    suffixes = {"image_02": ".png", "image_03": ".png", "velodyne_points": ".bin"}
    return {
        sensor: sum(1 for _ in (folder / sensor / "data").glob(f"*{suffix}"))
        for sensor, suffix in suffixes.items()
    }


def _unpack(
    archive: Path,
    folder: Path,
    inside: str,
    wanted: re.Pattern,
    largest: int,
    check: Callable[[], None],
) -> None:
    """Unpack the wanted members of an archive into a fresh folder, or leave nothing.

    The others are read too: all checksums are compared.
    """
    shutil.rmtree(folder, ignore_errors=True)  # left by a process that was killed
    folder.mkdir(parents=True)
    try:
        with open_archive(archive, inside, largest) as zipped:
            for member in zipped.infolist():
                check()
                name = member.filename.removeprefix(inside)
                _read_member(zipped, member, folder / name if wanted.fullmatch(name) else None)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if is_damage(error) and not isinstance(error, ArchiveError):
            raise ArchiveError(f"{archive} is damaged ({error}): fetch it again.") from error
        raise


def _read_member(zipped: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path | None) -> None:
    """Read a member to its end, where its checksum is compared, and write it where told to."""
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
    size = 0
    with zipped.open(member) as source, open(path or os.devnull, "wb") as target:
        while block := source.read(1 << 20):
            size += target.write(block)
    if size != member.file_size:
        raise ArchiveError(f"{member.filename} ends early: the archive is damaged.")
