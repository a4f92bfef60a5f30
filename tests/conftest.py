"""Fixtures that several test files share."""

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # the tests' tensors are small; more threads only wait for each other


@pytest.fixture(scope="session")
def kitti_sample() -> Path:
    """The folder of real KITTI frames, from the environment variable KITTI_SAMPLE."""
    folder = os.environ.get("KITTI_SAMPLE")
    if not folder:
        pytest.skip("real KITTI frames are needed: set KITTI_SAMPLE to the folder of kitti_raw/")
    return Path(folder)


@pytest.fixture(scope="session")
def tiny_kitti(tmp_path_factory) -> Path:
    """Two drives of three frames, both cameras, in KITTI Raw's layout: copy it to change it."""
    from small_kitti import write_textured

    root = tmp_path_factory.mktemp("tiny_kitti")
    for drive in (1, 2):
        write_textured(root, drive=drive, frames=range(3))
    return root


@pytest.fixture(scope="session")
def tiny_packed(tiny_kitti, tmp_path_factory) -> Path:
    """The folder of its packed set at 12x36: `PackedDepth` opens it, and nobody may change it."""
    from ubnlib.kitti import KittiRaw, prepare

    folder = tmp_path_factory.mktemp("tiny_packed") / "packed"
    return prepare(KittiRaw(tiny_kitti, size=(12, 36)), folder, workers=1, progress=False).folder
