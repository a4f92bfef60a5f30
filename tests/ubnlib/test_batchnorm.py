"""The UBN layers: one matrix of all variants against an oracle written from the equations.

A new variant is an entry of SWITCHES, and of the oracle; a new way to run the two steps, of WAYS.
"""

import copy
import inspect
import itertools

import pytest
import torch
from torch import nn

from oracle import oracle_forward
from small_nets import by_hand, interleaved, network, objective, rows
from ubnlib import (
    UnsupervisedBatchNorm1d,
    UnsupervisedBatchNorm2d,
    UnsupervisedBatchNorm3d,
    collecting,
    convert_ubn,
    refresh_statistics,
    revert_ubn,
    ubn_forward,
    using,
)

READINGS = ["corrected", "none", "labeled", "all"]
SWITCHES = dict(
    stats_grad=READINGS,
    source=["batch", "running"],
    running_stat=["var", "std"],
    unlabeled_weight=[None, 0.7],
)
VARIANTS = [
    options
    for values in itertools.product(*SWITCHES.values())
    if (options := dict(zip(SWITCHES, values, strict=True)))
    and (options["stats_grad"], options["source"]) != ("labeled", "running")
]


WAYS = [ubn_forward, interleaved, by_hand]


def goes(way, options):
    """Moving averages need one step after the other, and a weight both halves side by side."""
    running, weighted = options["source"] == "running", options["unlabeled_weight"] is not None
    return way is by_hand or not (running and (weighted or way is interleaved))


MATRIX = [
    pytest.param(options, way, id="-".join(map(str, [way.__name__, *options.values()])))
    for options in VARIANTS
    for way in WAYS
    if goes(way, options)
]


def step(model, x, y, way=ubn_forward, **options):
    """One UBN step: output, gradients of parameters and labeled rows, of unlabeled, averages."""
    model = convert_ubn(copy.deepcopy(model), **options)
    x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
    output = way(model, x, y)
    objective(output).backward()
    running = [(m.running_mean, m.running_var) for m in (model[1], model[4])]
    return output, [p.grad for p in model.parameters()] + [x.grad], y.grad, running


def oracle_step(model, x, y, **options):
    model = copy.deepcopy(model)
    x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
    output, running = oracle_forward(model, x, y, **options)
    objective(output).backward()
    return output, [p.grad for p in model.parameters()] + [x.grad], y.grad, running


@pytest.mark.parametrize(("options", "way"), MATRIX)
def test_two_steps_equal_the_equations(options, way):
    model, x, y = network(), rows(3, 1), 1 + rows(5, 2)
    ours, theirs = step(model, x, y, way, **options), oracle_step(model, x, y, **options)
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(ours[3], theirs[3], rtol=1e-10, atol=1e-10)
    if options["stats_grad"] == "all":
        torch.testing.assert_close(ours[2], theirs[2], rtol=1e-8, atol=1e-8)
    else:
        assert ours[2] is None, "no gradient may reach the unlabeled rows"


@pytest.mark.parametrize("stats_grad", READINGS)
def test_no_unlabeled_batch_is_bit_identical_to_batchnorm(stats_grad):
    for unlabeled in (None, rows(0, 0, torch.float32)):
        plain = network(dtype=torch.float32)
        ubn = convert_ubn(copy.deepcopy(plain), stats_grad=stats_grad)
        x = rows(6, 1, torch.float32)
        expected, output = plain(x), ubn_forward(ubn, x, unlabeled)
        expected.square().sum().backward()
        output.square().sum().backward()
        assert torch.equal(output, expected)
        for ours, theirs in zip(ubn.parameters(), plain.parameters(), strict=True):
            assert torch.equal(ours.grad, theirs.grad)
        for ours, theirs in zip(ubn.buffers(), plain.buffers(), strict=True):
            assert torch.equal(ours, theirs)


