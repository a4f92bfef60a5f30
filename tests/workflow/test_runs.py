"""The runs of a plan: the notebooks' own, looked at by content, each made whole or not at all."""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

import costs
import work
from check_profile import run_parameters
from experiments.common.records import write_record
from experiments.method.equations import IdentitiesConfig, run_identities
from experiments.verdicts.claims import load_claims
from make_run import progress
from plan import Plan, Planned, look_at, make_plan, set_aside, write_plan
from registry import EXPERIMENTS
from rerun_claim import answering
from runs import Run, runs_of
from small_project import ROOT

PROFILES = ("quick", "standard", "paper")


@pytest.fixture(scope="module")
def parameters(tmp_path_factory):
    """All parameters of each profile, as the workflow has them."""
    results = tmp_path_factory.mktemp("results")
    return {name: run_parameters(name, ROOT, results / name) for name in PROFILES}


def plan_of(results: Path, seeds: int = 2) -> Plan:
    """Plan the identities alone, whose runs are the quickest."""
    plan = make_plan("quick", results, {"01_method": {"seeds": seeds}})
    few = [planned for planned in plan.runs if planned.run.config.experiment == "identities"]
    return plan._replace(runs=few)


def identities(seed: int) -> Run:
    return Run("", IdentitiesConfig(seed=seed), notebook="01_method")


# Which runs there are.


@pytest.mark.parametrize("profile", PROFILES)
def test_each_run_is_listed_once_and_can_be_made(parameters, profile):
    runs = runs_of(parameters[profile], "data")
    assert len({run.file for run in runs}) == len(runs)
    assert {run.notebook for run in runs} == {name for name in parameters[profile]} - {
        "05_verdicts"
    }
    for experiment in {run.config.experiment for run in runs}:
        one = next(run for run in runs if run.config.experiment == experiment)
        kind, function = EXPERIMENTS[experiment].load()
        assert kind.model_validate_json(one.config.model_dump_json()).key == one.config.key
        assert function.__module__ == EXPERIMENTS[experiment].module


def test_the_runs_of_the_committed_records_are_those_of_the_standard_profile(parameters):
    """So that whoever reproduces the standard profile with the same code finds them."""
    committed = {path.name for path in (ROOT / "results" / "standard").glob("re*/*.json")}
    runs = runs_of(parameters["standard"], "")
    for experiment in ("spiral", "spiral_features", "spiral_uncertainty", "ablation"):
        some = [run for run in runs if run.config.experiment == experiment]
        assert some and {Path(run.file).name for run in some} <= committed


def test_depth_runs_wait_for_their_frames(parameters):
    before, after = (
        {run.file for run in runs_of(parameters["quick"], fingerprint)} for fingerprint in ("", "x")
    )
    assert {file.split("/")[1].split("-")[0] for file in before ^ after} == {"depth"}


# What is there of them.


def test_a_record_is_there_outdated_damaged_or_missing(tmp_path):
    folder = tmp_path / "records"
    for seed in range(3):
        write_record(run_identities(IdentitiesConfig(seed=seed)), folder)
    old = folder.joinpath(Path(identities(1).file).name)
    content = json.loads(old.read_text())
    content["version"] = 0
    old.write_text(json.dumps(content))
    damaged = folder.joinpath(Path(identities(2).file).name)
    damaged.write_text(damaged.read_text()[:100])
    plan = plan_of(tmp_path, seeds=4)
    states = [state for _, state, _ in plan.runs]
    assert states == ["there", "outdated", "damaged", "missing"]
    assert [planned.state for planned in plan.to_make] == states[1:]

    said = set_aside(plan)
    assert len(said) == 1 and damaged.name in said[0] and "\n" not in said[0]
    assert said[0].endswith("made again.")
    assert not damaged.exists() and damaged.with_name(f"{damaged.name}.damaged").exists()
    assert set_aside(plan_of(tmp_path, seeds=4)) == []


def test_a_net_that_pictures_need_is_made_again_without_its_record(tmp_path, parameters):
    run = next(run for run in runs_of(parameters["quick"], "data") if run.weights)
    record = run_identities(IdentitiesConfig(seed=0)).model_copy(
        update={"experiment": "depth", "key": run.config.key}
    )
    write_record(record, tmp_path / "records")
    assert look_at(run, tmp_path, {}).state == "outdated"
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / f"{run.config.key}.pt").touch()
    assert look_at(run, tmp_path, {}).state == "there"


def test_the_plan_says_what_each_job_needs(tmp_path):
    write_record(run_identities(IdentitiesConfig(seed=0)), tmp_path / "records")
    plan = plan_of(tmp_path)
    path = write_plan(plan, costs.costs_of(plan))
    written = json.loads(path.read_text())["runs"]
    assert [run["state"] for run in written.values()] == ["there", "missing"]
    for file, run in written.items():
        assert run["seconds"] > 0 and run["minutes"] >= 30
        config = json.loads((tmp_path / "runs" / Path(file).name).read_text())
        assert file == f"records/identities-{IdentitiesConfig(**config).key}.json"
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()}
    write_plan(plan, costs.costs_of(plan))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()} == times


