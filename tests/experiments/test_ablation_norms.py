"""The ablation's layers against plain float64 arithmetic, and what each method makes of a net."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from experiments.ablation.methods import UBN, Ghost, Group, Renorm, Split
from experiments.ablation.norms import BatchRenorm, GhostBatchNorm, SplitBatchNorm
from experiments.common.training import BNConfig
from experiments.toy.ensemble import Ensemble
from ubnlib.dispnet import DispNet
from ubnlib.forward import two_passes

EPS = 1e-5
SHAPES = [(9, 3), (9, 3, 2, 2)]


def rows(*shape, seed=0, mean=1.0, spread=2.0):
    generator = torch.Generator().manual_seed(seed)
    x = mean + spread * torch.randn(*shape, generator=generator, dtype=torch.float64)
    return x.requires_grad_()


def ready(layer, seed=0):
    """The layer in float64, with any scale, shift and averages but the usual ones."""
    torch.manual_seed(seed)
    layer = layer.double()
    with torch.no_grad():
        layer.weight.uniform_(0.5, 2)
        layer.bias.normal_()
        layer.running_mean.normal_()
        layer.running_var.uniform_(0.5, 3)
    return layer


def others(x):
    return [0, *range(2, x.dim())]


def channel(v, x):
    return v.view(1, -1, *[1] * (x.dim() - 2))


def moments(x):
    """Mean and biased variance of each channel."""
    mean = x.mean(others(x))
    return mean, (x - channel(mean, x)).square().mean(others(x))


def normalized(x, mean, var, layer):
    x_hat = (x - channel(mean, x)) / channel((var + EPS).sqrt(), x)
    return channel(layer.weight, x) * x_hat + channel(layer.bias, x)


def moved(running, x, momentum=0.1):
    """Both averages after one batch: torch's, with the unbiased variance."""
    mean, var = (value.detach() for value in moments(x))
    n = x.numel() // x.shape[1]
    steps = zip(running, (mean, var * n / (n - 1)), strict=True)
    return tuple((1 - momentum) * old + momentum * new for old, new in steps)


def averages(layer):
    return layer.running_mean.clone(), layer.running_var.clone()


def gradients(output, inputs):
    """Of a loss that is no symmetric function of the rows."""
    weights = torch.arange(output.numel(), dtype=output.dtype).view_as(output)
    return torch.autograd.grad((output.sin() * weights).mean(), inputs)


def assert_close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


# Batch Renormalization


def renorm_by_hand(layer, x, running, r_max, d_max):
    """The formulas of the paper (section 3), corrections as constants."""
    mean, var = moments(x)
    sigma, average = (var + EPS).sqrt(), (running[1] + EPS).sqrt()
    r = (sigma / average).detach().clamp(1 / r_max, r_max)
    d = ((mean - running[0]) / average).detach().clamp(-d_max, d_max)
    x_hat = (x - channel(mean, x)) / channel(sigma, x) * channel(r, x) + channel(d, x)
    return channel(layer.weight, x) * x_hat + channel(layer.bias, x), r, d


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("limits", [(3.0, 5.0), (1.2, 0.1), (1.0, 0.0), (50.0, 50.0)])
def test_batch_renorm_is_the_papers(shape, limits):
    """Values, gradients and averages, over steps in which the limits open and stay open."""
    layer, met = ready(BatchRenorm(3, *limits)), set()
    layer.opening, layer.momentum = 4, 0.3
    for step in range(7):
        x, running = rows(*shape, seed=step), averages(layer)
        open_by = min(1, step / 4)
        r_max, d_max = 1 + open_by * (limits[0] - 1), open_by * limits[1]
        expected, r, d = renorm_by_hand(layer, x, running, r_max, d_max)
        found = layer(x)
        assert_close(found, expected)
        inputs = (x, layer.weight, layer.bias)
        assert_close(gradients(found, inputs), gradients(expected, inputs))
        assert_close(averages(layer), moved(running, x, 0.3))
        if step == 0:
            assert (r == 1).all() and (d == 0).all(), "it begins as batch normalization"
        elif limits == (1.2, 0.1):
            at = {"r": (r == r_max) | (r == 1 / r_max), "d": d.abs() == d_max}
            met |= {name for name, where in at.items() if where.any()}
    assert limits != (1.2, 0.1) or met == {"r", "d"}, "no limit was met, so none was tested"


# Ghost batch normalization


