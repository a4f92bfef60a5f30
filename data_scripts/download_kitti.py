"""Download drives of KITTI Raw: color images, lidar scans, timestamps and calibration.

Prints what it takes (bytes, time, disk), then fetches, checks and unpacks. Run again, it goes on
where it stopped: bytes that arrived are kept in ROOT/archives, and a drive's folder appears only
when all of it is there. The KITTI data is licensed CC BY-NC-SA 3.0, for non-commercial use: A.
Geiger, P. Lenz, C. Stiller, R. Urtasun, "Vision meets Robotics: The KITTI Dataset", IJRR 2013.
"""

import argparse
import errno
import os
import random
import re
import shutil
import struct
import sys
import threading
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests
from filelock import FileLock, Timeout
from tqdm import tqdm

from experiments.common.arguments import whole_number
from kitti_drives import DRIVE_SPLITS, Drive, choose_drives

BASE_URL = "https://s3.eu-central-1.amazonaws.com/avg-kitti"  # as on KITTI's download page
LONGEST_WAIT = 120  # seconds between two attempts
RATE = 10e6  # bytes per second, to estimate the time
# Bytes per frame: means over all drives of what is fetched and what is kept of it, and a limit for
# what comes out of an archive, where a real frame has five million.
ARCHIVE_BYTES, KEPT_BYTES, LARGEST_BYTES = 4_090_000, 3_700_000, 20_000_000

_WANTED = (  # files of a drive
    r"image_0[23]/(data/[0-9]{10}\.png|timestamps\.txt)|"
    r"velodyne_points/(data/[0-9]{10}\.bin|timestamps(_start|_end)?\.txt)"
)
_PAGE = "a web page, such as for a login, and no zip archive: check the base URL and any proxy"
_ZIP = b"PK\x03\x04"  # what an archive begins with
_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
_BUSY = {408, 425, 429, 500, 502, 503, 504}  # answers of a server that may be asked again
_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError),
    *(ValueError, IndexError, OverflowError, RuntimeError),  # zipfile's, for numbers that lie
)


class DownloadError(Exception):
    """An archive cannot be fetched or must not be unpacked."""


class Stopped(Exception):
    """The download was interrupted; what arrived is kept."""


@dataclass(frozen=True)
class Job:
    """One archive to fetch and unpack: a drive's, or a date's calibration."""

    name: str
    path: str  # of the archive, below the base URL
    folder: str  # that holds its files, in the archive and below the root, with a slash at the end
    wanted: str  # a pattern of the files in it that are kept
    counts: dict[str, int]  # of files that come out of it, by their pattern
    frames: int = 0

    @classmethod
    def of_drive(cls, drive: Drive) -> "Job":
        """Return the job of one drive."""
        path, folder = f"raw_data/{drive.name}/{drive.name}_sync.zip", f"{drive.date}/{drive.name}"
        counts = dict.fromkeys(("image_02/data/*.png", "image_03/data/*.png"), drive.frames)
        counts["velodyne_points/data/*.bin"] = drive.scans
        return cls(drive.name, path, f"{folder}_sync/", _WANTED, counts, drive.frames)

    @classmethod
    def of_calibration(cls, date: str) -> "Job":
        """Return the job of one recording date's calibration."""
        needed = dict.fromkeys(("calib_cam_to_cam.txt", "calib_velo_to_cam.txt"), 1)
        path = f"raw_data/{date}_calib.zip"
        return cls(f"{date}_calib", path, f"{date}/", r"calib_[a-z_]+\.txt", needed)

    def is_done(self, root: Path) -> bool:
        """Return whether the files are in place; a drive's folder gets its name when all are."""
        folder = root / self.folder
        return folder.exists() if self.frames else all((folder / n).exists() for n in self.counts)

    def unexpected(self, root: Path) -> list[str]:
        """Return a sentence for each kind of files of which there are more or fewer than known."""
        found = {kind: len(list((root / self.folder).glob(kind))) for kind in self.counts}
        return [
            f"{self.name} holds {found[kind]} files {kind}, {count} were expected: if another "
            f"program left it incomplete, move it away and run again."
            for kind, count in self.counts.items()
            if found[kind] != count
        ]

    def archive(self, root: Path) -> Path:
        """Return where what has arrived of the archive lies."""
        return root / "archives" / f"{self.path.split('/')[-1]}.part"

    def hidden(self, root: Path) -> Path:
        """Return where the archive is unpacked."""
        return root / f".{self.name}.partial"


