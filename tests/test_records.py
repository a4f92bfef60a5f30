"""Run records: named by their configuration, whole or absent, never believed blindly."""

import json
from typing import Literal

import pytest
from pydantic import ValidationError

from ubnlib import records
from ubnlib.records import Config, Result, obtain, read_record, read_records, recorded, write_record


class ToyConfig(Config):
    experiment: Literal["toy"] = "toy"
    rate: float = 0.1
    seed: int = 0


calls = []


@recorded
def run_toy(config: ToyConfig) -> Result:
    calls.append(config.seed)
    return Result({"score": config.rate * config.seed}, {"loss": [2.0, 1.0]})


@pytest.fixture(autouse=True)
def no_calls():
    calls.clear()


def test_key_depends_on_every_entry_and_on_nothing_else():
    assert ToyConfig(rate=0.1).key == ToyConfig().key
    assert len({ToyConfig().key, ToyConfig(rate=0.2).key, ToyConfig(seed=1).key}) == 3
    with pytest.raises(ValidationError, match="speed"):
        ToyConfig(speed=1)


def test_record_says_what_was_run_and_where(tmp_path):
    record = obtain(ToyConfig(seed=3), run_toy, tmp_path)
    (path,) = tmp_path.iterdir()
    assert path.name == f"toy-{ToyConfig(seed=3).key}.json"
    written = json.loads(path.read_text())
    assert written["config"] == {"experiment": "toy", "rate": 0.1, "seed": 3}
    assert written["metrics"] == {"score": pytest.approx(0.3)}
    assert written["curves"] == {"loss": [2.0, 1.0]}
    assert written["provenance"]["versions"]["torch"]
    assert record.seconds >= 0
    assert record.peak_memory_mb > 1
    assert read_record(path) == record
    assert ToyConfig(**record.config).key == record.key


def test_a_record_is_made_once_but_again_when_the_source_changes(tmp_path, monkeypatch):
    for _ in range(2):
        obtain(ToyConfig(), run_toy, tmp_path)
    assert calls == [0]
    monkeypatch.setattr(records, "source_digest", lambda: "other source")
    obtain(ToyConfig(), run_toy, tmp_path)
    assert calls == [0, 0]


def test_an_interrupted_write_leaves_no_record(tmp_path, monkeypatch):
    record = run_toy(ToyConfig())

    def power_cut(self, target):
        raise KeyboardInterrupt

    monkeypatch.setattr("pathlib.Path.replace", power_cut)
    with pytest.raises(KeyboardInterrupt):
        write_record(record, tmp_path)
    assert not list(tmp_path.glob("*.json"))
    assert read_records(tmp_path).empty


@pytest.mark.parametrize("damage", ["half", "empty", "foreign", "renamed", "binary"])
def test_damaged_records_are_named(tmp_path, damage):
    path = write_record(run_toy(ToyConfig()), tmp_path)
    text = path.read_text()
    if damage == "renamed":
        path = path.rename(tmp_path / "toy-0123456789abcdef.json")
    else:
        new = {"half": text[: len(text) // 2], "empty": "", "foreign": "{}", "binary": ""}[damage]
        path.write_bytes(b"\xff\xfe\x00" if damage == "binary" else new.encode())
    with pytest.raises(ValueError, match=path.name):
        read_records(tmp_path)


def test_records_as_a_table(tmp_path):
    for seed in (2, 0, 1):
        obtain(ToyConfig(seed=seed), run_toy, tmp_path)
    table = read_records(tmp_path, "toy")
    assert sorted(table["seed"]) == [0, 1, 2]
    assert {"rate", "score", "key", "seconds"} <= set(table.columns)
    assert read_records(tmp_path, "other").empty
    assert read_records(tmp_path / "missing").empty
