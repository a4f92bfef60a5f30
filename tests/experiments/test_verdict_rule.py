"""The rule of the verdicts: each word is reached, in its order, and none against its interval."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from experiments.common.stats import interval, t_interval
from experiments.verdicts import rule
from experiments.verdicts.rule import LEAST, Question, combine, compare, decide

GREATER = Question("greater", 0.0, 0.02, 0.0)
numbers = st.floats(-1, 1, allow_nan=False)


def values(mean: float, half: float, seeds: int = 9) -> np.ndarray:
    """Return values with a given mean and half width of their 95 % t interval."""
    some = np.linspace(-1, 1, seeds)
    return mean + half * some / (t_interval(some)[1] - some.mean())


@pytest.mark.parametrize(
    ("mean", "half", "verdict", "words"),
    [
        (0.05, 0.01, "reproduced", "beyond the margin"),
        (0.03, 0.02, "partially", "not passed for sure"),
        (0.01, 0.005, "partially", "smaller than the margin"),  # though it lies inside the margin
        (-0.01, 0.005, "opposite", "other side"),  # the same
        (-0.05, 0.01, "opposite", "other side"),
        (0.0, 0.01, "no difference", "within 0.02 of 0"),
        (-0.02, 0.03, "not reproduced", "no difference is not shown"),
        (0.0, 0.05, "inconclusive", "crosses"),
    ],
)
def test_each_word_of_the_rule(mean, half, verdict, words):
    found = decide(values(mean, half), GREATER)
    assert found.verdict == verdict and words in found.reason
    assert (found.low, found.high) == pytest.approx((mean - half, mean + half))
    mirrored = decide(values(-mean, half), GREATER._replace(direction="smaller"))
    assert (mirrored.verdict, mirrored.reason) == (verdict, found.reason)


def test_equivalence_is_of_the_90_percent_interval():
    """The same 95 % interval crosses the margin, and the 90 % interval lies inside it."""
    some = values(0.0, 0.021)
    least, most = t_interval(some, 0.9)
    assert -0.02 < least < most < 0.02 < t_interval(some)[1]
    assert decide(some, GREATER).verdict == "no difference"
    equal = GREATER._replace(direction="equal")
    assert decide(some, equal).verdict == "reproduced"
    assert decide(values(0.0, 0.03), equal).verdict == "inconclusive"
    assert decide(values(-0.05, 0.01), equal).verdict == "not reproduced"


def test_a_claimed_size_is_told_apart_from_no_effect():
    six = Question("greater", 0.06, 0.0, 0.0)  # 6 points
    assert decide(values(0.04, 0.01), six)[:2] == (
        "not reproduced",
        "the claimed size is excluded; 0 is excluded",  # no difference cannot be shown
    )
    assert decide(values(0.0, 0.02), six).reason.endswith("; 0 is not excluded")
    assert decide(values(0.08, 0.01), six).verdict == "reproduced"
    assert decide(values(-0.04, 0.01), six).verdict == "opposite"
    assert decide(values(0.06, 0.03), six).verdict == "inconclusive"


@pytest.mark.parametrize("seeds", range(1, LEAST))
def test_no_verdict_below_five_seeds(seeds):
    found = decide(np.linspace(1, 1.001, seeds), GREATER)
    assert found[:2] == ("inconclusive", f"{seeds} of at least 5 seeds")


def test_bootstrap_seeds_must_agree(monkeypatch):
    rng = np.random.default_rng(0)
    some = rng.normal(0.05, 0.05, 30)
    low = interval(some)[0]
    assert decide(some, GREATER._replace(margin=low - 0.004)).verdict == "reproduced"
    ends = [interval(some, seed)[0] for seed in range(rule.BOOTSTRAPS)]
    assert len(set(ends)) > 1
    between = (min(ends) + max(ends)) / 2
    found = decide(some, GREATER._replace(margin=between))
    assert found.verdict == "inconclusive" and "20 bootstrap seeds do not agree" in found.reason
    assert f"{sum(end > between for end in ends)} reproduced" in found.reason
    monkeypatch.setattr(rule, "NEAR", 0)  # without looking, the first seed would decide
    assert decide(some, GREATER._replace(margin=between)).verdict != "inconclusive"


@given(st.lists(numbers, min_size=5, max_size=12), st.sampled_from(["greater", "smaller"]),
       st.floats(0, 0.5), st.floats(0.001, 0.5))  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_a_verdict_never_contradicts_its_interval(some, direction, threshold, margin):
    question = Question(direction, threshold, margin, 0.0)
    verdict, _, low, high, _ = decide(np.array(some), question)
    sign = 1 if direction == "greater" else -1
    low, high = sorted((sign * low, sign * high))
    claimed = sign * threshold
    if verdict == "reproduced":
        assert low > claimed + margin
    if verdict == "partially":
        assert claimed < low <= claimed + margin
    if verdict == "opposite":
        assert high < 0
    if verdict == "not reproduced":
        assert high < claimed + margin and low <= claimed
    if verdict == "no difference":
        assert low <= 0 <= high and max(map(abs, t_interval(np.array(some), 0.9))) < margin
    if verdict == "inconclusive":
        assert low <= claimed and high >= max(0, claimed + margin)


@given(st.lists(numbers, min_size=3, max_size=19), st.sampled_from([0.9, 0.95]))
@settings(max_examples=50, deadline=None)
def test_t_interval_against_scipys_test(some, level):
    if np.ptp(some) < 1e-6:
        return
    theirs = ttest_1samp(some, 0).confidence_interval(level)
    assert t_interval(np.array(some), level) == pytest.approx((theirs.low, theirs.high))
    assert interval(np.array(some)) == t_interval(np.array(some))


def test_equal_values_have_an_interval_without_width():
    assert interval(np.full(6, 0.3)) == interval(np.full(30, 0.3)) == (0.3, 0.3)
    assert np.isnan(interval(np.array([1.0, 2.0]))).all()


def test_t_covers_the_mean_of_five_where_the_bootstrap_does_not():
    rng = np.random.default_rng(0)
    covered = [
        low <= 3 <= high for low, high in (t_interval(rng.normal(3, 1, 5)) for _ in range(600))
    ]
    assert 0.93 < np.mean(covered) < 0.97  # BCa: 0.83


@pytest.mark.parametrize(
    ("cells", "verdict"),
    [
        ("rr", "reproduced"), ("rn", "partially"), ("pp", "partially"), ("ro", "partially"),
        ("rt", "partially"), ("ri", "partially"), ("tt", "not tested here"),
        ("nt", "not reproduced"),
        ("ee", "no difference"), ("et", "no difference"), ("en", "not reproduced"),
        ("oo", "opposite"), ("oe", "not reproduced"), ("ie", "inconclusive"), ("--", "not run"),
        ("r-", "inconclusive"), ("t-", "inconclusive"),
    ],
)  # fmt: skip
def test_a_grid_is_judged_as_a_whole(cells, verdict):
    words = {
        "r": "reproduced", "p": "partially", "n": "not reproduced", "o": "opposite",
        "e": "no difference", "t": "not tested here", "i": "inconclusive", "-": "not run",
    }  # fmt: skip
    for order in (cells, cells[::-1]):
        found, reason = combine({f"cell {i}": words[c] for i, c in enumerate(order)})
        assert found == verdict
        assert all(f"{words[c]}: " in reason for c in cells)


@pytest.mark.parametrize(
    ("mean", "half", "bound"), [(0.1, 0.02, 0.02), (0.03, 0.02, 0.0), (-0.1, 0.02, 0.0)]
)
def test_p_is_of_the_bound_that_the_verdict_rests_on(mean, half, bound):
    some = values(mean, half)
    for sign, direction in ((1, "greater"), (-1, "smaller")):
        found = decide(sign * some, Question(direction, 0.0, 0.02, 0.0))
        assert found.p == pytest.approx(ttest_1samp(some, bound).pvalue)
        assert found.p < 0.05
    assert decide(some, Question("equal", 0.0, 0.02, 0.0)).p is np.nan


def test_every_word_has_a_meaning():
    assert set(rule.MEANING) == set(rule.Verdict.__args__)
    assert compare((0.1, 0.2), (0.1, 0.2), GREATER)[1] in rule.MEANING["reproduced"]
