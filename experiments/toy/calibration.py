"""How good probabilities and uncertainties are: numbers for Figure 4, over points [N]."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata


def auroc(score: ArrayLike, positive: ArrayLike) -> float:
    """Return the chance that a positive point scores higher than another; ties count one half.

    A score without information has 0.5, whatever the share of positive points.

    Args:
        score: [N], without NaN.
        positive: [N], booleans.

    Returns:
        From 0 to 1; NaN where one of the two kinds is missing.

    Example:
        >>> auroc([0.1, 0.4, 0.35, 0.8], [False, False, True, True])
        0.75
    """
    positive = np.asarray(positive, bool)
    several, others = positive.sum(), (~positive).sum()
    if not several or not others:
        return float("nan")
    wins = rankdata(score)[positive].sum() - several * (several + 1) / 2
    return float(wins / (several * others))


def expected_calibration_error(probability: ArrayLike, label: ArrayLike, bins: int = 10) -> float:
    """Return how far probabilities lie from frequencies, on average over bins of equal mass.

    Points are sorted by their probability of class 1 and cut into bins of equally many points; a
    bin's error is |mean probability - share of class 1| (Naeini et al. 2015, with two classes).
    Points of one probability that falls on a cut are shared out evenly, so that their order does
    not matter. Perfect probabilities have an error of about sqrt(2/pi * p (1 - p) / points a bin)
    by chance, and always 1/2 has the classes' imbalance.

    Args:
        probability: [N], of class 1.
        label: [N], 0 or 1.
        bins: How many.

    Returns:
        From 0 to 1.
    """
    values, which = np.unique(np.asarray(probability, float), return_inverse=True)
    share = np.bincount(which, np.asarray(label, float)) / np.bincount(which)
    order = np.sort(which)
    gap = values[order] - share[order]
    parts = np.array_split(gap, bins)
    return float(sum(abs(part.sum()) for part in parts) / len(gap))


def brier_score(probability: ArrayLike, label: ArrayLike) -> float:
    """Return the mean squared distance of the probability [N] of class 1 to the label [N].

    0 is best, always 1/2 has 0.25, and certain and wrong has 1.
    """
    return float(np.mean((np.asarray(probability, float) - np.asarray(label, float)) ** 2))


def log_loss(probability: ArrayLike, label: ArrayLike) -> float:
    """Return the mean negative log likelihood, in nats, of the labels [N] given class 1's [N].

    0 is best, and always 1/2 has log 2 = 0.693. One float64 step is kept from certainty, so that a
    point that is certain and wrong costs 36 and not infinity.
    """
    step = np.finfo(np.float64).eps
    probability = np.clip(np.asarray(probability, float), step, 1 - step)
    of_label = np.where(np.asarray(label, bool), probability, 1 - probability)
    return float(-np.log(of_label).mean())
