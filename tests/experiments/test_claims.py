"""Verdicts: what an interval allows, and never more than seeds and profile support.

What is damaged is named and left out, and a question with no answer is told why.
"""

import json
import math
import subprocess
from pathlib import Path
from typing import ClassVar, Literal, get_args

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.common.provenance import Provenance
from experiments.common.records import Config, Record, read_records, write_record
from experiments.common.stats import interval
from experiments.depth.data import EveryLabels
from experiments.verdicts.claims import (
    Claim,
    Precondition,
    Query,
    Requirement,
    find,
    gather,
    judge,
    load_claims,
    read_evidence,
)
from ubnlib.kitti.splits import load_split

ROOT = Path(__file__).parents[2]
LEDGER = ROOT / "claims.yaml"
STANDARD = ROOT / "results" / "standard" / "records"


# The verdict


def claim(**options):
    sides = dict(where={"norm.kind": "ubn"}, baseline={"norm.kind": "bn"})
    query = Query(experiment="toy", metric="score", **sides)
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
            {"experiment": "toy", "seed": seed, "norm.kind": "ubn",
             "score": base + gain + noise[seed]},
        ]  # fmt: skip
    return pd.DataFrame(rows).assign(key=[f"key{i}" for i in range(2 * seeds)])


def test_verdict_follows_the_interval():
    """By the rule of test_verdict_rule.py, of the direction that the claim has."""
    judgement = judge(claim(), records(0.05), "standard")
    assert judgement.verdict == "reproduced"
    assert judgement.low <= judgement.estimate <= judgement.high
    assert judgement.seeds == 12
    assert len(judgement.records) == 24
    assert judge(claim(direction="smaller"), records(0.05), "standard").verdict == "opposite"
    assert judge(claim(direction="equal"), records(0.05), "standard").verdict == "not reproduced"


def test_without_evidence_it_is_not_run():
    assert judge(claim(), pd.DataFrame(), "standard").verdict == "not run"
    only_bn = records(0.05).query("`norm.kind` == 'bn'")
    assert judge(claim(), only_bn, "standard").verdict == "not run"


def test_a_bound_on_the_largest_value():
    query = Query(experiment="toy", metric="score", where={"norm.kind": "bn"})
    bound = claim(statistic="largest", query=query, margin=2.0, profile="quick", seeds=1)
    assert judge(bound, records(0), "quick").verdict == "reproduced"
    tight = bound.model_copy(update={"margin": 1.0})
    judgement = judge(tight, records(0), "quick")
    assert (judgement.verdict, judgement.estimate) == ("not reproduced", pytest.approx(1.6))


def test_records_of_two_versions_are_not_judged_together():
    table = records(0.05).assign(version=1, revision="1" * 40)
    assert judge(claim(), table, "standard") == judge(claim(), records(0.05), "standard")
    table.loc[table["norm.kind"] == "bn", ["version", "revision"]] = 2, None
    judgement = judge(claim(), table, "standard")
    assert judgement.verdict == "inconclusive" and np.isnan(judgement.estimate)
    assert judgement.reason == (
        "records of versions 1 (revision 11111111) and 2 (revision unknown): make reproduce makes "
        "the older ones again"
    )


def test_runs_on_different_frames_are_not_paired():
    """Folds may have frames of their own, the sides of one seed may not."""
    table = records(0.05)
    frames = table["seed"].map("fold {}".format)
    found = gather(claim().query, table.assign(data=frames))
    assert found.values == pytest.approx(gather(claim().query, table).values)
    frames[(table["seed"] == 3) & (table["norm.kind"] == "bn")] = "others"
    told = "sides of seed 3 for score are of different frames, fold 3 and others"
    with pytest.raises(ValueError, match=told):
        gather(claim().query, table.assign(data=frames))
    precision = table["norm.kind"].map({"bn": "fp32"}).fillna("bf16")
    with pytest.raises(ValueError, match="are of different precision, "):
        gather(claim().query, table.assign(**{"engine.precision": precision}))


