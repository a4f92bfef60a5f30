"""Run records: named by their configuration, whole or absent, never believed blindly."""

import functools
import json
import math
from typing import ClassVar, Literal

import pandas as pd
import pytest
from pydantic import ValidationError

from experiments.common.records import (
    Config,
    Result,
    obtain,
    read_record,
    read_records,
    recorded,
    write_record,
)


class ToyConfig(Config):
    version: ClassVar[int] = 1
    experiment: Literal["toy"] = "toy"
    rate: float = 0.1
    seed: int = 0


class NormConfig(Config):
    kind: str = "bn"


class SeveralConfig(Config):
    version: ClassVar[int] = 1
    experiment: Literal["several"] = "several"
    norm: NormConfig = NormConfig()
    rate: float = 0.5
    seeds: tuple[int, ...] = (0, 1, 2)


calls = []


@recorded
def run_toy(config: ToyConfig) -> Result:
    calls.append(config.seed)
    return Result.of_one_seed({"score": config.rate * config.seed}, {"loss": [2.0, 1.0]})


@recorded
def run_several(config: SeveralConfig) -> Result:
    scores = [config.rate * seed for seed in config.seeds]
    rank = [None if seed == 1 else float(seed) for seed in config.seeds]
    return Result({"score": scores, "rank": rank}, {"loss": [[2.0, s] for s in scores]})


@recorded
def run_given(config: SeveralConfig, metrics, curves=None) -> Result:
    return Result(metrics, curves or {})


@pytest.fixture(autouse=True)
def no_calls():
    calls.clear()


def test_key_depends_on_every_entry_and_on_nothing_else():
    assert ToyConfig(rate=0.1).key == ToyConfig().key
    assert len({ToyConfig().key, ToyConfig(rate=0.2).key, ToyConfig(seed=1).key}) == 3
    assert SeveralConfig(seeds=(0, 1)).key != SeveralConfig().key
    assert SeveralConfig(norm=NormConfig(kind="ubn")).key != SeveralConfig().key
    with pytest.raises(ValidationError, match="speed"):
        ToyConfig(speed=1)


def test_record_says_what_was_run_and_where(tmp_path):
    record = obtain(ToyConfig(seed=3), run_toy, tmp_path)
    (path,) = tmp_path.iterdir()
    assert path.name == f"toy-{ToyConfig(seed=3).key}.json"
    written = json.loads(path.read_text())
    assert (written["experiment"], written["version"]) == ("toy", 1)
    assert written["config"] == {"experiment": "toy", "rate": 0.1, "seed": 3}
    assert written["seeds"] == [3]
    assert written["metrics"] == {"score": [pytest.approx(0.3)]}
    assert written["curves"] == {"loss": [[2.0, 1.0]]}
    assert set(written["made"]["versions"]) == {"ubnlib", "python", "torch", "numpy"}
    assert written["made"]["threads"] == 1 and written["made"]["cpu"]
    assert len(written["made"]["revision"]) == 40 and written["made"]["clean"] in (True, False)
    assert record.made.when.tzinfo
    assert record.made.peak_memory_mb > 1
    assert read_record(path) == record
    assert ToyConfig(**record.config).key == record.key


def test_a_record_is_made_once_but_again_when_the_version_is_raised(tmp_path, monkeypatch):
    for _ in range(2):
        first = obtain(ToyConfig(), run_toy, tmp_path)
    assert calls == [0]
    monkeypatch.setattr(ToyConfig, "version", 2)
    second = obtain(ToyConfig(), run_toy, tmp_path)
    assert calls == [0, 0]
    assert (first.version, second.version) == (1, 2) and first.key == second.key


def test_a_record_of_a_newer_version_is_kept_and_told(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(ToyConfig, "version", 3)
        path = write_record(run_toy(ToyConfig()), tmp_path)
    before = path.read_text()
    with pytest.raises(ValueError) as caught:
        obtain(ToyConfig(), run_toy, tmp_path)
    assert str(caught.value) == (
        f"{path} is of version 3 of the experiment toy, and this code makes version 1: update the "
        "project, or delete the record."
    )
    assert path.read_text() == before


def test_an_interrupted_write_leaves_no_record(tmp_path, monkeypatch):
    record = run_toy(ToyConfig())

    def power_cut(self, target):
        raise KeyboardInterrupt

    monkeypatch.setattr("pathlib.Path.replace", power_cut)
    with pytest.raises(KeyboardInterrupt):
        write_record(record, tmp_path)
    assert not list(tmp_path.glob("*.json"))
    assert read_records(tmp_path).empty


def test_a_number_that_is_not_there_is_missing_everywhere(tmp_path):
    nan = math.nan
    given = dict(metrics={"a": [1.0, nan, None]}, curves={"b": [[nan, 1.0], [], [None, 2.0]]})
    made = obtain(SeveralConfig(), functools.partial(run_given, **given), tmp_path)
    (path,) = tmp_path.iterdir()
    assert "NaN" not in path.read_text()
    for record in (made, read_record(path)):
        assert record.metrics == {"a": [1.0, None, None]}
        assert record.curves == {"b": [[None, 1.0], [], [None, 2.0]]}
    table = read_records(tmp_path)
    assert table["a"].dtype == float
    assert table["a"].isna().tolist() == [False, True, True]
    assert table["a"][0] == 1.0


def test_records_as_a_table_have_one_row_a_seed(tmp_path):
    for seed in (2, 0, 1):
        obtain(ToyConfig(seed=seed), run_toy, tmp_path)
    configs = [SeveralConfig(), SeveralConfig(norm=NormConfig(kind="ubn"), seeds=(3, 1))]
    for config in configs:
        obtain(config, run_several, tmp_path)
    table = read_records(tmp_path, "several")
    assert len(table) == 5 and table.index.tolist() == list(range(5))
    assert {"rate", "norm.kind", "experiment", "key", "seconds"} <= set(table.columns)
    assert "seeds" not in table.columns
    bn, ubn = (table[table["key"] == config.key] for config in configs)
    assert bn["seed"].tolist() == [0, 1, 2] and ubn["seed"].tolist() == [3, 1]
    assert set(bn["norm.kind"]) == {"bn"} and set(ubn["norm.kind"]) == {"ubn"}
    assert (table["score"] == 0.5 * table["seed"]).all()
    assert bn["rank"].isna().tolist() == [False, True, False]
    assert ubn["seconds"].nunique() == 1
    assert sorted(read_records(tmp_path, "toy")["seed"]) == [0, 1, 2]
    both = read_records(tmp_path)
    assert len(both) == 8 and both["seed"].dtype == int
    pd.testing.assert_series_equal(both["score"], both["rate"] * both["seed"], check_names=False)
    assert read_records(tmp_path, "other").empty
    assert read_records(tmp_path / "missing").empty
