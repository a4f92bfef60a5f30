"""Half precision, memory formats, large means and values that are not finite."""

import copy

import pytest
import torch
from torch import nn

from ubnlib import (
    DispNet,
    UnsupervisedBatchNorm1d,
    UnsupervisedBatchNorm2d,
    collecting,
    convert_ubn,
    using,
)
from ubnlib.forward import side_by_side, two_passes
from ubnlib.functional import batch_moments, batch_statistics, merge

SHAPES = [
    (6, 3),
    (6, 3, 40),
    (5, 4, 7, 6),
    (5, 4, 3, 2),
    (3, 2, 17, 16),
    (9, 64, 32, 32),
    (2, 3, 4, 5, 6),
    (1, 2, 1, 1),
    (3, 1),
]


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 2), nn.BatchNorm2d(4)
    )


def rows(n, seed):
    return torch.randn(n, 3, 9, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
@pytest.mark.parametrize("shape", SHAPES)
def test_moments_and_their_gradient_against_float64(shape, layout):
    x = 3 + 2 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    if layout == "channels_last":
        if len(shape) != 4:
            pytest.skip("channels_last is a layout of four dimensions")
        x = x.to(memory_format=torch.channels_last)
    if layout == "strided":
        x = x.repeat_interleave(2, dim=0)[::2]
    exact = x.double().requires_grad_()
    dims = [0, *range(2, len(shape))]
    expected = torch.stack([exact.mean(dims), exact.var(dims, correction=0)])
    x.requires_grad_()
    mean, var, count = batch_statistics(x)
    torch.testing.assert_close(torch.stack([mean, var]).double(), expected, rtol=1e-5, atol=1e-5)
    assert count == x.numel() // x.size(1)
    torch.testing.assert_close(batch_moments(x), (mean, var))
    slope = torch.randn(2, shape[1], generator=torch.Generator().manual_seed(1))
    (torch.stack([mean, var]) * slope).sum().backward()
    (expected * slope).sum().backward()
    torch.testing.assert_close(x.grad.double(), exact.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_statistics_keep_their_digits_at_a_large_mean(layout):
    """Mean 1000 and standard deviation 0.1, where E[x^2] - E[x]^2 has no digit left in float32."""
    x = 1000 + 0.1 * torch.randn(8, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    x = x.to(memory_format=layout)
    naive = (x**2).mean((0, 2, 3)) - x.mean((0, 2, 3)) ** 2
    exact = x.double()
    expected = exact.var((0, 2, 3), correction=0)
    assert ((naive - expected).abs() > 0.1 * expected).any(), "the trap must be there"
    for parts in ([8], [1, 7], [2, 3, 3]):
        whole = None
        for part in x.split(parts):
            piece = batch_statistics(part)
            whole = piece if whole is None else merge(whole, piece)
        # Float32 has steps of 6e-5 here; torch's kernel for channels_last sums with it.
        error = (whole.mean.double() - exact.mean((0, 2, 3))).abs()
        assert (error < 0.02 * expected.sqrt()).all()
        torch.testing.assert_close(whole.var.double(), expected, rtol=1e-3, atol=0)
    norm = nn.Sequential(UnsupervisedBatchNorm2d(2, eps=1e-8))
    output = side_by_side(norm, x[:3], x[3:]).double()
    mean, var = exact.mean((0, 2, 3), keepdim=True), expected.view(1, 2, 1, 1)
    torch.testing.assert_close(output, (exact[:3] - mean) / var.sqrt(), rtol=2e-3, atol=2e-2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("stats_grad", ["corrected", "none", "labeled", "all"])
@pytest.mark.parametrize("forward", [side_by_side, two_passes])
def test_autocast_keeps_statistics_in_float32(dtype, stats_grad, forward):
    model = convert_ubn(network(), stats_grad=stats_grad)
    exact = copy.deepcopy(model)
    x, y = rows(4, 1), 1 + rows(6, 2)
    with torch.autocast("cpu", dtype):
        output = forward(model, x, y)
    output.float().sin().sum().backward()
    expected = side_by_side(exact, x, y)
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


def test_step_1_by_hand_leaves_no_cast_weights_without_gradient():
    """Autocast keeps cast weights until it ends; those cast without gradient must not be used."""
    model = convert_ubn(network())
    x, y = rows(4, 1), rows(6, 2)
    with torch.autocast("cpu", torch.bfloat16):
        with collecting(model):
            model(torch.cat([x, y]))
        assert torch.is_autocast_cache_enabled()
        with using(model):
            output = model(x)
    output.float().square().sum().backward()
    assert model[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_models_of_another_type(dtype):
    model = convert_ubn(network()).to(dtype)
    output = side_by_side(model, rows(4, 1).to(dtype), rows(6, 2).to(dtype))
    assert output.dtype == dtype
    output.sum().backward()
    expected = side_by_side(convert_ubn(network()), rows(4, 1), rows(6, 2))
    torch.testing.assert_close(output.float(), expected, rtol=0.1, atol=0.1)


def test_channels_last_stays():
    model = convert_ubn(network()).to(memory_format=torch.channels_last)
    x, y = (r.to(memory_format=torch.channels_last) for r in (rows(4, 1), rows(6, 2)))
    seen = []
    model[1].register_forward_hook(lambda _, inputs, output: seen.extend([*inputs, output]))
    output = side_by_side(model, x, y)
    assert all(s.is_contiguous(memory_format=torch.channels_last) for s in seen)
    output.square().sum().backward()
    plain = convert_ubn(network())
    expected = side_by_side(plain, rows(4, 1), rows(6, 2))
    expected.square().sum().backward()
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("forward", [side_by_side, two_passes])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_batch_that_is_not_finite_moves_no_average(value, forward):
    model = convert_ubn(network())
    side_by_side(model, rows(4, 1), rows(6, 2))
    before = copy.deepcopy(model.state_dict())
    bad = rows(6, 3)
    bad[0, 0, 0, 0] = value
    assert not forward(model, rows(4, 1), bad).isfinite().all(), "the output hides nothing"
    for name, ours in model.state_dict().items():
        assert torch.equal(ours, before[name]), name
    side_by_side(model, rows(4, 1), rows(6, 2))
    assert model[1].num_batches_tracked == 2


def test_a_batch_that_is_not_finite_is_taken_where_asked():
    model = nn.Sequential(UnsupervisedBatchNorm1d(2, skip_nonfinite=False))
    side_by_side(model, torch.full((3, 2), float("nan")), torch.randn(4, 2))
    assert model[0].running_mean.isnan().all()
    assert "skip_nonfinite=False" in repr(model[0])


def test_skipped_batches_do_not_count_in_the_cumulative_average():
    norm = UnsupervisedBatchNorm1d(2, momentum=None)
    good = [torch.randn(8, 2) + i for i in range(3)]
    for batch in (good[0], torch.full((8, 2), float("inf")), good[1], good[2]):
        side_by_side(nn.Sequential(norm), batch[:3], batch[3:])
    torch.testing.assert_close(norm.running_mean, torch.stack(good).mean((0, 1)))
    assert norm.num_batches_tracked == 3


def test_dispnet_in_half_precision_trains_a_step():
    torch.manual_seed(0)
    model = convert_ubn(DispNet(width=0.05))
    with torch.autocast("cpu", torch.bfloat16):
        depth = side_by_side(model, torch.randn(2, 3, 64, 128), torch.randn(2, 3, 64, 128))
        loss = sum(d.float().log().mean() for d in depth)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