NEEDED = {
    "statistic": "mean",
    "direction": "smaller",
    "threshold": 1.1,
    "query": {"experiment": "toy", "metric": "score", "where": {"norm.kind": "bn"}},
}


@pytest.mark.parametrize("name", get_args(Precondition))
def test_where_a_precondition_fails_the_claim_is_not_tested(name):
    """The 12 scores of bn are 0.5 to 1.6: 1.05 on average, with a t interval of 0.82 to 1.28."""
    rows = records(0.05)

    def judged(**change):
        needed = Requirement(**NEEDED | change)
        return judge(claim(requires={name: needed}), rows, "standard")

    failing, plain = judged(), judge(claim(), rows, "standard")
    words = f"{name} (score at most 1.1): 1.050 t[0.821, 1.279]"
    assert failing[2:7] == plain[2:7] and failing.preconditions == ((words, False),)
    assert (failing.verdict, failing.reason) == ("not tested here", words)
    assert judged(threshold=1.3).verdict == "reproduced"
    assert judged(direction="greater", threshold=0.81).verdict == "reproduced"
    assert judged(direction="greater", threshold=0.83).verdict == "not tested here"
    nothing = judged(query=NEEDED["query"] | {"where": {"norm.kind": "gn"}})
    assert nothing.verdict == "not tested here" and "no run with norm.kind = gn" in nothing.reason
    needed = claim(requires={name: Requirement(**NEEDED)})
    assert judge(needed, rows, "quick").verdict == "inconclusive"  # seeds and profile come first
    assert judge(needed, records(0.05, seeds=9), "standard").reason == "9 of at least 10 seeds"


def test_versions_of_two_experiments_are_not_compared():
    """Each counts its own; two of the baseline's experiment are told all the same."""
    ours = records(0.05).assign(version=2, revision="1" * 40)
    theirs = ours.assign(experiment="other", version=1, key=ours["key"] + "o")
    both = pd.concat([ours, theirs])
    query = claim().query.model_copy(update={"baseline_experiment": "other"})
    across = claim().model_copy(update={"query": query})
    assert "versions" not in judge(across, both, "standard").reason
    old = theirs.copy()
    old.loc[old["seed"] < 2, ["version", "key"]] = 0, "older"
    assert "versions" in judge(across, pd.concat([ours, old]), "standard").reason


def test_a_precondition_of_few_seeds_or_of_two_versions_is_not_met():
    few = records(0.05).assign(version=1, revision="1" * 40)
    few = few[(few["norm.kind"] == "ubn") | (few["seed"] < 4)]
    alone = Query(experiment="toy", metric="score", where={"norm.kind": "ubn"})
    mean = claim(statistic="mean", query=alone, requires={"sees": Requirement(**NEEDED)})
    assert judge(mean, few, "standard").reason.endswith(": 4 of at least 5 seeds")
    other = records(0.05).assign(version=1, revision="1" * 40)
    other.loc[(other["norm.kind"] == "bn") & (other["seed"] < 3), "version"] = 2
    assert "records of versions" in judge(mean, other, "standard").reason


def test_a_side_may_have_a_metric_or_an_experiment_of_its_own():
    rows = records(0.05).assign(other=lambda t: t["score"] - 0.1)
    of_metrics = dict(where={"norm.kind": "ubn"}, baseline={"norm.kind": "ubn", "metric": "other"})
    found = gather(Query(experiment="toy", metric="score", **of_metrics), rows)
    assert found.values == pytest.approx(np.full(12, 0.1))
    flat = pd.DataFrame({"experiment": "flat", "seed": range(12), "key": "flat", "score": 0.5})
    against = Query(experiment="toy", metric="score", where={"norm.kind": "bn"}, baseline={},
                    baseline_experiment="flat")  # fmt: skip
    found = gather(against, pd.concat([rows, flat]))
    assert found.values == pytest.approx(0.1 * np.arange(12))