@dataclass(frozen=True)
class Plan:
    """What there is to do, and what it takes: bytes are estimates from the drives' lengths."""

    jobs: Sequence[Job]
    done: Sequence[Job]  # by an earlier run
    fetch: int  # bytes
    arrived: int  # bytes of these that are here
    disk_needed: int
    disk_free: int

    def describe(self) -> str:
        """Return lines for the user."""
        minutes = round((self.fetch - self.arrived) / RATE / 60)
        fetch, arrived, needed, free = (
            f"{count / 1e9:,.1f} GB"
            for count in (self.fetch, self.arrived, self.disk_needed, self.disk_free)
        )
        return (
            f"drives    {sum(job.frames > 0 for job in self.jobs)} to fetch, "
            f"{sum(job.frames > 0 for job in self.done)} there already\n"
            f"transfer  about {fetch}, {arrived} of it here already\n"
            f"time      about {minutes // 60} h {minutes % 60:02d} min for the rest, at 10 MB/s\n"
            f"disk      about {needed} needed, {free} free"
        )


def make_plan(root: Path, drives: Sequence[Drive], parallel: int) -> Plan:
    """Compare what is wanted with what is there; nothing is written, and no server is asked.

    The disk must hold what is extracted, and the archives that are on their way at once.
    """
    if root.exists() and not root.is_dir():
        raise NotADirectoryError(f"{root} is a file: name a folder to download to.")
    wanted = [Job.of_calibration(date) for date in sorted({drive.date for drive in drives})]
    wanted += [Job.of_drive(drive) for drive in drives]
    jobs = [job for job in wanted if not job.is_done(root)]
    sizes = [job.frames * ARCHIVE_BYTES for job in jobs]
    here = [min(size, _size(job.archive(root))) for size, job in zip(sizes, jobs, strict=True)]
    rest = sorted((size - part for size, part in zip(sizes, here, strict=True)), reverse=True)
    existing = next(path for path in (root, *root.absolute().parents) if path.exists())
    return Plan(
        jobs=jobs,
        done=[job for job in wanted if job not in jobs],
        fetch=sum(sizes),
        arrived=sum(here),
        disk_needed=sum(rest[:parallel]) + sum(job.frames * KEPT_BYTES for job in jobs),
        disk_free=shutil.disk_usage(existing).free,
    )


