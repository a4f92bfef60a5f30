"""Sparse depth maps in four bytes a point: the pixel and the depth in one number.

A scan reaches one pixel in ten, so a list of points takes a tenth of a float32 map's space. A code
is `pixel << 14 | round(z * 204.8)`: 18 bits of the pixel's place in the map, row by row, and 14
bits of depth in steps of 4.9 mm up to 80 m, where the evaluation of KITTI ends.
"""

import numba
import numpy as np
import torch
from torch import Tensor

DEPTH_BITS = 14
STEPS_PER_METER = 204.8
MAX_DEPTH = 80.0
MAX_PIXELS = 2 ** (32 - DEPTH_BITS)
_MAX_STEP = 2**DEPTH_BITS - 1


def check_size(size: tuple[int, int]) -> None:
    """Refuse maps with more pixels than a code can tell apart.

    Raises:
        ValueError: If `size` (height, width) is none, or has more than `MAX_PIXELS` pixels.
    """
    if len(size) != 2 or min(size) < 1 or size[0] * size[1] > MAX_PIXELS:
        raise ValueError(
            f"size is {tuple(size)}: expected (height, width) with at most {MAX_PIXELS} pixels in "
            f"all, such as (256, 832); larger maps do not fit the packed form."
        )


def encode_depth(depth: np.ndarray) -> np.ndarray:
    """Encode a sparse depth map.

    Args:
        depth: [H, W] float, meters, 0 = no return, at most `MAX_PIXELS` pixels.

    Returns:
        [n] uint32 in ascending order: one code for each pixel with 0 < depth <= 80. Depth is
        rounded to 4.9 mm: upward to the first step where it would become 0, and downward to the
        last one, 79.995 m, where it would become 80 m.

    Example:
        >>> codes = encode_depth(np.array([[0.0, 10.0]]))
        >>> [(int(code) >> 14, int(code) % 2**14) for code in codes]
        [(1, 2048)]
    """
    check_size(depth.shape)
    flat = depth.ravel()
    pixel = np.flatnonzero((flat > 0) & (flat <= MAX_DEPTH))
    step = np.rint(flat[pixel] * np.float64(STEPS_PER_METER)).clip(1, _MAX_STEP)
    return pixel.astype(np.uint32) << DEPTH_BITS | step.astype(np.uint32)


def decode_depth(codes: Tensor, counts: Tensor, size: tuple[int, int]) -> Tensor:
    """Decode sparse depth maps on the device that their codes are on.

    Args:
        codes: [m] int32, the codes of all maps one after the other, their 32 bits read as signed.
        counts: [n] int64, the number of codes of each map.
        size: (height, width) of the maps.

    Returns:
        [n, height, width] float32, meters, 0 = no return.
    """
    height, width = size
    maps = torch.zeros(len(counts), height * width, device=codes.device)
    if codes.device.type == "cpu":
        _write(codes.numpy(), counts.numpy(), maps.numpy())
        return maps.view(-1, height, width)
    first = torch.arange(len(counts), device=codes.device) * (height * width)
    start = first.repeat_interleave(counts, output_size=len(codes))
    # The shift of a signed number drags its sign along: only 18 bits are the pixel's.
    pixel = (codes >> DEPTH_BITS) & (MAX_PIXELS - 1)
    maps.view(-1)[start + pixel] = (codes & _MAX_STEP).float() / STEPS_PER_METER
    return maps.view(-1, height, width)


# On the CPU one loop takes a sixth of the time of the tensor operations above.
@numba.njit(nogil=True, cache=True)
def _write(codes: np.ndarray, counts: np.ndarray, maps: np.ndarray):
    """Write the depths [m] of each map into its row of `maps` [n, pixels]."""
    end = 0
    for row in range(len(counts)):
        start, end = end, end + counts[row]
        for code in codes[start:end]:
            pixel = (code >> DEPTH_BITS) & (MAX_PIXELS - 1)
            if pixel < maps.shape[1]:
                step = np.float32(code & _MAX_STEP)
                maps[row, pixel] = step / np.float32(STEPS_PER_METER)


def flip_codes(codes: Tensor, counts: Tensor, flipped: Tensor, width: int) -> Tensor:
    """Mirror depth maps left to right: the points move, and none is interpolated.

    Args:
        codes: [m] int32 as in `decode_depth`.
        counts: [n] int64.
        flipped: [n] bool: which maps to mirror.
        width: Of the maps, in pixels.

    Returns:
        [m] int32, no longer in ascending order where maps were mirrored.
    """
    moved = flipped.to(codes.device).repeat_interleave(
        counts.to(codes.device), output_size=len(codes)
    )
    pixel = (codes >> DEPTH_BITS) & (MAX_PIXELS - 1)
    shift = (width - 1 - 2 * (pixel % width)) << DEPTH_BITS  # to the column as far from the right
    return torch.where(moved, codes + shift, codes)
