"""Intervals over seeds."""

import numpy as np
from scipy.stats import bootstrap, t

MANY = 20  # from so many values on BCa covers as often as it says; below, only t does
SAME = 1e-12  # values whose range is smaller are all the same, but for rounding


def interval(values: np.ndarray, bootstrap_seed: int = 0) -> tuple[float, float]:
    """Return the 95 % interval of the mean: t below 20 values, BCa from 20 on, NaN below three."""
    if len(values) < 3:
        return np.nan, np.nan
    if len(values) < MANY or np.ptp(values) < SAME:
        return t_interval(values)
    # Sorted, so that the interval depends on the values and not on the order of the seeds.
    rng = np.random.default_rng(bootstrap_seed)
    result = bootstrap((np.sort(values),), np.mean, rng=rng)
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def t_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Return Student's interval of the mean, of two values or more."""
    values = np.asarray(values, float)
    if np.ptp(values) < SAME:
        return float(values[0]), float(values[0])
    number = len(values)
    half = t.ppf((1 + level) / 2, number - 1) * values.std(ddof=1) / np.sqrt(number)
    return float(values.mean() - half), float(values.mean() + half)
