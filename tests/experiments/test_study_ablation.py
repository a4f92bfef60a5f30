"""The ablation's scripts: a study is made once, goes on, and can be repeated."""

import json
import sys

import pytest

import repeat_ablation
import study_ablation
from experiments.ablation import plan
from experiments.ablation.methods import UBN, Method
from experiments.ablation.plan import BASE, Peer


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A study of four runs on the spiral, of two steps and two seeds."""
    usual = (Method(), {})
    few = {"BN": Peer((usual, usual, usual))}
    steps = BASE["spiral"].model_copy(update={"steps": 2})
    monkeypatch.setitem(plan.BASE, "spiral", steps)
    monkeypatch.setitem(plan.CLAIM_SEEDS, "spiral", (200, 201))
    monkeypatch.setitem(plan.TUNING_SEEDS, "spiral", (900, 901))
    monkeypatch.setattr(plan, "ingredients", lambda domain: {"gradient": {"all": joint()}})
    for module in (plan, sys.modules["experiments.ablation.tuning"]):
        monkeypatch.setattr(module, "peers", lambda domain: few)

    def run(script, *arguments):
        monkeypatch.setattr(sys, "argv", ["script", *arguments, "--results", str(tmp_path)])
        return script.main()

    return run, tmp_path


def joint():
    return Method(norm=UBN(stats_grad="all"))


def contents(folder):
    return {p.relative_to(folder): p.read_text() for p in folder.rglob("*.json")}


def test_a_study_is_made_once_and_goes_on(small):
    run, folder = small
    assert run(study_ablation, "spiral", "--only-tuning") == 0
    assert not (folder / "records").exists()
    assert run(study_ablation, "spiral") == 0
    made = contents(folder)
    assert len([p for p in made if p.parts[0] == "records"]) == 4
    assert len([p for p in made if p.parts[0] == "ablation_tuning"]) == 3  # one a learning rate
    lost = next(folder.glob("records/*.json"))
    lost.unlink()
    assert run(study_ablation, "spiral", "--tuned") == 0
    again = contents(folder)
    assert again.keys() == made.keys()
    assert {p for p in made if again[p] != made[p]} <= {lost.relative_to(folder)}


def test_records_are_repeated_and_a_changed_number_is_found(small, capsys):
    run, folder = small
    assert run(study_ablation, "spiral") == 0
    assert run(repeat_ablation, "--number", "4") == 0
    assert capsys.readouterr().out.count(": the same") == 4
    path = sorted(folder.glob("records/*.json"))[1]
    record = json.loads(path.read_text())
    record["metrics"]["accuracy"][1] += 1e-6
    path.write_text(json.dumps(record))
    assert run(repeat_ablation, "--number", "4") == 1
    said = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in said if "NOT the same" in line] == [path.name]


def test_what_is_missing_is_said(small, capsys):
    run, _ = small
    assert run(repeat_ablation) == 1
    assert "has 0 records" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(study_ablation, "spirals")
    with pytest.raises(SystemExit):
        run(study_ablation, "spiral", "indoor")
    assert "--rgbd-root (docs/rgbd.md)" in capsys.readouterr().err
