"""A plan: the notebooks' runs, what is there of them, and the jobs that make the others."""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

import run
from claim import answering, compare, rerun
from experiments.common.records import PlannedRun, write_record
from experiments.depth.study import study_run
from experiments.method.equations import IdentitiesConfig, run_identities
from experiments.verdicts.claims import judge, load_claims
from parameters import ProfileError, run_parameters
from plan import (
    DEPTH,
    EXPERIMENTS,
    Plan,
    Planned,
    estimator,
    jobs_of,
    look_at,
    make_plan,
    set_aside,
    text_of,
    write_plan,
)
from small_project import ROOT

PROFILES = ("quick", "standard", "paper")


@pytest.fixture(scope="module")
def plans(tmp_path_factory):
    """The plan of each profile, into a folder where nothing is."""
    results = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return {
            name: make_plan(name, results / name, run_parameters(name, ROOT, results / name))
            for name in PROFILES
        }


def identities(seed: int, state: str = "missing", seconds: float | None = 1.0) -> Planned:
    """A run of the quickest experiment."""
    run = PlannedRun(f"seed {seed}", IdentitiesConfig(seed=seed))
    return Planned(run, "01_method", state, "", seconds)


def plan_of(results: Path, seeds: int) -> Plan:
    runs = [identities(seed) for seed in range(seeds)]
    looked = [
        p._replace(**dict(zip(("state", "reason"), look_at(p.run, results), strict=True)))
        for p in runs
    ]
    return Plan("quick", results, {"01_method": {}}, None, looked)


@pytest.mark.parametrize("profile", PROFILES)
def test_each_run_is_listed_once_and_can_be_made(plans, profile):
    runs = plans[profile].runs
    assert len({planned.file for planned in runs}) == len(runs)
    assert {p.notebook for p in runs} == set(plans[profile].parameters) - {"05_verdicts"}
    for config in {p.run.config.experiment: p.run.config for p in runs}.values():
        kind = EXPERIMENTS[config.experiment].config
        assert kind.model_validate_json(config.model_dump_json()).key == config.key


def test_the_committed_records_are_runs_of_the_standard_profile(plans):
    """So that whoever reproduces the standard profile with the same code finds them."""
    committed = {path.name for path in (ROOT / "results" / "standard").glob("re*/*.json")}
    for experiment in ("spiral", "spiral_features", "spiral_uncertainty", "ablation"):
        some = {p.file for p in plans["standard"].runs if p.run.config.experiment == experiment}
        assert some and {Path(file).name for file in some} <= committed


def test_a_record_is_there_outdated_damaged_or_missing(tmp_path):
    for seed in range(3):
        write_record(run_identities(IdentitiesConfig(seed=seed)), tmp_path / "records")
    old, damaged = (tmp_path / identities(seed).file for seed in (1, 2))
    old.write_text(old.read_text().replace('"version": 1', '"version": 0'))
    damaged.write_text(damaged.read_text()[:100])
    plan = plan_of(tmp_path, seeds=4)
    states = [planned.state for planned in plan.runs]
    assert states == ["there", "outdated", "damaged", "missing"]
    assert [planned.state for planned in plan.to_make] == states[1:]
    assert damaged.name in text_of(plan, cores=2)

    said = set_aside(plan)
    assert len(said) == 1 and damaged.name in said[0] and "\n" not in said[0]
    assert not damaged.exists() and damaged.with_name(f"{damaged.name}.damaged").exists()
    damaged.write_text("{")  # once more, and the first is kept
    assert len(set_aside(plan)) == 1 and len(list(damaged.parent.glob("*.damaged*"))) == 2
    old.write_text(old.read_text().replace('"version": 0', '"version": 99'))
    with pytest.raises(ValueError, match=r"is of version 99 .* update the project"):
        plan_of(tmp_path, seeds=4)


def test_a_profile_that_cannot_be_planned_is_named(tmp_path):
    values = run_parameters("quick", ROOT, tmp_path)
    for name, words in (("domain", "'streetz'"), ("label_every", "ZeroDiv")):
        depth = values[DEPTH] | {name: "streetz" if name == "domain" else [0]}
        with pytest.raises(ValueError, match=f"profiles/quick.yaml: {DEPTH} cannot .*{words}"):
            make_plan("quick", tmp_path, values | {DEPTH: depth})


