"""Run records: one JSON file for one training run, named by the hash of its configuration.

A record says what was run (configuration, seed), what came out (metrics, curves) and where
(revision, versions, hardware, duration), so that every number of the companion can be traced.
"""

import functools
import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from pydantic import BaseModel, ConfigDict, ValidationError

import ubnlib

SCHEMA = 1


class Config(BaseModel):
    """Base of all run configurations: unknown keys are errors, and nothing changes afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @property
    def key(self) -> str:
        """The first 16 hex digits of the SHA-256 of the configuration's canonical JSON."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Result:
    """What a run gives: final numbers, curves by optimizer step, and sets of frames by role."""

    metrics: dict[str, float]
    curves: dict[str, list[float]]
    frames: dict[str, list[str]] = field(default_factory=dict)  # as in `ubnlib.kitti.framesets`


class Provenance(BaseModel):
    """Where and with what a run was made."""

    model_config = ConfigDict(extra="forbid")

    revision: str | None  # of the repository; None outside one
    dirty: bool | None
    source: str  # digest of ubnlib's own files
    versions: dict[str, str]
    cpu: str
    gpu: str | None
    threads: int
    finished: datetime


class Record(BaseModel):
    """One finished run."""

    model_config = ConfigDict(extra="forbid")

    schema_version: int = SCHEMA
    experiment: str
    key: str
    seed: int
    config: dict[str, Any]
    metrics: dict[str, float]
    curves: dict[str, list[float]]
    frames: dict[str, list[str]] = {}
    seconds: float
    peak_memory_mb: float  # of the process so far; of the GPU's allocator where there is one
    provenance: Provenance


Run = Callable[..., Record]


def recorded(run: Callable[..., Result]) -> Run:
    """Turn `run(config, ...) -> Result` into `run(config, ...) -> Record`."""

    @functools.wraps(run)
    def make_record(config: Config, *args: Any, **kwargs: Any) -> Record:
        start = time.perf_counter()
        result = run(config, *args, **kwargs)
        return Record(
            experiment=config.experiment,
            key=config.key,
            seed=config.seed,
            config=config.model_dump(mode="json"),
            metrics=result.metrics,
            curves=result.curves,
            frames=result.frames,
            seconds=round(time.perf_counter() - start, 3),
            peak_memory_mb=_peak_memory_mb(),
            provenance=provenance(),
        )

    return make_record


def obtain(config: Config, run: Callable[[Config], Record], folder: Path | str) -> Record:
    """Return the record of a configuration, making and writing it where it is missing.

    A record made by other source files of ubnlib is made again.

    Args:
        config: What to run.
        run: Makes the record.
        folder: Where records are kept, as EXPERIMENT-KEY.json.
    """
    path = Path(folder) / f"{config.experiment}-{config.key}.json"
    if path.exists():
        record = read_record(path)
        if record.provenance.source == source_digest():
            return record
    record = run(config)
    write_record(record, folder)
    return record


def write_record(record: Record, folder: Path | str) -> Path:
    """Write a record as EXPERIMENT-KEY.json, whole or not at all."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{record.experiment}-{record.key}.json"
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(record.model_dump_json(indent=1) + "\n")
    partial.replace(path)
    return path


def read_record(path: Path | str) -> Record:
    """Read and validate one record.

    Raises:
        ValueError: The file is no record, or not that of its name.
    """
    path = Path(path)
    try:
        record = Record.model_validate_json(path.read_text())
    except (ValidationError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is not a run record of schema {SCHEMA} ({error}): delete it, and the next "
            "run makes it again."
        ) from error
    if path.name != f"{record.experiment}-{record.key}.json":
        raise ValueError(
            f"{path} holds the record {record.experiment}-{record.key}: it was renamed; delete "
            "it or give it its name back."
        )
    return record


def read_records(folder: Path | str, experiment: str | None = None) -> pd.DataFrame:
    """Return a tidy table of the records in a folder, one row each, in the order of their names.

    Columns are the configuration's entries (nested ones as `norm.kind`), the metrics, `key` and
    `seconds`. A folder that does not exist has no records.
    """
    paths = sorted(Path(folder).glob(f"{experiment or '*'}-*.json"))
    rows = []
    for record in map(read_record, paths):
        flat = pd.json_normalize(record.config).iloc[0].to_dict()
        rows.append({**flat, **record.metrics, "key": record.key, "seconds": record.seconds})
    return pd.DataFrame(rows)


def provenance() -> Provenance:
    """Describe this revision, these versions and this machine."""
    revision, dirty = _revision()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    versions = {
        "ubnlib": ubnlib.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    return Provenance(
        revision=revision,
        dirty=dirty,
        source=source_digest(),
        versions=versions,
        cpu=_cpu(),
        gpu=gpu,
        threads=torch.get_num_threads(),
        finished=datetime.now(UTC).replace(microsecond=0),
    )


@functools.cache
def source_digest() -> str:
    """Return a digest of ubnlib's source files, but for those that only look at records."""
    root = Path(ubnlib.__file__).parent
    readers = {*(root / "figures").iterdir(), root / "claims.py"}
    digest = hashlib.sha256()
    for path in sorted({*root.rglob("*.py")} - readers):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _revision() -> tuple[str | None, bool | None]:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(ubnlib.__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain"))
    except (OSError, subprocess.CalledProcessError):  # no git, or no repository
        return None, None


@functools.cache
def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _peak_memory_mb() -> float:
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, kilobytes elsewhere
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)
