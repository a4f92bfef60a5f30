"""Intervals over seeds."""

import numpy as np
from scipy.stats import bootstrap


def interval(values: np.ndarray) -> tuple[float | None, float | None]:
    """Return the 95 % bootstrap interval (BCa) of the mean; none below three values."""
    if len(values) < 3:
        return None, None
    if np.ptp(values) < 1e-12:  # all the same, but for rounding
        return float(values[0]), float(values[0])
    # Sorted, so that the interval depends on the values and not on the order of the seeds.
    result = bootstrap((np.sort(values),), np.mean, rng=np.random.default_rng(0))
    return float(result.confidence_interval.low), float(result.confidence_interval.high)