def test_a_net_that_pictures_need_is_made_again_without_its_record(tmp_path, plans):
    run = next(planned.run for planned in plans["quick"].runs if planned.run.weights)
    made = run_identities(IdentitiesConfig(seed=0))
    changed = {"experiment": "depth", "key": run.config.key, "version": run.config.version}
    changed |= {"config": run.config.model_dump(mode="json")}
    write_record(made.model_copy(update=changed), tmp_path / "records")
    assert look_at(run, tmp_path)[0] == "outdated"
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / f"{run.config.key}.pt").touch()
    assert look_at(run, tmp_path)[0] == "there"


def test_before_frames_are_rendered_records_on_such_frames_are_told_apart(tmp_path):
    parameters = run_parameters("quick", ROOT, tmp_path)
    parameters = {DEPTH: parameters[DEPTH] | {"data_root": str(tmp_path / "data")}}

    def text() -> str:
        return text_of(make_plan("quick", tmp_path, parameters), cores=1)

    assert "if the frames come out the same" not in text()
    made = run_identities(IdentitiesConfig(seed=0))
    for planned in make_plan("quick", tmp_path, parameters).runs:
        config = planned.run.config.model_copy(update={"data": "frames"})
        changed = {"experiment": config.experiment, "key": config.key, "version": config.version}
        changed |= {"config": config.model_dump(mode="json"), "seconds": 60.0}
        if "literal" not in planned.run.label:
            write_record(made.model_copy(update=changed), tmp_path / "records")
    # Of seven runs the literal's has no record, and pictures need the nets of two others.
    plan = make_plan("quick", tmp_path, parameters)
    assert [p.state for p in plan.runs].count("if same frames") == len(plan.runs) - 3
    assert f"{len(plan.runs) - 3} of these runs have a record if the frames come out" in text()
    assert len(plan.to_make) == len(plan.runs) and "about 3 min on 1 cores" in text()


def test_short_runs_share_a_job_and_long_ones_do_not():
    runs = [identities(seed, seconds=s) for seed, s in enumerate([5, 5, 300, 5, None, 5, 5, 5])]
    jobs = list(jobs_of(runs, cores=2).values())
    assert sum(map(len, jobs)) == len(runs)
    assert {len(job) for job in jobs if job[0].seconds in (300, None)} == {1}
    assert max(map(len, jobs)) > 1 and len(jobs) < len(runs)


def test_time_grows_with_steps_and_seeds_and_is_unknown_for_what_was_never_run():
    seconds = estimator([ROOT / "results" / "standard"])
    config = study_run("rooms", "UBN", "data", 0)
    once = seconds(config)
    assert seconds(config.model_copy(update={"steps": 3 * config.steps})) == pytest.approx(3 * once)
    assert seconds(config.model_copy(update={"width": 1.0})) is None
    assert 60 < once < 600


def test_ctrl_c_ends_a_job_and_not_only_its_run(tmp_path, monkeypatch, capsys):
    path = write_plan(plan_of(tmp_path, seeds=2), cores=1)
    began = []

    def stopped(*arguments):
        began.append(arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "make_run", stopped)
    monkeypatch.setattr(run, "log_to", lambda log: None)
    (job,) = json.loads(path.read_text())["jobs"]
    with pytest.raises(SystemExit) as end:
        run.main(path, job)
    assert end.value.code == 130 and len(began) == 1
    assert "seed 0 stopped: Ctrl-C" in capsys.readouterr().out