class Download:
    """Fetches and unpacks archives; several threads call `obtain` at once."""

    def __init__(self, root: Path, arguments: argparse.Namespace, bar: tqdm):
        self.root, self.options, self.bar = root, arguments, bar
        self.lock, self.stop = threading.Lock(), threading.Event()

    def obtain(self, job: Job) -> list[str]:
        """Fetch an archive, unpack it, put its files in place; return what is unexpected."""
        archive = job.archive(self.root)
        if not zipfile.is_zipfile(archive):  # whole if a process was killed just then
            self.fetch(f"{self.options.base_url.rstrip('/')}/{job.path}", archive)
        try:
            with _disk_may_be_full(self.root):
                unpack(archive, job, self.root, self.stop)
        except DownloadError as error:
            archive.unlink()
            raise DownloadError(f"{error} It was removed; run again to fetch it anew.") from error
        archive.unlink()
        archive.with_suffix(".again").unlink(missing_ok=True)  # of a process that was killed
        return job.unexpected(self.root)

    def fetch(self, url: str, part: Path) -> None:
        """Fetch the rest of an archive; ask again, after growing waits, as long as bytes come."""
        failures = 0
        with requests.Session() as session:
            while True:
                before = _size(part)
                try:
                    return self.receive(session, url, part)
                except requests.RequestException as error:
                    failures = 1 if _size(part) > before else failures + 1
                    if failures >= self.options.attempts or isinstance(
                        error, ValueError
                    ):  # a wrong URL
                        raise DownloadError(
                            f"{url} cannot be fetched ({error}); {_size(part):,} bytes are kept, "
                            f"run again to go on."
                        ) from error
                    pause = min(LONGEST_WAIT, random.uniform(0.5, 1) * 2**failures)
                    again = f"{part.stem}: {error}; trying again in {pause:.0f} s"
                    tqdm.write(f"download_kitti: {again}", file=sys.stderr)
                if self.stop.wait(pause):
                    raise Stopped

    def receive(self, session: requests.Session, url: str, part: Path) -> None:
        """Make one request for what is missing, and append what comes.

        A server that knows no ranges sends all again: what is here stays until there is more.
        """
        here = _size(part)
        headers = {"Accept-Encoding": "identity"}  # else sizes would be of other bytes
        if here:
            headers["Range"] = f"bytes={here}-"
        timeout = (10, self.options.timeout)
        with session.get(url, headers=headers, stream=True, timeout=timeout) as answer:
            said = f"the server answered {answer.status_code} {answer.reason}"
            if answer.status_code in _BUSY:
                raise requests.HTTPError(said)
            goes_on = answer.headers.get("Content-Range", "").startswith(f"bytes {here}-")
            if answer.status_code == 416 or (answer.status_code == 206 and not goes_on):
                part.unlink(missing_ok=True)  # it is of something else: from the beginning
                raise requests.HTTPError(f"{said}, which does not fit what is here")
            if answer.status_code not in (200, 206):
                raise DownloadError(f"{url}: {said}; check the base URL.")
            if answer.headers.get("Content-Type", "").startswith("text/html"):  # what is here stays
                raise DownloadError(f"{url}: the server sent {_PAGE}.")
            if answer.status_code == 206 or not here:
                return self.write(answer, part, here)
            again = part.with_suffix(".again")
            try:
                self.write(answer, again, 0)
                here = 0  # all of it is there, however little
                if not _start(again).startswith(_ZIP):
                    what = "something else than a zip archive: check the base URL and any proxy"
                    raise DownloadError(f"{url}: the server sent {what}.")
            finally:
                if _size(again) > here and _start(again).startswith(_ZIP):
                    again.replace(part)
                again.unlink(missing_ok=True)

    def write(self, answer: requests.Response, path: Path, here: int) -> None:
        """Append what comes to the `here` bytes of a file."""
        expected = here + int(answer.headers.get("Content-Length", 0))
        with _disk_may_be_full(path), path.open("ab" if here else "wb") as file:
            for chunk in answer.iter_content(1 << 16):
                if self.stop.is_set():
                    raise Stopped
                file.write(chunk)
                with self.lock:
                    self.bar.update(len(chunk))
        if _size(path) < expected:
            raise requests.HTTPError(f"it ended at byte {_size(path):,} of {expected:,}")


