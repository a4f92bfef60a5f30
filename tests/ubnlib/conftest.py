"""A small model of UBN layers, and a labeled and an unlabeled batch for it."""

import pytest
import torch
from torch import nn

from ubnlib import UnsupervisedBatchNorm1d


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(2, 4), UnsupervisedBatchNorm1d(4), nn.ReLU(), UnsupervisedBatchNorm1d(4)
    )


@pytest.fixture
def batches():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(5, 2, generator=generator), torch.randn(9, 2, generator=generator)
