"""Write files whole or not at all, read YAML, and say in one line what is wrong with a file."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml


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


class NothingTwice(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # in C, where it was built
    """Refuses an entry that says the same thing twice, of which YAML keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """Return what PyYAML does, once its names are known to differ."""
        names = [self.construct_object(name) for name, _ in node.value]
        if twice := [name for name in names if names.count(name) > 1]:
            raise yaml.constructor.ConstructorError(
                None, None, f"{twice[0]} is there twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


def first_error(error: Any, joint: str = ".", name: Callable[[int | str], str] = str) -> str:
    """Return in one line what YAML says is wrong, or the first that pydantic says, and where."""
    if not hasattr(error, "errors"):  # pydantic's have it; to import their class takes long
        return " ".join(str(error).split())
    first = error.errors()[0]
    return f"{joint.join(map(name, first['loc']))}: {first['msg']}".removeprefix(": ")
