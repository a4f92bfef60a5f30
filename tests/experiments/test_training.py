"""The training loop of small models, its seeds, and the configurations of normalization."""

import itertools

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from experiments.common.training import (
    Batch,
    BNConfig,
    NormConfig,
    UBNConfig,
    evaluating,
    fit,
    random_batches,
)


def test_random_batches_visit_everything_equally_often():
    batches = random_batches(4, 10, torch.Generator().manual_seed(0))
    seen = torch.cat(list(itertools.islice(batches, 25)))
    assert seen.bincount().tolist() == [10] * 10
    assert all(sorted(seen[i : i + 10].tolist()) == list(range(10)) for i in range(0, 100, 10))


def test_fit_makes_the_steps_of_the_optimizer():
    """One weight, quadratic loss, plain gradient descent: w <- w - lr * 2 (w - 3)."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    one = torch.ones(1, 1)
    batches = [Batch(one, 3 * one, None)] * 4
    optimizer = torch.optim.SGD(model.parameters(), lr=0.25)
    seen = []
    losses = fit(model, optimizer, nn.functional.mse_loss, batches, after_step=seen.append)
    assert losses == pytest.approx([9 * 0.25**k for k in range(4)])
    assert model.weight.item() == pytest.approx(3 - 3 * 0.5**4)
    assert seen == [1, 2, 3, 4]


def test_fit_stops_at_a_loss_that_is_not_finite():
    model = nn.Linear(1, 1)
    rows = torch.ones(1, 1)
    batches = [Batch(rows, rows, None), Batch(rows * torch.inf, rows, None)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = None

    def keep(_):
        nonlocal before
        before = model.weight.clone()

    with pytest.raises(FloatingPointError, match="at step 2: lower the learning rate"):
        fit(model, optimizer, nn.functional.mse_loss, batches, after_step=keep)
    assert torch.equal(model.weight, before), "the bad step must not reach the weights"


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
