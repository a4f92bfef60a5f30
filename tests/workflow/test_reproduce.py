"""`make reproduce` on a small project: interrupted, with a notebook that fails, then whole."""

import fcntl
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from small_project import FIRST, READ, ROOT, SIZE, write_notebook, write_profile

COMMAND = [sys.executable, ROOT / "workflow" / "reproduce.py"]
FIGURE = """import matplotlib.pyplot as plt, pandas as pd
from experiments.common import style
figure, axes = plt.subplots()
figure.set_label("Nothing")
style.save(figure, "04_figure", pd.DataFrame({"rate": [1]}), Path(results) / "figures")"""
VERDICTS = """from pathlib import Path
assert (Path(results) / "figures" / "04_figure.png").exists(), "04 must run before 05"
assert Path.cwd().name == "notebooks"
if Path("../broken").exists():
    raise RuntimeError("the figure is blue")"""


@pytest.fixture
def project(tmp_path):
    """A project of two notebooks: one that needs three short runs, one that needs its figure.

    Its folder has a name that shells, JSON and Snakemake take for something else.
    """
    tmp_path = tmp_path / 'Mül{l}er\'s "$HOME" \\ data'
    tmp_path.mkdir()
    write_notebook(tmp_path / "notebooks" / "04_ablation.ipynb", FIRST, READ, FIGURE)
    write_notebook(tmp_path / "notebooks" / "05_verdicts.ipynb", FIRST, VERDICTS)
    write_profile(tmp_path, {"04_ablation": SIZE, "05_verdicts": {}})
    for name in ("claims.yaml", "statements.yaml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    return tmp_path


def reproduce(project: Path) -> subprocess.CompletedProcess:
    return subprocess.run(COMMAND, cwd=project, capture_output=True, text=True)


def interrupted(project: Path, condition) -> str:
    """Start, stop the command, and it alone, as soon as a condition holds; return the output."""
    with (project / "output").open("w") as log:
        run = subprocess.Popen(
            COMMAND, cwd=project, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    limit = time.monotonic() + 120
    while not condition():
        assert run.poll() is None and time.monotonic() < limit, (project / "output").read_text()
        time.sleep(0.02)
    run.send_signal(signal.SIGTERM)
    assert run.wait(timeout=60) == 130
    return (project / "output").read_text()


def is_locked(lock: Path) -> bool:
    if not lock.exists():
        return False
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_interrupted_it_goes_on_and_what_fails_is_named(project):
    results = project / "results" / "quick"
    records, notebooks = results / "records", results / "notebooks"
    first, second = notebooks / "04_ablation.ipynb", notebooks / "05_verdicts.ipynb"

    second_command = []

    def told() -> bool:
        if is_locked(results / ".lock") and not second_command:
            second_command.append(reproduce(project))
        return bool(second_command) and list(records.glob("*.json")) != []

    output = interrupted(project, told)
    assert "Interrupted" in output and "the same command goes on" in output
    (refused,) = second_command
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith(
        f"Another run is writing to {results}; wait for it to end, or "
    )
    assert not is_locked(results / ".lock")  # so nothing that it started is left
    assert not list(results.glob("**/*.partial*"))
    made = {path: path.read_text() for path in records.glob("*.json")}  # it says when
    assert made and not first.exists()

    # What else a killed run would leave behind: Snakemake's lock, a half-run notebook.
    locks = project / ".snakemake" / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    (locks / "0.output.lock").write_text("results/quick/notebooks/04_ablation.ipynb\n")
    notebooks.mkdir(exist_ok=True)
    (notebooks / "04_ablation.partial.ipynb").write_text("{}")
    (project / "broken").touch()
    done = reproduce(project)
    assert done.returncode not in (0, 2, 130)
    left = 3 - len(made)
    assert f"{left} of 3 runs to make" in done.stdout
    assert f"run {left} of {left}: " in done.stdout or not left
    assert all(path.read_text() == text for path, text in made.items()), "made twice"
    assert "05_verdicts FAILED: RuntimeError: the figure is blue" in done.stdout
    assert (notebooks / "05_verdicts.failed.ipynb").exists() and not second.exists()
    assert "RuntimeError" in (results / "logs" / "05_verdicts.log").read_text()
    assert "Notebook 05_verdicts failed" in (results / "report.html").read_text()

    (project / "broken").unlink()
    time_of_first = first.stat().st_mtime_ns
    done = reproduce(project)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 of 3 runs to make" in done.stdout and "05_verdicts done" in done.stdout
    assert "04_ablation done" not in done.stdout and first.stat().st_mtime_ns == time_of_first
    assert sorted(notebooks.glob("*.ipynb")) == [first, second]
    assert done.stdout.splitlines()[-1] == str(results / "report.html")
    page = (results / "report.html").read_text()
    for name in ("figures/04_figure.png", "figures/04_figure.csv", "notebooks/05_verdicts.html"):
        assert f'href="{name}"' in page and (results / name).is_file()
    assert "For &lt;tests&gt;." in page and "About 04_ablation" in page
    assert json.loads((results / "claims.json").read_text())["claims"]
