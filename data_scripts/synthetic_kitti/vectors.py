"""Vectors with their components first: numpy is fast where the last axis is the long one."""

import numpy as np


def dot(one, two) -> np.ndarray:
    """Multiply vectors [3, ...]; unlike BLAS this rounds the same on every CPU."""
    return one[0] * two[0] + one[1] * two[1] + one[2] * two[2]


def turned(vectors, turn):
    """Rotate world vectors [3, ...] into frames with cosine and sine of yaw [2, ...]."""
    (x, y, z), (cosine, sine) = vectors, turn
    return cosine * x + sine * y, cosine * y - sine * x, z
