"""The rule: the verdict that one number a seed allows on a claim.

Verdicts are tried in this order: not run; inconclusive, for seeds, code or profile; not tested
here; then, by intervals and a margin that was fixed before the runs, the first five words of
`MEANING` in its order, and inconclusive where none fits.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
from scipy.stats import ttest_1samp

from experiments.common.stats import MANY, interval, t_interval

Verdict = Literal[
    "reproduced",
    "partially",
    "opposite",
    "no difference",
    "not reproduced",
    "inconclusive",
    "not tested here",
    "not run",
    "measured",
]
MEANING: dict[Verdict, str] = {
    "reproduced": "the interval lies beyond the margin",
    "partially": "there, but not surely beyond the margin, or only in part of what is asked",
    "opposite": "the interval lies on the other side of no effect",
    "no difference": "the 90 % t interval lies within the margin of no effect",
    "not reproduced": "the claimed size is excluded, or parts differ and none of them holds",
    "inconclusive": "the interval crosses the margin, or seeds or profile do not suffice",
    "not tested here": "a precondition is not shown to hold, so that nothing is judged",
    "not run": "there is no record",
    "measured": "a cost, which has no verdict",
}
Direction = Literal["greater", "smaller", "equal"]
LEAST = 5  # seeds, for any verdict that rests on an interval
BOOTSTRAPS = 20  # bootstrap seeds that must agree
NEAR = 0.05  # of the interval's width: farther from a bound no bootstrap seed crosses it


class Question(NamedTuple):
    """What an interval is compared with: `neutral` is no effect, where the threshold is not."""

    direction: Direction
    threshold: float
    margin: float
    neutral: float


class Decision(NamedTuple):
    """A verdict, why, and the 95 % interval that it rests on, if there are seeds for one.

    `p` is that of the t-test of the bound that the interval is compared with.
    """

    verdict: Verdict
    reason: str
    low: float
    high: float
    p: float = np.nan


def decide(values: np.ndarray, question: Question) -> Decision:
    """Return what values of at least some seeds say, by an interval that bootstrap seeds agree on.

    The interval is Student's below 20 values, and BCa from there on.
    """
    low, high = interval(values)
    if len(values) < LEAST:
        reason = f"{len(values)} of at least {LEAST} seeds"
        return Decision("inconclusive", reason, low, high)
    inside = t_interval(values, 0.9)
    verdict, reason = compare((low, high), inside, question)
    reach = NEAR * (high - low)
    bounds = {question.neutral, *(question.threshold + s * question.margin for s in (-1, 0, 1))}
    near = any(abs(end - bound) < reach for end in (low, high) for bound in bounds)
    if len(values) >= MANY and near:
        again = [interval(values, seed) for seed in range(BOOTSTRAPS)]
        found = [compare(one, inside, question)[0] for one in again]
        if len(set(found)) > 1:
            told = ", ".join(f"{found.count(word)} {word}" for word in dict.fromkeys(found))
            reason = f"{BOOTSTRAPS} bootstrap seeds do not agree: {told}"
            return Decision("inconclusive", reason, low, high)
    if question.direction == "equal" or np.ptp(values) == 0:
        return Decision(verdict, reason, low, high)
    beyond = question.margin if question.direction == "greater" else -question.margin
    bound = question.neutral if verdict == "opposite" else question.threshold
    bound += beyond if verdict == "reproduced" else 0
    p = float(ttest_1samp(values, bound).pvalue)
    return Decision(verdict, reason, low, high, p)


def compare(
    within: tuple[float, float], inside: tuple[float, float], question: Question
) -> tuple[Verdict, str]:
    """Compare a 95 % interval, and for equivalence a 90 % t interval, with what a claim asks."""
    direction, threshold, margin, neutral = question
    (low, high), (least, most) = within, inside
    if direction == "equal":
        if threshold - margin <= least and most <= threshold + margin:
            return "reproduced", "the 90 % t interval lies inside the margin"
        if low > threshold + margin or high < threshold - margin:
            return "not reproduced", "the interval lies outside the margin"
        return "inconclusive", "the interval crosses the margin"
    if direction == "smaller":
        low, high, least, most = -high, -low, -most, -least
        threshold, neutral = -threshold, -neutral
    bound = threshold + margin
    besides = ""
    if neutral != threshold:
        besides = f"; {question.neutral:g} is {'' if low > neutral else 'not '}excluded"
    if low > bound:
        return "reproduced", "the interval lies beyond the margin" + besides
    if low > threshold:
        size = "smaller than the margin" if high < bound else "the margin is not passed for sure"
        return "partially", f"there, but {size}" + besides
    if high < neutral:
        return "opposite", "the interval lies on the other side of no effect"
    if low <= neutral and neutral - margin < least and most < neutral + margin:
        reason = f"the 90 % t interval lies within {margin:g} of {question.neutral:g}"
        return "no difference", reason
    if high < bound:
        unshown = ", no difference is not shown" * (margin > 0)  # without a margin it never is
        return "not reproduced", "the claimed size is excluded" + unshown + besides
    return "inconclusive", "the interval crosses the margin" + besides


def combine(cells: Mapping[str, Verdict]) -> tuple[Verdict, str]:
    """Return the verdict on a claim that names no setting, from those in each cell of its grid."""
    by_verdict: dict[Verdict, list[str]] = {}
    for cell, verdict in cells.items():
        by_verdict.setdefault(verdict, []).append(cell)
    reason = "; ".join(f"{word}: {', '.join(names)}" for word, names in by_verdict.items())
    if len(by_verdict) == 1:
        return next(iter(by_verdict)), reason
    if "not run" in by_verdict:  # the grid was fixed before: no part of it stands for the whole
        return "inconclusive", reason
    tested = by_verdict.keys() - {"not tested here"}
    if tested & {"reproduced", "partially"}:
        return "partially", reason
    if len(tested) == 1:
        return next(iter(tested)), reason
    return "inconclusive" if "inconclusive" in tested else "not reproduced", reason
