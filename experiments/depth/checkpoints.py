"""Checkpoints: nested states of tensors and numbers, whole on disk or not there, never unpickled.

A file is NumPy's .npz: the tensors, and the rest as JSON text that says where each tensor goes.
"""

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

TREE = "tree"  # the entry that holds the JSON
# What reading a damaged file raises, or one that holds something else.
DAMAGE = (OSError, EOFError, zipfile.BadZipFile, ValueError, LookupError, TypeError, RuntimeError)


def save_checkpoint(state: Any, path: Path | str) -> Path:
    """Write a state, whole or not at all, and only return when it is safe on the disk.

    Args:
        state: Tensors, numbers, texts and None, in dictionaries, lists and tuples. Keys are
            texts or whole numbers; tuples come back as lists.
        path: The file, which is replaced.

    Raises:
        TypeError: If something else is in the state; nothing is written then.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, np.ndarray] = {}
    tree = json.dumps(_split(state, arrays))
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with partial.open("wb") as file:
        np.savez(file, **arrays, **{TREE: np.frombuffer(tree.encode(), np.uint8)})
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    return path


def load_checkpoint(path: Path | str) -> Any:
    """Return the state that `save_checkpoint` wrote, tensors on the CPU.

    Raises:
        ValueError: If the file is damaged or something else.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            tree = json.loads(arrays[TREE].tobytes())
            return _join(tree, arrays)
    except DAMAGE as error:
        raise ValueError(
            f"{path} is no whole checkpoint ({error}): delete it, and the run starts anew."
        ) from error


def _split(state: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Return the state as JSON's own types, with its tensors put aside."""
    if isinstance(state, Tensor):
        name = f"tensor{len(arrays)}"
        arrays[name] = state.detach().cpu().numpy()
        return {"tensor": name}
    if isinstance(state, dict):
        if wrong := [key for key in state if not isinstance(key, int | str)]:
            raise TypeError(
                f"A checkpoint's keys are texts and whole numbers, and one is {wrong[0]!r}: turn "
                "it into one of them first."
            )
        # Pairs rather than an object: JSON would turn an optimizer's numbers into texts.
        return {"dict": [[key, _split(value, arrays)] for key, value in state.items()]}
    if isinstance(state, list | tuple):
        return [_split(value, arrays) for value in state]
    if state is None or isinstance(state, bool | int | float | str):
        return state
    raise TypeError(
        f"A checkpoint holds tensors, numbers and texts, and found {type(state).__name__}: "
        "turn it into one of them first."
    )


def _join(tree: Any, arrays: Any) -> Any:
    """Return what `_split` was given."""
    if isinstance(tree, list):
        return [_join(value, arrays) for value in tree]
    if isinstance(tree, dict):
        if "tensor" in tree:
            return torch.from_numpy(arrays[tree["tensor"]])
        return {key: _join(value, arrays) for key, value in tree["dict"]}
    return tree
