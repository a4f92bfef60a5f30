"""Tileable fractal noise with a mip pyramid: the one source of texture in the synthetic streets."""

from functools import cache

import numpy as np

TEXELS = 256  # side of the finest noise tile, in texels


@cache
def _pyramid() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return every level of the tile in one flat array, and the levels' starts and sides."""
    rng = np.random.default_rng(20200614)
    spectrum = np.fft.rfft2(rng.standard_normal((TEXELS, TEXELS)))
    frequency = np.hypot(np.fft.fftfreq(TEXELS)[:, None], np.fft.rfftfreq(TEXELS)[None])
    frequency[0, 0] = np.inf
    tile = np.fft.irfft2(spectrum / frequency**0.8, (TEXELS, TEXELS))
    levels = [tile / tile.std()]
    while levels[-1].shape[0] > 1:
        fine = levels[-1]
        levels.append((fine[::2, ::2] + fine[1::2, ::2] + fine[::2, 1::2] + fine[1::2, 1::2]) / 4)
    starts = np.cumsum([0] + [level.size for level in levels[:-1]], dtype=np.int32)
    sides = np.array([len(level) for level in levels], np.int32)
    return np.concatenate([level.ravel() for level in levels]).astype(np.float32), starts, sides


def fractal_noise(u: np.ndarray, v: np.ndarray, texel: float, footprint=0.0) -> np.ndarray:
    """Sample smooth noise of zero mean and unit variance on a plane.

    The tile repeats every `TEXELS * texel` units. A pixel that covers more than a texel reads the
    pyramid level whose texels are as large as the pixel, so distant texture fades instead of
    flickering.

    `u` and `v` are coordinates of any shape, `texel` the size of the finest detail in their unit,
    and `footprint`, a scalar or like `u`, the width of the patch that each sample stands for.
    """
    values, starts, sides = _pyramid()
    wide = np.asarray(footprint, np.float32) / np.float32(texel)
    # The exponent of a float is the logarithm that is needed, and far cheaper.
    level = np.clip(np.frexp(wide)[1], 0, len(starts) - 1)
    # Bilinear interpolation within the level, by hand: four gathers from one flat array.
    side, start = sides.take(level), starts.take(level)
    shrink = (side * np.float32(1 / (TEXELS * texel))).astype(np.float32)
    x, y = np.asarray(u, np.float32) * shrink, np.asarray(v, np.float32) * shrink
    x0, y0 = np.floor(x), np.floor(y)
    fx, fy = x - x0, y - y0
    column, row, mask = x0.astype(np.int32), y0.astype(np.int32), side - np.int32(1)
    left, right = column & mask, (column + 1) & mask
    upper, lower = start + (row & mask) * side, start + ((row + 1) & mask) * side
    above = values.take(upper + left) * (1 - fx) + values.take(upper + right) * fx
    below = values.take(lower + left) * (1 - fx) + values.take(lower + right) * fx
    return above * (1 - fy) + below * fy


def band(x: np.ndarray, low, high, footprint=0.0) -> np.ndarray:
    """Return how much of a patch of width `footprint` around `x` lies in [low, high], in [0, 1]."""
    width = np.maximum(footprint, np.float32(1e-3))
    return np.clip((x - low) / width + 0.5, 0, 1) * np.clip((high - x) / width + 0.5, 0, 1)


def chance(*keys: np.ndarray) -> np.ndarray:
    """Hash integers to numbers in [0, 1), the same ones for the same keys."""
    mixed = np.zeros(len(keys[0]), np.uint32)
    for key, prime in zip(keys, (73856093, 19349663, 83492791), strict=False):
        mixed ^= key.astype(np.int32).view(np.uint32) * np.uint32(prime)
    mixed = (mixed ^ (mixed >> np.uint32(13))) * np.uint32(1274126177)
    return ((mixed >> np.uint32(8)) & np.uint32(0xFFFF)).astype(np.float32) / np.float32(65536)
