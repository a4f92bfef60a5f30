"""Evidence: what is damaged is named and left out, and a question with no answer is told why."""

import json
import math
import time
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.common.provenance import Provenance
from experiments.common.records import Config, Record, read_records, write_record
from experiments.verdicts.claims import Query, find, gather, read_evidence

ROOT = Path(__file__).parents[2]


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


# --- reading -------------------------------------------------------------------------------------


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


def test_the_projects_records_are_read_whole_and_fast():
    folder = ROOT / "results" / "standard" / "records"
    start = time.perf_counter()
    table, damaged = read_evidence(folder)
    assert time.perf_counter() - start < 3
    assert damaged == {}
    assert table["file"].nunique() == len(list(folder.glob("*.json"))) > 400


def test_a_folder_that_is_not_there_has_no_records(tmp_path):
    table, damaged = read_evidence(tmp_path / "nowhere")
    assert table.empty and damaged == {}


def edited(change):
    def damage(path):
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return damage


def renamed(path):
    path.rename(path.with_name("toy-0123456789abcdef.json"))


FAULTS = {
    "half-written": (lambda path: path.write_text(path.read_text()[:-40]), "not a run record"),
    "empty": (lambda path: path.write_text(""), "not a run record"),
    "binary": (lambda path: path.write_bytes(b"\x80\x04\x95" + bytes(range(256))), "no text"),
    "deep": (lambda path: path.write_text("[" * 100_000), "not a run record"),
    "renamed": (renamed, "it was renamed"),
    "a list": (lambda path: path.write_text("[1, 2]"), "not a run record"),
    "extra key": (edited(lambda r: r.update(note="better")), "note"),
    "no key": (edited(lambda r: r.pop("made")), "made"),
    "other settings": (edited(lambda r: r["config"].update(labels=5)), "not the one of its key"),
    "a value too few": (edited(lambda r: r["metrics"]["score"].pop()), "2 entries for 3 seeds"),
    "a seed twice": (edited(lambda r: r.update(seeds=[0, 1, 1])), "a seed is there twice"),
    "a metric named as a setting": (
        edited(lambda r: r["metrics"].update({"norm.kind": [1, 2, 3]})),
        "norm.kind names two things",
    ),
    "a metric named as a column": (
        edited(lambda r: r["metrics"].update(file=[1, 2, 3])),
        "file names two things",
    ),
    "text for a number": (edited(lambda r: r["metrics"].update(score=["x", 1, 2])), "score"),
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
    assert set(table["key"]) == {
        OtherConfig().key,
        ToyConfig(norm=NormConfig(kind="ubn", weight=0.5)).key,
    }


def test_a_folder_in_the_place_of_a_record_is_reported(folder):
    (folder / "toy-00.json").mkdir()
    table, damaged = read_evidence(folder)
    assert len(table) == 7
    assert "cannot be read" in damaged[folder / "toy-00.json"]


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


# --- asking --------------------------------------------------------------------------------------


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
        ("toy", {"norm.kindd": "bn"}, "no record has norm.kindd: did you mean norm.kind?"),
        ("toy", {"zzz": 1}, "no record has zzz"),
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
        ({"metric": "error", "experiment": "other"},
         "no record of other has the metric 'error'; there are: "),
        ({"baseline": {"norm.kind": "gn"}},
         "no run with norm.kind = gn among 3 records of toy, where it is bn, ubn"),
        ({"baseline": {"labels": 9}}, "no seed that all sides share: 0 to 2 against 5"),
    ],
)  # fmt: skip
def test_a_query_that_finds_nothing_says_why(folder, query, reason):
    write_record(record(ToyConfig(labels=9, seeds=(5,))), folder)
    asked = {"experiment": "toy", "metric": "score", "where": {"norm.kind": "ubn"}} | query
    if asked["experiment"] == "other":
        asked["where"] = {}
    with pytest.raises(LookupError) as told:
        gather(Query(**asked), read_evidence(folder).table)
    assert str(told.value) == reason


def test_no_records_at_all():
    with pytest.raises(LookupError, match="there are no records"):
        find(pd.DataFrame(), "toy")


def test_a_metric_that_only_other_runs_have(folder):
    config = ToyConfig(labels=9)
    write_record(record(config, {"extra": [1.0, 2.0, 3.0]}), folder)
    query = Query(experiment="toy", metric="extra", where={"norm.kind": "ubn"})
    with pytest.raises(LookupError, match="no value of extra in the records of such runs"):
        gather(query, read_evidence(folder).table)


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


@pytest.mark.parametrize("baseline", [None, {"norm.kind": "ubn"}])
def test_two_runs_of_one_seed_are_refused(folder, baseline):
    write_record(record(ToyConfig(labels=9)), folder)
    where = {"norm.kind": "bn"}
    query = Query(experiment="toy", metric="score", where=where, baseline=baseline)
    with pytest.raises(ValueError, match="several runs of one seed"):
        gather(query, read_evidence(folder).table)


def test_versions_are_those_of_the_records_that_were_found(folder):
    ubn = ToyConfig(norm=NormConfig(kind="ubn", weight=0.5))
    write_record(record(ubn, version=0, revision=None), folder)
    where, baseline = {"norm.kind": "ubn"}, {"norm.kind": "bn"}
    query = Query(experiment="toy", metric="score", where=where, baseline=baseline)
    table = read_evidence(folder).table
    assert gather(query, table).versions == {0: None, 1: "1" * 40}
    alone = query.model_copy(update={"baseline": None})
    assert gather(alone, table).versions == {0: None}
    assert gather(query, read_records(folder)).versions == {}
