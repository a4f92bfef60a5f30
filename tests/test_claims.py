"""Verdicts: what an interval allows, and never more than seeds and profile support."""

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from ubnlib.claims import Claim, Query, interval, judge, load_claims

LEDGER = __file__.rsplit("/", 2)[0] + "/claims.yaml"


def claim(**options):
    query = Query(
        experiment="toy",
        metric="score",
        where={"norm.kind": "ubn"},
        baseline={"norm.kind": "bn"},
    )
    settings = dict(
        id="toy", place="nowhere", claim="UBN scores higher", statistic="paired difference",
        margin=0.02, seeds=10, profile="standard", query=query,
    )  # fmt: skip
    return Claim(**settings | options)


def records(gain, spread=0.001, seeds=12):
    noise = np.random.default_rng(0).normal(0, spread, seeds)
    rows = []
    for seed in range(seeds):
        base = 0.5 + 0.1 * seed  # large differences between seeds, which pairing takes out
        rows += [
            {"experiment": "toy", "seed": seed, "norm.kind": "bn", "score": base},
            {
                "experiment": "toy",
                "seed": seed,
                "norm.kind": "ubn",
                "score": base + gain + noise[seed],
            },
        ]
    return pd.DataFrame(rows).assign(key=[f"key{i}" for i in range(2 * seeds)])


@pytest.mark.parametrize(
    ("gain", "spread", "verdict"),
    [
        (0.05, 0.001, "reproduced"),
        (0.015, 0.001, "not reproduced"),
        (-0.05, 0.001, "not reproduced"),
        (0.02, 0.01, "partially"),
        (0.01, 0.05, "inconclusive"),
    ],
)
def test_verdict_follows_the_interval(gain, spread, verdict):
    judgement = judge(claim(), records(gain, spread), "standard")
    assert judgement.verdict == verdict
    assert judgement.low <= judgement.estimate <= judgement.high
    assert judgement.seeds == 12
    assert len(judgement.records) == 24


def test_smaller_and_equal():
    smaller = claim(direction="smaller")
    assert judge(smaller, records(-0.05), "standard").verdict == "reproduced"
    assert judge(smaller, records(0.05), "standard").verdict == "not reproduced"
    equal = claim(direction="equal")
    assert judge(equal, records(0.0), "standard").verdict == "reproduced"
    assert judge(equal, records(0.05), "standard").verdict == "not reproduced"
    assert judge(equal, records(0.02, 0.01), "standard").verdict == "inconclusive"


def test_a_quick_run_or_few_seeds_never_reproduce():
    quick = judge(claim(), records(0.05), "quick")
    assert (quick.verdict, quick.reason) == (
        "inconclusive",
        "an indication: the claim needs standard runs",
    )
    assert judge(claim(), records(0.05), "my own") == quick
    few = judge(claim(), records(0.05, seeds=5), "standard")
    assert (few.verdict, few.reason) == ("inconclusive", "5 of at least 10 seeds")
    one = judge(claim(seeds=1), records(0.05, seeds=1), "standard")
    assert one.verdict == "inconclusive"
    assert one.low is None


def test_without_evidence_it_is_not_run():
    assert judge(claim(), pd.DataFrame(), "standard").verdict == "not run"
    only_bn = records(0.05).query("`norm.kind` == 'bn'")
    assert judge(claim(), only_bn, "standard").verdict == "not run"
    no_query = claim(query=None, statistic=None, note="too large")
    judgement = judge(no_query, records(0.05), "paper")
    assert (judgement.verdict, judgement.reason) == ("not run", "too large")


def test_a_bound_on_the_largest_value():
    query = Query(experiment="toy", metric="score", where={"norm.kind": "bn"})
    bound = claim(statistic="largest", query=query, margin=2.0, profile="quick", seeds=1)
    assert judge(bound, records(0), "quick").verdict == "reproduced"
    tight = bound.model_copy(update={"margin": 1.0})
    judgement = judge(tight, records(0), "quick")
    assert (judgement.verdict, judgement.estimate) == ("not reproduced", pytest.approx(1.6))


def test_two_runs_of_one_seed_are_refused():
    doubled = pd.concat([records(0.05), records(0.06)], ignore_index=True)
    with pytest.raises(ValueError, match="several runs of one seed"):
        judge(claim(), doubled, "standard")


def test_interval_covers_the_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(100):
        low, high = interval(rng.normal(3, 1, 20))
        covered += low <= 3 <= high
    assert 86 <= covered <= 100


def test_interval_needs_three_values_and_survives_equal_ones():
    assert interval(np.array([1.0, 2.0])) == (None, None)
    assert interval(np.full(5, 0.25)) == (0.25, 0.25)


def test_the_ledger_is_valid():
    claims = load_claims(LEDGER)
    assert len(claims) >= 10
    places = " ".join(c.place for c in claims)
    assert all(f"Figure {n}" in places for n in range(1, 7))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- {id: a, place: x, claim: y, colour: red}", "colour"),
        ("- {id: a, place: x, claim: y}\n- {id: a, place: x, claim: y}", "id a more than once"),
        ("just text", "not a list of claims"),
        ("- {id: a, place: x, claim: y, statistic: mean}", "give both a statistic and a query"),
    ],
)
def test_a_wrong_ledger_is_refused(tmp_path, text, message):
    path = tmp_path / "claims.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_claims(path)


def test_paired_difference_needs_a_baseline():
    with pytest.raises(ValidationError, match="has a baseline"):
        claim(statistic="mean")