def test_a_claim_without_a_setting_is_judged_in_each_cell():
    rows = pd.concat(
        [records(gain).assign(batch=batch, key=lambda t, b=batch: f"{b}" + t["key"])
         for batch, gain in ((8, 0.05), (32, 0.0))]
    )  # fmt: skip
    grid = {"batch 8": {"batch": 8}, "batch 32": {"batch": 32}}
    found = judge(claim(grid=grid), rows, "standard")
    assert found.verdict == "partially" and np.isnan(found.estimate)
    assert found.reason == "reproduced: batch 8; no difference: batch 32"
    assert [(name, cell.verdict) for name, cell in found.cells] == [
        ("batch 8", "reproduced"), ("batch 32", "no difference"),
    ]  # fmt: skip
    assert found.cells[0][1].estimate == pytest.approx(0.05, abs=0.001) and len(found.records) == 48
    # A precondition is asked in the cell.
    rows.loc[rows["batch"] == 8, "score"] -= 1
    needed = claim(grid=grid, requires={"present": Requirement(**NEEDED)})
    found = judge(needed, rows, "standard")
    assert found.reason == "reproduced: batch 8; not tested here: batch 32"
    missing = judge(claim(grid=grid | {"batch 16": {"batch": 16}}), rows, "standard")
    assert (missing.verdict, missing.cells[2][1].verdict) == ("inconclusive", "not run")
    assert judge(claim(grid=grid), rows, "quick").reason.startswith("an indication")


def test_a_cost_is_measured_and_its_ratio_compared_with_1():
    query = Query(experiment="toy", metric="score", where={"norm.kind": "bn"})
    cost = claim(kind="cost", statistic="mean", query=query, threshold=1.0, margin=0.0)
    found = judge(cost, records(0), "standard")
    assert (found.verdict, found.reason) == ("measured", "the interval has 1")
    low = judge(cost, records(0).assign(score=lambda t: t["score"] / 2), "standard")
    assert low.reason == "the interval lies below 1"
    assert judge(cost, records(0, seeds=4), "standard").verdict == "inconclusive"


def test_interval_covers_the_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    intervals = [interval(rng.normal(3, 1, 20)) for _ in range(50)]
    assert 42 <= sum(low <= 3 <= high for low, high in intervals)


def test_the_ledger_has_the_papers_claims():
    places = " ".join(c.place for c in load_claims(LEDGER))
    assert all(f"Figure {n}" in places for n in range(1, 7))
    assert all(f"equation {n}" in places for n in (1, 4)) and "equations 2 and 3" in places


def test_kitti_is_never_judged_by_synthetic_drives(evidence):
    """Even a copy of the standard records at the paper's size lacks KITTI's 360 labeled frames."""
    (kitti,) = (c for c in load_claims(LEDGER) if c.id == "fig6-kitti")
    assert kitti.profile == "paper"
    assert judge(kitti, evidence, "paper").verdict == "not run"
    few = (evidence["domain"] == "rooms") & (evidence["labels.k"] == 16) & (evidence["arm"] != "")
    grown = evidence[few].assign(domain="kitti", width=1.0, levels=7, **{"labels.k": 128})
    judgement = judge(kitti, grown, "paper")
    assert judgement.reason.startswith("no run with labeled_frames = 360")
    real = grown.assign(labeled_frames=360.0)
    for profile in ("quick", "standard"):
        assert judge(kitti, real, profile).reason == "an indication: the claim needs paper runs"
    assert judge(kitti, real, "paper").verdict == "not reproduced"  # far from 6 points


def test_kittis_label_count_is_that_of_its_split():
    (kitti,) = (c for c in load_claims(LEDGER) if c.id == "fig6-kitti")
    frames = load_split("paper_standin_train")
    for side in (kitti.query.where, kitti.query.baseline):
        kept = EveryLabels(k=side["labels.k"]).choose(frames)
        assert kept.sum() == side["labeled_frames"]


