"""The training loop of small models, its seeds, and the configurations of normalization."""

import itertools

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from experiments.common.training import BNConfig, NormConfig, UBNConfig, evaluating, random_batches


def test_random_batches_visit_everything_equally_often():
    batches = random_batches(4, 10, torch.Generator().manual_seed(0))
    seen = torch.cat(list(itertools.islice(batches, 25)))
    assert seen.bincount().tolist() == [10] * 10
    assert all(sorted(seen[i : i + 10].tolist()) == list(range(10)) for i in range(0, 100, 10))


def test_evaluating_restores_the_mode():
    model = nn.Dropout()
    with pytest.raises(KeyError), evaluating(model):
        assert not model.training
        assert not torch.is_grad_enabled()
        raise KeyError
    assert model.training
    assert torch.is_grad_enabled()


def test_norm_configurations_change_the_model():
    model = UBNConfig(stats_grad="none", momentum=0.3).apply(nn.BatchNorm1d(3))
    assert (model.stats_grad, model.momentum) == ("none", 0.3)
    assert BNConfig(momentum=0.2).apply(nn.BatchNorm1d(3)).momentum == 0.2
    norms = TypeAdapter(NormConfig)
    assert norms.validate_python({"kind": "ubn", "momentum": 0.3}) == UBNConfig(momentum=0.3)
    with pytest.raises(ValidationError, match="stats_grad"):
        norms.validate_python({"kind": "bn", "stats_grad": "none"})
