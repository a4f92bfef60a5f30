"""What a download takes, worked out before it starts: bytes, time, disk."""

import shutil
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import requests

from kitti_download.catalog import Drive
from kitti_download.jobs import Job, Sorted, sort_out
from kitti_download.patience import Patience
from kitti_download.transfer import remote_size

_QUESTIONS_AT_ONCE = 8


@dataclass(frozen=True)
class Plan:
    """What there is to do, and what it takes."""

    todo: Sorted
    sizes: dict[str, int]
    """Bytes of each job's archive, by job name."""
    estimated: frozenset[str]
    """Jobs whose size is no more than an estimate."""
    arrived: dict[str, int]
    """Bytes of each job's archive that are here from an earlier run."""
    seconds: float
    """For the other bytes, at the given rate."""
    disk_needed: int
    """Bytes; an estimate, as the sizes of extracted files are."""
    disk_free: int

    @property
    def fits(self) -> bool:
        """Whether the disk is large enough."""
        return self.disk_needed <= self.disk_free

    def __str__(self) -> str:
        drives, kept = (
            sum("_drive_" in job.name for job in jobs) for jobs in (self.todo.jobs, self.todo.kept)
        )
        total, here = sum(self.sizes.values()), sum(self.arrived.values())
        source = "as the server says"
        if self.estimated:
            source = f"no server told {len(self.estimated)} of the sizes: estimates"
        hours, minutes = divmod(round(self.seconds / 60), 60)
        lines = (
            f"drives    {drives} to fetch, {kept} complete already\n"
            f"transfer  {_gb(total)}, {_gb(here)} of it here already ({source})\n"
            f"time      about {hours} h {minutes:02d} min for the rest, at the given rate\n"
            f"disk      about {_gb(self.disk_needed)} needed, {_gb(self.disk_free)} free"
        )
        return "\n".join([lines, *(f"blocked   {reason}" for reason in self.todo.blocked.values())])


def plan(
    todo: Sorted,
    sizes: Mapping[str, int | None],
    arrived: Mapping[str, int],
    *,
    rate: float,
    parallel: int,
    keep_archives: bool,
    disk_free: int,
) -> Plan:
    """Work out what a download takes.

    Args:
        todo: What there is to do.
        sizes: Bytes of each archive by job name; None or missing where no server told.
        arrived: Bytes of each archive that are here already.
        rate: Bytes per second to expect.
        parallel: Archives on their way at the same time.
        keep_archives: Whether archives stay after they are unpacked.
        disk_free: Bytes.

    Returns:
        The plan. The disk must hold what is extracted, and the rest of the archives that are on
        their way at once: the largest ones, or all of them if they are kept.
    """
    known = {job.name: sizes.get(job.name) or job.estimated_bytes for job in todo.jobs}
    here = {name: min(size, arrived.get(name, 0)) for name, size in known.items()}
    rest = sorted((size - here[name] for name, size in known.items()), reverse=True)
    in_flight = sum(rest if keep_archives else rest[:parallel])
    return Plan(
        todo=todo,
        sizes=known,
        estimated=frozenset(name for name in known if not sizes.get(name)),
        arrived=here,
        seconds=sum(rest) / rate,
        disk_needed=in_flight + sum(job.extracted_bytes for job in todo.jobs),
        disk_free=disk_free,
    )


def survey(
    root: Path,
    drives: Sequence[Drive],
    base_url: str,
    *,
    rate: float,
    parallel: int,
    keep_archives: bool,
    patience: Patience | None = None,
) -> Plan:
    """Look at a folder, ask the server for sizes, and plan; nothing is written.

    Args:
        root: The KITTI Raw folder; it need not exist.
        drives: What it shall hold.
        base_url: Where the archives are.
        rate: As for `plan`, like the next two.
        parallel: See there.
        keep_archives: See there.
        patience: How long to wait for the server; without an answer, sizes are estimated.

    Raises:
        NotADirectoryError: If the folder is a file.
        ValueError: If its download manifest cannot be read.
    """
    if root.exists() and not root.is_dir():
        raise NotADirectoryError(f"{root} is a file: name a folder to download to.")
    todo = sort_out(root, drives)
    existing = next(path for path in (root, *root.absolute().parents) if path.exists())
    return plan(
        todo,
        _ask_sizes(todo.jobs, base_url, patience or Patience()),
        {job.name: job.arrived(root) for job in todo.jobs},
        rate=rate,
        parallel=parallel,
        keep_archives=keep_archives,
        disk_free=shutil.disk_usage(existing).free,
    )


def _ask_sizes(jobs: Sequence[Job], base_url: str, patience: Patience) -> dict[str, int | None]:
    """Ask the server for the archives' sizes, until it proves out of reach."""
    out_of_reach = threading.Event()

    def ask(job: Job) -> int | None:
        try:
            return None if out_of_reach.is_set() else remote_size(job.url(base_url), patience)
        except requests.RequestException:
            out_of_reach.set()
            return None

    with ThreadPoolExecutor(_QUESTIONS_AT_ONCE) as pool:
        return dict(zip((job.name for job in jobs), pool.map(ask, jobs), strict=True))


def _gb(count: int) -> str:
    return f"{count / 1e9:,.1f} GB"
