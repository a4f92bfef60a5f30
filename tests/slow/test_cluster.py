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

from experiments.common.records import read_record
from plan import EXPERIMENTS
from small_project import ROOT, SIZE, ablation_project, write_profile

project = ablation_project


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


def test_jobs_and_user_are_killed_and_all_is_made(project, queue):
    """One job dies on its node, then the user's own command; the same command then ends it."""
    records = project / "results" / "quick" / "records"
    run = start(project, queue)
    wait_for(lambda: list(queue.glob("*.job")), run)
    killed = next(queue.glob("*.job"))
    os.killpg(int(killed.stem), signal.SIGKILL)
    wait_for(lambda: list(records.glob("*.json")), run)
    os.killpg(int((project / "results" / "quick" / ".lock").read_text()), signal.SIGKILL)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    assert not (queue / f"{killed.stem}.exit").exists()
    assert not (project / "results" / "quick" / "report.html").exists()

    run = start(project, queue)
    assert run.wait(timeout=240) == 0, (project / "output").read_text()
    assert (project / "results" / "quick" / "report.html").exists()
    config, run, *_ = EXPERIMENTS["ablation"]
    made = [read_record(path) for path in records.glob("*.json")]
    assert len(made) == 3
    for record in made:
        assert record.metrics == run(config.model_validate(record.config)).metrics
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


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ingredients": ["gradiant"]}, "no ingredient 'gradiant'; there are: baselines, gradient"),
        ({"steps": 0}, "steps is 0 (int), but its default is"),
    ],
)
def test_a_value_that_no_run_can_have_is_told_in_one_sentence(project, change, words):
    write_profile(project, {"04_ablation": {**SIZE, **change}})
    command = [sys.executable, ROOT / "workflow" / "reproduce.py"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1


def test_a_run_on_frames_asks_for_a_graphics_processor(project, tmp_path):
    """What would be submitted, by a dry run over a plan with a job on frames and one without."""
    job = {"notebook": "", "alone": False, "minutes": 5, "memory": 500, "runs": []}
    jobs = {"on-frames": job | {"frames": True}, "other": job | {"frames": False}}
    plan = {"profile": "quick", "results": str(tmp_path / "out"), "jobs": jobs}
    plan |= {"parameters": {}, "frames": {}, "there": {}}
    (tmp_path / "out").mkdir()
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "runs", "--snakefile", ROOT / "workflow" / "Snakefile",
         "--cores", "4", "--dry-run", "--config", f"plan={tmp_path / 'plan.json'}", "gpus=4"],
        cwd=project, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    jobs = (done.stdout + done.stderr).split("\nrule run:")[1:]
    frames = next(job for job in jobs if "job=on-frames" in job)
    other = next(job for job in jobs if "job=other" in job)
    assert "gpu=1" in frames and "threads: 3" in frames
    assert "gpu=0" in other and "threads" not in other
