"""On which machine, with which versions and at which revision a report is made."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("torch", "numpy", "scipy", "pandas", "matplotlib", "papermill", "snakemake")


def output(*command: str) -> str:
    """Run a command that may not be there; return what it prints, or "" if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def revision(root: Path) -> str:
    """Name the git revision of a folder, with "+ changes" where files differ; "" without git."""
    commit = output("git", "-C", str(root), "rev-parse", "--short=12", "HEAD")
    changed = commit and output("git", "-C", str(root), "status", "--porcelain")
    return commit + (" + changes" if changed else "")


def machine() -> dict[str, str]:
    """Describe the machine: system, processor cores, graphics processors, versions."""
    facts = {
        "System": platform.platform(),
        "Processor cores": str(os.cpu_count()),
        "Graphics": output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader"),
        "Python": platform.python_version(),
    }
    for package in PACKAGES:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            continue
    return facts
