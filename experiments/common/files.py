"""Write files whole or not at all, and say in one line what is wrong with one."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give the path of a file to write, which becomes `path` where the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def first_error(error: Any, joint: str = ".", name: Callable[[int | str], str] = str) -> str:
    """Return in one line what YAML says is wrong, or the first that pydantic says, and where."""
    if not hasattr(error, "errors"):  # pydantic's have it; to import their class takes long
        return " ".join(str(error).split())
    first = error.errors()[0]
    return f"{joint.join(map(name, first['loc']))}: {first['msg']}".removeprefix(": ")