def test_the_committed_records_answer_the_ledger(evidence, judged):
    """A misspelt setting or metric would read as a claim that was not run, and a run of other code
    among them as an inconclusive one."""
    made, rows = set(evidence["experiment"]), judged.set_index("claim")
    asked = [c for c in load_claims(LEDGER) if c.query.experiment in made and c.profile != "paper"]
    assert len(asked) > 20
    for c in asked:
        for row in rows.loc[c.id, "cells"] or [rows.loc[c.id]]:
            assert row["verdict"] != "not run" and np.isfinite(row["estimate"]), (c.id, row)
            assert not any("no r" in told for told in row["preconditions"]), (c.id, row)


A = (
    "- {id: a, place: beyond the paper, claim: y, statistic: mean, "
    "query: {experiment: e, metric: m, where: {}}"
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{A}, colour: red}}", "entry 1, colour: Extra"),
        (f"{A}}}\n{A}}}", "id a more than once"),
        (f"{A}, margin: 1.0, margin: 0.1}}", "margin is there twice .* line 1"),
        (f"{A}, threshold: 1e-3}}", "threshold: .* valid number"),  # a text in YAML
        ("- {id: a", "not a list of claims"),
        ("- {id: a, place: beyond the paper, claim: y}", "entry 1, statistic: Field required"),
        (f"{A[:-1]}, baseline: {{}}}}}}", "only it, has a baseline"),
        (f"{A}, requires: {{likes: {{}}}}}}", "requires, likes"),
        (f"{A}, grid: {{one: {{}}}}}}", "at least 2 items"),
        (
            f"{A}, grid: {{p: {{}}, q: {{}}}}}}".replace("mean", "largest"),
            "grid and preconditions are for differences and means",
        ),
    ],
)
def test_a_wrong_ledger_is_refused_in_one_sentence(tmp_path, text, message):
    path = tmp_path / "claims.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as told:
        load_claims(path)
    assert str(path) in str(told.value) and "\n" not in str(told.value)


FIXED = (
    "statistic", "direction", "threshold", "margin", "seeds", "profile", "query", "grid",
    "requires",
)  # fmt: skip


def test_every_change_of_what_is_fixed_in_the_ledger_says_why():
    """A margin that moves after the runs decides nothing, and neither does a question: an entry
    that differs from an earlier revision's in what is fixed says why, as `changed:`."""

    def git(*arguments):
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    try:
        if git("rev-parse", "--is-shallow-repository").strip() == "true":
            pytest.skip("the ledger's history is needed: `git fetch --unshallow`")
        told = git("log", "--follow", "--format=%x00%H", "--name-only", "--", LEDGER.name)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"the ledger's history is needed: {error}")
    places = [f"{commit}:{name}" for commit, name in map(str.split, told.split("\0")[1:])]
    revisions = {place: yaml.load(git("show", place), yaml.CSafeLoader) or [] for place in places}
    assert revisions
    usual = {name: Claim.model_fields[name].default for name in FIXED}
    for entry in yaml.safe_load(LEDGER.read_text()):
        for place, entries in revisions.items():
            for before in entries:
                if before["id"] == entry["id"] and not entry.get("changed"):
                    were, are = ({n: e.get(n, usual[n]) for n in FIXED} for e in (before, entry))
                    assert are == were, f"{entry['id']} changed since {place}: say why, or undo it"


class NormConfig(Config):
    kind: str = "bn"
    weight: float | None = None


class ToyConfig(Config):
    version: ClassVar[int] = 1
    experiment: Literal["toy"] = "toy"
    norm: NormConfig = NormConfig()
    labels: int = 4
    seeds: tuple[int, ...] = (0, 1, 2)


class OtherConfig(Config):
    version: ClassVar[int] = 1
    experiment: Literal["other"] = "other"
    width: float = 1.0
    seed: int = 7


