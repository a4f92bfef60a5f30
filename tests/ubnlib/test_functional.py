"""Statistics of batches and their unions: plain float64, properties, large means."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ubnlib.functional import Statistics, batch_statistics, merge, remove

SHAPES = [
    (6, 3),
    (6, 3, 40),
    (5, 4, 3, 2),
    (3, 2, 17, 16),
    (9, 64, 32, 32),
    (2, 3, 4, 5, 6),
    (1, 2, 1, 1),
]


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
@pytest.mark.parametrize("shape", SHAPES)
def test_statistics_and_their_gradient_against_float64(shape, layout):
    x = 3 + 2 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    if layout == "channels_last" and len(shape) == 4:
        x = x.to(memory_format=torch.channels_last)
    if layout == "strided":
        x = x.repeat_interleave(2, dim=0)[::2]
    exact = x.double().requires_grad_()
    dims = [0, *range(2, len(shape))]
    expected = torch.stack([exact.mean(dims), exact.var(dims, correction=0)])
    constant = batch_statistics(x)
    mean, var, count = batch_statistics(x.requires_grad_())
    torch.testing.assert_close(torch.stack([mean, var]).double(), expected, rtol=1e-5, atol=1e-5)
    assert count == x.numel() // x.size(1)
    torch.testing.assert_close(constant, Statistics(mean.detach(), var.detach(), count))
    slope = torch.randn(2, shape[1], generator=torch.Generator().manual_seed(1))
    (torch.stack([mean, var]) * slope).sum().backward()
    (expected * slope).sum().backward()
    torch.testing.assert_close(x.grad.double(), exact.grad, rtol=1e-4, atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**31))
def test_merge_is_the_statistics_of_the_union_and_remove_undoes_it(a, b, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(a + b, 3, 2, generator=generator, dtype=torch.float64) * 3 + 5
    first, second = batch_statistics(x[:a]), batch_statistics(x[a:])
    union = merge(first, second)
    torch.testing.assert_close(tuple(union), tuple(batch_statistics(x)))
    torch.testing.assert_close(tuple(remove(union, first)), tuple(second))
    with pytest.raises(ValueError, match="must hold unlabeled rows"):
        remove(union, union)


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
        first, *others = map(batch_statistics, x.split(parts))
        for other in others:
            first = merge(first, other)
        # Float32 has steps of 6e-5 here; torch's kernel for channels_last sums with it.
        error = (first.mean.double() - exact.mean((0, 2, 3))).abs()
        assert (error < 0.02 * expected.sqrt()).all()
        torch.testing.assert_close(first.var.double(), expected, rtol=1e-3, atol=0)
