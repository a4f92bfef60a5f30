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
