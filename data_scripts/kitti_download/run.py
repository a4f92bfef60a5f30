"""Download KITTI Raw drives: fetch their archives in parallel, check, unpack, record.

Whatever ends a download, the next one goes on where it stopped: bytes that arrived are kept
below `archives/`, and a drive's folder appears only when all of it is there.
"""

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tqdm.contrib.logging import logging_redirect_tqdm

from kitti_download.archive import ArchiveError
from kitti_download.jobs import Job
from kitti_download.manifest import DownloadManifest
from kitti_download.patience import Patience
from kitti_download.plan import Plan
from kitti_download.progress import Progress
from kitti_download.threads import run_in_threads
from kitti_download.transfer import Stopped, TransferError, fetch

BASE_URL = "https://s3.eu-central-1.amazonaws.com/avg-kitti"
"""KITTI's public bucket, as named on the dataset's download page."""


@dataclass
class Report:
    """What became of a download."""

    done: list[str] = field(default_factory=list)
    """Drives, and calibrations, that arrived."""
    failed: dict[str, str] = field(default_factory=dict)
    """Why the others did not, one sentence each."""
    notes: list[str] = field(default_factory=list)
    """What differs from the catalog."""


def download(
    root: str | os.PathLike,
    plan: Plan,
    base_url: str = BASE_URL,
    *,
    parallel: int = 4,
    keep_archives: bool = False,
    progress: bool = True,
    patience: Patience | None = None,
) -> Report:
    """Do what a plan says; one archive that fails does not stop the others.

    Args:
        root: The KITTI Raw folder; it is made if it is missing.
        plan: From `survey`.
        base_url: Where the archives are.
        parallel: Archives on their way at the same time.
        keep_archives: Whether to keep them in `root/archives`; one that is there already is used
            instead of fetching it, and stays.
        progress: Whether to show a progress bar.
        patience: How long to wait for the server, and how often to ask again.

    Returns:
        What arrived and what failed.

    Raises:
        OSError: If the disk is too small, if the folder cannot be written, or if another download
            to it is running.
        ValueError: If its download manifest cannot be read.
        KeyboardInterrupt: When interrupted, after a few seconds at most; a later call goes on.
    """
    root = Path(root)
    if not plan.fits:
        raise OSError(
            f"The disk of {root} is too small: {plan.disk_needed:,} bytes are needed, "
            f"{plan.disk_free:,} are free; choose fewer drives, or another disk."
        )
    archives = root / "archives"
    try:
        archives.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(_sentence(error, root)) from error
    report, stop = Report(failed=dict(plan.todo.blocked)), threading.Event()
    with _alone_in(root), logging_redirect_tqdm(), Progress(plan, shown=progress) as bar:
        for job in plan.todo.kept:
            job.partial_file(root).discard()  # a process was killed just before it did
        manifest = DownloadManifest(root)
        work = _Work(root, base_url, keep_archives, manifest, bar, patience, stop)

        def note(job: Job, outcome: tuple[str, ...] | BaseException) -> None:
            if isinstance(outcome, OSError | ArchiveError):
                report.failed[job.name] = _sentence(outcome, root)
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                report.done.append(job.name)
                report.notes.extend(outcome)
            bar.count(len(report.done) + len(report.failed) - len(plan.todo.blocked))

        run_in_threads(plan.todo.jobs, work.obtain, note, parallel, stop)
        if not any(archives.iterdir()):
            archives.rmdir()
    return report


@dataclass(frozen=True)
class _Work:
    """What all threads of a download share."""

    root: Path
    base_url: str
    keep: bool
    manifest: DownloadManifest
    bar: Progress
    patience: Patience | None
    stop: threading.Event

    def obtain(self, job: Job) -> tuple[str, ...]:
        """Fetch an archive, unpack it, record it, put its files in place: in this order.

        Returns:
            What differs from the catalog.
        """
        url, whole = job.url(self.base_url), job.archive(self.root)
        partial = job.partial_file(self.root)
        fetched = not whole.exists()
        if fetched:
            fetch(url, partial, patience=self.patience, on_bytes=self.bar.advance, stop=self.stop)
        source = partial.path if fetched else whole
        self.bar.correct(job.name, source.stat().st_size)
        try:
            unpacked = job.unpack(source, self.root, check=self.check)
        except ArchiveError as error:
            if fetched:
                partial.discard()
                raise ArchiveError(
                    f"{error} It was removed; run again to fetch it anew."
                ) from error
            raise ArchiveError(f"{error} Remove it, then run again.") from error
        self.manifest.record(source, job.archive_name, url, unpacked.counts, unpacked.notes)
        unpacked.put_in_place()
        if fetched and self.keep:
            source.replace(whole)
        partial.discard()
        return unpacked.notes

    def check(self) -> None:
        """Give up if asked to."""
        if self.stop.is_set():
            raise Stopped


@contextmanager
def _alone_in(root: Path) -> Iterator[None]:
    """Keep a second download out of a folder, where the file system has locks.

    Raises:
        BlockingIOError: If another download is running.
    """
    descriptor = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(
                f"Another download to {root} is running: wait until it ends."
            ) from None
        except OSError:
            pass  # some network file systems lock no folders
        yield
    finally:
        os.close(descriptor)


def _sentence(error: OSError | ArchiveError, root: Path) -> str:
    """Say what went wrong and what to do about it."""
    if isinstance(error, TransferError | ArchiveError):
        return str(error)
    return (
        f"{error.filename or root}: {error.strerror or error}; make room, or see that the folder "
        f"may be written, then run again."
    )
