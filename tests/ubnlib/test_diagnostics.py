"""The gap of labeled and unlabeled statistics, refreshed statistics, Monte Carlo predictions."""

import pytest
import torch
from torch import nn

from ubnlib import (
    UnsupervisedBatchNorm1d,
    collecting,
    monte_carlo_predictions,
    refresh_statistics,
    statistics_gap,
    ubn_forward,
)


def test_gap_equals_its_definition():
    model = nn.Sequential(UnsupervisedBatchNorm1d(2, eps=1e-12).double())
    x = torch.randn(6, 2, dtype=torch.float64)
    y = 1 + 2 * torch.randn(10, 2, dtype=torch.float64)
    ubn_forward(model, x, y)
    n = torch.cat([x, y])
    means = (x.mean(0) - y.mean(0)) ** 2 / n.var(0, correction=0)
    scales = (x.var(0, correction=0).log() - y.var(0, correction=0).log()) ** 2
    torch.testing.assert_close(statistics_gap(model), (means + scales / 4).mean())


def test_gap_grows_with_a_shift_and_has_a_gradient(model, batches):
    x, _ = batches
    gaps = []
    for shift in (0.0, 0.5, 1.0, 2.0):
        ubn_forward(model, x, x + shift)
        gaps.append(statistics_gap(model))
    assert gaps == sorted(gaps) and gaps[0] < 1e-8 and gaps[1] > 1e-3
    gaps[-1].backward()
    assert model[0].weight.grad.abs().sum() > 0


def test_gap_needs_a_whole_step(model, batches):
    with pytest.raises(RuntimeError, match="made no UBN step"):
        statistics_gap(model)
    with collecting(model):
        model(torch.cat(batches))
    with pytest.raises(RuntimeError, match="has made step 1 only"):
        statistics_gap(model)


def test_refreshed_statistics_are_those_of_the_population(model):
    data = torch.randn(23, 2) * 3 + 1
    refresh_statistics(model[:2], data.split([3, 13, 7]))
    hidden = model[0](data).detach()
    torch.testing.assert_close(model[1].running_mean, hidden.mean(0))
    torch.testing.assert_close(model[1].running_var, hidden.var(0))
    assert model[1].num_batches_tracked == 0


def test_refresh_restores_everything_after_an_exception(model, batches):
    model.eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(RuntimeError):
        refresh_statistics(model, [batches[0], torch.randn(3, 7)])
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert not any(m.training or m._forward_pre_hooks for m in model.modules())
    with pytest.raises(ValueError, match="no batch to refresh"):
        refresh_statistics(model, [])
    with pytest.raises(ValueError, match="no layer that keeps running statistics"):
        refresh_statistics(nn.Linear(2, 2), [torch.randn(3, 2)])


def test_monte_carlo_predictions_use_each_reference_and_leave_the_model(model, batches):
    x, y = batches
    model.eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    predictions = monte_carlo_predictions(model, x.requires_grad_(), [y, y + 1, y])
    assert predictions.shape == (3, 5, 4)
    assert torch.equal(predictions[0], predictions[2])
    assert not torch.allclose(predictions[0], predictions[1])
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert not any(m.training for m in model.modules())
    assert all(m.stats_grad == "corrected" for m in (model[1], model[3]))

    def normalized(v, reference):
        mean, var = reference.mean(0), reference.var(0, correction=0)
        return (v - mean) / (var + 1e-5).sqrt()

    h, g = model[0](x), model[0](y)
    h, g = normalized(h, g).relu(), normalized(g, g).relu()
    torch.testing.assert_close(predictions[0], normalized(h, g))
    predictions.sum().backward()
    assert x.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="no reference batch"):
        monte_carlo_predictions(model, x, [])
