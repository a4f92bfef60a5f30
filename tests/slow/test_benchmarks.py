"""The two benchmarks, run small as users run them; nothing here judges a time."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def run(tmp_path, program, *options):
    out = tmp_path / "result" / "out.json"
    command = [sys.executable, BENCHMARKS / program, *map(str, options), "--out", out]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert report["provenance"]["cpu"]
    return report, done.stdout


@pytest.mark.parametrize("program", ["training_step.py", "kitti_pipeline.py"])
def test_no_turns_are_refused(program):
    """Their median would be NaN."""
    model = ["spiral"] if program == "training_step.py" else []
    command = [sys.executable, BENCHMARKS / program, *model, "--repeats", "0"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "argument --repeats: '0' is not a whole number from 1 on." in done.stderr


@pytest.mark.parametrize("model", ["dispnet", "resnet"])
def test_what_is_timed_is_what_it_is_called(tmp_path, model):
    """Without unlabeled rows all are BN; with them, all but BN normalize alike."""
    tiny = "--device cpu --width 0.05 --size 64 64 --rows 2 --repeats 2 --k 0 3".split()
    report, printed = run(tmp_path, "training_step.py", model, *tiny)
    steps = {(step["method"], step["k"]): step for step in report["steps"]}
    losses = {key: step["loss"] for key, step in steps.items()}
    assert len(steps) == 8 and len({round(losses[key], 5) for key in losses if "0" in key[1]}) == 1
    two = losses["two steps", "k = 3"]
    assert losses["interleaved", "k = 3"] == pytest.approx(two, rel=1e-5)
    assert losses["joint pass", "k = 3"] == pytest.approx(two, rel=1e-5)
    assert losses["BN", "k = 3"] == pytest.approx(losses["BN", "k = 0"], rel=1e-5)
    assert losses["BN", "k = 3"] != pytest.approx(two, rel=1e-5)
    for (method, k), step in steps.items():
        assert len(step["milliseconds"]) == 2 and min(step["milliseconds"]) > 0
        assert f"{k}, {method}: time / BN " in printed
    assert "k = 3, BN: time / BN 1.00" in printed


def test_memory_is_that_of_the_rows_with_a_graph(tmp_path):
    small = "--device cpu --width 0.25 --size 64 64 --rows 8 --repeats 1 --k 3 --memory".split()
    report, printed = run(tmp_path, "training_step.py", "resnet", *small)
    memory = {step["method"]: step["memory_mb"] for step in report["steps"]}
    assert 0 < 2 * memory["BN"] < memory["joint pass"] and ", peak " in printed


def test_the_spirals_nets_side_by_side(tmp_path):
    options = ("spiral", "--nets", 3, "--steps", 5, "--repeats", 2)
    report, printed = run(tmp_path, "training_step.py", *options)
    assert len(report["milliseconds"]) == 8 and "UBN, all: side by side" in printed


def test_kitti_from_files_to_batches(tmp_path):
    report, printed = run(tmp_path, "kitti_pipeline.py", "--quick", "--repeats", 2)
    assert len(report["milliseconds"]) == 13
    assert all(len(times) == 2 and min(times) > 0 for times in report["milliseconds"].values())
    assert "loader of the packed set: " in printed and "as loader of JPEG files" in printed