def record(config=None, metrics=None, version=1, revision="1" * 40):
    config = config or ToyConfig()
    seeds = list(getattr(config, "seeds", None) or [config.seed])
    return Record(
        experiment=config.experiment, version=version, key=config.key, seeds=seeds,
        config=config.model_dump(mode="json"),
        metrics=metrics or {"score": [0.5 + 0.1 * seed for seed in seeds]},
        curves={}, seconds=1.5,
        made=Provenance(
            revision=revision, clean=True, versions={}, cpu="fast", gpu=None, threads=1,
            peak_memory_mb=100, when="2026-01-02T03:04:05Z",
        ),
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    write_record(record(), tmp_path)
    write_record(record(ToyConfig(norm=NormConfig(kind="ubn", weight=0.5))), tmp_path)
    write_record(record(OtherConfig(), {"error": [None]}), tmp_path)
    return tmp_path


# Reading records


def test_the_table_is_that_of_read_records_with_the_origin(folder):
    table, damaged = read_evidence(folder)
    plain = read_records(folder)
    origin = ["version", "revision", "cpu", "gpu", "when", "file"]
    assert damaged == {}
    assert set(table.columns) == {*plain.columns, *origin}
    ours, theirs = (t[plain.columns].astype(object).where(t.notna(), None) for t in (table, plain))
    pd.testing.assert_frame_equal(ours, theirs)
    assert set(table["version"]) == {1} and set(table["revision"]) == {"1" * 40}
    assert set(table["when"]) == {pd.Timestamp("2026-01-02T03:04:05Z")}
    assert all((folder / name).exists() for name in table["file"])


def edited(change):
    def damage(path):
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return damage


FAULTS = {
    "half-written": (lambda path: path.write_text(path.read_text()[:-40]), "not a run record"),
    "renamed": (lambda path: path.rename(path.with_name("toy-0123.json")), "it was renamed"),
    "old": (edited(lambda r: r.pop("version")), "version: Field required"),
    "other settings": (edited(lambda r: r["config"].update(labels=5)), "not the one of its key"),
    "a value too few": (edited(lambda r: r["metrics"]["score"].pop()), "2 entries for 3 seeds"),
    "a seed twice": (edited(lambda r: r.update(seeds=[0, 1, 1])), "a seed is there twice"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_file_is_named_and_left_out(folder, name):
    damage, words = FAULTS[name]
    path = folder / f"toy-{ToyConfig().key}.json"
    damage(path)
    table, damaged = read_evidence(folder)
    (place, reason), *more = damaged.items()
    assert not more and place.parent == folder
    assert words in reason and str(place) in reason and "\n" not in reason
    assert path.stem not in {f"toy-{key}" for key in table["key"]} and len(table) == 4


def test_nan_is_no_value_and_infinity_is_one(folder):
    path = folder / f"toy-{ToyConfig().key}.json"
    text = path.read_text().replace("0.5", "NaN", 1)
    path.write_text(text)
    table, damaged = read_evidence(folder)
    assert damaged == {}
    runs = find(table, "toy", **{"norm.kind": "bn"})
    assert math.isnan(runs["score"][0])
    found = gather(Query(experiment="toy", metric="score", where={"norm.kind": "bn"}), table)
    assert found.values == pytest.approx([0.6, 0.7])


@given(st.binary(max_size=300))
@settings(max_examples=50, deadline=None)
def test_whatever_is_in_a_file_reading_goes_on(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("records")
    write_record(record(), folder)
    (folder / "toy-ffff.json").write_bytes(content)
    table, damaged = read_evidence(folder)
    assert len(table) == 3 and list(damaged) == [folder / "toy-ffff.json"]


# Asking


def test_find_gives_a_tidy_sub_table(folder):
    table = read_evidence(folder).table
    runs = find(table, "toy", **{"norm.kind": "ubn", "norm.weight": 0.5})
    assert list(runs["seed"]) == [0, 1, 2] and list(runs.index) == [0, 1, 2]
    assert "width" not in runs and "error" not in runs  # the other experiment's
    assert len(find(table, "toy", **{"norm.weight": None})) == 3
    assert len(find(table, "toy")) == 6


@pytest.mark.parametrize(
    ("experiment", "where", "reason"),
    [
        ("tow", {}, "no record of experiment tow; there are: other, toy"),
        ("toy", {"labels": 128}, "no run with labels = 128 among 2 records of toy, where it is 4"),
        ("other", {"norm.kind": "bn"}, "no run with norm.kind = bn among 1 records of other, "
                                       "where it is null"),
        ("toy", {"norm.kind": "bn", "labels": 4, "norm.weight": 0.5},
         "no run with norm.weight = 0.5 among those of 2 records of toy that have norm.kind = bn "
         "and labels = 4"),
    ],
)  # fmt: skip
def test_a_question_that_finds_nothing_says_which_part(folder, experiment, where, reason):
    with pytest.raises(LookupError) as told:
        find(read_evidence(folder).table, experiment, **where)
    assert str(told.value) == reason


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ({"metric": "scor"}, "no record of toy has the metric 'scor'; there are: score"),
        ({"baseline": {"labels": 9}}, "no seed that all sides share: 0 to 2 against 5"),
    ],
)  # fmt: skip
def test_a_query_that_finds_nothing_says_why(folder, query, reason):
    write_record(record(ToyConfig(labels=9, seeds=(5,))), folder)
    asked = {"experiment": "toy", "metric": "score", "where": {"norm.kind": "ubn"}} | query
    with pytest.raises(LookupError) as told:
        gather(Query(**asked), read_evidence(folder).table)
    assert str(told.value) == reason


def table_of(cells):
    """cells: {(arm, labels): {seed: score}}, one record each."""
    rows = [
        {"experiment": "toy", "arm": arm, "labels": labels, "key": f"{arm}{labels}", "seed": seed,
         "score": score}
        for (arm, labels), scores in cells.items() for seed, score in scores.items()
    ]  # fmt: skip
    return pd.DataFrame(rows)


scores = st.dictionaries(st.integers(0, 6), st.floats(-1, 1), min_size=1)


@given(scores, scores, scores, scores, st.randoms())
@settings(max_examples=50, deadline=None)
def test_differences_are_paired_by_seed(ours, theirs, ours_later, theirs_later, random):
    cells = {("a", 1): ours, ("b", 1): theirs, ("a", 2): ours_later, ("b", 2): theirs_later}
    table = table_of(cells)
    table = table.sample(frac=1, random_state=random.randrange(1000)).reset_index(drop=True)
    where, baseline = {"arm": "a", "labels": 1}, {"arm": "b", "labels": 1}
    single = Query(experiment="toy", metric="score", where=where, baseline=baseline)
    double = single.model_copy(update={"than": {"labels": 2}})
    gain = {s: ours[s] - theirs[s] for s in sorted(ours.keys() & theirs.keys())}
    later = {s: ours_later[s] - theirs_later[s] for s in ours_later.keys() & theirs_later.keys()}
    growth = [gain[s] - later[s] for s in gain if s in later]
    expected = (
        (single, list(gain.values()), {"a1", "b1"}),
        (double, growth, {"a1", "b1", "a2", "b2"}),
    )
    for query, values, keys in expected:
        if values:
            found = gather(query, table)
            np.testing.assert_allclose(found.values, values, atol=1e-12)
            assert set(found.keys) == keys and len(found.keys) == len(keys)
        else:
            with pytest.raises(LookupError, match="no seed that all sides share"):
                gather(query, table)


def test_two_runs_of_one_seed_are_refused(folder):
    write_record(record(ToyConfig(labels=9)), folder)
    query = Query(experiment="toy", metric="score", where={"norm.kind": "bn"})
    with pytest.raises(ValueError, match="several runs of one seed"):
        gather(query, read_evidence(folder).table)
