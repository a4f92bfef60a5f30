"""Verdicts: what an interval allows, and never more than seeds and profile support."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from experiments.common.stats import interval
from experiments.depth.data import EveryLabels
from experiments.verdicts.claims import Claim, Query, judge, load_claims, read_evidence
from ubnlib.kitti.splits import load_split

ROOT = Path(__file__).parents[2]
LEDGER = ROOT / "claims.yaml"
STANDARD = ROOT / "results" / "standard" / "records"


def claim(**options):
    query = Query(
        experiment="toy",
        metric="score",
        where={"norm.kind": "ubn"},
        baseline={"norm.kind": "bn"},
    )
    settings = dict(
        id="toy", place="Section 4", claim="UBN scores higher", statistic="paired difference",
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


def test_a_bound_too_needs_its_seeds_and_profile():
    query = Query(experiment="toy", metric="score", where={"norm.kind": "bn"})
    bound = claim(statistic="largest", query=query, margin=2.0, profile="quick", seeds=13)
    judgement = judge(bound, records(0), "quick")
    assert (judgement.verdict, judgement.reason) == ("inconclusive", "12 of at least 13 seeds")
    larger = bound.model_copy(update={"seeds": 12, "profile": "standard"})
    assert judge(larger, records(0), "quick").verdict == "inconclusive"
    assert judge(larger, records(0), "standard").verdict == "reproduced"


def test_not_run_says_which_part_of_the_query_matched_nothing():
    misspelt = Query(experiment="toy", metric="score", where={"norm.kindd": "ubn"}, baseline={})
    judgement = judge(claim(query=misspelt), records(0.05), "standard")
    assert judgement == ("not run", "no record has norm.kindd: did you mean norm.kind?",
                         None, None, None, 0, ())  # fmt: skip


def test_a_difference_larger_than_another():
    """A gain of 0.05 at one label share, and of 0.01 at the other."""
    few, many = records(0.05).assign(k=8), records(0.01).assign(k=1)
    table = pd.concat([few, many.assign(key=many["key"] + "b")], ignore_index=True)
    query = Query(
        experiment="toy", metric="score", where={"norm.kind": "ubn", "k": 8},
        baseline={"norm.kind": "bn", "k": 8}, than={"k": 1},
    )  # fmt: skip
    judgement = judge(claim(query=query), table, "standard")
    assert (judgement.verdict, judgement.seeds) == ("reproduced", 12)
    assert judgement.estimate == pytest.approx(0.04)
    assert len(judgement.records) == 48


def test_records_of_two_versions_are_not_judged_together():
    table = records(0.05).assign(version=1, revision="1" * 40)
    assert judge(claim(), table, "standard") == judge(claim(), records(0.05), "standard")
    two_revisions_of_one_version = table.assign(revision=[f"{i:040}" for i in range(24)])
    assert judge(claim(), two_revisions_of_one_version, "standard").verdict == "reproduced"
    table.loc[table["norm.kind"] == "bn", ["version", "revision"]] = 2, None
    judgement = judge(claim(), table, "standard")
    assert judgement.verdict == "inconclusive" and judgement.estimate is None
    assert judgement.reason == (
        "records of versions 1 (revision 11111111) and 2 (revision unknown): make reproduce makes "
        "the older ones again"
    )
    assert (judgement.seeds, len(judgement.records)) == (12, 24)
    unrelated = table.assign(experiment=["toy", "tay"] * 12)
    assert judge(claim(), unrelated, "standard").verdict == "not run"


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


def test_the_ledger_has_the_papers_claims_and_asks_a_question_for_each():
    claims = load_claims(LEDGER)
    places = " ".join(c.place for c in claims)
    assert all(f"Figure {n}" in places for n in range(1, 7))
    assert all(f"equation {n}" in places for n in (1, 4)) and "equations 2 and 3" in places
    assert all(c.query is not None for c in claims)


@pytest.fixture(scope="module")
def table():
    """The committed records."""
    return read_evidence(STANDARD).table


@pytest.mark.parametrize("profile", ["quick", "standard"])
def test_kitti_is_never_judged_by_synthetic_drives(profile, table):
    """Even a copy of the standard records at the paper's size lacks KITTI's 360 labeled frames."""
    (kitti,) = (c for c in load_claims(LEDGER) if c.id == "fig6-kitti")
    assert kitti.profile == "paper"
    assert judge(kitti, table, "paper").verdict == "not run"
    grown = table[table["experiment"] == "depth"].assign(width=1.0, levels=7)
    judgement = judge(kitti, grown, "paper")
    assert judgement.reason.startswith("no run with labeled_frames = 360")
    real = grown.assign(labeled_frames=360.0)
    assert judge(kitti, real, profile).reason == "an indication: the claim needs paper runs"
    assert judge(kitti, real, "paper").verdict == "not reproduced"  # far from 6 points


def test_kittis_label_count_is_that_of_its_split():
    (kitti,) = (c for c in load_claims(LEDGER) if c.id == "fig6-kitti")
    for side in (kitti.query.where, kitti.query.baseline):
        kept = EveryLabels(k=side["labels.k"]).choose(load_split("paper_standin_train"))
        assert kept.sum() == side["labeled_frames"]


def test_the_committed_records_answer_the_ledger(table):
    """A misspelt setting or metric would read as a claim that was not run, and a run of other code
    among them as an inconclusive one."""
    made = set(table["experiment"])
    asked = [c for c in load_claims(LEDGER) if c.query.experiment in made and c.profile != "paper"]
    assert len(asked) > 20
    for c in asked:
        judgement = judge(c, table, "standard")
        assert judgement.verdict != "not run" and judgement.estimate is not None, c.id


A = "- {id: a, place: beyond the paper, claim: y"
QUERY = "statistic: mean, query: {experiment: e, metric: m, where: {}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{A}, colour: red}}", "entry 1, colour: Extra"),
        (f"{A}}}\n{A}}}", "id a more than once"),
        (f"{A}}}\n{A}, margin: -0.1}}", "entry 2, margin: .* greater than or equal to 0"),
        (f"{A}, margin: 1.0, margin: 0.1}}", "margin is there twice .* line 1"),
        (f"{A}, margin: .nan}}", "margin: .* finite"),
        (f"{A}, threshold: .inf}}", "threshold: .* finite"),
        (f"{A}, threshold: 1e-3}}", "threshold: .* valid number"),  # a text in YAML
        (f"{A}, seeds: 0}}", "seeds: .* greater than or equal to 1"),
        (f"{A}, seeds: 2.5}}", "seeds: .* integer"),
        (f"{A}, note: ''}}", "note: .* at least 1 character"),
        (f"{A}, profile: huge}}", "profile: "),
        ("- {id: A b, place: beyond the paper, claim: y}", "id: .* pattern"),
        ("- {id: a, place: Figure 6, claim: y}", "place: 'Figure 6' is no place such as"),
        ("- {id: a, place: Section 4, claim: ''}", "claim: "),
        ("just text", "not a list of claims"),
        ("- {id: a", "not a list of claims"),
        (f"{A}, statistic: mean}}", "give both a statistic and a query"),
        (f"{A}, {QUERY}, baseline: {{}}}}}}", "only it, has a baseline"),
        (f"{A}, {QUERY}, than: {{k: 1}}}}}}", "only a paired difference"),
        (f"{A}, {QUERY}, were: {{}}}}}}", "query, were: Extra"),
        (f"{A}, statistic: mean, query: {{experiment: e, metric: m, where: {{k: [1]}}}}}}", "k"),
        (f"{A}, statistic: mean, query: {{experiment: e, metric: m, where: {{k: .nan}}}}}}", "k"),
    ],
)
def test_a_wrong_ledger_is_refused_in_one_sentence(tmp_path, text, message):
    path = tmp_path / "claims.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as told:
        load_claims(path)
    assert str(path) in str(told.value) and "\n" not in str(told.value)


@pytest.mark.parametrize(
    "place",
    ["Section 3.3", "Sections 3.2 and 4", "Section 3.1, equations 2 and 3", "beyond the paper",
     "Section 3.2, equation 4, Figure 1"],
)  # fmt: skip
def test_places(place):
    assert claim(place=place).place == place


def test_paired_difference_needs_a_baseline():
    with pytest.raises(ValidationError, match="has a baseline"):
        claim(statistic="mean")
