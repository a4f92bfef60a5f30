"""Projection: a float64 brute force point by point, and the official ground truth."""

import errno
import math
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ubnlib.kitti import project_velodyne, read_velodyne, scale_projection

# Looks along x, focal length 10, principal point (8, 5): u = 8 - 10 y / x, v = 5 - 10 z / x.
PROJECTION = np.array([[8.0, -10.0, 0.0, 0.0], [5.0, 0.0, -10.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
SHAPE = (11, 17)


def brute_force(points, projection, shape):
    """The definition, one point at a time in Python floats."""
    nearest = {}
    for x, y, z in points[:, :3].astype(np.float64).tolist():
        if not all(math.isfinite(value) for value in (x, y, z)) or x < 0:
            continue
        u, v, depth = (a * x + b * y + c * z + d for a, b, c, d in projection.tolist())
        if not 0 < np.float32(depth) < math.inf:
            continue
        if not (abs(u) < 1e9 * depth and abs(v) < 1e9 * depth):
            continue  # far outside, and floor would overflow
        row = math.floor(v / depth + 0.5)
        column = math.floor(u / depth + 0.5)
        if 0 <= row < shape[0] and 0 <= column < shape[1]:
            nearest[row, column] = min(depth, nearest.get((row, column), math.inf))
    depth_map = np.zeros(shape, np.float32)
    for place, depth in nearest.items():
        depth_map[place] = depth
    return depth_map


coordinates = st.one_of(
    st.floats(-80, 80, width=32),
    st.sampled_from([0.0, -0.0, 0.5, 1.0, math.nan, math.inf, -math.inf, 3e38]),
)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(*[coordinates] * 3), max_size=40), st.integers(0, 2**32 - 1))
def test_agrees_with_brute_force(special, seed):
    generator = np.random.default_rng(seed)
    usual = generator.uniform((-2, -9, -6), (10, 9, 6), (60, 3))
    points = np.concatenate([usual, np.array(special).reshape(-1, 3)]).astype(np.float32)
    projection = PROJECTION + generator.normal(0, 0.05, (3, 4))
    for some in (points, points[::-1], points[:0]):
        ours = project_velodyne(some, projection, SHAPE)
        np.testing.assert_array_equal(ours, brute_force(some, projection, SHAPE))
        assert ours.dtype == np.float32 and ours.shape == SHAPE


def at(u, v, depth):
    """The point that projects to (u, v) at a depth."""
    return depth, (8 - u) * depth / 10, (5 - v) * depth / 10


def test_borders_of_the_image_are_half_a_pixel_outside_the_centers():
    inside = [(-0.5, 0), (16.49, 0), (0, -0.5), (0, 10.49)]
    outside = [(-0.51, 5), (16.5, 5), (5, -0.51), (5, 10.5)]
    depth = project_velodyne(np.array([at(u, v, 8.0) for u, v in inside]), PROJECTION, SHAPE)
    assert {tuple(place) for place in np.argwhere(depth)} == {(0, 0), (0, 16), (10, 0)}
    for u, v in outside:  # none wraps into a neighboring row
        assert not project_velodyne(np.array([at(u, v, 8.0)]), PROJECTION, SHAPE).any()


def test_points_behind_scanner_or_camera_are_dropped():
    points = np.array([[-8.0, 0, 0], [2.0, 0, 0], [3.0, 0, 0], [0.0, 0, 0], [-2.0, -8, -8]])
    for offset in (-3.0, 20.0):  # the camera is before or behind the scanner
        camera = PROJECTION.copy()
        camera[2, 3] = offset
        seen = project_velodyne(points, camera, SHAPE)
        assert set(seen[seen > 0]) == ({22.0, 23.0, 20.0} if offset > 0 else set())


def test_reflectance_is_ignored():
    with_nan = np.array([[*at(3, 4, 5.0), np.nan]], np.float32)
    assert project_velodyne(with_nan, PROJECTION, SHAPE)[4, 3] == 5.0


@pytest.mark.parametrize("factor", [2, 4])
def test_scaled_projection_fills_exactly_the_blocks_of_the_native_map(factor):
    native, shape = (24, 40), (24 // factor, 40 // factor)
    projection = np.array([[20.0, -30, 0, 0.1], [12.0, 0, -30, 0.2], [1, 0, 0, -0.3]])
    points = np.random.default_rng(0).uniform((1, -9, -6), (30, 9, 6), (3000, 3))
    full = project_velodyne(points, projection, native)
    blocks = np.where(full > 0, full, np.inf).reshape(shape[0], factor, shape[1], factor)
    nearest = blocks.min(axis=(1, 3))
    ours = project_velodyne(points, scale_projection(projection, native, shape), shape)
    np.testing.assert_array_equal(ours, np.where(np.isfinite(nearest), nearest, 0))


@given(st.floats(-0.5, 39.5), st.floats(-0.5, 23.5), st.integers(1, 100), st.integers(1, 100))
def test_scaling_keeps_relative_positions_and_depth(u, v, height, width):
    scaled = scale_projection(PROJECTION, (24, 40), (height, width))
    u_, v_, depth = scaled @ np.array([*at(u, v, 4.0), 1.0])
    assert depth == pytest.approx(4.0)
    assert (u_ / depth + 0.5) / width == pytest.approx((u + 0.5) / 40, abs=1e-9)
    assert (v_ / depth + 0.5) / height == pytest.approx((v + 0.5) / 24, abs=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((5, 2)), PROJECTION, SHAPE), r"points has shape \(5, 2\)"),
        ((np.zeros(5), PROJECTION, SHAPE), r"points has shape \(5,\)"),
        ((np.zeros((5, 4)), PROJECTION[:, :3], SHAPE), r"projection has shape \(3, 3\)"),
    ],
)
def test_wrong_shapes_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        project_velodyne(*arguments)


def test_a_scan_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    def refuse(path, **options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    path = tmp_path / "a.bin"
    path.write_bytes(bytes(16))
    monkeypatch.setattr(np, "fromfile", refuse)  # root may read everything
    with pytest.raises(ValueError, match=r"scan .*a\.bin cannot be read \(.*denied.*extract"):
        read_velodyne(path)


def test_scans_are_what_was_written_or_named(tmp_path):
    points = np.random.default_rng(0).normal(size=(7, 4)).astype("<f4")
    path = tmp_path / "0000000003.bin"
    with pytest.raises(FileNotFoundError, match=r"0000000003\.bin is missing"):
        read_velodyne(path)
    points.tofile(path)
    np.testing.assert_array_equal(read_velodyne(path), points)
    for size in (0, 8, 17):
        path.write_bytes(bytes(size))
        with pytest.raises(ValueError, match=rf"\.bin has {size} bytes.*multiple of 16"):
            read_velodyne(path)
