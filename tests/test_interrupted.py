"""A sweep that is killed again and again ends with the same report as one that is not."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from test_cluster import project  # noqa: F401
from test_workflow import ROOT

from ubnlib.records import read_records

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


@pytest.mark.slow
def test_killed_three_times_it_ends_with_the_same_report(project):  # noqa: F811
    results = project / "results" / "quick"
    records = results / "records"
    log = results / "logs" / "records"
    made = {}

    killed_when(project, lambda: list(log.glob("*.log")))
    killed_when(project, lambda: list(records.glob("*.json")))
    made = {path: path.stat().st_mtime_ns for path in records.glob("*.json")}
    assert made and not (results / "report.html").exists()

    # A second command in the same folder while one is running: told, and nothing is touched.
    run = start(project)
    limit = time.monotonic() + 60
    while not (results / "plan.json").exists() and time.monotonic() < limit:
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
    assert all(path.stat().st_mtime_ns == then for path, then in made.items()), "made twice"
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