# One job.


def job(folder: Path, seed: int = 0, **options) -> subprocess.CompletedProcess:
    plan = Plan("quick", folder, {}, None, [Planned(identities(seed), "missing")])
    path = write_plan(plan, {identities(seed).file: {"seconds": 1.0}})
    run = folder / "runs" / f"{identities(seed).name}.json"
    return subprocess.run(
        [sys.executable, ROOT / "workflow" / "make_run.py", run, folder / "records",
         "--plan", path, "--label", "a label", "--log", folder / "log"],
        capture_output=True, text=True, **options,
    )  # fmt: skip


def test_a_job_makes_the_record_and_says_so(tmp_path):
    done = job(tmp_path)
    assert done.returncode == 0 and "run 1 of 1: a label" in done.stdout
    assert (tmp_path / identities(0).file).exists()


def test_a_full_disk_leaves_nothing_and_one_sentence(tmp_path):
    """Files may not grow beyond a few hundred bytes, which a record does."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))

    done = job(tmp_path, preexec_fn=limit)
    assert done.returncode == 1
    assert "FAILED: [Errno 27] File too large" in done.stdout and done.stdout.count("\n") == 1
    assert list((tmp_path / "records").iterdir()) == []


def test_a_run_that_fails_keeps_its_log(tmp_path):
    folder = tmp_path / "runs"
    folder.mkdir()
    name = identities(0).name
    (folder / f"{name}.json").write_text('{"labelled": 3}')
    done = subprocess.run(
        [sys.executable, ROOT / "workflow" / "make_run.py", folder / f"{name}.json", tmp_path,
         "--plan", "none", "--label", "a label", "--log", tmp_path / "logs" / "log"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1 and f"run {name} (a label) FAILED" in done.stdout
    assert "labelled" in (tmp_path / "logs" / "log").read_text()


def test_progress_counts_what_this_plan_made(tmp_path):
    write_record(run_identities(IdentitiesConfig(seed=0)), tmp_path / "records")
    plan = plan_of(tmp_path, seeds=4)
    path = write_plan(plan, {run.file: {"seconds": 2.0} for run, *_ in plan.runs})
    assert progress(path) == "run 0 of 3"
    time.sleep(1.1)
    write_record(run_identities(IdentitiesConfig(seed=1)), tmp_path / "records")
    assert progress(path).startswith("run 1 of 3, about 2 s left")


# What it costs.


def test_a_run_costs_its_start_and_then_by_its_steps(parameters):
    runs = runs_of(parameters["standard"], "")
    shapes = {"train": 3072, "test": 256, "size": [24, 80]}
    prices = work.unit_costs()["seconds"]
    for experiment in EXPERIMENTS:
        some = [run.config for run in runs if run.config.experiment == experiment]
        works = [work.work_of(config, shapes) for config in some]
        assert {unit for one in works for unit in one} <= set(prices)
        least = prices[f"start {experiment}"]
        assert all(work.seconds_of(one) >= least for one in works)
    depth = next(run.config for run in runs if run.config.experiment == "depth")
    once, twice, thrice = (
        work.seconds_of(work.work_of(depth.model_copy(update={"steps": n * depth.steps}), shapes))
        for n in (1, 2, 3)
    )
    assert once < twice and thrice - twice == pytest.approx(twice - once)


def test_the_estimate_grows_with_slowness_and_shrinks_with_cores(tmp_path, parameters, monkeypatch):
    monkeypatch.chdir(ROOT)
    plan = make_plan("quick", tmp_path, parameters["quick"])
    known = work.unit_costs()["calibration"]
    one, slow, two = (
        costs.estimate(plan, known * factor, cores) for factor, cores in ((1, 1), (3, 1), (1, 2))
    )
    assert slow.seconds == pytest.approx(3 * one.seconds)
    assert one.seconds / 2 < two.seconds < one.seconds
    assert one.frames and set(one.runs) == set(plan.parameters)


# One claim's runs.


def test_each_claim_of_the_toy_is_answered_by_runs_of_the_standard_profile(parameters, tmp_path):
    plan = make_plan("standard", tmp_path, parameters["standard"])
    for claim in load_claims(ROOT / "claims.yaml"):
        if claim.query and claim.query.experiment.startswith("spiral"):
            runs = answering(claim, plan.runs, "standard")
            assert 1 <= len(runs) <= 2, claim.id


def test_profiles_hold_nothing_that_the_workflow_does_not_know():
    for name in PROFILES:
        content = yaml.safe_load((ROOT / "profiles" / f"{name}.yaml").read_text())
        assert set(content["notebooks"]) == {path.stem for path in ROOT.glob("notebooks/0*.ipynb")}
