"""Trained weights as plain arrays: NumPy's .npz, which is read without unpickling anything."""

import os
import zipfile
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)


def save_weights(model: nn.Module, path: Path | str) -> Path:
    """Write a model's state_dict as PATH (.npz), whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    arrays = {name: value.detach().cpu().numpy() for name, value in model.state_dict().items()}
    with partial.open("wb") as file:
        np.savez(file, **arrays)
    partial.replace(path)
    return path


def load_weights(model: Model, path: Path | str) -> Model:
    """Load what `save_weights` wrote into a model of the same layers, and return the model.

    Raises:
        ValueError: The file is missing or broken, or belongs to another model.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            state = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        model.load_state_dict(state)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, RuntimeError) as error:
        raise ValueError(
            f"{path} does not hold the weights of this {type(model).__name__} ({error}): delete "
            "the run's record and run it again."
        ) from error
    return model
