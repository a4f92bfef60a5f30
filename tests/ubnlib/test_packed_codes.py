"""Depth codes: there and back for any map, caps, and mirrored points, against plain numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ubnlib.kitti.packed import (
    MAX_DEPTH,
    MAX_PIXELS,
    STEPS_PER_METER,
    check_size,
    decode_depth,
    encode_depth,
)

HALF_A_STEP = 0.5 / STEPS_PER_METER
LAST_STEP = (2**14 - 1) / STEPS_PER_METER  # 79.995 m

# Shapes with few pixels, with the most there may be, and rows on which the sign bit changes.
SHAPES = [(1, 1), (3, 5), (1, 40), (256, 832), (512, 512), (1, 2**18), (2**18, 1), (300, 800)]
EDGES = [0.0, -0.0, 1e-45, 1e-6, HALF_A_STEP, 79.99, 79.998, 80.0, 80.00001, 1e9, -1.0]
NOT_FINITE = [np.nan, np.inf, -np.inf]


def sparse_map(shape, seed, share=0.1, top=90.0):
    generator = np.random.default_rng(seed)
    depth = generator.uniform(0, top, shape) * (generator.uniform(size=shape) < share)
    return depth.astype(np.float32)


def expected_map(depth):
    """What a code can hold of a map, worked out in float64 pixel by pixel."""
    kept = np.isfinite(depth) & (depth > 0) & (depth <= MAX_DEPTH)
    steps = np.round(np.where(kept, depth, 0).astype(np.float64) * 204.8)
    return np.where(kept, np.clip(steps, 1, 2**14 - 1), 0) / 204.8


def packed(maps):
    """The codes of maps as a batch holds them."""
    codes = [encode_depth(depth) for depth in maps]
    joined = np.concatenate([np.empty(0, np.uint32), *codes]).view(np.int32)
    return torch.from_numpy(joined), torch.tensor([len(each) for each in codes], dtype=torch.int64)


def unpacked(maps):
    return decode_depth(*packed(maps), maps[0].shape).numpy()


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(SHAPES),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 0.001, 0.1]),
    st.lists(
        st.tuples(st.floats(0, 1), st.sampled_from(EDGES + NOT_FINITE) | st.floats(width=32)),
        max_size=20,
    ),
)
def test_any_map_comes_back_to_half_a_step(shape, seed, share, special):
    depth = sparse_map(shape, seed, share)
    for place, value in special:  # the first and the last pixel among them
        depth.flat[round(place * (depth.size - 1))] = value
    back = unpacked([depth])[0]
    np.testing.assert_array_equal(back, expected_map(depth).astype(np.float32))
    inside = (depth > HALF_A_STEP) & (depth <= LAST_STEP)
    # Half a step of rounding, and that of float32 at 80 m.
    np.testing.assert_allclose(back[inside], depth[inside], rtol=0, atol=1 / 409.6 + 4e-6)
    returns = np.isfinite(depth) & (depth > 0) & (depth <= 80)
    np.testing.assert_array_equal(back > 0, returns)  # none is lost, and none made up
    assert back.dtype == np.float32 and back.shape == shape


def test_caps():
    depth = np.array([EDGES + NOT_FINITE], np.float32)
    back = unpacked([depth])[0, 0]
    # The last step is 79.995 m: 80 m itself is 4.9 mm off, all that is nearer at most 2.4 mm.
    expected = [0, 0, 1, 1, 1, 16382, 16383, 16383, 0, 0, 0, 0, 0, 0]
    np.testing.assert_allclose(back, np.array(expected) / 204.8, rtol=1e-6)
    assert back[EDGES.index(80.0)] <= MAX_DEPTH


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_every_step_is_kept_by_every_float_type(dtype):
    steps = np.arange(1, 2**14)
    depth = (steps / 204.8).astype(dtype).reshape(1, -1)
    codes = encode_depth(depth)
    expected = np.clip(np.round(depth[0].astype(np.float64) * 204.8), 1, 2**14 - 1)
    kept = depth[0] <= 80
    np.testing.assert_array_equal(codes % 2**14, expected[kept])
    if dtype != np.float16:
        np.testing.assert_array_equal(codes % 2**14, steps)


def test_codes_are_uint32_and_ascend():
    depth = sparse_map((512, 512), seed=1)
    depth[-1, -1] = 5.0
    codes = encode_depth(depth)
    assert codes.dtype == np.uint32 and codes.ndim == 1
    assert (np.diff(codes.astype(np.int64)) > 0).all()
    np.testing.assert_array_equal(codes >> 14, np.flatnonzero((depth > 0) & (depth <= 80)))
    assert codes[-1] == (2**18 - 1) << 14 | 1024 and codes.view(np.int32)[-1] < 0  # the sign bit


def test_maps_need_not_be_contiguous():
    depth = sparse_map((20, 30), seed=2)
    np.testing.assert_array_equal(unpacked([depth.T]), unpacked([depth.T.copy()]))
    np.testing.assert_array_equal(unpacked([depth[::2, ::-3]]), unpacked([depth[::2, ::-3].copy()]))


@pytest.mark.parametrize("shape", [(6, 7), (512, 512)])
def test_several_maps_at_once_are_those_one_by_one(shape):
    shares = (0.1, 0.0, 1.0, 0.0, 0.3)  # empty maps in between
    maps = [sparse_map(shape, seed, share, top=79) for seed, share in enumerate(shares)]
    together = unpacked(maps)
    assert together.shape == (5, *shape)
    for depth, one in zip(maps, together, strict=True):
        np.testing.assert_array_equal(one, unpacked([depth])[0])
        np.testing.assert_array_equal(one > 0, depth > 0)


def test_no_points_and_no_maps():
    empty = np.zeros((4, 6), np.float32)
    assert len(encode_depth(empty)) == 0 and encode_depth(empty).dtype == np.uint32
    assert not unpacked([empty, empty]).any()
    no_codes, no_counts = torch.empty(0, dtype=torch.int32), torch.empty(0, dtype=torch.int64)
    assert decode_depth(no_codes, no_counts, (4, 6)).shape == (0, 4, 6)


@pytest.mark.parametrize("size", [(513, 512), (1, 2**18 + 1), (0, 5), (5, 0), (-1, 5), (3,), ()])
def test_sizes_that_do_not_fit_are_refused(size):
    with pytest.raises(ValueError, match=r"size is .*: expected \(height, width\) with at most"):
        check_size(size)
    if all(side >= 0 for side in size):
        with pytest.raises(ValueError, match=f"at most {MAX_PIXELS} pixels"):
            encode_depth(np.zeros(size, np.float32))


def test_largest_sizes_fit():
    for size in ((512, 512), (1, MAX_PIXELS), (375, 699)):
        check_size(size)
