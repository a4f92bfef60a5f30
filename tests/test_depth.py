"""Depth metrics, downscaling and loss against loops written from their definitions."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ubnlib.depth import depth_metrics, downscale_depth, multiscale_depth_loss

NAMES = ["abs_rel", "sq_rel", "rmse", "rmse_log", "delta1", "delta2", "delta3"]


def sparse_depth(seed, shape, density=0.3, low=1.0, high=95.0):
    generator = np.random.default_rng(seed)
    depth = generator.uniform(low, high, shape)
    return np.where(generator.uniform(size=shape) < density, depth, 0.0)


def metrics_by_loops(prediction, target, cap, box=None):
    """Average over images of each metric's definition, one pixel at a time."""
    per_image = []
    for p_map, t_map in zip(prediction, target, strict=True):
        height, width = t_map.shape
        top, bottom, left, right = box or (0, height, 0, width)
        pairs = [
            (min(max(float(p_map[row, column]), 1e-3), cap), float(t_map[row, column]))
            for row in range(top, bottom)
            for column in range(left, right)
            if 0 < t_map[row, column] <= cap
        ]
        n = len(pairs)
        if n == 0:
            continue
        ratios = [max(p / t, t / p) for p, t in pairs]
        per_image.append(
            [
                sum(abs(p - t) / t for p, t in pairs) / n,
                sum((p - t) ** 2 / t for p, t in pairs) / n,
                math.sqrt(sum((p - t) ** 2 for p, t in pairs) / n),
                math.sqrt(sum((math.log(p) - math.log(t)) ** 2 for p, t in pairs) / n),
                *(sum(ratio < 1.25**power for ratio in ratios) / n for power in (1, 2, 3)),
            ]
        )
    return dict(zip(NAMES, np.mean(per_image, axis=0), strict=True))


@pytest.mark.parametrize("cap", [80.0, 50.0])
def test_metrics_agree_with_the_loops(cap):
    target = sparse_depth(0, (3, 20, 30))
    prediction = target * np.random.default_rng(1).lognormal(0, 0.4, target.shape) + 1e-4
    prediction[0, :3] = -1.0  # clipped
    expected = metrics_by_loops(prediction, target, cap)
    assert depth_metrics(prediction, target, cap=cap) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    # The crops of a 375x1242 image as rows and columns, computed by hand from their shares.
    ("crop", "box"),
    [("garg", (153, 371, 44, 1197)), ("eigen", (124, 342, 44, 1197))],
)
def test_crops_are_the_usual_ones(crop, box):
    target = sparse_depth(2, (1, 375, 1242), density=0.02)
    top, bottom, left, right = box
    # Right on the frame of pixels just inside, wrong by a factor of 10 everywhere outside.
    for row in (top - 1, top, bottom - 1, bottom):
        target[0, row] = 7.0
    for column in (left - 1, left, right - 1, right):
        target[0, :, column] = 7.0
    prediction = target * 1.1
    prediction[0, :top] = prediction[0, bottom:] = 0.1
    prediction[0, :, :left] = prediction[0, :, right:] = 0.1
    ours = depth_metrics(prediction, target, crop=crop)
    assert ours["delta1"] == 1.0
    assert ours == pytest.approx(metrics_by_loops(prediction, target, 80.0, box), rel=1e-12)
    # And no pixel inside is left out: spoil the four corners.
    for row in (top, bottom - 1):
        for column in (left, right - 1):
            spoiled = prediction.copy()
            spoiled[0, row, column] = 70.0
            assert depth_metrics(spoiled, target, crop=crop)["delta1"] < 1.0


def test_metrics_are_per_image_means_and_empty_images_are_left_out():
    target = np.zeros((3, 2, 4))
    target[0] = 10.0
    target[1, 0, 0] = 10.0
    prediction = np.full_like(target, 10.0)
    prediction[1] = 20.0
    metrics = depth_metrics(prediction, target)
    assert metrics["abs_rel"] == pytest.approx(0.5) and metrics["delta1"] == 0.5


def test_metrics_of_tensors_arrays_and_single_maps_are_the_same():
    target = sparse_depth(3, (12, 9)).astype(np.float32)
    prediction = (target + 1.0).astype(np.float32)
    reference = depth_metrics(prediction, target)
    gradient = torch.from_numpy(prediction).requires_grad_()
    assert depth_metrics(gradient, torch.from_numpy(target)) == reference
    assert depth_metrics(prediction[None], target[None]) == reference
    assert list(reference) == NAMES and all(type(value) is float for value in reference.values())


def test_perfect_prediction_and_nan():
    target = sparse_depth(4, (5, 8))
    perfect = depth_metrics(target, target)
    assert list(perfect.values()) == [0, 0, 0, 0, 1, 1, 1]
    missing = np.where(target > 0, target, np.nan)
    assert depth_metrics(target, missing) == perfect  # NaN in the target: no measurement
    broken = depth_metrics(np.full_like(target, np.nan), target)
    assert math.isnan(broken["abs_rel"]) and broken["delta3"] == 0.0


def test_metrics_refuse_wrong_shapes_crops_and_empty_targets():
    ones = np.ones((2, 4, 6))
    with pytest.raises(ValueError, match=r"\(2, 1, 4, 6\) and target \(2, 4, 6\).*resize"):
        depth_metrics(ones[:, None], ones)
    with pytest.raises(ValueError, match=r"\(6,\)"):
        depth_metrics(ones[0, 0], ones[0, 0])
    with pytest.raises(ValueError, match="crop is 'center'"):
        depth_metrics(ones, ones, crop="center")
    for target in (0 * ones, 90 * ones):
        with pytest.raises(ValueError, match="no pixel with 0 < depth <= 80"):
            depth_metrics(ones, target)


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


def test_nearest_surface_keeps_measured_values_exactly_and_is_the_default():
    depth = torch.from_numpy(sparse_depth(5, (1, 16, 16), 0.2)).float()
    small = downscale_depth(depth, (4, 4))
    assert set(small[small > 0].tolist()) <= set(depth[depth > 0].tolist())
    assert torch.equal(downscale_depth(depth, (16, 16)), depth)


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


def test_loss_in_reduced_precision_is_computed_in_float32():
    target = torch.from_numpy(sparse_depth(10, (2, 12, 20))).float()
    predictions = tuple(prediction.bfloat16() for prediction in make_predictions(11))
    loss = multiscale_depth_loss(predictions, target)
    assert loss.dtype == torch.float32
    exact = multiscale_depth_loss(tuple(p.double() for p in predictions), target.double())
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)


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
