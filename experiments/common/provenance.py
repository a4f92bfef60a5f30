"""Where and with what a number was made: revision, versions, hardware."""

import functools
import platform
import re
import resource
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

import ubnlib

ROOT = Path(__file__).parents[2]
CODE = ("ubnlib", "experiments", "data_scripts")  # what numbers are made by


class Provenance(BaseModel):
    """Where and with what a run was made."""

    model_config = ConfigDict(extra="forbid")

    revision: str | None  # of the repository; None outside one
    clean: bool | None  # whether the code was that revision's
    versions: dict[str, str]
    cpu: str
    gpu: str | None
    threads: int
    peak_memory_mb: float | None  # of the process so far; of the GPU's allocator if there is one
    when: datetime  # it was finished


def provenance() -> Provenance:
    """Describe this revision, these versions and this machine."""
    revision, clean = _revision()
    return Provenance(
        revision=revision,
        clean=clean,
        versions={
            "ubnlib": ubnlib.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        cpu=_cpu(),
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        threads=torch.get_num_threads(),
        peak_memory_mb=peak_memory_mb(),
        when=datetime.now(UTC).replace(microsecond=0),
    )


@functools.cache  # of the code that this process has loaded
def _revision() -> tuple[str | None, bool | None]:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", *CODE)  # another's, that this folder lies in, may not
        return git("rev-parse", "HEAD"), not git("status", "--porcelain", *CODE)
    except (OSError, subprocess.CalledProcessError):  # no git, or no repository
        return None, None


@functools.cache
def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.+)", info.read_text()) if info.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


def peak_memory_mb() -> float:
    """Return the most memory that this process, or its GPU's allocator, has used."""
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, kilobytes elsewhere
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)