def test_mean_and_variance_of_one_layer_by_hand():
    """Equation 4 in numbers that fit on paper: n = {1, 3, 5, 7} has mean 4 and variance 5."""
    model = nn.Sequential(UnsupervisedBatchNorm1d(1, eps=1e-15, dtype=torch.float64))
    x, y = torch.tensor([[1.0], [3.0]]).double(), torch.tensor([[5.0], [7.0]]).double()
    expected = torch.tensor([[-3.0], [-1.0]]).double() / 5**0.5
    torch.testing.assert_close(ubn_forward(model, x, y), expected)
    torch.testing.assert_close(model[0].running_mean, torch.tensor([0.4]).double())
    torch.testing.assert_close(model[0].running_var, torch.tensor([0.9 + 0.1 * 20 / 3]).double())


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (UnsupervisedBatchNorm1d, (4,)),
        (UnsupervisedBatchNorm1d, (4, 6)),
        (UnsupervisedBatchNorm2d, (4, 3, 5)),
        (UnsupervisedBatchNorm3d, (4, 2, 3, 2)),
    ],
)
@pytest.mark.parametrize("stats_grad", READINGS)
def test_gradients_by_finite_differences(layer, shape, stats_grad):
    """They hold where the statistics' gradient is complete; the oracle holds everywhere."""
    torch.manual_seed(0)
    model = nn.Sequential(layer(4, stats_grad=stats_grad, dtype=torch.float64))
    other = nn.Sequential(revert_ubn(copy.deepcopy(model[0])))
    x = torch.randn(3, *shape, dtype=torch.float64, requires_grad=True)
    y = torch.randn(4, *shape, dtype=torch.float64)
    if stats_grad in ("all", "labeled"):
        assert torch.autograd.gradcheck(lambda x: ubn_forward(model, x, y), (x,))
    ours, theirs = ubn_forward(model, x, y), oracle_forward(other, x, y, stats_grad=stats_grad)[0]
    torch.testing.assert_close(
        torch.autograd.grad(objective(ours), [x, *model.parameters()]),
        torch.autograd.grad(objective(theirs), [x, *other.parameters()]),
    )


# What the readings of the gradient differ in


def test_with_the_labeled_rows_alone_only_constants_lose_the_gradient_of_batchnorm():
    """n = x, collected by hand: the values are batch normalization's."""
    for stats_grad, same in (("corrected", True), ("labeled", True), ("none", False)):
        plain, ubn, x = network(), convert_ubn(network(), stats_grad=stats_grad), rows(4, 1)
        with collecting(ubn):
            ubn(x)
        with using(ubn):
            output = ubn(x)
        torch.testing.assert_close(output, plain(x))
        output.cos().sum().backward()
        plain(x).cos().sum().backward()
        ours, theirs = (torch.cat([p.grad.flatten() for p in m.parameters()]) for m in (ubn, plain))
        assert torch.allclose(ours, theirs, rtol=1e-9 if same else 0.1) is same


def test_constants_lose_the_invariance_to_bias_and_scale():
    """A bias before the layer gets a gradient, and <w, dL/dw> is not 0 (with a tiny eps)."""
    x, y = rows(3, 1), rows(5, 2)
    for stats_grad, invariant in (("none", False), ("corrected", True), ("all", True)):
        model = convert_ubn(network(), stats_grad=stats_grad)
        model[1].eps = model[4].eps = 1e-14
        (ubn_forward(model, x, y) - 1).pow(2).sum().backward()
        scale = (model[0].weight * model[0].weight.grad).sum().abs()
        assert scale < 1e-8 if invariant else scale > 1
        bias = step(network(), x, y, stats_grad=stats_grad)[1][1].abs().max()
        assert bias < 1e-10 if invariant else bias > 1


