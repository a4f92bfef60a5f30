"""Depth metrics against a plain numpy loop over images."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ubnlib.metrics import as_depth, average_metrics, crop_region, per_image_metrics


def depth_metrics(prediction, target, **options):
    return average_metrics(per_image_metrics(prediction, target, **options))


NAMES = ["abs_rel", "sq_rel", "rmse", "rmse_log", "delta1", "delta2", "delta3"]
SHARES = {
    "garg": ("0.40810811", "0.99189189", "0.03594771", "0.96405229"),
    "eigen": ("0.3324324", "0.91351351", "0.0359477", "0.96405229"),
}
KITTI_SIZES = [(375, 1242), (370, 1224), (374, 1238), (370, 1226), (376, 1241)]


def sparse_depth(seed, shape, density=0.3, low=1.0, high=95.0):
    generator = np.random.default_rng(seed)
    depth = generator.uniform(low, high, shape)
    return np.where(generator.uniform(size=shape) < density, depth, 0.0)


def wrong_by(seed, target, spread=0.4):
    """Return a dense prediction, off by random factors."""
    generator = np.random.default_rng(seed)
    guess = np.where(target > 0, target, generator.uniform(1, 95, target.shape))
    return guess * generator.lognormal(0.1, spread, target.shape)


def box_of(crop, height, width):
    """Return first and one past the last row and column, in exact arithmetic."""
    if crop is None:
        return 0, height, 0, width
    sizes = (height, height, width, width)
    return tuple(
        math.floor(Fraction(share) * size) for share, size in zip(SHARES[crop], sizes, strict=True)
    )


def oracle(prediction, target, crop=None, cap=80.0, median_scaling=False):
    """Return the metrics of each image, as evaluation scripts do it: a list of seven or of NaN."""
    per_image = []
    for p, t in zip(prediction.astype(np.float64), target.astype(np.float64), strict=True):
        mask = np.logical_and(t > 0, t <= cap)
        top, bottom, left, right = box_of(crop, *t.shape)
        inside = np.zeros_like(mask)
        inside[top:bottom, left:right] = True
        mask = np.logical_and(mask, inside)
        if not mask.any():
            per_image.append([np.nan] * 7)
            continue
        p, t = p[mask], t[mask]
        if median_scaling:
            p = p * (np.median(t) / np.median(p))
        p = np.minimum(np.maximum(p, 1e-3), cap)
        worse = np.maximum(t / p, p / t)
        per_image.append(
            [
                np.average(np.abs(t - p) / t),
                np.average((t - p) ** 2 / t),
                np.average((t - p) ** 2) ** 0.5,
                np.average((np.log(t) - np.log(p)) ** 2) ** 0.5,
                *(np.count_nonzero(worse < 1.25**power) / worse.size for power in (1, 2, 3)),
            ]
        )
    return np.array(per_image)


def table(metrics):
    """Return per-image metrics as [N, 7]."""
    assert list(metrics) == NAMES
    return torch.stack(list(metrics.values()), dim=1).cpu().numpy()


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([None, "garg", "eigen"]),
    st.sampled_from([80.0, 50.0]),
    st.booleans(),
    st.floats(0, 1),
    st.sampled_from([np.float32, np.float64]),
)
def test_metrics_agree_with_the_oracle(seed, crop, cap, median_scaling, density, dtype):
    target = sparse_depth(seed, (4, 20, 30), density).astype(dtype)
    target[1, :, 5:] = 0.0  # images with different numbers of pixels, of which one has none
    target[3] = 0.0
    prediction = wrong_by(seed + 1, target).astype(dtype)
    prediction[2, 9] = 1e-5  # clipped from both sides
    prediction[2, 11] = 500.0
    options = dict(crop=crop, cap=cap, median_scaling=median_scaling)
    expected = oracle(prediction, target, **options)
    ours = per_image_metrics(prediction, target, **options)
    np.testing.assert_allclose(table(ours), expected, rtol=1e-9, atol=1e-12)
    assert np.isnan(table(ours)[3]).all()
    if np.isfinite(expected).any():
        means = dict(zip(NAMES, np.nanmean(expected, axis=0), strict=True))
        assert depth_metrics(prediction, target, **options) == pytest.approx(means, rel=1e-9)


@pytest.mark.parametrize("crop", ["garg", "eigen"])
def test_native_maps_and_crops_at_all_kitti_sizes(crop):
    for size in KITTI_SIZES:
        top, bottom, left, right = box_of(crop, *size)
        assert crop_region(crop, *size) == (slice(top, bottom), slice(left, right))
    target = sparse_depth(size[0], (2, *size), 0.05).astype(np.float32)
    prediction = wrong_by(size[1], target).astype(np.float32)
    ours = table(per_image_metrics(prediction, target, crop=crop))
    np.testing.assert_allclose(ours, oracle(prediction, target, crop), rtol=1e-9)
    # One pixel each on the inner side of the border and on the outer side.
    for row, column, counts in (
        (top, left, True),
        (bottom - 1, right - 1, True),
        (top - 1, left, False),
        (top, left - 1, False),
        (bottom, right - 1, False),
        (bottom - 1, right, False),
    ):
        target = np.zeros((1, *size), np.float32)
        target[0, row, column] = 7.0
        delta = per_image_metrics(target, target, crop=crop)["delta1"]
        assert delta.isfinite().item() is counts


def test_targets_beyond_the_cap_stay_where_they_are_not_cut():
    """As monodepth2 has it for the improved maps: predictions end at 80 m, targets do not."""
    target, prediction = np.array([[10.0, 100.0, 0.0, np.inf]]), np.array([[10.0, 500.0, 1.0, 1.0]])
    far = depth_metrics(prediction, target, cut_targets=False)
    assert far["abs_rel"] == pytest.approx((0 + 0.2) / 2) and far["delta1"] == 0.5
    assert depth_metrics(prediction, target)["abs_rel"] == 0


def test_median_is_over_the_evaluated_pixels_and_before_clipping():
    target = np.array([[[10.0, 20.0, 40.0, 60.0, 0.0, 90.0]]])
    prediction = np.array([[[100.0, 200.0, 400.0, 600.0, 1.0, 1.0]]])
    metrics = depth_metrics(prediction, target, median_scaling=True)
    assert list(metrics.values()) == pytest.approx([0, 0, 0, 0, 1, 1, 1], abs=1e-12)
    prediction[0, 0, 1] = np.nan  # medians of 10, 20, 40, 60 and of 100, 400, 600
    metrics = depth_metrics(prediction, target, median_scaling=True)
    assert math.isnan(metrics["rmse"]) and metrics["delta1"] == 0.0
    assert metrics["delta2"] == 0.75  # each 0.75 of the truth


def test_tensors_and_arrays_of_any_kind_give_the_same_and_stay_as_they_are():
    target = sparse_depth(4, (2, 12, 9), 0.9, 1.0, 60.0).round()
    prediction = wrong_by(5, target)
    reference = depth_metrics(prediction, target, median_scaling=True)
    assert list(reference) == NAMES and all(type(value) is float for value in reference.values())
    before = prediction.copy(), target.copy()
    tensors = torch.from_numpy(prediction).requires_grad_(), torch.from_numpy(target)
    for integer in (tensors[1], tensors[1].to(torch.uint16)):
        assert depth_metrics(tensors[0], integer, median_scaling=True) == reference
    turned = np.ascontiguousarray(prediction[:, ::-1])[:, ::-1]  # negative strides
    turned.flags.writeable = False
    for same in (target.astype(np.uint16), target.astype(">f4"), target.astype(np.float16)):
        assert depth_metrics(turned, same, median_scaling=True) == reference
    np.testing.assert_array_equal((prediction, target), before)
    per_image = per_image_metrics(prediction[0], target[0])
    assert all(v.shape == (1,) and v.dtype == torch.float64 for v in per_image.values())
    assert as_depth(target.astype(np.uint16)).dtype == torch.float32


def test_nan_and_infinity():
    target = sparse_depth(4, (5, 8))
    perfect = depth_metrics(target, target)
    assert list(perfect.values()) == [0, 0, 0, 0, 1, 1, 1]
    for none in (np.nan, -1.0, -np.inf, np.inf):
        missing = np.where(target > 0, target, none)
        assert depth_metrics(target, missing) == perfect  # no measurement
    for value, clipped in ((np.inf, 80.0), (-np.inf, 1e-3)):
        expected = depth_metrics(np.full_like(target, clipped), target)
        assert depth_metrics(np.full_like(target, value), target) == expected
    target = np.full((2, 4, 5), 10.0)
    prediction = target.copy()
    prediction[0, 0, 0] = np.nan
    per_image = per_image_metrics(prediction, target)  # it shows in its own image alone
    assert all(math.isnan(per_image[name][0]) for name in NAMES[:4])
    assert per_image["delta1"].tolist() == [0.95, 1.0]
    assert per_image["abs_rel"][1] == 0.0
    assert math.isnan(depth_metrics(prediction, target)["abs_rel"])  # not passed over
    target[0, 0, 0] = 0.0  # where nothing is measured, nothing is asked
    assert depth_metrics(prediction, target)["abs_rel"] == 0.0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bounds(dtype):
    """A depth of exactly the cap counts, and a ratio of exactly 1.25 is wrong."""
    target = np.array([[50.0, np.nextafter(dtype(50), dtype(100)), 0.0]], dtype)
    prediction = np.array([[25.0, 1.0, 1.0]], dtype)
    assert depth_metrics(prediction, target, cap=50.0)["abs_rel"] == 0.5
    beyond = depth_metrics(prediction[:, 1:], target[:, 1:], cap=50.0)
    assert all(map(math.isnan, beyond.values()))
    metrics = depth_metrics(np.array([[10.0, 9.99, 6.4, 12.5]]), np.full((1, 4), 8.0))
    assert (metrics["delta1"], metrics["delta2"], metrics["delta3"]) == (0.25, 0.75, 1.0)


def test_metrics_refuse_wrong_shapes_crops_caps_and_empty_targets():
    ones = np.ones((2, 4, 6))
    with pytest.raises(ValueError, match=r"\(2, 1, 4, 6\) and target \(2, 4, 6\).*resize"):
        depth_metrics(ones[:, None], ones)
    with pytest.raises(ValueError, match=r"\(6,\)"):
        depth_metrics(ones[0, 0], ones[0, 0])
    with pytest.raises(ValueError, match="crop is 'center'"):
        depth_metrics(ones, ones, crop="center")
    for cap in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match=f"cap is {cap}, expected a finite depth"):
            depth_metrics(ones, ones, cap=cap)
    for target in (0 * ones, 90 * ones, ones[:0]):
        assert all(map(math.isnan, depth_metrics(ones[: len(target)], target).values()))