@contextmanager
def _disk_may_be_full(path: Path) -> Iterator[None]:
    """Say what cannot be written: the system's own error names not even the file."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        full = f"{path} cannot be written in full ({error.strerror}): free some space"
        advice = "and the same command goes on where it was; or choose another disk"
        raise OSError(f"{full}, {advice}.") from error


def unpack(archive: Path, job: Job, root: Path, stop: threading.Event) -> None:
    """Unpack what is wanted into a hidden folder, checksums compared, then rename it into place.

    An archive that is damaged, that has a name outside its folder or an absurd size is refused, and
    nothing of it is left.
    """
    hidden, target = job.hidden(root), root / job.folder
    shutil.rmtree(hidden, ignore_errors=True)  # left by a process that was killed
    try:
        with zipfile.ZipFile(archive) as zipped:
            if fault := _fault(zipped.infolist(), job):
                raise DownloadError(f"{archive} is refused: {fault}.")
            for member in zipped.infolist():
                if stop.is_set():
                    raise Stopped
                if re.fullmatch(job.wanted, member.filename.removeprefix(job.folder)):
                    zipped.extract(member, hidden)
        source = hidden / job.folder
        if missing := [kind for kind in job.counts if not any(source.glob(kind))]:
            raise DownloadError(f"{archive} lacks {', '.join(missing)}.")
        (root / job.folder.split("/")[0]).mkdir(exist_ok=True)
        if target.exists():  # calibration goes beside the drives
            for path in source.iterdir():
                path.replace(target / path.name)
        else:
            source.replace(target)
    except _DAMAGE as error:
        if _is_page(archive):
            raise DownloadError(f"{archive} is {_PAGE}.") from error
        raise DownloadError(f"{archive} is damaged or no zip archive ({error}).") from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _is_page(path: Path) -> bool:
    start = _start(path).lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    return start.startswith((b"<!doctype", b"<html"))


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(500)


def _fault(members: Sequence[zipfile.ZipInfo], job: Job) -> str | None:
    """Return why an archive must not be unpacked; None if nothing speaks against it."""
    for name in (member.orig_filename for member in members):  # as stored: zipfile repairs some
        own = name.startswith(job.folder) or (name.endswith("/") and job.folder.startswith(name))
        if not own or "\\" in name or ".." in name.split("/"):
            return f"its member {name[:200]!r} lies outside {job.folder}"
    total, limit = sum(m.file_size for m in members), (job.frames + 10) * LARGEST_BYTES
    return f"it has {total:,} bytes unpacked, {limit:,} are the limit" if total > limit else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def download(root: Path, plan: Plan, arguments: argparse.Namespace) -> dict[str, str]:
    """Do what a plan says; return why archives failed, for one does not stop the others."""
    if plan.disk_needed > plan.disk_free:
        raise OSError(
            f"The disk of {root} is too small: {plan.disk_needed:,} bytes are needed, "
            f"{plan.disk_free:,} are free; choose fewer drives, or another disk."
        )
    (root / "archives").mkdir(parents=True, exist_ok=True)
    for job in plan.done:  # where a run was killed between unpacking and tidying up
        job.archive(root).unlink(missing_ok=True)
        shutil.rmtree(job.hidden(root), ignore_errors=True)
    failed, notes = {}, [note for job in plan.done for note in job.unexpected(root)]
    bar = tqdm(
        total=plan.fetch, initial=plan.arrived, unit="B", unit_scale=True, disable=arguments.quiet
    )
    work = Download(root, arguments, bar)
    with FileLock(root / ".download.lock", timeout=0), bar:
        pool = ThreadPoolExecutor(arguments.jobs)
        jobs = {pool.submit(work.obtain, job): job for job in plan.jobs}
        try:
            for number, future in enumerate(as_completed(jobs), 1):
                try:
                    notes += future.result()
                except (DownloadError, OSError) as error:
                    failed[jobs[future].name] = str(error)
                bar.set_postfix_str(f"{number} of {len(jobs)} archives")
        finally:
            work.stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            wait(jobs, timeout=3)  # no longer: a thread may wait for a silent server
    if not any((root / "archives").iterdir()):
        (root / "archives").rmdir()
    print(*(f"note: {note}" for note in notes), sep="\n", end="\n" * bool(notes))
    return failed


def main() -> int:
    """Parse the arguments, print the plan, download, print what failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("root", type=Path, help="folder for DATE/DATE_drive_NNNN_sync")
    add("--drives", nargs="+", metavar="NAME", help="as 2011_09_26_drive_0001")
    add("--split", choices=DRIVE_SPLITS, default="all", help="all is 173 GB to fetch")
    add("--dry-run", action="store_true", help="print the plan and stop")
    add("--base-url", default=BASE_URL, help="where the archives are")
    add("--jobs", type=whole_number, default=4, help="archives at the same time")
    add("--timeout", type=whole_number, default=60, help="seconds without a byte")
    add("--attempts", type=whole_number, default=8, help="without a new byte")
    add("--quiet", action="store_true", help="show no progress bar")
    arguments = parser.parse_args()
    root = arguments.root
    try:
        drives = choose_drives(arguments.drives, arguments.split)
        plan = make_plan(root, drives, arguments.jobs)
        print(plan.describe(), flush=True)
        if arguments.dry_run:
            return 0
        failed = download(root, plan, arguments)
    except Timeout:
        print(f"download_kitti: another download to {root} is running.", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(f"download_kitti: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        message = "interrupted; what arrived is kept, run the same command to go on."
        print(f"\ndownload_kitti: {message}", file=sys.stderr, flush=True)
        os._exit(130)  # else Python waits for threads; they hold nothing that may not be lost
    for name, reason in failed.items():
        print(f"download_kitti: {name} failed: {reason}", file=sys.stderr)
    print(root)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