def test_constants_allow_exact_micro_batches():
    """Collect once, then add up gradients over pieces of the labeled batch."""
    x, y = rows(4, 1), rows(5, 2)
    whole, pieces = (convert_ubn(network(), stats_grad="none") for _ in range(2))
    ubn_forward(whole, x, y).sin().sum().backward()
    with collecting(pieces):
        pieces(torch.cat([x, y]))
    for piece in x.split(1):
        with using(pieces):
            pieces(piece).sin().sum().backward()
    for ours, theirs in zip(pieces.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("stats_grad", ["corrected", "none"])
def test_second_derivatives(stats_grad):
    """A gradient penalty goes through a step, as through nn.BatchNorm."""
    model = convert_ubn(nn.Sequential(nn.BatchNorm1d(3)), stats_grad=stats_grad).double()
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    y = torch.randn(5, 3, dtype=torch.float64)
    penalties = []
    for forward in (
        ubn_forward,
        interleaved,
        lambda m, z, y: oracle_forward(m, z, y, stats_grad=stats_grad)[0],
    ):
        z = x.detach().clone().requires_grad_()
        (grad,) = torch.autograd.grad(forward(model, z, y).pow(3).sum(), z, create_graph=True)
        penalties.append((grad, *torch.autograd.grad(grad.square().sum(), z)))
    torch.testing.assert_close(penalties[:2], penalties[2:] * 2)


@pytest.mark.parametrize("stats_grad", ["corrected", "none", "labeled", "all"])
def test_second_derivatives_of_a_steps_own_statistics(stats_grad):
    model = convert_ubn(nn.BatchNorm1d(1), stats_grad=stats_grad, keep_graph=True).double()
    x = torch.randn(4, 1, dtype=torch.float64, requires_grad=True)
    # With "all", in two passes, the labeled share is in step 1 alone.
    ways = [interleaved] if stats_grad == "all" else [interleaved, ubn_forward]
    for way in ways:
        way(model, x, torch.randn(6, 1, dtype=torch.float64))
        variance = model.last_step[0].labeled.var.sum()
        (slope,) = torch.autograd.grad(variance, x, create_graph=True)
        (curvature,) = torch.autograd.grad(slope[0, 0], x)
        expected = [3 / 8, -1 / 8, -1 / 8, -1 / 8]  # 2 / n (delta - 1 / n)
        torch.testing.assert_close(curvature.flatten(), x.new_tensor(expected))


# The layer around the equations


def test_running_std_follows_equation_3_outside_a_step_too():
    norm = UnsupervisedBatchNorm1d(2, running_stat="std", decay=0.7)
    x = torch.randn(9, 2) * torch.tensor([2.0, 5.0])
    norm(x)
    torch.testing.assert_close(norm.running_var, (0.7 * 1 + 0.3 * x.std(0)) ** 2)


@pytest.mark.parametrize("running_stat", ["var", "std"])
def test_batches_without_a_variance_move_no_average(running_stat):
    """As in torch's layer: one value of a channel is an error, and none at all are no batch."""
    layer = convert_ubn(nn.BatchNorm2d(3), running_stat=running_stat)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        layer(torch.randn(1, 3, 1, 1))
    assert layer(torch.randn(0, 3, 2, 2)).shape == (0, 3, 2, 2)
    assert layer.running_var.tolist() == [1, 1, 1] and layer.running_mean.tolist() == [0, 0, 0]


def test_the_input_goes_by_torchs_name():
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    plain, layer = nn.BatchNorm1d(3), convert_ubn(nn.BatchNorm1d(3))
    assert torch.equal(plain(input=x), layer(input=x))

    class ByName(nn.Sequential):
        def forward(self, x):
            return self[0](input=x)

    for norm in (nn.BatchNorm1d(3), convert_ubn(nn.BatchNorm1d(3))):
        refreshed = refresh_statistics(ByName(norm), [x])
        torch.testing.assert_close(refreshed[0].running_mean, x.mean(0))


def test_cumulative_average_is_the_mean_of_all_batches_but_those_skipped():
    norm = UnsupervisedBatchNorm1d(3, momentum=None)
    batches = [torch.randn(8, 3) + i for i in range(5)]
    for batch in (*batches[:2], torch.full((8, 3), float("inf")), *batches[2:]):
        interleaved(nn.Sequential(norm), batch[:3], batch[3:])
    torch.testing.assert_close(norm.running_mean, torch.stack(batches).mean((0, 1)))
    torch.testing.assert_close(norm.running_var, torch.stack([b.var(0) for b in batches]).mean(0))
    assert norm.num_batches_tracked == 5


def test_untracked_layer_and_frozen_averages():
    model = nn.Sequential(UnsupervisedBatchNorm1d(3, track_running_stats=False))
    x, y = torch.randn(4, 3), torch.randn(6, 3)
    joint = nn.BatchNorm1d(3)(torch.cat([x, y]))[:4]
    torch.testing.assert_close(ubn_forward(model, x, y), joint)
    assert not list(model.buffers())
    norm = UnsupervisedBatchNorm1d(3, momentum=0.0)
    ubn_forward(nn.Sequential(norm), 5 + x, y)
    assert torch.equal(norm.running_mean, torch.zeros(3))
    assert torch.equal(norm.running_var, torch.ones(3))


@pytest.mark.parametrize("running_stat", ["var", "std"])
def test_averages_rest_while_they_are_not_tracked(running_stat):
    """Virtual adversarial training turns `track_running_stats` off for a call."""
    model = convert_ubn(nn.Sequential(nn.BatchNorm1d(3)), running_stat=running_stat)
    x, y = 3 + torch.randn(4, 3), torch.randn(6, 3)
    for call in (model, lambda x: ubn_forward(model, x, None), lambda x: ubn_forward(model, x, y)):
        tracked = call(x)
        before = copy.deepcopy(list(model.buffers()))
        model[0].track_running_stats = False
        assert torch.equal(call(x), tracked)
        model[0].track_running_stats = True
        assert all(map(torch.equal, model.buffers(), before)) and before[0].any()


def test_options_of_the_constructor():
    norm = UnsupervisedBatchNorm2d(
        3, 1e-3, None, False, unlabeled_weight=0.5, stats_grad="all", dtype=torch.float64
    )
    assert norm.momentum is None and norm.weight is None
    assert norm.running_mean.dtype == torch.float64
    assert repr(norm).endswith("stats_grad='all', unlabeled_weight=0.5)")
    assert UnsupervisedBatchNorm2d(3, decay=0.25).momentum == 0.75
    assert UnsupervisedBatchNorm3d(3, device="meta").weight.is_meta


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stats_grad": "some"}, "stats_grad is 'some': it must be one of 'corrected', 'none'"),
        ({"source": "epoch"}, "source is 'epoch': it must be one of 'batch', 'running'"),
        ({"running_stat": "mad"}, "running_stat is 'mad'"),
        ({"decay": 0.9, "momentum": 0.2}, "they are one setting, decay = 1 - momentum"),
        ({"decay": 0.9, "momentum": None}, "Both decay=0.9 and momentum=None are given"),
        ({"decay": 7}, "decay is 7: it must be a number from 0 to 1"),
        ({"momentum": "0.1"}, "momentum is '0.1': it must be a number from 0 to 1"),
        ({"unlabeled_weight": "0.5"}, "unlabeled_weight is '0.5': it must be"),
        ({"skip_nonfinite": "no"}, "skip_nonfinite is 'no': it must be one of True, False"),
        ({"keep_graph": None}, "keep_graph is None: it must be one of True, False"),
        ({"unlabeled_weight": 0}, "it must be a number above 0 and at most 1"),
        ({"unlabeled_weight": 1.1}, "it must be a number above 0 and at most 1"),
        ({"source": "running", "track_running_stats": False}, "does not keep"),
        ({"source": "running", "stats_grad": "labeled"}, 'goes with source="batch" only'),
    ],
)
def test_options_that_are_not_allowed(options, message):
    with pytest.raises(ValueError, match=message):
        UnsupervisedBatchNorm1d(4, **options)


