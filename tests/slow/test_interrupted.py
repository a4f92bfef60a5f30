"""A sweep that is killed again and again ends with the same report as one that is not."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from experiments.ablation.runs import sample_runs
from experiments.common.records import read_records
from small_project import ROOT, SIZE, STUDY

COMMAND = [sys.executable, ROOT / "workflow" / "reproduce.py"]


def start(folder):
    log = (folder / "output").open("a")
    return subprocess.Popen(
        COMMAND, cwd=folder, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )


def killed_when(folder, condition):
    """Start, and kill everything at once as soon as a condition holds."""
    run = start(folder)
    limit = time.monotonic() + 120
    while not condition():
        assert run.poll() is None and time.monotonic() < limit, (folder / "output").read_text()
        time.sleep(0.05)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()


def is_locked(path):
    """Whether another process holds the lock."""
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@pytest.mark.slow
def test_killed_three_times_it_ends_with_the_same_report(project):
    results = project / "results" / "quick"
    records = results / "records"
    log = results / "logs" / "records"
    made = {}

    killed_when(project, lambda: list(log.glob("*.log")))
    killed_when(project, lambda: list(records.glob("*.json")))
    made = {path: path.read_text() for path in records.glob("*.json")}  # it says when
    assert made and not (results / "report.html").exists()

    # A second command in the same folder while one is running: told, and nothing is touched.
    run = start(project)
    while not is_locked(results / ".lock"):
        assert run.poll() is None, (project / "output").read_text()
        time.sleep(0.05)
    second = subprocess.run(COMMAND, cwd=project, capture_output=True, text=True)
    assert second.returncode == 2 and second.stdout == ""
    assert second.stderr == f"Another run is writing to {results}; wait for it to end.\n"
    while not (results / "notebooks" / "04_ablation.partial.ipynb").exists():
        assert run.poll() is None, (project / "output").read_text()
        time.sleep(0.05)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    assert not (results / "notebooks" / "04_ablation.ipynb").exists()

    assert start(project).wait(timeout=180) == 0, (project / "output").read_text()
    assert all(path.read_text() == text for path, text in made.items()), "made twice"
    report = json.loads((results / "claims.json").read_text())
    table = read_records(records)

    # The same from the beginning, without a disturbance.
    (project / "results").rename(project / "first")
    assert start(project).wait(timeout=180) == 0, (project / "output").read_text()
    measured = ["seed", "key", *table.filter(like="accuracy").dropna(axis=1)]
    again = read_records(records)
    assert table[measured].to_dict() == again[measured].to_dict()
    undisturbed = json.loads((results / "claims.json").read_text())
    assert undated(report) == undated(undisturbed)


def undated(report):
    """Leave out what says when a report was made."""
    return {name: value for name, value in report.items() if name not in ("made", "date")}


FULL = """import os, re, sys

def full(event, arguments):
    if event == "open" and re.search(r"/records/{name}.*\\.partial", str(arguments[0])):
        raise OSError(28, os.strerror(28))

sys.addaudithook(full)
"""


@pytest.mark.slow
def test_a_run_that_fails_is_named_and_the_others_go_on(project, tmp_path_factory):
    """For one of the three records the disk is full."""
    results = project / "results" / "quick"
    config = sample_runs(STUDY / "ablation_tuning", **SIZE)[1]
    name = f"{config.experiment}-{config.key}"
    faults = tmp_path_factory.mktemp("faults")
    (faults / "sitecustomize.py").write_text(FULL.format(name=name))
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(faults), os.environ.get("PYTHONPATH", "")])
    }
    done = subprocess.run(COMMAND, cwd=project, capture_output=True, text=True, env=environment)
    assert done.returncode not in (0, 2, 130)
    assert f"run {name} (" in done.stdout and "FAILED: [Errno 28] No space left" in done.stdout
    assert len(list((results / "records").iterdir())) == 2, "the others, and nothing half made"
    assert not list((results / "notebooks").glob("*"))
    assert "No space left" in (results / "logs" / "records" / f"{name}.log").read_text()
    page = (results / "report.html").read_text()
    assert f"The run {name} left no record" in page
    assert "Notebook 04_ablation has not been run to its end" in page

    done = subprocess.run(COMMAND, cwd=project, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 3 runs to make" in done.stdout
    assert f"The run {name} left no record" not in (results / "report.html").read_text()

    # Now one record is of an older version.
    record = results / "records" / f"{name}.json"
    good = record.read_text()
    record.write_text(good.replace('"version": 1', '"version": 0'))
    done = subprocess.run(COMMAND, cwd=project, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 3 runs to make, 1 of them again, since their version is older" in done.stdout
    new, old = json.loads(record.read_text()), json.loads(good)
    assert new["version"] == old["version"] == 1
    assert new["metrics"] == old["metrics"]