@settings(deadline=None, max_examples=25)
@given(st.integers(4, 24), st.integers(2, 8), st.sampled_from([(), (2,), (2, 3)]))
def test_ghost_normalization_is_batch_normalization_of_each_part(number, ghost, space):
    layer, x = ready(GhostBatchNorm(3, ghost)), rows(number, 3, *space)
    running, expected = averages(layer), []
    parts = max(1, number // ghost)
    sizes = [len(range(i, number, parts)) for i in range(parts)]  # equal, the first ones longer
    assert min(sizes) >= min(ghost, number)
    for part in x.split(sizes):
        expected.append(normalized(part, *moments(part), layer))
        running = moved(running, part)
    found, expected = layer(x), torch.cat(expected)
    assert_close(found, expected)
    assert_close(gradients(found, x), gradients(expected, x))
    assert_close(averages(layer), running)


# Split batch normalization


@pytest.mark.parametrize("shape", SHAPES)
def test_split_normalization_is_two_batch_normalizations(shape):
    layer, x = ready(SplitBatchNorm(3)), rows(*shape)
    layer.first, running = 4, averages(layer)
    labeled, unlabeled = x[:4], x[4:]
    expected = torch.cat([normalized(part, *moments(part), layer) for part in (labeled, unlabeled)])
    found, inputs = layer(x), (x, layer.weight, layer.bias)
    assert_close(found, expected)
    assert_close(gradients(found, inputs), gradients(expected, inputs))
    assert_close(averages(layer), moved(running, labeled))


@pytest.mark.parametrize("layer", [GhostBatchNorm(3, 2), BatchRenorm(3, 3, 5), SplitBatchNorm(3)])
def test_in_evaluation_all_are_batch_normalization(layer):
    layer, x = ready(layer).eval(), rows(9, 3, 2, 2)
    assert_close(layer(x), normalized(x, *averages(layer), layer))


# Nets


def small_net():
    return nn.Sequential(
        nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(),
        nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(),
        nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(),
        nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(),
        nn.Linear(8, 2),
    )  # fmt: skip


def nets(count=3):
    torch.manual_seed(1)
    return [small_net() for _ in range(count)]


NORMS = {
    "BN": BNConfig(momentum=0.3),
    "UBN": UBN(stats_grad="all"),
    "ghost": Ghost(ghost=4),
    "renorm": Renorm(r_max=2, d_max=1),
    "split": Split(),
    "LayerNorm": Group(),
    "groups larger than the layer": Group(per_group=16),
}


@pytest.mark.parametrize("norm", NORMS)
def test_nets_side_by_side_are_the_nets_alone(norm):
    singles, members = nets(), 3
    ensemble = NORMS[norm].apply(Ensemble(singles)).double()
    alone = [NORMS[norm].apply(copy.deepcopy(net)).double() for net in singles]
    x, y = rows(10, members, 2).detach(), rows(14, members, 2, seed=1, mean=0.0).detach()

    def run(net, x, y):
        for layer in net.modules():
            if isinstance(layer, SplitBatchNorm):
                layer.first = len(x)
        both = torch.cat([x, y])
        return two_passes(net, x, y) if norm == "UBN" else net(both if norm == "split" else x)

    for _ in range(3):  # averages of one step matter to the next ones, in Batch Renorm
        found = run(ensemble, x, y)
        for e, net in enumerate(alone):
            assert_close(found[:, e], run(net, x[:, e], y[:, e]))
    with torch.no_grad():
        ensemble.eval()
        for e, net in enumerate(alone):
            assert_close(ensemble(x)[:, e], net.eval()(x[:, e]))


@pytest.mark.parametrize(("per_group", "groups"), [(None, 1), (1, 8), (4, 2), (8, 1), (16, 1)])
def test_groups_are_of_channels_of_one_row(per_group, groups):
    x = rows(5, 8, 3, 3).detach()
    layer = Group(per_group=per_group).apply(nn.Sequential(nn.BatchNorm2d(8))).double()
    parts = x.view(5, groups, -1)
    expected = (parts - parts.mean(2, keepdim=True)) / (
        parts.var(2, correction=0, keepdim=True) + EPS
    ).sqrt()
    assert_close(layer(x), expected.view_as(x))


# Where UBN sees unlabeled rows


WHERES = {
    "all": {0, 1, 2, 3},
    "first": {0},
    "last": {3},
    "first half": {0, 1},
    "second half": {2, 3},
}


@pytest.mark.parametrize("weight", [None, 0.3])
@pytest.mark.parametrize("where", WHERES)
def test_layers_outside_see_labeled_rows_only(where, weight):
    """Normalization by a plain loop over the net; unlabeled rows meet the labeled ones inside."""
    model = UBN(where=where, unlabeled_weight=weight).apply(nets(1)[0].double())
    x, y = rows(6, 2).detach(), rows(9, 2, seed=1, mean=-1.0).detach()
    found, (u, v), index = two_passes(model, x, y), (x, y), 0
    for layer in model:
        if not isinstance(layer, nn.BatchNorm1d):
            u, v = layer(u), layer(v)
            continue
        (mx, vx), (my, vy) = moments(u), moments(v)
        share = 9 / 15 if weight is None else weight
        share = share if index in WHERES[where] else 0.0
        mean = (1 - share) * mx + share * my
        second = (1 - share) * (vx + mx**2) + share * (vy + my**2)
        (call,) = layer.last_step
        torch.testing.assert_close(tuple(call.union.moments), (mean, second - mean**2))
        u, v = (normalized(part, mean, second - mean**2, layer) for part in (u, v))
        index += 1
    torch.testing.assert_close(found, u, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("where", ["first half", "second half"])
def test_dispnets_halves_are_encoder_and_decoder(where):
    model = UBN(where=where).apply(DispNet(width=0.1, levels=4))
    inside = {
        name.removesuffix(".norm")
        for name, layer in model.named_modules()
        if getattr(layer, "unlabeled_weight", 1.0) is None
    }
    halves = {
        "first half": {f"cnv{level}{b}" for level in range(1, 5) for b in ("", "b")},
        "second half": {f"{kind}{level}" for level in range(1, 5) for kind in ("upcnv", "icnv")},
    }
    assert inside == halves[where]