@pytest.mark.skipif(
    "bias" not in inspect.signature(nn.BatchNorm2d.__init__).parameters,
    reason="this torch has no BatchNorm without a bias",
)
@pytest.mark.parametrize("stats_grad", READINGS)
def test_layer_without_a_bias(stats_grad):
    norm = UnsupervisedBatchNorm2d(3, bias=False, stats_grad=stats_grad)
    other = UnsupervisedBatchNorm2d(3, stats_grad=stats_grad)
    x, y = torch.randn(2, 3, 4, 4), torch.randn(3, 3, 4, 4)
    ours, theirs = (ubn_forward(nn.Sequential(n), x, y) for n in (norm, other))
    torch.testing.assert_close(ours, theirs)
    (ours.square().sum() + theirs.square().sum()).backward()
    torch.testing.assert_close(norm.weight.grad, other.weight.grad)
    assert norm.bias is None


# Precision, layout, and values that are not finite


@pytest.mark.parametrize("way", [interleaved, by_hand])
@pytest.mark.parametrize("stats_grad", READINGS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_keeps_statistics_in_float32(dtype, stats_grad, way):
    """And autocast's cache keeps no weights of step 1, cast without gradient."""
    model = convert_ubn(network(dtype=torch.float32), stats_grad=stats_grad)
    exact = copy.deepcopy(model)
    x, y = rows(4, 1, torch.float32) - 3, rows(6, 2, torch.float32) - 2
    with torch.autocast("cpu", dtype):
        output = way(model, x, y)
        assert torch.is_autocast_cache_enabled()
    output.float().sin().sum().backward()
    expected = interleaved(exact, x, y)
    expected.sin().sum().backward()
    for layer in (model[1], model[4]):
        (call,) = layer.last_step
        assert {call.union.mean.dtype, call.union.var.dtype} == {torch.float32}
        assert {layer.running_mean.dtype, layer.running_var.dtype} == {torch.float32}
    torch.testing.assert_close(output.float(), expected, rtol=0.05, atol=0.05)
    torch.testing.assert_close(model[1].running_var, exact[1].running_var, rtol=0.02, atol=0.02)
    # A bias before the normalization has no gradient but rounding: the scale is the model's.
    scale = max(p.grad.abs().max() for p in exact.parameters())
    for (name, ours), theirs in zip(model.named_parameters(), exact.parameters(), strict=True):
        assert ours.grad is not None, f"{name} has lost its gradient"
        assert (ours.grad - theirs.grad).abs().max() < 0.1 * scale, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_models_in_half_precision(dtype):
    x, y = rows(4, 1, torch.float32), rows(6, 2, torch.float32)
    model = convert_ubn(network(dtype=dtype))
    output = interleaved(model, x.to(dtype), y.to(dtype))
    assert output.dtype == dtype
    output.sum().backward()
    expected = interleaved(convert_ubn(network(dtype=torch.float32)), x, y)
    torch.testing.assert_close(output.float(), expected, rtol=0.1, atol=0.1)


def test_channels_last_stays():
    last = torch.channels_last
    model, seen = convert_ubn(network()).to(memory_format=last), []
    model[1].register_forward_hook(lambda _, inputs, output: seen.extend([*inputs, output]))
    x, y = rows(4, 1), rows(6, 2)
    output = interleaved(model, x.to(memory_format=last), y.to(memory_format=last))
    assert all(s.is_contiguous(memory_format=last) for s in seen)
    objective(output).backward()
    plain = step(network(), x, y)
    torch.testing.assert_close(
        [output, [p.grad for p in model.parameters()]], [plain[0], plain[1][:-1]]
    )


@pytest.mark.parametrize("way", [ubn_forward, interleaved])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_batch_that_is_not_finite_moves_no_average(value, way):
    model = convert_ubn(network())
    interleaved(model, rows(4, 1), rows(6, 2))
    before = copy.deepcopy(model.state_dict())
    bad = rows(6, 3)
    bad[0, 0, 0, 0] = value
    assert not way(model, rows(4, 1), bad).isfinite().all(), "the output hides nothing"
    for name, ours in model.state_dict().items():
        assert torch.equal(ours, before[name]), name
    asked = nn.Sequential(UnsupervisedBatchNorm1d(2, skip_nonfinite=False))
    way(asked, torch.full((3, 2), value), torch.randn(4, 2))
    assert not asked[0].running_mean.isfinite().any()
    assert "skip_nonfinite=False" in repr(asked[0])
