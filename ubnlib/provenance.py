"""Where and with what a number was made: revision, source, versions, hardware."""

import ast
import functools
import hashlib
import io
import platform
import resource
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict

import ubnlib

ROOT = Path(ubnlib.__file__).parent


class Provenance(BaseModel):
    """Where and with what a run was made."""

    model_config = ConfigDict(extra="forbid")

    revision: str | None  # of the repository; None outside one
    dirty: bool | None  # whether ubnlib differs from that revision
    module: str = "ubnlib"  # the run's
    source: str  # digest of the code of ubnlib that the run could use
    versions: dict[str, str]
    cpu: str
    gpu: str | None
    threads: int
    finished: datetime


def provenance(module: str = "ubnlib") -> Provenance:
    """Describe this revision, these versions and this machine, for a run that a module makes."""
    revision, dirty = _revision()
    versions = {
        "ubnlib": ubnlib.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    return Provenance(
        revision=revision,
        dirty=dirty,
        module=module,
        source=source_digest(module),
        versions=versions,
        cpu=_cpu(),
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        threads=torch.get_num_threads(),
        finished=datetime.now(UTC).replace(microsecond=0),
    )


@functools.cache
def source_digest(module: str) -> str:
    """Return a digest of a module's code and of all of ubnlib that it imports, near or far.

    Comments, docstrings and empty lines do not count, so that a record outlives better prose. A
    module of others, such as a notebook, may use anything: then all of ubnlib counts.
    """
    digest = hashlib.sha256()
    for path in sorted(_imported_by(module) or ROOT.rglob("*.py")):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0")
        digest.update(code_of(path.read_text(encoding="utf-8")).encode())
    return digest.hexdigest()[:16]


def _imported_by(module: str) -> set[Path]:
    """Return the files of ubnlib that importing a module reads; none for a module of others."""
    found: set[Path] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = ROOT.parent.joinpath(*name.split("."))
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if name.split(".")[0] != ROOT.name or not file.exists() or file in found:
            continue
        found.add(file)
        waiting += [name.rpartition(".")[0], *_imports(file.read_text(encoding="utf-8"))]
    return found


def _imports(source: str) -> Iterator[str]:
    """Yield the names that may be modules, in the import statements of a source file."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def code_of(source: str) -> str:
    """Return a source file without its comments, docstrings and empty lines.

    A docstring that shares a line with code stays, and so does all that is inside other strings.
    """
    lines = source.split("\n")
    open_strings: set[int] = set()  # lines at whose end a string goes on
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        (row, column), (last, _) = token.start, token.end
        if token.type == tokenize.COMMENT:
            lines[row - 1] = lines[row - 1][:column]
        open_strings.update(range(row - 1, last - 1))
    for docstring in _docstrings(ast.parse(source)):
        rows = range(docstring.lineno - 1, docstring.end_lineno)
        before = lines[rows[0]].encode()[: docstring.col_offset]
        behind = lines[rows[-1]].encode()[docstring.end_col_offset :]
        if not before.strip() and not behind.strip():
            for row in rows:
                lines[row] = ""
            open_strings.difference_update(rows)
    code = (line if row in open_strings else line.rstrip() for row, line in enumerate(lines))
    return "\n".join(line for row, line in enumerate(code) if line or row in open_strings)


def _docstrings(tree: ast.Module) -> Iterator[ast.stmt]:
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(tree):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            yield node.body[0]


def _revision() -> tuple[str | None, bool | None]:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "."))
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


def peak_memory_mb() -> float:
    """Return the most memory that this process, or its GPU's allocator, has used."""
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, kilobytes elsewhere
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)
