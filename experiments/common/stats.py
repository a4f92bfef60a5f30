"""Intervals over seeds."""

import math

import numpy as np
from scipy.stats import bootstrap, t


def interval(values: np.ndarray) -> tuple[float | None, float | None]:
    """Return the 95 % interval of the mean: by t below 20 values, else by the bootstrap."""
    return t_interval(values) if len(values) < 20 else bootstrap_interval(values)


def t_interval(values: np.ndarray, level: float = 0.95) -> tuple[float | None, float | None]:
    """Return Student's interval of the mean; none below three values."""
    if len(values) < 3:
        return None, None
    half = t.ppf(0.5 + level / 2, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    return float(np.mean(values) - half), float(np.mean(values) + half)


def bootstrap_interval(values: np.ndarray, seed: int = 0) -> tuple[float | None, float | None]:
    """Return the 95 % bootstrap interval (BCa) of the mean; none below three values.

    With few values it is too narrow: with five it covers the mean in 83 % of cases.
    """
    if len(values) < 3:
        return None, None
    if np.ptp(values) < 1e-12:  # all the same, but for rounding
        return float(values[0]), float(values[0])
    # Sorted, so that the interval depends on the values and not on the order of the seeds.
    result = bootstrap((np.sort(values),), np.mean, rng=np.random.default_rng(seed))
    return float(result.confidence_interval.low), float(result.confidence_interval.high)
