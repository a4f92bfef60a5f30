"""Forms of UBN and repairs of the literal reading."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from experiments.depth.config import UBNForm, without_cancelled
from ubnlib import ubn_forward
from ubnlib.forward import two_passes

EPS = 1e-5


def network(eps=EPS):
    """Two layers, the first behind a convolution with a bias; any weights but the usual ones."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, eps), nn.ReLU(),
        nn.Conv2d(4, 3, 2, bias=False), nn.BatchNorm2d(3, eps),
    ).double()  # fmt: skip
    with torch.no_grad():
        for bn in (net[1], net[4]):
            bn.weight.uniform_(0.5, 2)
            bn.bias.normal_()
    return net


def rows(labeled=5, unlabeled=9, channels=2):
    generator = torch.Generator().manual_seed(1)
    shape = (channels, 7, 6)
    x = torch.randn(labeled, *shape, generator=generator, dtype=torch.float64)
    y = 1 + 2 * torch.randn(unlabeled, *shape, generator=generator, dtype=torch.float64)
    return x.requires_grad_(), y.requires_grad_()


def objective(output):
    """A loss that is no symmetric function of the rows."""
    weights = torch.arange(output.numel(), dtype=output.dtype).view_as(output)
    return (output.sin() * weights).mean()


def moments(x):
    return x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)


# What does not go together


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(averages_only=True, stats_grad="all"), "averages_only goes with momentum alone"),
        (dict(repair="both"), "it is for the literal reading"),
        (dict(repair="shift", stats_grad="none", source="running"), 'with source="batch"'),
    ],
)  # fmt: skip
def test_switches_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        UBNForm(**options)


# Repairs


def in_the_way(x, repair):
    """The directions that a repair takes out of a channel's gradient, [n, number]."""
    directions = {
        "nothing": [],
        "shift": [np.ones_like(x)],
        "scale": [x - x.mean()],
        "both": [np.ones_like(x), x - x.mean()],
    }
    return np.array(directions[repair]).reshape(-1, len(x)).T


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["nothing", "shift", "scale", "both"]),
    st.lists(st.integers(1, 4), min_size=0, max_size=3),
    st.integers(1, 3),
    st.integers(2, 5),
    st.integers(0, 2**32),
)
def test_a_repair_projects_directions_out_of_each_channel(repair, space, channels, n, seed):
    """Against least squares: what is left is the residual of a fit by these directions."""
    rng = np.random.default_rng(seed)
    shape = (n, channels, *space)
    x, gradient = rng.normal(3, 2, shape), rng.normal(1, 1, shape)
    found = without_cancelled(torch.from_numpy(gradient), torch.from_numpy(x), repair).numpy()
    for channel in range(channels):
        of_x, of_gradient = x[:, channel].ravel(), gradient[:, channel].ravel()
        directions = in_the_way(of_x, repair)
        fit = directions @ np.linalg.lstsq(directions, of_gradient, rcond=None)[0]
        np.testing.assert_allclose(found[:, channel].ravel(), of_gradient - fit, atol=1e-9)


def test_a_channel_without_spread_has_no_scale_to_take_out():
    gradient = torch.randn(4, 2, dtype=torch.float64)
    assert torch.equal(without_cancelled(gradient, torch.ones_like(gradient), "scale"), gradient)


def gradients(form, forward, eps=1e-12):
    model, (x, y) = form.apply(network(eps)), rows()
    objective(forward(model, x, y)).backward()
    return {name: p.grad for name, p in model.named_parameters()} | {"x": x.grad}


@pytest.mark.parametrize("forward", [partial(ubn_forward, interleave=True), two_passes])
def test_the_literal_reading_with_both_repairs_has_the_corrected_gradient(forward):
    corrected = gradients(UBNForm(), forward)
    repaired = gradients(UBNForm(stats_grad="none", repair="both"), forward)
    torch.testing.assert_close(repaired, corrected, rtol=1e-7, atol=1e-7)
    for repair in ("nothing", "shift", "scale"):
        part = gradients(UBNForm(stats_grad="none", repair=repair), forward)
        assert not torch.allclose(part["0.weight"], corrected["0.weight"], rtol=1e-2), repair


def test_repairs_act_in_training_alone():
    model, (x, _) = UBNForm(stats_grad="none", repair="both").apply(network()), rows()
    plain = UBNForm(stats_grad="none").apply(network())
    found = [torch.autograd.grad(objective(net.eval()(x)), x)[0] for net in (model, plain)]
    assert torch.equal(*found)
