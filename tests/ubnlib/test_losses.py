"""Downscaling and the training loss against loops written from their definitions."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ubnlib.losses import downscale_depth, multiscale_depth_loss


def sparse_depth(seed, shape, density=0.3):
    generator = np.random.default_rng(seed)
    depth = generator.uniform(1.0, 95.0, shape)
    return np.where(generator.uniform(size=shape) < density, depth, 0.0)


def cell(index, size, full):
    """First and one past the last pixel of a cell: those that it covers, also in part."""
    return index * full // size, -((-(index + 1) * full) // size)


def downscale_by_loops(depth, size, mode):
    out = np.zeros((len(depth), *size))
    for n, row, column in np.ndindex(out.shape):
        (top, bottom), (left, right) = (
            cell(i, s, f) for i, s, f in zip((row, column), size, depth.shape[1:], strict=True)
        )
        measured = [d for d in depth[n, top:bottom, left:right].ravel() if d > 0]
        if mode == "nearest":
            out[n, row, column] = depth[
                n,
                int((row + 0.5) * depth.shape[1] / size[0]),
                int((column + 0.5) * depth.shape[2] / size[1]),
            ]
        elif measured:
            out[n, row, column] = min(measured) if mode == "nearest_surface" else np.mean(measured)
    return out


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(["nearest_surface", "nearest", "mean"]),
    st.tuples(st.integers(1, 13), st.integers(1, 17)),
    st.floats(0, 1),
    st.integers(0, 2**32 - 1),
)
def test_downscaling_agrees_with_the_loops(mode, size, density, seed):
    depth = sparse_depth(seed, (2, 13, 17), density)
    ours = downscale_depth(torch.from_numpy(depth), size, mode).numpy()
    np.testing.assert_allclose(ours, downscale_by_loops(depth, size, mode), rtol=1e-12)


@pytest.mark.parametrize("mode", ["nearest_surface", "nearest", "mean"])
@pytest.mark.parametrize("nothing", [-1.0, torch.nan])
def test_what_is_no_depth_stays_0(mode, nothing):
    assert not downscale_depth(torch.full((1, 4, 9), nothing), (2, 3), mode).any()


def test_downscaling_refuses_larger_sizes_and_unknown_modes():
    with pytest.raises(ValueError, match=r"size is \(5, 9\), expected at most the \(4, 9\)"):
        downscale_depth(torch.ones(1, 4, 9), (5, 9))
    with pytest.raises(ValueError, match="mode is 'bilinear'"):
        downscale_depth(torch.ones(1, 4, 9), (2, 2), "bilinear")


def make_predictions(seed, batch=2, sizes=((12, 20), (6, 10), (3, 5), (2, 3))):
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        2.5 + 60 * torch.rand(batch, 1, *size, generator=generator, dtype=torch.float64)
        for size in sizes
    )


@pytest.mark.parametrize("mode", ["nearest_surface", "nearest", "mean"])
@pytest.mark.parametrize("norm", ["l1", "l2", "log_l1"])
def test_loss_agrees_with_the_loops(mode, norm):
    error = {
        "l1": lambda p, t: abs(p - t),
        "l2": lambda p, t: (p - t) ** 2,
        "log_l1": lambda p, t: abs(math.log(p / t)),
    }[norm]
    target = sparse_depth(6, (2, 12, 20))
    predictions = make_predictions(7)
    means = []
    for prediction in predictions:
        p_maps = prediction[:, 0].numpy()
        t_maps = downscale_by_loops(target, p_maps.shape[1:], mode)
        measured = zip(p_maps[t_maps > 0], t_maps[t_maps > 0], strict=True)
        means.append(np.mean([error(float(p), float(t)) for p, t in measured]))
    ours = multiscale_depth_loss(predictions, torch.from_numpy(target), mode=mode, norm=norm)
    assert ours.item() == pytest.approx(np.mean(means), rel=1e-12)


@pytest.mark.parametrize("norm", ["l1", "l2", "log_l1"])
def test_gradient_flows_from_measured_cells_alone(norm):
    target = torch.from_numpy(sparse_depth(8, (2, 12, 20), density=0.1))
    target[1] = 0  # an image without any measurement, in a batch with some
    predictions = make_predictions(9)
    spoiled = []
    for prediction in predictions:
        measured = downscale_depth(target, prediction.shape[-2:])[:, None] > 0
        spoiled.append(prediction.where(measured, torch.nan).requires_grad_())
    loss = multiscale_depth_loss(tuple(spoiled), target, norm=norm)
    loss.backward()
    assert loss.isfinite()
    for prediction in spoiled:
        measured = prediction.isfinite()
        assert measured.any() and not measured.all()
        assert (prediction.grad[measured] != 0).all()
        assert (prediction.grad[~measured] == 0).all()


def test_scales_weigh_the_same_and_empty_scales_drop_out():
    target = torch.zeros(1, 4, 4)
    target[0, 0, 0] = 10.0  # "nearest" looks at other pixels at half the size
    predictions = tuple(torch.full((1, 1, size, size), 12.0) for size in (4, 2))
    assert multiscale_depth_loss(predictions, target, mode="nearest").item() == 2.0
    predictions[1].fill_(16.0)
    assert multiscale_depth_loss(predictions, target).item() == 4.0


@pytest.mark.parametrize("norm", ["l1", "l2", "log_l1"])
@pytest.mark.parametrize("parts", [(2, 3), (2, 2, 1), (5, 0)])
def test_the_mean_over_processes_is_the_loss_of_the_whole_batch(parts, norm):
    """Each process knows its own rows, and how many cells are measured in all of them."""
    target = torch.from_numpy(sparse_depth(13, (5, 12, 20)))
    target[:1], target[4:, 3:] = 0, 0  # one image without a measurement, and one with few
    predictions = [p.requires_grad_() for p in make_predictions(14, batch=5)]
    whole = multiscale_depth_loss(predictions, target, norm=norm)
    expected = torch.autograd.grad(whole, predictions)
    counts = [(downscale_depth(target, tuple(p.shape[-2:])) > 0).sum() for p in predictions]
    losses, own = [], []
    for rows in torch.arange(5).split(parts):
        totals = iter(counts)

        def total(count, totals=totals):
            own.append(count)
            return next(totals)

        some = [p[rows] for p in predictions]
        losses.append(
            multiscale_depth_loss(some, target[rows], norm=norm, total=total, shares=len(parts))
        )
    assert sum(own[:: len(counts)]) == counts[0]
    mean = torch.stack(losses).mean()
    torch.testing.assert_close(mean, whole)
    torch.testing.assert_close(torch.autograd.grad(mean, predictions), expected)


def test_loss_refuses_batches_without_depth_and_wrong_shapes():
    predictions = tuple(p.float() for p in make_predictions(12))
    with pytest.raises(ValueError, match=r"labeled batch .* has no measured depth"):
        multiscale_depth_loss(predictions, torch.zeros(2, 12, 20))
    with pytest.raises(ValueError, match=r"\(2, 1, 12, 20\), expected \[3, 1, h, w\]"):
        multiscale_depth_loss(predictions, torch.ones(3, 12, 20))
    with pytest.raises(ValueError, match=r"\(2, 12, 20\), expected \[2, 1, h, w\]"):
        multiscale_depth_loss((predictions[0][:, 0],), torch.ones(2, 12, 20))
    with pytest.raises(ValueError, match="norm is 'huber'"):
        multiscale_depth_loss(predictions, torch.ones(2, 12, 20), norm="huber")
