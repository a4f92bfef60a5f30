"""Positions of frames, told from masks and from numbers that name none."""

from collections.abc import Sequence

import numpy as np


def positions(indices: Sequence[int], count: int) -> np.ndarray:
    """Return positions of frames as [n] intp.

    Raises:
        IndexError: If one is not below `count`, or below `-count`.
        ValueError: If they are no whole numbers, such as a mask of all frames.
    """
    chosen = np.asarray(indices)
    if not chosen.size:
        return np.empty(0, np.intp)
    if chosen.ndim != 1 or chosen.dtype.kind not in "iu":
        raise ValueError(
            f"Frames were given as {chosen.dtype} {chosen.shape}: expected a row of positions; "
            f"np.flatnonzero gives those of a mask."
        )
    if chosen.min() < -count or chosen.max() >= count:
        raise IndexError(
            f"Frames {chosen.min()} to {chosen.max()} were asked for: expected positions below "
            f"{count}, the number of frames."
        )
    return chosen.astype(np.intp)
