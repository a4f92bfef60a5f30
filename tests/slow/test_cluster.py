"""Jobs on a cluster: a queue on this machine, whose jobs and whose user are killed in between."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from experiments.ablation.runs import sample_runs
from experiments.ablation.train import run_ablation
from experiments.common.records import read_record, record_path
from small_project import ROOT, SIZE, STUDY, write_profile


@pytest.fixture
def queue(tmp_path):
    """A queue's folder, with a profile that sends jobs to it."""
    folder = tmp_path / "queue"
    folder.mkdir()
    program = Path(__file__).parents[1] / "helpers" / "stand_in_cluster.py"
    command = f"{sys.executable} {program} {folder}"
    profile = {
        "executor": "cluster-generic",
        **{f"cluster-generic-{a}-cmd": f"{command} {a}" for a in ("submit", "status", "cancel")},
        "jobs": 2,
        "latency-wait": 20,
        "seconds-between-status-checks": 1,
        "retries": 2,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(profile))
    return folder


def start(project: Path, queue: Path) -> subprocess.Popen:
    command = [sys.executable, ROOT / "workflow" / "reproduce.py", "--cluster", queue]
    log = (project / "output").open("a")
    return subprocess.Popen(
        command, cwd=project, stdout=log, stderr=log, text=True, start_new_session=True
    )


def wait_for(condition, process, seconds=150):
    limit = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < limit
        time.sleep(0.05)


@pytest.mark.slow
def test_jobs_and_user_are_killed_and_all_is_made(project, queue):
    """One job dies on its node, then the user's own command; the same command then ends it."""
    records = project / "results" / "quick" / "records"
    run = start(project, queue)
    wait_for(lambda: list(queue.glob("*.job")), run)
    killed = next(queue.glob("*.job"))
    os.killpg(int(killed.stem), signal.SIGKILL)
    wait_for(lambda: list(records.glob("*.json")), run)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    assert not (queue / f"{killed.stem}.exit").exists()
    assert not (project / "results" / "quick" / "report.html").exists()

    run = start(project, queue)
    assert run.wait(timeout=240) == 0, (project / "output").read_text()
    assert (project / "results" / "quick" / "report.html").exists()
    configs = sample_runs(STUDY / "ablation_tuning", **SIZE)
    for config in configs:
        made = read_record(record_path(config, records))
        assert made.metrics == run_ablation(config).metrics
    jobs = list(queue.glob("*.job"))
    assert len(jobs) > len(configs) + 1, "the killed job was not submitted once more"
    assert list(records.glob("*.partial")) == []


def test_the_profiles_are_what_snakemake_reads():
    """Their keys are options of Snakemake or of the executor's plugin, and runs ask for GPUs."""
    usage = subprocess.run(
        [sys.executable, "-m", "snakemake", "--help"], capture_output=True, text=True, check=True
    ).stdout
    for path in sorted((ROOT / "workflow" / "profiles").glob("*/config.yaml")):
        profile = yaml.safe_load(path.read_text())
        executor = profile["executor"]
        unknown = [
            key for key in profile if f"--{key}" not in usage and not key.startswith(executor)
        ]
        assert unknown == [], path
        assert profile["retries"] >= 1 and profile["jobs"] > 1
    assert "gpu=GPUS" in (ROOT / "workflow" / "Snakefile").read_text()


def test_an_unknown_cluster_is_named(project):
    command = [sys.executable, ROOT / "workflow" / "reproduce.py", "--cluster", "slrum"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "'slrum'" in done.stderr and "generic, kubernetes, slurm" in done.stderr


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ingredients": ["gradiant"]}, "no ingredient 'gradiant'; there are: baselines, gradient"),
        ({"steps": 0}, "setting.steps: Input should be greater than or equal to 1"),
    ],
)
def test_a_value_that_no_run_can_have_is_told_in_one_sentence(project, change, words):
    write_profile(project, {"04_ablation": {**SIZE, **change}})
    command = [sys.executable, ROOT / "workflow" / "reproduce.py"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1


def test_a_run_on_frames_asks_for_a_graphics_processor(project, tmp_path):
    """What would be submitted, by a dry run over a plan with a run on frames and one without."""
    results = tmp_path / "out"
    names = {"records/depth-" + "0" * 16: True, "records/identities-" + "1" * 16: False}
    plan = {
        "profile": "quick", "results": str(results), "parameters": {}, "data": {},
        "runs": {
            f"{name}.json": {"notebook": "", "label": name, "state": "missing", "weights": False,
                             "frames": frames, "alone": False, "seconds": 1, "memory_mb": 10,
                             "minutes": 5}
            for name, frames in names.items()
        },
    }  # fmt: skip
    (results / "runs").mkdir(parents=True)
    for name in names:
        (results / "runs" / f"{Path(name).name}.json").write_text("{}")
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "runs", "--snakefile", ROOT / "workflow" / "Snakefile",
         "--cores", "4", "--dry-run", "--config", f"plan={tmp_path / 'plan.json'}", "gpus=4"],
        cwd=project, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rules = (done.stdout + done.stderr).split("\nrule ")
    train = next(rule for rule in rules if rule.startswith("train"))
    run = next(rule for rule in rules if rule.startswith("run:"))
    assert "gpu=1" in train and "threads: 3" in train
    assert "gpu" not in run
