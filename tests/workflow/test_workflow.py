"""The workflow: its checks' sentences, and a small project run for real."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from check_profile import ProfileError, check_kitti, defaults, run_parameters
from small_project import ROOT, write_notebook, write_profile
from terminal import duration

FIRST = """results = "../results/quick"
kitti_root = ""  # "" = the synthetic drives
data_root = "../data/quick"
rate = 0.5
rates = [
    0.1,  # a list over lines
]
steps: int = 3
note = "a = b"
"""
DRAW = """import time
from pathlib import Path
if Path("../wait").exists():
    Path("../waiting").touch()
    time.sleep(120)
import matplotlib.pyplot as plt
folder = Path(results) / "figures"
folder.mkdir(parents=True, exist_ok=True)
figure, axes = plt.subplots()
axes.plot(rates)
for kind in ("png", "pdf"):
    figure.savefig(folder / f"02_figure2.{kind}")
(folder / "02_figure2.csv").write_text("rate")
plt.close(figure)"""
SECOND = """from pathlib import Path
assert (Path(results) / "figures" / "02_figure2.png").exists(), "02 must run before 05"
assert Path.cwd().name == "notebooks"
if Path("../broken").exists():
    raise RuntimeError("first line\\nthe last line")"""


@pytest.fixture
def project(tmp_path):
    """A project of two notebooks, the second of which reads what the first makes."""
    write_notebook(tmp_path / "notebooks" / "02_small.ipynb", FIRST, DRAW)
    write_notebook(tmp_path / "notebooks" / "05_verdicts.ipynb", FIRST, SECOND)
    write_profile(tmp_path, {"02_small": {"steps": 5}, "05_verdicts": {}})
    (tmp_path / "claims.yaml").write_text("- {id: a, place: Section 1, claim: It is so.}")
    return tmp_path


def reproduce(root: Path, *arguments: str, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, ROOT / "workflow" / "reproduce.py", *arguments]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, **options)


# The checks.


def test_defaults_reads_every_plain_value(project):
    assert defaults(project / "notebooks" / "02_small.ipynb") == {
        "results": "../results/quick",
        "kitti_root": "",
        "data_root": "../data/quick",
        "rate": 0.5,
        "rates": [0.1],
        "steps": 3,
        "note": "a = b",
    }


def test_run_parameters_are_complete_and_absolute(project):
    values = run_parameters("quick", project, project / "out", "/kitti")["02_small"]
    assert values["steps"] == 5 and values["rate"] == 0.5
    assert values["results"] == str(project / "out")
    assert values["kitti_root"] == "/kitti"
    assert values["data_root"] == str(project / "data" / "quick")


@pytest.mark.parametrize(
    ("notebooks", "words"),
    [
        ({"02_toy_anlysis": {}}, ["02_toy_anlysis", "02_small, 05_verdicts"]),
        ({"02_small": {"setps": 1}}, ["'setps'", "data_root, rate, rates, steps"]),
        ({"02_small": {"steps": 1.5}}, ["steps", "1.5 (float)", "3 (int)"]),
        ({"02_small": {"steps": True}}, ["steps", "True (bool)", "3 (int)"]),
        ({"02_small": {"rate": "1e-3"}}, ["rate", "'1e-3' (str)", "1.0e-3"]),
        ({"02_small": {"rates": [0.1, "1e-3"]}}, ["rates", "'1e-3'", "[0.1]"]),
        ({"02_small": {"results": "x"}}, ["results", "set by the workflow"]),
        ({"02_small": None}, ["02_small", "{}", "None"]),
        ({}, ["quick.yaml", "notebooks"]),
        (["02_small"], ["quick.yaml", "notebooks"]),
    ],
)
def test_bad_profile_gives_one_sentence(project, notebooks, words):
    write_profile(project, notebooks)
    with pytest.raises(ProfileError) as error:
        run_parameters("quick", project, project / "out")
    sentence = str(error.value)
    assert "\n" not in sentence and sentence.endswith(".")
    assert [word for word in words if word not in sentence] == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("notebooks: {", ["quick.yaml", "line 1", "YAML"]),
        ("description: x\nnotebook: {}", ["it has: description, notebook."]),
        ("", ["it has: no keys."]),
    ],
)
def test_malformed_profile(project, text, words):
    (project / "profiles" / "quick.yaml").write_text(text)
    with pytest.raises(ProfileError) as error:
        run_parameters("quick", project, project / "out")
    assert [word for word in words if word not in str(error.value)] == []


def test_default_that_is_computed_is_refused(project):
    write_notebook(project / "notebooks" / "05_verdicts.ipynb", "steps = 2 * 3", "steps")
    with pytest.raises(ProfileError, match=r"05_verdicts.ipynb: 'steps = 2 \* 3'"):
        run_parameters("quick", project, project / "out")


def test_broken_notebook_is_named(project):
    (project / "notebooks" / "05_verdicts.ipynb").write_text('{"cells": [')
    with pytest.raises(ProfileError, match=r"05_verdicts\.ipynb is not a notebook"):
        run_parameters("quick", project, project / "out")


def test_unknown_profile_names_the_known_ones(project):
    write_profile(project, {}, name="paper")
    with pytest.raises(ProfileError, match=r"no profile 'qick' .* there are: paper, quick\."):
        run_parameters("qick", project, project / "out")


def test_kitti_folder(tmp_path, monkeypatch):
    drive = tmp_path / "raw" / "2011_09_26" / "2011_09_26_drive_0001_sync"
    drive.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert check_kitti("") == ""
    assert check_kitti("raw") == str(tmp_path / "raw")
    with pytest.raises(ProfileError, match=r"above the dates\); it holds: 2011_09_26_drive_0001"):
        check_kitti("raw/2011_09_26")
    with pytest.raises(ProfileError, match=rf"{tmp_path}/rwa/x is not a folder; .* holds: raw\."):
        check_kitti("rwa/x")


def test_bad_arguments_stop_before_anything_runs(project):
    for arguments in (["--profile", "qick"], ["--kitti-root", "nowhere"]):
        done = reproduce(project, *arguments)
        assert done.returncode == 2
        assert done.stdout == "" and len(done.stderr.splitlines()) == 1
        assert not (project / "results").exists()


def test_duration():
    assert [duration(x) for x in (0.6, 60, 185, 7620)] == [
        "1 s", "1 min 00 s", "3 min 05 s", "2 h 07 min",
    ]  # fmt: skip


# A small project, run for real.


@pytest.mark.slow
def test_run_is_interrupted_then_fails_then_ends(project):
    """The second notebook needs the first; each run goes on where the last one stopped."""
    notebooks = project / "results" / "quick" / "notebooks"
    first, second = notebooks / "02_small.ipynb", notebooks / "05_verdicts.ipynb"

    (project / "wait").touch()
    run = subprocess.Popen(
        [sys.executable, ROOT / "workflow" / "reproduce.py"],
        cwd=project, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    limit = time.monotonic() + 120
    while not (project / "waiting").exists():
        assert run.poll() is None and time.monotonic() < limit
        time.sleep(0.1)
    os.killpg(run.pid, signal.SIGINT)  # to the whole group, as a terminal does on Ctrl-C
    output, _ = run.communicate(timeout=60)
    assert run.returncode == 130 and "Interrupted" in output
    assert list(notebooks.glob("*.ipynb")) == []

    # What a killed run would leave behind: Snakemake's lock, a half-run notebook.
    (project / "wait").unlink()
    locks = project / ".snakemake" / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    (locks / "0.output.lock").write_text("results/quick/notebooks/02_small.ipynb\n")
    notebooks.mkdir(exist_ok=True)
    (notebooks / "02_small.partial.ipynb").write_text("{}")
    (project / "broken").touch()
    done = reproduce(project)
    assert done.returncode not in (0, 130)
    assert "05_verdicts FAILED" in done.stdout and "RuntimeError: the last line" in done.stdout
    assert (notebooks / "05_verdicts.failed.ipynb").exists() and not second.exists()
    assert "RuntimeError" in (project / "results/quick/logs/05_verdicts.log").read_text()
    executed = json.loads(first.read_text())["metadata"]["papermill"]
    assert executed["parameters"]["steps"] == 5 and executed["end_time"]

    (project / "broken").unlink()
    time_of_first = first.stat().st_mtime_ns
    done = reproduce(project)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "05_verdicts done" in done.stdout and "02_small" not in done.stdout
    assert first.stat().st_mtime_ns == time_of_first
    assert sorted(notebooks.glob("*.ipynb")) == [first, second]
    assert done.stdout.splitlines()[-1] == str(project / "results/quick/report.html")
    check_report(project / "results" / "quick")


def check_report(results: Path) -> None:
    """The report lists notebooks and figures, and says what the run lacks."""
    page = (results / "report.html").read_text()
    for name in ("02_figure2.png", "02_figure2.pdf", "02_figure2.csv"):
        assert f'href="figures/{name}"' in page
    for name in ("02_small", "05_verdicts"):
        assert f'href="notebooks/{name}.html"' in page
        assert (results / "notebooks" / f"{name}.html").is_file()
    assert "For &lt;tests&gt;." in page and "About 02_small" in page
    assert 'id="warnings"' not in page
    assert {path.name for path in results.iterdir()} >= {
        "claims.md", "claims.json", "codecheck.yml",
    }  # fmt: skip
