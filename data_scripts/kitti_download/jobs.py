"""Which archives a set of drives needs, beside what a folder holds already."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from kitti_download.catalog import Drive, calibration_archive
from kitti_download.extract import (
    CALIBRATION_FILES,
    Unpacked,
    compare_counts,
    count_drive,
    unpack_calibration,
    unpack_drive,
)
from kitti_download.manifest import DownloadManifest
from kitti_download.partial_file import Partial

_EXTRACTED_BYTES_PER_FRAME = 3_700_000  # two color images and a scan; the mean of real frames
_CALIBRATION_BYTES = 5_000


@dataclass(frozen=True)
class Job:
    """One archive to fetch and unpack."""

    name: str
    """The drive's name, or `DATE_calib`."""
    path: str
    """The archive's path below the base URL."""
    estimated_bytes: int
    """An estimate of the archive's size."""
    extracted_bytes: int
    """An estimate of what is kept of it."""
    unpack: Callable[..., Unpacked]
    """Unpacks it: `unpack(archive, root, check=check)`."""

    @classmethod
    def for_drive(cls, drive: Drive) -> "Job":
        """Return the job of one drive."""
        extracted = drive.frames * _EXTRACTED_BYTES_PER_FRAME
        unpack = partial(unpack_drive, drive=drive)
        return cls(drive.name, drive.archive, drive.estimated_bytes, extracted, unpack)

    @classmethod
    def for_calibration(cls, date: str) -> "Job":
        """Return the job of one recording date's calibration."""
        unpack = partial(unpack_calibration, date=date)
        path = calibration_archive(date)
        return cls(f"{date}_calib", path, _CALIBRATION_BYTES, 3 * _CALIBRATION_BYTES, unpack)

    @property
    def archive_name(self) -> str:
        """The archive's file name."""
        return PurePosixPath(self.path).name

    def url(self, base_url: str) -> str:
        """Return the archive's address."""
        return f"{base_url.rstrip('/')}/{self.path}"

    def archive(self, root: Path) -> Path:
        """Return where the archive is when it is whole and kept."""
        return root / "archives" / self.archive_name

    def partial_file(self, root: Path) -> Partial:
        """Return the archive on its way."""
        return Partial(self.archive(root))

    def arrived(self, root: Path) -> int:
        """Return how many bytes of the archive are here."""
        whole = self.archive(root)
        return whole.stat().st_size if whole.is_file() else self.partial_file(root).size


@dataclass(frozen=True)
class Sorted:
    """What there is to do for a set of drives."""

    jobs: tuple[Job, ...]
    kept: tuple[Job, ...]
    """Those whose files are complete already."""
    blocked: dict[str, str]
    """Drives that are there but not complete, and what to do about them."""


def sort_out(root: Path, drives: Sequence[Drive]) -> Sorted:
    """Tell what must be fetched from what is there; calibration comes first.

    A drive is complete if it holds as many files as the catalog says, or as an earlier download
    found in its archive. Anything else that has a drive's name is not touched.

    Raises:
        ValueError: If the folder's download manifest cannot be read.
    """
    manifest = DownloadManifest(root)
    jobs, kept, blocked = [], [], {}
    for date in sorted({drive.date for drive in drives}):
        (kept if _has_calibration(root / date) else jobs).append(Job.for_calibration(date))
    for drive in drives:
        folder = root / drive.date / f"{drive.name}_sync"
        job = Job.for_drive(drive)
        if not folder.exists():
            jobs.append(job)
            continue
        counts, recorded = count_drive(folder), manifest[job.archive_name]
        differences = compare_counts(drive, counts)
        if not differences or (recorded and recorded.files == counts):
            kept.append(job)
        else:
            blocked[drive.name] = (
                f"{folder} is there but not complete: {' '.join(differences)} "
                f"Move it away, then run again."
            )
    return Sorted(tuple(jobs), tuple(kept), blocked)


def _has_calibration(folder: Path) -> bool:
    return all((folder / name).is_file() for name in CALIBRATION_FILES)
