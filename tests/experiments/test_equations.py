"""A fault in the library would show in the identities; test_method_runs.py says that they hold."""

import pytest

from experiments.method import equations as identities
from experiments.method.equations import IdentitiesConfig, run_identities
from ubnlib import batchnorm
from ubnlib.functional import Moments, moving_average, normalize


def metrics():
    record = run_identities(IdentitiesConfig(seed=0))
    return {name: value for name, (value,) in record.metrics.items()}


def test_a_wrong_equation_1_shows(monkeypatch):
    def with_unbiased_deviation(x, moments, weight, bias, eps):
        values = x.numel() / x.shape[1]
        wrong = Moments(moments.mean, moments.var * values / (values - 1))
        return normalize(x, wrong, weight, bias, eps)

    monkeypatch.setattr(identities, "normalize", with_unbiased_deviation)
    assert metrics()["equation1_vs_batchnorm"] > 1e-4


def test_a_wrong_gradient_of_equation_1_shows(monkeypatch):
    """The same values, with constant statistics in the backward pass."""
    monkeypatch.setattr(
        identities, "normalize", lambda x, m, *others: normalize(x, m.detach(), *others)
    )
    assert metrics()["equation1_vs_batchnorm"] > 1e-4


@pytest.mark.parametrize("confused", ["var", "std"])
def test_averages_of_the_wrong_kind_show(monkeypatch, confused):
    """Equation 3 taken for torch's convention, or the other way round."""

    def one_kind(running, batch, momentum, running_stat):
        return moving_average(running, batch, momentum, confused)

    monkeypatch.setattr(batchnorm, "moving_average", one_kind)
    assert metrics()["averages_vs_equations"] > 1e-3


def test_averages_that_move_in_both_steps_show(monkeypatch):
    use = batchnorm.UnsupervisedBatchNorm._use

    def use_and_move(layer, x):
        batchnorm.move_averages([layer])
        return use(layer, x)

    monkeypatch.setattr(batchnorm.UnsupervisedBatchNorm, "_use", use_and_move)
    assert metrics()["averages_vs_equations"] > 1e-3
