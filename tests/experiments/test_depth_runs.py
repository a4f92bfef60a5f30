"""The depth study: its arms and stages, and the runs of notebook 3."""

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from experiments import run
from experiments.depth import runs as depth_runs
from experiments.depth.rgbd_data import read_description
from experiments.depth.study import ARMS, DOMAINS, PILOT_SEED, STAGE_PLANS, constant_map, study_run
from small_project import ROOT


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("stage", STAGE_PLANS)
def test_every_run_of_a_stage_is_another(domain, stage):
    configs = list(STAGE_PLANS[stage](domain, "frames"))
    counts = Counter(config.key for config in configs)
    assert max(counts.values()) == 1 or domain == "streets"  # where 4 times the few labels are all
    named = DOMAINS[domain].recorded_as or domain
    assert all(config.domain == named and config.data == "frames" for config in configs)


def test_arms_differ_in_what_they_are_named_for_alone():
    def fields(arm):
        config = study_run("drives", arm, "frames", 3).model_dump(exclude={"arm"})
        return {name: repr(value) for name, value in config.items()}

    bn = fields("BN")
    differ = {
        arm: {name for name, value in fields(arm).items() if value != bn[name]} for arm in ARMS
    }
    assert differ["UBN"] == {"norm"}
    assert differ["BN, labeled again"] == {"norm", "unlabeled_from"}
    assert differ["BN, equal work"] == {"labeled_batch", "learning_rate"}  # its own pilots
    assert differ["BN, an eighth of the steps"] == {"steps"}
    assert differ["UBN, literal after BN"] == {"norm", "warmup"}
    assert differ["UBN, literal, the paper's rate"] == {"norm", "learning_rate", "steps"}
    assert all("labels" not in fields for fields in differ.values())


def test_each_seed_has_labels_of_its_own():
    phases = [study_run("drives", "BN", "frames", seed).labels.phase for seed in range(20)]
    assert len(set(phases)) == 20
    drawn = [study_run("rooms", "BN", "frames", seed).labels.seed for seed in range(20)]
    assert len(set(drawn)) == 20


def test_the_standard_profile_runs_the_study():
    """The notebook finds the study's records, and does not make others beside them."""
    notebook = json.loads((ROOT / "notebooks" / "03_depth_experiments.ipynb").read_text())
    (cell,) = (c for c in notebook["cells"] if "parameters" in c["metadata"].get("tags", []))
    given: dict = {}
    exec("".join(cell["source"]), given)
    profile = yaml.safe_load((ROOT / "profiles" / "standard.yaml").read_text())
    given |= profile["notebooks"]["03_depth_experiments"]
    named = {run.label: run for run in depth_runs.notebook_runs(given, "data")}
    for name in ("BN", "UBN"):
        run = named[f"depth, {name}, 1/128, seed 22"]
        assert run.config == study_run("drives", name, "data", 22) and not run.weights
        assert named[f"depth, {name}, 1/128, seed 21"].weights
    assert named["depth, BN, 1/1, seed 21"].config == study_run("drives", "BN", "data", 21, 1)
    few = named["depth, constant map, 1/128, seed 21"].config
    assert few == constant_map("drives", "data", 21, 128)


def test_a_stage_that_lacks_its_frames_says_so_in_a_sentence(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["run", "depth.claims", "--domain", "rooms"])
    assert run.main() == 1
    assert capsys.readouterr().err == (
        "depth.claims: The rooms are a folder of real frames: give --rgbd-root.\n"
    )


def test_a_stage_of_no_process_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(
        "sys.argv", ["run", "depth.claims", "--domain", "rooms", "--processes", "0"]
    )
    with pytest.raises(SystemExit):
        run.main()
    assert "--processes: '0' is not a whole number from 1 on." in capsys.readouterr().err


def test_a_stage_makes_the_records_of_its_plan(monkeypatch, tmp_path):
    made = []

    def note(configs, run, folder, **options):
        made.append(([config.key for config in configs], Path(folder).name, options["processes"]))

    def load(arguments, pilots, fold):
        return SimpleNamespace(fingerprint="pilots" if pilots else "claims")

    monkeypatch.setattr(depth_runs, "obtain_all", note)
    drives = DOMAINS["drives"]._replace(load=load)
    monkeypatch.setitem(DOMAINS, "drives", drives)
    for stage in ("pilots", "claims"):
        options = ["--results", str(tmp_path), "--processes", "2"]
        monkeypatch.setattr("sys.argv", ["run", f"depth.{stage}", *options])
        assert run.main() == 0
    assert made[0][1:] == ("depth_pilots", 2) and made[1][1:] == ("records", 2)
    seed = PILOT_SEED
    assert study_run("drives", "UBN", "pilots", seed, learning_rate=3e-3).key in made[0][0]
    assert study_run("drives", "UBN", "claims", 29).key in made[1][0]


def test_a_seed_tests_on_the_fold_of_its_number(monkeypatch, tmp_path):
    made = {}

    def load(arguments, pilots, fold):
        return SimpleNamespace(fingerprint=f"fold-{fold}")

    def note(configs, run, folder, **options):
        (data,) = {config.data for config in configs}
        made[data] = {config.seed for config in configs}

    monkeypatch.setattr(depth_runs, "obtain_all", note)
    monkeypatch.setitem(DOMAINS, "drives", DOMAINS["streets"]._replace(load=load))
    monkeypatch.setattr("sys.argv", ["run", "depth.claims", "--results", str(tmp_path)])
    assert run.main() == 0
    assert made == {f"fold-{fold}": {fold, fold + 5} for fold in range(5)}
    assert DOMAINS["streets"].folds == read_description("streets").folds.count