def test_a_claim_made_again_is_judged_beside_a_damaged_record(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    for folder in ("again", "usual"):
        write_record(run_identities(IdentitiesConfig(seed=0)), tmp_path / folder / "records")
    (tmp_path / "usual" / "records" / "identities-0.json").write_text('{"half')
    told = compare("eq1-batchnorm", tmp_path / "again", tmp_path / "usual", "quick").splitlines()
    assert told[0].replace("   again", "recorded") == told[1] and len(told) == 4
    assert "left out: " in told[2] and "identities-0.json is not a run record" in told[2]


def test_a_full_disk_leaves_nothing_and_one_sentence(tmp_path):
    """Files may not grow beyond a few hundred bytes, which a record does."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))

    path = write_plan(Plan("quick", tmp_path, {}, None, [identities(0)]), cores=1)
    command = [sys.executable, ROOT / "workflow" / "run.py", path, "01_method-1"]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit)
    assert done.returncode == 1
    assert "seed 0 FAILED: [Errno 27] File too large" in done.stdout
    assert list((tmp_path / "records").iterdir()) == [] and not list(tmp_path.glob("jobs/*"))
    assert "too large" in (tmp_path / "logs" / "01_method-1.log").read_text()


def test_progress_counts_what_this_plan_made(tmp_path):
    write_record(run_identities(IdentitiesConfig(seed=0)), tmp_path / "records")
    path = write_plan(plan_of(tmp_path, seeds=4), cores=1)
    plan = json.loads(path.read_text())
    assert run.progress(plan, path) == "run 0 of 3"
    begun = time.time() - 100
    os.utime(path, (begun, begun))
    write_record(run_identities(IdentitiesConfig(seed=1)), tmp_path / "records")
    assert run.progress(plan, path).startswith("run 1 of 3, about 3 min 2")


def test_each_claim_of_the_toy_is_answered_by_runs_of_the_standard_profile(
    plans, evidence, monkeypatch
):
    monkeypatch.chdir(ROOT)
    for claim in load_claims(ROOT / "claims.yaml"):
        if claim.query.experiment.startswith("spiral"):
            found = {planned.run.config.key for planned in answering(claim.id, plans["standard"])}
            assert set(judge(claim, evidence, "standard").records) <= found, claim.id
            assert 1 <= len(found) <= 2 * len(claim.grid or "1") + len(claim.requires), claim.id


def test_no_claim_is_answered_by_small_nets_on_kitti(tmp_path, monkeypatch):
    """Neither those on synthetic drives nor those on KITTI, which ask for the paper's net."""
    monkeypatch.chdir(ROOT)
    parameters = run_parameters("standard", ROOT, tmp_path, "/kitti", "paper_standin")
    plan = make_plan("standard", tmp_path, {DEPTH: parameters[DEPTH]})
    assert {planned.run.config.domain for planned in plan.runs} == {"kitti"}
    asked = [c.id for c in load_claims(ROOT / "claims.yaml") if c.query.experiment == "depth"]
    assert "fig6-kitti" in asked and "fig6-few-labels-drives" in asked
    for name in asked:
        with pytest.raises(ProfileError, match="makes no run for the claim"):
            answering(name, plan)


@pytest.mark.parametrize(
    ("name", "first", "command"),
    [
        ("eq1-batchnorm", "quick", "make claim CLAIM=eq1-batchnorm PROFILE=quick"),
        ("fig2-accuracy", "quick", "make claim CLAIM=fig2-accuracy PROFILE=standard"),
        ("fig6-few-labels-drives", "quick", "python -m experiments.run depth.claims --domain "
         "drives --results results/again"),
        ("fig6-kitti", "paper", "make claim CLAIM=fig6-kitti PROFILE=paper KITTI_ROOT=FOLDER"),
        ("fig6-equal-work-drives", "quick", "python -m experiments.run depth.claims --domain "
         "drives --results results/again && python -m experiments.run depth.arms --domain "
         "drives --results results/again"),
        ("fig6-few-labels-drives-first-rate", "quick", "python -m experiments.run depth.claims "
         "--domain drives-first --results results/again"),
        ("tuned-indoor", "standard", "python -m experiments.run ablation.indoor "
         "--rgbd-root FOLDER --results results/again"),
    ],
)  # fmt: skip
def test_the_command_that_reruns_a_claim(name, first, command):
    claim = next(c for c in load_claims(ROOT / "claims.yaml") if c.id == name)
    assert rerun(claim, [first, "standard", "paper"], ROOT) == command


def test_every_claim_that_asks_for_runs_has_a_command_that_makes_them():
    for claim in load_claims(ROOT / "claims.yaml"):
        assert rerun(claim, ["quick", "standard", "paper"], ROOT), claim.id
